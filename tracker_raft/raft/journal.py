"""The durable log and vote of one node: the log in memory, and what of it is durable.

Rules
-----
* Nothing on disk is ever overwritten. A truncation of the log, a vote and a snapshot that
  replaces the log are records like an entry. Compaction deletes whole segments.
* What is added is buffered; :meth:`SegmentJournal.flush` hands one batch at a time to the
  writer, which writes and syncs it, beside the loop or at once. What that made durable is counted
  by :attr:`~SegmentJournal.durable`. Whatever says "I have it" must not leave the node before the
  position it rests on is durable.
* A failed sync is fatal for good: what the kernel then holds is unknown, and a sync tried again
  may report success for data that was dropped. Running out of space is not: space is reserved a
  segment at a time, before anything is written into it, and asked for again.

The bytes are those of :mod:`records`, the files those of :mod:`segments`. What to re-check when
you change it: ``tests/unit/test_journal_damage.py`` cuts and flips a directory at every byte, the
simulation crashes it at any event, and the golden directory in ``tests/interop``.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import overload

from pysyncobj.journal import Journal

from tracker_raft.errors import LocalError
from tracker_raft.raft import records
from tracker_raft.raft.records import Body, Kind, Record
from tracker_raft.raft.segments import RECORD_OVERHEAD_BYTES, Batch, Identity, SegmentFiles, Vote
from tracker_raft.raft.storage import Storage, Writer

SEGMENT_BYTES = 16 * 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
"""One batch; what is beyond it waits for the next."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_OP = b"\x01"
"""The library's no-op command: stands for the entry at the index of a snapshot."""

LogEntry = tuple[bytes, int, int]
"""(command, index, term), the shape PySyncObj keeps its log in."""


def failed(error: OSError) -> LocalError:
    """What the disk holds is unknown."""
    return LocalError(f"the journal failed: {error}; this node cannot go on")


class SegmentJournal(Journal):  # type: ignore[misc]  # the library is untyped
    """The journal PySyncObj writes to, behind the interface of ``pysyncobj.journal.Journal``.

    Positions in :meth:`deleteEntriesFrom` and ``[]`` count from the first entry kept; the
    library does that arithmetic. All entries kept are also held in memory.
    """

    def __init__(
        self, storage: Storage, identity: Identity, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        """Open, or begin in an empty directory.

        ``identity.birth`` is used for a new directory only; an existing one keeps its own.
        Raises :class:`Damaged`, :class:`Unsupported`, :class:`LocalError` (another's directory).
        """
        self.syncs = 0
        self.full = False
        """No room for the next segment; :meth:`flush` asks again."""
        self._files = SegmentFiles(storage, identity, segment_bytes)
        self.entries: list[LogEntry] = []
        """The log in memory, oldest first; to be read only. Not an accessor, nor are the next two,
        because every write asks for them dozens of times."""
        self.first_index = 0
        self.last_index = 0
        self._vote: Vote = (0, None)
        self._pending: deque[Body] = deque()
        self.position = 0
        """How much was added since opening; durable once :attr:`durable` reaches it."""
        self.bytes_added = 0
        """Bytes of all that was added since opening."""
        self.durable = 0
        self.durable_index = 0
        """Every entry up to here is durable as it stands in the log."""
        self._flushing = False
        self._cuts: deque[tuple[int, int]] = deque()
        """(position, index the log was cut back to) of every truncation not durable yet."""
        self._failed: OSError | None = None
        self.added: Callable[[LogEntry], None] = lambda entry: None
        """Called when an entry has been added at the end of the log."""
        self.cut: Callable[[int], None] = lambda index: None
        """Called when the log was truncated from ``index`` on."""
        try:
            self._files.recover(self._replay)
        except OSError as error:
            raise LocalError(f"the journal cannot be opened: {error}") from error
        self._cuts.clear()
        self._vote = self._files.vote
        self.durable_index = self.last_index

    def _replay(self, record: Record) -> None:
        match record.kind:
            case Kind.ENTRY:
                self._append(records.read_entry(record.body))
            case Kind.TRUNCATE:
                self._drop_from(records.read_index(record.body))
            case Kind.RESET:
                self._start_at(*records.read_reset(record.body))

    # -- what the rest of the node asks ----------------------------------------------------------

    @property
    def identity(self) -> Identity:
        return self._files.identity

    @property
    def bytes_cut(self) -> int:
        """Length of the torn tail cut off at opening, 0 for a clean directory."""
        return self._files.bytes_cut

    @property
    def segments(self) -> int:
        return len(self._files.segments)

    @property
    def disk_bytes(self) -> int:
        """Space on disk, at least: each segment is reserved whole."""
        return self._files.disk_bytes

    def term_at(self, index: int) -> int | None:
        """Term of the entry at ``index``; None when it is not in the log."""
        position = index - self.first_index
        if self.entries and 0 <= position < len(self.entries):
            return self.entries[position][2]
        return None

    # -- durability ------------------------------------------------------------------------------

    def flush(self, writer: Writer, done: Callable[[LocalError | None], None]) -> bool:
        """Make what is pending durable; nothing to do while a batch is under way.

        True: a batch was made durable at once, and there may be another one. Raises
        :class:`LocalError` when that failed for good. Else, if there was something to do, it is
        done beside the loop: ``done(None)`` is called on the loop, and never before this returns,
        when :attr:`durable` or :attr:`full` may have changed, ``done(error)`` when the journal
        failed for good.
        """
        if self._failed is not None or self._flushing or not self._pending:
            return False
        batch = self._begin()

        def ended(error: OSError | None) -> None:
            done(self._ended(batch, error))

        if batch.allocate:  # takes long, and may fail for want of room
            writer.run(batch.write, ended)
            return False
        try:
            at_once = writer.sync(batch.write, len(batch.data), ended)
        except OSError as error:
            self._flushing, self._failed = False, error
            raise failed(error) from error
        if at_once:
            self._ended(batch, None)
        return at_once

    def sync(self) -> None:
        """The same at once, in this thread. Raises :class:`LocalError`: failed, or no room."""
        while self._pending:
            if self._flushing:
                raise LocalError("the journal is being written; nothing was done")
            if self._failed is not None:
                raise LocalError(f"the journal failed before: {self._failed}")
            batch = self._begin()
            caught: OSError | None = None
            try:
                batch.write()
            except OSError as error:
                caught = error
            failure = self._ended(batch, caught)
            if failure is None and self.full:
                failure = LocalError(f"no room for the journal: {caught}; it will be tried again")
            if failure is not None:
                raise failure

    def _begin(self) -> Batch:
        bodies: list[Body] = []
        size = 0
        while self._pending and (not bodies or size < BATCH_BYTES_MAX):
            bodies.append(self._pending.popleft())
            size += len(bodies[-1].data) + RECORD_OVERHEAD_BYTES
        self._flushing = True
        return self._files.begin(bodies)

    def _ended(self, batch: Batch, error: OSError | None) -> LocalError | None:
        self._flushing = False
        if error is not None:
            if batch.allocate and not batch.allocated and error.errno in NO_ROOM:
                self._pending.extendleft(reversed(batch.bodies))
                self.full = True
                return None
            self._failed = error
            return failed(error)
        self.full = False
        self.syncs += 1
        self._files.ended(batch)
        self.durable += len(batch.bodies)
        index = self.durable_index
        for body in batch.bodies:
            if body.kind is Kind.TRUNCATE:
                index = min(index, records.read_index_of(body) - 1)
            elif body.kind is not Kind.VOTE:
                index = records.read_index_of(body)
        while self._cuts and self._cuts[0][0] <= self.durable:
            self._cuts.popleft()
        self.durable_index = min([index, *(cut for _, cut in self._cuts)])
        return None

    def _add(self, body: Body) -> None:
        self._pending.append(body)
        self.position += 1
        self.bytes_added += len(body.data)

    # -- the log in memory -----------------------------------------------------------------------

    def _append(self, entry: LogEntry) -> None:
        if self.entries and entry[1] != self.entries[-1][1] + 1:
            raise ValueError(f"entry {entry[1]} follows entry {self.entries[-1][1]}")
        self.entries.append(entry)
        self.last_index = entry[1]
        if len(self.entries) == 1:
            self.first_index = entry[1]

    def _drop_from(self, index: int) -> None:
        del self.entries[max(0, index - self.first_index) :]
        self._shortened()
        self.durable_index = min(self.durable_index, index - 1)
        self._cuts.append((self.position + 1, index - 1))

    def _start_at(self, index: int, term: int) -> None:
        self.entries = [(NO_OP, index, term)]
        self._shortened()

    def _shortened(self) -> None:
        self.first_index = self.entries[0][1] if self.entries else 0
        self.last_index = self.entries[-1][1] if self.entries else 0

    def restart_at(self, index: int, term: int) -> None:
        """A snapshot up to ``index``, an entry of ``term``, replaces the whole log."""
        self._drop_from(1)
        self._start_at(index, term)
        self._add(records.reset(index, term))

    def forget_before(self, index: int) -> list[str]:
        """Compaction: entries before ``index`` are in a durable snapshot. The newest one stays.

        Returns the files that hold nothing else, for the caller to delete.
        """
        del self.entries[: max(0, min(index - self.first_index, len(self.entries) - 1))]
        self._shortened()
        return self._files.forget_before(min(self.first_index, self.durable_index))

    # -- the interface of pysyncobj.journal.Journal ----------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        body = records.entry(command, idx, term)
        if len(body.data) > records.BODY_BYTES_MAX:  # written, it would be taken for a torn tail
            raise LocalError(
                f"entry {idx} of {len(command)} bytes, a record is at most "
                f"{records.RECORD_BYTES_MAX}; not written"
            )
        self._append((command, idx, term))
        self._add(body)
        self.added((command, idx, term))

    def clear(self) -> None:
        if self.entries:
            self.deleteEntriesFrom(0)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        if entryFrom < len(self.entries):
            index = self.entries[entryFrom][1]
            self._drop_from(index)
            self._add(records.truncate(index))
            self.cut(index)

    def deleteEntriesTo(self, entryTo: int) -> None:
        raise LocalError("the library does not compact this journal: see forget_before")

    @overload
    def __getitem__(self, item: int) -> LogEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[LogEntry]: ...
    def __getitem__(self, item: int | slice) -> LogEntry | list[LogEntry]:
        return self.entries[item]

    def __len__(self) -> int:
        return len(self.entries)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._vote = term, votedForNodeId
        self._add(records.vote(term, votedForNodeId))

    def getCurrentTerm(self) -> int:
        return self._vote[0]

    def getVotedForNodeId(self) -> str | None:
        return self._vote[1]

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not kept: a restarted node learns the commit index from a leader, never from itself."""

    def getRaftCommitIndex(self) -> int:
        return 1

    def _destroy(self) -> None:
        """Storage and writer are the node's to close, not the library's."""

    def __repr__(self) -> str:
        return (
            f"<SegmentJournal {self.first_index}..{self.last_index} "
            f"durable={self.durable_index} segments={self.segments}>"
        )
