"""The journal: what was synced comes back, and nothing else does.

What may be lost by a crash at any moment: ``tests/property/test_journal_properties.py``; files
that are damaged or not ours: ``test_journal_damage.py``.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from journal_driver import (
    IDENTITY,
    SEGMENT_BYTES,
    STEPS,
    Files,
    HeldWriter,
    Memory,
    State,
    ignore,
    opened,
    reopened,
    state,
    told_story,
)

from tracker_raft.errors import Damaged, LocalError
from tracker_raft.raft import journal as journal_module
from tracker_raft.raft import records
from tracker_raft.raft.journal import NO_OP, SegmentJournal


@pytest.fixture(scope="module")
def told() -> tuple[Files, list[tuple[str, int]], list[State]]:
    """The files of the story, where each batch ends, the state after it."""
    return told_story()


# -- what comes back -------------------------------------------------------------------------------


def test_log_term_and_vote_come_back_together(tmp_path: Path) -> None:
    """Broken: a restarted node forgets writes it acknowledged, or votes twice in one term."""
    with opened(tmp_path) as journal:
        journal.add(b"\x01", 1, 0)
        journal.setCurrentTerm(1, "n1")
        journal.add(b"\x00first", 2, 1)
        journal.add(b"\x00second", 3, 1)
        journal.deleteEntriesFrom(2)
        journal.add(b"\x00other", 3, 2)
        journal.setCurrentTerm(3, "n2")
        journal.add(b"\x00last", 4, 3)
        journal.sync()
    with opened(tmp_path) as journal:
        assert state(journal) == (
            [(b"\x01", 1, 0), (b"\x00first", 2, 1), (b"\x00other", 3, 2), (b"\x00last", 4, 3)],
            3,
            "n2",
        )
        assert (journal.first_index, journal.last_index, len(journal)) == (1, 4, 4)
        assert [journal.term_at(index) for index in range(6)] == [None, 0, 1, 2, 3, None]
        assert journal[-1] == (b"\x00last", 4, 3)
        assert repr(journal) == "<SegmentJournal 1..4 durable=4 segments=1>"
        assert (journal.position, journal.durable, journal.durable_index) == (0, 0, 4)
        assert (journal.bytes_cut, journal.identity) == (0, IDENTITY)


def test_every_step_of_the_story_comes_back(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: some kind of record, or one at the edge of a segment, is not read back."""
    files, ends, states = told
    assert len(files) >= 3
    assert sum(name == ends[-1][0] for name, _ in ends) >= 2, "the last segment has two batches"
    assert state(reopened(files)) == states[-1]
    storage = Memory()
    for batch, expected in zip(STEPS, states[1:], strict=True):
        journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
        for step in batch:
            step(journal)
        journal.sync()
        assert state(reopened(storage.copy())) == expected
    assert storage.copy() == files, "the bytes do not depend on how often it was opened"


def test_a_vote_for_nobody_takes_the_older_vote_back(tmp_path: Path) -> None:
    """Broken: after a restart a vote of an older term is taken for one of this term."""
    with opened(tmp_path) as journal:
        journal.setCurrentTerm(4, "n3")
        journal.setCurrentTerm(5, None)
        journal.sync()
    with opened(tmp_path) as journal:
        assert state(journal) == ([], 5, None)


def test_a_cleared_log_may_begin_anywhere(tmp_path: Path) -> None:
    """Broken: entries from before a cleared log come back behind a restart."""
    with opened(tmp_path) as journal:
        journal.add(b"\x01", 1, 0)
        journal.add(b"\x00first", 2, 1)
        journal.clear()
        assert (len(journal), journal.last_index) == (0, 0)
        journal.clear()
        journal.add(b"\x00far", 70, 9)
        journal.sync()
    with opened(tmp_path) as journal:
        assert journal[:] == [(b"\x00far", 70, 9)]
        assert (journal.first_index, journal.term_at(70), journal.term_at(69)) == (70, 9, None)


def test_a_snapshot_takes_the_place_of_the_whole_log(tmp_path: Path) -> None:
    """Broken: a node that was given a snapshot goes on with the log it had before, or forgets
    its vote by it."""
    with opened(tmp_path) as journal:
        journal.setCurrentTerm(6, "n2")
        for index in range(1, 6):
            journal.add(b"\x00old", index, 1)
        journal.sync()
        journal.restart_at(40, 5)
        assert journal[:] == [(NO_OP, 40, 5)]
        assert journal.durable_index == 0, "nothing of the new log is durable yet"
        journal.add(b"\x00next", 41, 6)
        journal.sync()
        assert journal.durable_index == 41
    with opened(tmp_path) as journal:
        assert state(journal) == ([(NO_OP, 40, 5), (b"\x00next", 41, 6)], 6, "n2")


def test_an_entry_that_leaves_a_hole_is_refused(tmp_path: Path) -> None:
    """Broken: a log with a hole, in which every later index is off."""
    with opened(tmp_path) as journal:
        journal.add(b"\x01", 1, 0)
        with pytest.raises(ValueError, match="entry 3 follows entry 1"):
            journal.add(b"\x00x", 3, 0)
        assert (journal.last_index, journal.position) == (1, 1)


def test_a_hole_on_disk_is_damage() -> None:
    """Broken: a log with a hole is loaded, and every later index is off."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    journal._add(records.entry(b"\x00x", 3, 0))
    journal.sync()
    with pytest.raises(Damaged, match="entry 3 follows entry 1"):
        reopened(storage.copy())


def test_a_record_too_large_to_be_read_back_is_not_written(tmp_path: Path) -> None:
    """Broken: an acknowledged entry is cut off as a torn tail at the next start."""
    longest = records.BODY_BYTES_MAX - 16
    with opened(tmp_path) as journal:
        journal.add(b"\x01", 1, 0)
        journal.add(bytes(longest), 2, 0)
        with pytest.raises(LocalError, match="not written"):
            journal.add(bytes(longest + 1), 3, 0)
        assert (journal.last_index, journal.position) == (2, 2)
        journal.sync()
    with opened(tmp_path) as journal:
        assert journal.last_index == 2


def test_the_librarys_own_compaction_is_refused(tmp_path: Path) -> None:
    """Broken: the library rewrites the log underneath a node that counts on all of it."""
    with opened(tmp_path) as journal, pytest.raises(LocalError, match="compact"):
        journal.deleteEntriesTo(1)


# -- durable is what was synced --------------------------------------------------------------------


def test_a_crash_loses_exactly_what_was_not_synced() -> None:
    """Broken: something is told as durable that a crash takes away, or a crash takes more."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    journal.setCurrentTerm(1, "n1")
    assert (journal.durable, journal.position) == (0, 2)
    journal.sync()
    kept = state(journal)
    assert (journal.durable, journal.position, journal.durable_index) == (2, 2, 1)
    journal.add(b"\x00lost", 2, 1)
    journal.setCurrentTerm(2, "n2")
    assert (journal.durable, journal.position, journal.durable_index) == (2, 4, 1)
    assert state(reopened(storage.copy())) == kept


def test_what_a_killed_process_wrote_is_synced_before_it_counts() -> None:
    """Broken: entries that were written and not synced when the process was killed are promised by
    the next one, and a power loss takes them back."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    journal.sync()
    again = Memory(storage.copy())
    assert SegmentJournal(again, IDENTITY).durable_index == 1
    assert "sync" in again.calls


def test_one_sync_serves_everything_before_it() -> None:
    """Broken: group commit is gone, or a sync that claims to be one is none."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.setCurrentTerm(1, "n1")
    journal.sync()
    storage.calls.clear()
    for index in range(1, 50):
        journal.add(b"\x00x", index, 0)
    journal.sync()
    assert storage.calls == ["write", "sync"]
    journal.sync()
    journal.flush(HeldWriter(), ignore)
    assert storage.calls == ["write", "sync"], "nothing new, nothing to sync"
    assert journal.syncs == 2


def test_what_arrives_while_a_batch_is_under_way_waits_for_the_next() -> None:
    """Broken: two batches write at once, or what came later is believed synced with the first."""
    storage, writer = Memory(), HeldWriter()
    ended: list[LocalError | None] = []
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    journal.flush(writer, ended.append)
    journal.add(b"\x00x", 2, 0)
    journal.flush(writer, ended.append)
    assert len(writer.waiting) == 1
    with pytest.raises(LocalError, match="being written; nothing was done"):
        journal.sync()
    writer.work()
    assert (journal.durable, journal.durable_index, ended) == (0, 0, [])
    writer.report()
    assert (journal.durable, journal.durable_index, ended) == (1, 1, [None])
    assert reopened(storage.copy()).last_index == 1
    journal.flush(writer, ended.append)
    writer.work()
    writer.report()
    assert (journal.durable, journal.durable_index, journal.syncs) == (2, 2, 2)
    assert reopened(storage.copy()).last_index == 2


def test_a_batch_that_is_written_at_once_is_durable_and_not_reported() -> None:
    """Broken: what is durable is taken for pending, or counted twice, or a new segment, which takes
    long to allocate, holds the loop."""
    storage, writer = Memory(), HeldWriter()
    writer.at_once = True
    ended: list[LocalError | None] = []
    journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
    journal.add(b"\x01", 1, 0)
    assert not journal.flush(writer, ended.append), "it begins a segment"
    writer.work()
    writer.report()
    assert ended == [None]
    journal.add(b"\x00x", 2, 0)
    assert journal.flush(writer, ended.append)
    assert (journal.durable, journal.durable_index, journal.syncs) == (2, 2, 2)
    assert not journal.flush(writer, ended.append), "nothing is left"
    assert (ended, writer.waiting) == ([None], [])
    assert reopened(storage.copy()).last_index == 2
    journal.add(b"\x00" + bytes(SEGMENT_BYTES), 3, 0)
    assert not journal.flush(writer, ended.append)
    assert len(writer.waiting) == 1


@pytest.mark.parametrize("call", ["write", "sync"])
def test_a_batch_that_fails_at_once_is_the_end(call: str) -> None:
    """Broken: after a failed sync a node goes on with a log of which nobody knows what is there."""
    storage, writer = Memory(), HeldWriter()
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    journal.sync()
    writer.at_once = True
    journal.add(b"\x00x", 2, 0)
    storage.fails = {call: errno.EIO}
    with pytest.raises(LocalError, match="this node cannot go on"):
        journal.flush(writer, ignore)
    storage.fails = {}
    assert not journal.flush(writer, ignore), "nothing is written any more"
    assert (journal.durable, journal.durable_index) == (1, 1)
    journal.add(b"\x00y", 3, 0)
    with pytest.raises(LocalError, match="failed before"):
        journal.sync()


def test_a_truncation_while_a_batch_is_under_way_is_not_undone_by_its_end() -> None:
    """Broken: a leader counts itself with an entry of which its disk holds another one."""
    writer = HeldWriter()
    journal = SegmentJournal(Memory(), IDENTITY)
    for index in range(1, 6):
        journal.add(b"\x00old", index, 1)
    journal.flush(writer, ignore)
    journal.deleteEntriesFrom(2)
    journal.add(b"\x00new", 3, 2)
    writer.work()
    writer.report()
    assert (journal.durable, journal.durable_index) == (5, 2)
    journal.flush(writer, ignore)
    writer.work()
    writer.report()
    assert (journal.durable, journal.durable_index) == (7, 3)


def test_what_was_added_and_taken_back_in_one_batch_does_not_count() -> None:
    """Broken: a leader counts itself with an entry that its log does not have."""
    journal = SegmentJournal(Memory(), IDENTITY)
    for index in range(1, 6):
        journal.add(b"\x00old", index, 1)
    journal.deleteEntriesFrom(2)
    journal.sync()
    assert (journal.last_index, journal.durable_index) == (2, 2)
    journal.add(b"\x00new", 3, 2)
    assert journal.durable_index == 2


def test_a_truncation_that_did_not_fit_into_the_batch_counts_until_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: under load, a leader counts itself with an entry of which its disk holds another
    one, because the batch under way began after the log was cut."""
    monkeypatch.setattr(journal_module, "BATCH_BYTES_MAX", 100)
    storage, writer = Memory(), HeldWriter()
    journal = SegmentJournal(storage, IDENTITY)
    for index in range(1, 4):
        journal.add(b"\x00old" + bytes(30), index, 1)
    journal.deleteEntriesFrom(1)
    journal.add(b"\x00new", 2, 2)
    journal.flush(writer, ignore)
    writer.work()
    writer.report()
    assert journal.durable < 3
    assert reopened(storage.copy())[1][2] == 1, "the old entry 2 is on disk"
    assert journal.durable_index == 1
    while journal.durable < journal.position:
        journal.flush(writer, ignore)
        writer.work()
        writer.report()
    assert journal.durable_index == 2
    assert reopened(storage.copy())[:] == journal[:]


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("write", errno.EIO),
        ("write", errno.ENOSPC),
        ("sync", errno.EIO),
        ("sync", errno.ENOSPC),
        ("allocate", errno.EIO),
    ],
)
def test_a_failed_write_is_final(call: str, number: int) -> None:
    """Broken: a retried sync reports success for pages the kernel has dropped."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY, segment_bytes=200)
    journal.add(b"\x01", 1, 0)
    journal.sync()
    journal.add(b"\x00x" * (100 if call == "allocate" else 1), 2, 0)
    storage.fails[call] = number
    failures: list[LocalError | None] = []
    writer = HeldWriter()
    journal.flush(writer, failures.append)
    writer.work()
    writer.report()
    assert "cannot go on" in str(failures[0])
    storage.fails.clear()
    calls = len(storage.calls)
    with pytest.raises(LocalError, match="failed before"):
        journal.add(b"\x00y", 3, 0)
        journal.sync()  # the disk works again; nobody knows what it holds
    journal.flush(writer, failures.append)
    assert writer.waiting == []
    assert (len(storage.calls), journal.durable, journal.durable_index) == (calls, 1, 1)
    assert reopened(storage.copy()).last_index in (1, 2)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_for_a_segment_is_not_final_and_loses_nothing(number: int) -> None:
    """Broken: a full disk stops a node for good, or entries get lost between two attempts."""
    storage, writer = Memory(), HeldWriter()
    ended: list[LocalError | None] = []
    journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
    index = 0
    while not journal.full:
        if journal.segments == 2:
            storage.fails["allocate"] = number
        index += 1
        journal.add(b"\x00" + bytes(30), index, 1)
        journal.flush(writer, ended.append)
        writer.work()
        writer.report()
    durable, before = journal.durable, storage.copy()
    journal.setCurrentTerm(2, "n3")
    journal.add(b"\x00more", index + 1, 2)
    with pytest.raises(LocalError, match=r"no room for the journal.*tried again"):
        journal.sync()
    assert (journal.durable, journal.durable_index) == (durable, index - 1)
    assert storage.copy() == before
    storage.fails.clear()
    journal.flush(writer, ended.append)
    writer.work()
    writer.report()
    assert (journal.full, set(ended), journal.durable) == (False, {None}, journal.position)
    assert state(reopened(storage.copy())) == state(journal)


def test_a_disk_that_is_full_from_the_first_is_waited_for() -> None:
    """Broken: a node that starts on a full disk never begins, though room is made."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.setCurrentTerm(1, "n1")
    storage.fails["allocate"] = errno.ENOSPC
    with pytest.raises(LocalError, match="no room"):
        journal.sync()
    assert (journal.full, journal.segments, storage.names()) == (True, 0, [])
    storage.fails.clear()
    journal.sync()
    assert (journal.full, journal.segments) == (False, 1)


# -- compaction ------------------------------------------------------------------------------------


def compacted(storage: Memory, journal: SegmentJournal, index: int) -> list[str]:
    names = journal.forget_before(index)
    for name in names:
        storage.delete(name)
    return names


def test_compaction_deletes_whole_segments_and_the_vote_stays() -> None:
    """Broken: entries nobody has a snapshot of are deleted, or a node votes twice in a term
    because its vote was in a segment that is gone."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
    journal.setCurrentTerm(4, "n3")
    for index in range(1, 31):
        journal.add(b"\x00" + bytes(20), index, 4)
        journal.sync()
    segments = journal.segments
    assert segments > 3
    assert compacted(storage, journal, 1) == []
    names = compacted(storage, journal, 20)
    assert names == sorted(names)
    assert 1 <= len(names) < segments
    assert journal.first_index == 20
    assert journal.segments == len(storage.names()) == segments - len(names)
    again = reopened(storage.copy())
    assert again.first_index <= 20, "a segment that holds entry 20 was deleted"
    assert again[20 - again.first_index :] == journal[:]
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (4, "n3")
    again.add(b"\x00on", 31, 4)
    again.sync()


def test_the_newest_entry_survives_every_compaction() -> None:
    """Broken: a node whose log was compacted to the end has no last entry to be elected by."""
    storage, writer = Memory(), HeldWriter()
    journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
    for index in range(1, 4):
        journal.add(b"\x00" + bytes(20), index, 4)
        journal.sync()
    for term in range(5, 40):
        journal.setCurrentTerm(term, None)
        journal.sync()
    assert journal.segments > 2
    journal.add(b"\x00not durable", 4, 40)
    compacted(storage, journal, 1000)
    assert journal[:] == [(b"\x00not durable", 4, 40)]
    again = reopened(storage.copy())
    assert (again.last_index, again.getCurrentTerm()) == (3, 39)
    journal.flush(writer, ignore)
    writer.work()
    writer.report()
    compacted(storage, journal, 1000)
    again = reopened(storage.copy())
    assert again[:] == journal[:] == [(b"\x00not durable", 4, 40)]


def test_a_compaction_of_an_empty_log_does_nothing() -> None:
    """Broken: a snapshot that is taken very early breaks the log."""
    journal = SegmentJournal(Memory(), IDENTITY)
    assert journal.forget_before(5) == []
    assert (len(journal), journal.first_index) == (0, 0)
