"""A storage in memory and a writer that waits to be told, to take a journal apart with."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker_raft.errors import LocalError
from tracker_raft.raft.journal import LogEntry, SegmentJournal
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory, Done, Storage, Work

IDENTITY = Identity("c", "n1", "birth")
SEGMENT_BYTES = 400
"""Of :func:`story`."""
Files = dict[str, bytes]
"""What a directory holds: name -> content."""
State = tuple[list[LogEntry], int, str | None]
"""All a journal holds: its log, its term, whom it voted for in it."""


class Memory:
    """:class:`Storage` without a disk. ``files`` is all there is; ``fails`` says what fails."""

    def __init__(self, files: Files | None = None) -> None:
        self.files = {name: bytearray(data) for name, data in (files or {}).items()}
        self.calls: list[str] = []
        self.fails: dict[str, int] = {}
        """Call -> errno."""

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise OSError(self.fails[name], f"{name} fails")

    def _file(self, name: str) -> bytearray:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", name)
        return self.files[name]

    def copy(self) -> Files:
        return {name: bytes(data) for name, data in self.files.items()}

    def names(self) -> list[str]:
        return sorted(self.files)

    def read(self, name: str) -> bytes:
        self._call("read")
        return bytes(self._file(name))

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self._file(name)[offset : offset + size])

    def allocate(self, name: str, size: int) -> None:
        self._call("allocate")
        if name in self.files:
            raise FileExistsError(errno.EEXIST, "exists", name)
        self.files[name] = bytearray(size)

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._call("write")
        file = self.files.setdefault(name, bytearray())
        file.extend(bytes(max(0, offset + len(data) - len(file))))
        file[offset : offset + len(data)] = data

    def sync(self, name: str) -> None:
        self._call("sync")
        self._file(name)

    def truncate(self, name: str, size: int) -> None:
        del self._file(name)[size:]

    def rename(self, old: str, new: str) -> None:
        self.files[new] = self._file(old)
        del self.files[old]

    def delete(self, name: str) -> None:
        self._call("delete")
        self._file(name)
        del self.files[name]

    def sync_names(self) -> None:
        self._call("sync_names")

    def close(self) -> None: ...


class HeldWriter:
    """Does its work when told, and reports it when told; a sync at once while ``at_once``."""

    def __init__(self) -> None:
        self.at_once = False
        self.waiting: list[tuple[Work, Done]] = []
        self.done: list[tuple[Done, OSError | None]] = []

    def run(self, work: Work, done: Done) -> None:
        self.waiting.append((work, done))

    def sync(self, work: Work, size: int, done: Done) -> bool:
        if self.at_once and not self.waiting and not self.done:
            work()
            return True
        self.run(work, done)
        return False

    def work(self) -> None:
        work, done = self.waiting.pop(0)
        try:
            work()
        except OSError as error:
            self.done.append((done, error))
        else:
            self.done.append((done, None))

    def report(self) -> None:
        done, error = self.done.pop(0)
        done(error)

    def close(self) -> None: ...


@contextmanager
def opened(path: Path, *, segment_bytes: int = 4096) -> Iterator[SegmentJournal]:
    """The journal in a real directory."""
    storage = Directory(path)
    try:
        yield SegmentJournal(storage, IDENTITY, segment_bytes=segment_bytes)
    finally:
        storage.close()


def reopened(files: Files, *, segment_bytes: int = SEGMENT_BYTES) -> SegmentJournal:
    """A journal on a copy of ``files``."""
    return SegmentJournal(Memory(files), IDENTITY, segment_bytes=segment_bytes)


def state(journal: SegmentJournal) -> State:
    return journal[:], journal.getCurrentTerm(), journal.getVotedForNodeId()


def ignore(failure: LocalError | None) -> None:
    """For a flush whose end is not looked at."""


Step = Callable[[SegmentJournal], None]
STEPS: tuple[tuple[Step, ...], ...] = (
    (lambda journal: journal.add(b"\x01", 1, 0),),
    (
        lambda journal: journal.setCurrentTerm(1, "n1"),
        lambda journal: journal.add(b"\x00first", 2, 1),
        lambda journal: journal.add(b"\x00second", 3, 1),
    ),
    (lambda journal: journal.setCurrentTerm(2, None),),
    (
        lambda journal: journal.deleteEntriesFrom(2),
        lambda journal: journal.add(b"\x00ends in zeros" + bytes(40), 3, 2),
    ),
    (lambda journal: journal.add(b"\x00" + b"large" * 20, 4, 2),),
    (lambda journal: journal.setCurrentTerm(3, "n2"),),
    (
        lambda journal: journal.add(b"\x00more", 5, 3),
        lambda journal: journal.restart_at(9, 3),
        lambda journal: journal.add(b"\x00behind", 10, 3),
    ),
    (lambda journal: journal.add(b"\x00" + bytes(90), 11, 3),),
    (lambda journal: journal.add(b"\x00nearly last", 12, 3),),
    (
        lambda journal: journal.add(b"\x00last" + bytes(5), 13, 3),
        lambda journal: journal.add(b"\x00of all", 14, 3),
    ),
)
"""A batch each; together every kind of record, and several small segments."""


def story(storage: Storage) -> tuple[list[tuple[str, int]], list[State]]:
    """Write :data:`STEPS`, each synced. Returns where each batch ends, (name, offset), and the
    state after it; the empty journal's first."""
    journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
    ends, states = [("", 0)], [state(journal)]
    for batch in STEPS:
        for step in batch:
            step(journal)
        journal.sync()
        name = journal._files.segments[-1].name
        ends.append((name, journal._files._offset))
        states.append(state(journal))
    return ends, states


def told_story() -> tuple[Files, list[tuple[str, int]], list[State]]:
    """The files of the story, where each batch ends, the state after it."""
    storage = Memory()
    ends, states = story(storage)
    return storage.copy(), ends, states
