"""Where the engine's messages wait for their turn to leave, stamped on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tracker_raft.raft import filters
from tracker_raft.raft.engine import Engine, Member, Transport
from tracker_raft.raft.flights import Flights
from tracker_raft.raft.gate import Gate
from tracker_raft.raft.seams import Lines, Message


class Outbox(Transport):  # type: ignore[misc]  # the library is untyped
    """The transport PySyncObj sends through. ``engine`` gives the sender when asked."""

    def __init__(
        self,
        lines: Lines,
        flights: Flights,
        gate: Gate,
        backlog_bytes_max: int,
        engine: Callable[[], Engine],
    ) -> None:
        super().__init__(None, None, None)
        self._lines = lines
        self._flights = flights
        self._gate = gate
        self._backlog_bytes_max = backlog_bytes_max
        self._engine = engine
        self._queue: deque[tuple[str, Message]] = deque()

    def send(self, node: Member, message: Message) -> bool:
        """Called by the library and for it; False when there is no link."""
        if not self._lines.linked(node.id) or not filters.is_raft(message):
            return False  # a command left in the library's queue would be forwarded its own way
        behind = message.get("entries") and self._lines.backlog(node.id) > self._backlog_bytes_max
        if not behind:  # a dropped append is found missing by the next one, and sent again
            engine = self._engine()
            stamped = filters.outgoing(message, engine.raftCurrentTerm, forced=engine.forced)
            stamped = self._flights.outgoing(node.id, stamped)
            self._queue.append((str(node.id), stamped))
        return True

    def hand_out(self, position: int) -> None:
        """Let go what promises nothing; the rest once ``position`` of the journal is durable."""
        while self._queue:
            node, message = self._queue.popleft()
            if message["type"] in filters.NEEDS_DURABLE:
                self._gate.hold(position, node, message)
            else:
                self._lines.send(node, message)

    def release(self, durable: int) -> None:
        """Let go the promises that the journal keeps by now, and all that was queued."""
        for node, message in self._gate.promises(durable):
            self._lines.send(node, message)
        self._lines.flush()
