"""What leaves one node and when: messages at once, promises when the disk keeps what they say.

The order is the safety argument (S4, S5 of the library's defects): what promises nothing leaves;
then the disk is given what is new, because it holds the loop or its writer takes the interpreter
away; then, as soon as that is durable, what waited for it. Whether the disk is done at once or
later is the writer's business: either way :meth:`Departures._promise` follows, and it is never
called out of a step that is not finished.
"""

from __future__ import annotations

from collections.abc import Callable

from tracker_raft.errors import LocalError
from tracker_raft.raft.gate import Gate
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.outbox import Outbox
from tracker_raft.raft.seams import Message
from tracker_raft.raft.storage import Writer


class Departures:
    """``durable()`` is called when more became so, behind ``count(node, message)`` for each
    acknowledgement that waited for it; ``full()`` when the disk has no room; ``later(work, *args)``
    does what comes back from the writer, and ends the node if it fails."""

    def __init__(
        self,
        journal: SegmentJournal,
        writer: Writer,
        outbox: Outbox,
        gate: Gate,
        *,
        count: Callable[[str, Message], None],
        durable: Callable[[], None],
        full: Callable[[], None],
        later: Callable[..., None],
    ) -> None:
        self._journal = journal
        self._writer = writer
        self._outbox = outbox
        self._gate = gate
        self._count = count
        self._made_durable = durable
        self._full = full
        self._later = later

    def flush(self) -> None:
        """Let messages leave, those that promise durability once the journal keeps them. Raises
        :class:`LocalError` when the journal failed."""
        journal = self._journal
        self._outbox.hand_out(journal.position)
        self._outbox.release(journal.durable)
        while journal.flush(self._writer, self._written):
            self._promise()
        if journal.full:
            self._full()

    def _written(self, failure: LocalError | None) -> None:
        """The writer is done with a batch, or the journal failed."""
        self._later(self._go_on, failure)

    def _go_on(self, failure: LocalError | None) -> None:
        if failure is not None:
            raise failure
        self._promise()
        if not self._journal.full:  # else the next turn asks for room again
            self.flush()

    def _promise(self) -> None:
        for node, message in self._gate.arrivals(self._journal.durable_index):
            self._count(node, message)
        self._outbox.release(self._journal.durable)
        self._made_durable()
