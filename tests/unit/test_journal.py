"""The journal: what was synced comes back, and what is damaged is never taken for something else.

The file of :func:`story` is cut and flipped at every byte, so it is kept small.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tracker_raft.errors import Damaged, LocalError, P2PError, Unsupported
from tracker_raft.raft.journal import RECORD_BYTES_MAX, FileJournal, LogEntry

State = tuple[list[LogEntry], int, str | None]
"""All a journal holds: its log, its term, whom it voted for in it."""


@contextmanager
def opened(path: Path, *, cluster: str = "c", node: str = "n1") -> Iterator[FileJournal]:
    journal = FileJournal(path, cluster=cluster, node=node)
    try:
        yield journal
    finally:
        journal._destroy()


def state(journal: FileJournal) -> State:
    return journal[:], journal.getCurrentTerm(), journal.getVotedForNodeId()


def crash(journal: FileJournal) -> None:
    """What a dead process leaves: nothing that was not synced."""
    os.close(journal._file)
    journal._file = -1


STEPS: tuple[Callable[[FileJournal], None], ...] = (
    lambda journal: journal.add(b"\x01", 1, 0),
    lambda journal: journal.setCurrentTerm(1, "n1"),
    lambda journal: journal.add(b"\x00first", 2, 1),
    lambda journal: journal.add(b"\x00second", 3, 1),
    lambda journal: journal.setCurrentTerm(2, None),
    lambda journal: journal.deleteEntriesFrom(2),
    lambda journal: journal.add(b"\x00other", 3, 2),
    lambda journal: journal.setCurrentTerm(3, "n2"),
    lambda journal: journal.add(b"\x00last", 4, 3),
)
"""One record each; together every kind of record."""


def story(path: Path) -> tuple[list[int], list[State]]:
    """Write :data:`STEPS`, each synced. Returns the file's size and the state after each, the
    header's first."""
    with opened(path) as journal:
        sizes, states = [path.stat().st_size], [state(journal)]
        for step in STEPS:
            step(journal)
            journal.sync()
            sizes.append(path.stat().st_size)
            states.append(state(journal))
    return sizes, states


# -- what comes back -------------------------------------------------------------------------------


def test_log_term_and_vote_come_back_together(tmp_path: Path) -> None:
    """Broken: a restarted node forgets writes it acknowledged, or votes twice in one term."""
    story(tmp_path / "journal")
    with opened(tmp_path / "journal") as journal:
        assert state(journal) == (
            [(b"\x01", 1, 0), (b"\x00first", 2, 1), (b"\x00other", 3, 2), (b"\x00last", 4, 3)],
            3,
            "n2",
        )
        assert (journal.first_index, journal.last_index, len(journal)) == (1, 4, 4)
        assert [journal.term_at(index) for index in range(6)] == [None, 0, 1, 2, 3, None]
        assert journal[-1] == (b"\x00last", 4, 3)
        assert repr(journal) == "<FileJournal journal 1..4>"
        assert journal.bytes_cut == 0


def test_a_vote_for_nobody_takes_the_older_vote_back(tmp_path: Path) -> None:
    """Broken: after a restart a vote of an older term is taken for one of this term."""
    with opened(tmp_path / "journal") as journal:
        journal.setCurrentTerm(4, "n3")
        journal.setCurrentTerm(5, None)
        journal.sync()
    with opened(tmp_path / "journal") as journal:
        assert state(journal) == ([], 5, None)


def test_a_cleared_log_may_begin_anywhere(tmp_path: Path) -> None:
    """Broken: entries from before a cleared log come back behind a restart."""
    story(tmp_path / "journal")
    with opened(tmp_path / "journal") as journal:
        journal.clear()
        assert (len(journal), journal.last_index) == (0, 0)
        journal.clear()
        journal.add(b"\x00far", 70, 9)
    with opened(tmp_path / "journal") as journal:
        assert journal[:] == [(b"\x00far", 70, 9)]
        assert (journal.first_index, journal.term_at(70), journal.term_at(69)) == (70, 9, None)


def test_an_entry_that_leaves_a_hole_is_refused(tmp_path: Path) -> None:
    """Broken: a log with a hole, in which every later index is off."""
    with opened(tmp_path / "journal") as journal:
        journal.add(b"\x01", 1, 0)
        with pytest.raises(Damaged, match="entry 3 follows entry 1"):
            journal.add(b"\x00x", 3, 0)
        assert journal.last_index == 1


def test_a_record_too_large_to_be_read_back_is_not_written(tmp_path: Path) -> None:
    """Broken: an acknowledged entry is cut off as a torn tail at the next start."""
    with opened(tmp_path / "journal") as journal:
        journal.add(b"\x01", 1, 0)
        journal.add(bytes(RECORD_BYTES_MAX - 17), 2, 0)
        with pytest.raises(LocalError, match="not written"):
            journal.add(bytes(RECORD_BYTES_MAX - 16), 3, 0)
    with opened(tmp_path / "journal") as journal:
        assert journal.last_index == 2


def test_compaction_is_refused(tmp_path: Path) -> None:
    """Broken: the library rewrites the log underneath a node that counts on all of it."""
    with opened(tmp_path / "journal") as journal, pytest.raises(LocalError, match="compaction"):
        journal.deleteEntriesTo(1)


# -- durable is what was synced --------------------------------------------------------------------


def test_a_crash_loses_exactly_what_was_not_synced(tmp_path: Path) -> None:
    """Broken: something is told as durable that a crash takes away, or a crash takes more."""
    path = tmp_path / "journal"
    journal = FileJournal(path, cluster="c", node="n1")
    journal.add(b"\x01", 1, 0)
    journal.setCurrentTerm(1, "n1")
    assert journal.dirty
    journal.sync()
    kept = state(journal)
    assert not journal.dirty
    journal.add(b"\x00lost", 2, 1)
    journal.setCurrentTerm(2, "n2")
    assert journal.dirty
    crash(journal)
    with opened(path) as journal:
        assert state(journal) == kept


def test_one_sync_serves_everything_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: group commit is gone, or a sync that claims to be one is none."""
    calls: list[str] = []
    write, sync = os.write, os.fdatasync
    monkeypatch.setattr(os, "write", lambda *a: (calls.append("write"), write(*a))[1])
    monkeypatch.setattr(os, "fdatasync", lambda *a: (calls.append("fdatasync"), sync(*a))[1])
    with opened(tmp_path / "journal") as journal:
        calls.clear()
        for index in range(1, 50):
            journal.add(b"\x00x", index, 0)
        journal.sync()
        assert calls == ["write", "fdatasync"]
        journal.sync()
        assert calls == ["write", "fdatasync"], "nothing new, nothing to sync"


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_failed_write_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Broken: a retried sync reports success for pages the kernel has dropped."""
    path = tmp_path / "journal"
    journal = FileJournal(path, cluster="c", node="n1")
    journal.add(b"\x01", 1, 0)
    journal.sync()

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        journal.add(b"\x00x", 2, 0)
        with pytest.raises(LocalError, match="write failed"):
            journal.sync()
    with pytest.raises(LocalError, match="earlier write failed"):
        journal.sync()  # the disk works again; nobody knows what it holds
    journal._destroy()
    with opened(path) as journal:
        assert journal.last_index >= 1


def test_half_a_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the kernel takes a part of the bytes, and the rest is believed written."""
    path = tmp_path / "journal"
    write = os.write
    with opened(path) as journal, monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, view: write(file, view[:3]))
        journal.add(b"\x00a longer command", 1, 0)
        journal.sync()
    with opened(path) as journal:
        assert journal[:] == [(b"\x00a longer command", 1, 0)]


# -- damage ----------------------------------------------------------------------------------------


def test_cut_at_every_byte_it_opens_with_what_is_whole(tmp_path: Path) -> None:
    """Broken: a torn write stops a node for good, or brings back half an entry."""
    sizes, states = story(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "journal"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = max((n for n, end in enumerate(sizes) if end <= size), default=0)
        with opened(path) as journal:
            assert state(journal) == states[whole], f"cut to {size} bytes"
            assert journal.bytes_cut == size - max((s for s in sizes if s <= size), default=0)
            journal.setCurrentTerm(9, None)
        with opened(path) as journal:
            assert (journal.getCurrentTerm(), journal.bytes_cut) == (9, 0)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_flipped_at_every_byte_it_is_never_taken_for_something_else(
    tmp_path: Path, mask: int
) -> None:
    """Broken: damage is applied as data, or quietly cuts off entries that were acknowledged.

    Only in the very last record can damage not be told from a torn write.
    """
    sizes, states = story(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "journal"
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= mask
        path.write_bytes(damaged)
        if place >= sizes[-2]:
            with opened(path) as journal:
                assert state(journal) == states[-2], f"byte {place}"
        else:
            with pytest.raises(Damaged, match="othing was changed"):
                FileJournal(path, cluster="c", node="n1")
            assert path.read_bytes() == damaged, f"byte {place}: the evidence was touched"


def test_a_record_lost_whole_before_the_last_one_is_damage(tmp_path: Path) -> None:
    """Broken: a hole in the file, a head or a body overwritten with zeros, passes for its end."""
    sizes, _ = story(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    path = tmp_path / "journal"
    for start, end in (
        (sizes[-3], sizes[-3] + 8),
        (sizes[-3] + 8, sizes[-2]),
        (sizes[-4], sizes[-3]),
    ):
        path.write_bytes(data[:start] + bytes(end - start) + data[end:])
        with pytest.raises(Damaged):
            FileJournal(path, cluster="c", node="n1")


def test_a_tail_of_zeros_is_a_torn_tail(tmp_path: Path) -> None:
    """Broken: a file that grew before its bytes arrived, as after a power loss, stops the node."""
    _, states = story(tmp_path / "journal")
    with (tmp_path / "journal").open("ab") as file:
        file.write(bytes(9000))
    with opened(tmp_path / "journal") as journal:
        assert state(journal) == states[-1]
        assert journal.bytes_cut == 9000


# -- files that are not ours -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "node", "found"),
    [("other", "n1", "cluster 'c'"), ("c", "n2", "node 'n1'")],
)
def test_the_journal_of_another_is_refused(
    tmp_path: Path, cluster: str, node: str, found: str
) -> None:
    """Broken: a node votes with somebody else's log and votes."""
    path = tmp_path / "journal"
    story(path)
    before = path.read_bytes()
    with pytest.raises(LocalError, match=found) as error:
        FileJournal(path, cluster=cluster, node=node)
    assert "nothing was changed" in str(error.value)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an older version reads what it does not understand, and cuts it off."""
    path = tmp_path / "journal"
    with monkeypatch.context() as patched:
        patched.setattr("tracker_raft.raft.journal.FORMAT", 2)
        story(path)
    before = path.read_bytes()
    with pytest.raises(Unsupported, match="format 2, this version reads 1; nothing was changed"):
        FileJournal(path, cluster="c", node="n1")
    assert path.read_bytes() == before


def test_a_kind_of_record_from_the_future_is_refused(tmp_path: Path) -> None:
    """Broken: a record this version does not know is passed over."""
    path = tmp_path / "journal"
    with opened(path) as journal:
        journal._append(b"\x07new")
        journal.sync()
    with pytest.raises(Unsupported, match="record of kind 7"):
        FileJournal(path, cluster="c", node="n1")


@pytest.mark.parametrize("text", [b"Dear diary", b"Dear diary, today I was taken for a log.\n" * 9])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, text: bytes) -> None:
    """Broken: pointing the data directory at the wrong place empties somebody's file."""
    path = tmp_path / "journal"
    path.write_bytes(text)
    before = path.read_bytes()
    with pytest.raises(Damaged, match="does not begin like a journal; nothing was changed"):
        FileJournal(path, cluster="c", node="n1")
    assert path.read_bytes() == before


def test_a_refused_journal_leaves_no_file_open(tmp_path: Path) -> None:
    """Broken: each refused start leaks a descriptor."""
    path = tmp_path / "journal"
    story(path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 a count is wanted, not paths
    for _ in range(3):
        with pytest.raises(P2PError):
            FileJournal(path, cluster="other", node="n1")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
