"""Where the engine's messages wait for their turn to leave, stamped on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tracker_raft.config import NodeConfig
from tracker_raft.raft import filters
from tracker_raft.raft.engine import Engine, Member, Transport
from tracker_raft.raft.flights import Flights
from tracker_raft.raft.gate import Gate
from tracker_raft.raft.seams import Lines, Message

Said = tuple[int, int, int]
"""Term, next index and flight of an acknowledgement."""


class Outbox(Transport):  # type: ignore[misc]  # the library is untyped
    """The transport PySyncObj sends through. ``engine`` gives the sender when asked.

    A leader tells a new commit index soon, so a follower hears from it again right after an
    entry, with nothing new to say: an acknowledgement that went over the same link within the last
    half period of signs of life is not said again.
    """

    def __init__(
        self,
        config: NodeConfig,
        lines: Lines,
        flights: Flights,
        gate: Gate,
        engine: Callable[[], Engine],
        now: Callable[[], float],
    ) -> None:
        super().__init__(None, None, None)
        self._lines = lines
        self._flights = flights
        self._gate = gate
        self._backlog_bytes_max = config.limits.link_buffer_bytes_soft
        self._engine = engine
        self._now = now
        self._repeat_s = config.timing.heartbeat_s / 2
        self._said: dict[str, tuple[Said, float]] = {}
        """The last acknowledgement that went to each member over its link, and when."""
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
        queue = self._queue
        while queue:
            node, message = queue.popleft()
            if message["type"] in filters.NEEDS_DURABLE:
                self._gate.hold(position, node, message)
            else:
                self._lines.send(node, message)

    def release(self, durable: int) -> None:
        """Let go the promises that the journal keeps by now, and all that was queued."""
        for node, message in self._gate.promises(durable):
            if message["type"] == "next_node_idx" and message["success"]:
                self._acknowledge(node, message)
            else:
                self._lines.send(node, message)
        self._lines.flush()

    def _acknowledge(self, node: str, message: Message) -> None:
        """Send an acknowledgement, unless it says nothing that was not said just now."""
        said = message["term"], message["next_node_idx"], message["flight"]
        last, at_s = self._said.get(node, (None, 0.0))
        now_s = self._now()
        if (said != last or now_s >= at_s + self._repeat_s) and self._lines.send(node, message):
            self._said[node] = said, now_s

    def _onNodeDisconnected(self, node: Member) -> None:
        """What was said over a broken link may not have arrived."""
        self._said.pop(str(node.id), None)
        super()._onNodeDisconnected(node)
