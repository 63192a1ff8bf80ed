"""Where the engine's messages wait for their turn to leave, stamped on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from tracker_raft.raft import filters
from tracker_raft.raft.engine import Member, Transport
from tracker_raft.raft.flights import Flights
from tracker_raft.raft.seams import Lines, Message


class Outbox(Transport):  # type: ignore[misc]  # the library is untyped
    """The transport PySyncObj sends through. ``term`` gives the node's term when asked."""

    def __init__(
        self, lines: Lines, flights: Flights, backlog_bytes_max: int, term: Callable[[], int]
    ) -> None:
        super().__init__(None, None, None)
        self._lines = lines
        self._flights = flights
        self._backlog_bytes_max = backlog_bytes_max
        self._term = term
        self._queue: deque[tuple[str, Message]] = deque()

    def send(self, node: Member, message: Message) -> bool:
        """Called by the library and for it; False when there is no link."""
        if not self._lines.linked(node.id) or not filters.is_raft(message):
            return False  # a command left in the library's queue would be forwarded its own way
        behind = message.get("entries") and self._lines.backlog(node.id) > self._backlog_bytes_max
        if not behind:  # a dropped append is found missing by the next one, and sent again
            stamped = self._flights.outgoing(node.id, filters.outgoing(message, self._term()))
            self._queue.append((str(node.id), stamped))
        return True

    def take(self) -> Iterator[tuple[str, Message]]:
        """Everything that was sent, in order; taken out."""
        while self._queue:
            yield self._queue.popleft()
