"""A new cluster from the state of an old one: what it takes over, and what it must never mix up."""

from __future__ import annotations

from pathlib import Path

import pytest
from journal_driver import IDENTITY, Memory
from machine_driver import Driver, join, publish

from tracker_raft.commands import Lookup, Peers
from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.errors import Compacted, LocalError, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft.founding import ERA_BITS, found, last_state, next_era
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory


@pytest.fixture
def old() -> Driver:
    """A machine with files, a peer, a session and changes."""
    driver = Driver()
    for number in range(5):
        driver.ok(publish(f"f{number}", f"{number}"))
    driver.ok(publish("f0", "other", replace=True))
    driver.ok(publish("gone", "gone"))
    driver.ok({"op": "remove", "name": "gone"})
    driver.ok(join("p1", "0", complete=True))
    driver.tick(700)
    return driver


def test_an_era_lies_beyond_all_that_the_old_cluster_may_have_told() -> None:
    """Broken: a place or a session of the old cluster means something else in the new one."""
    for index in (1, 2**ERA_BITS - 1, 2**ERA_BITS, 2**50 + 3):
        era = next_era(index, "b")
        assert era - index >= 2**ERA_BITS
        assert era < 2**62
    assert next_era(7, "b") == next_era(99, "b"), "each machine makes its own directory"
    assert len({next_era(7, f"p2p-{number}") for number in range(50)}) > 25


def test_files_and_time_are_taken_over_and_nothing_else(old: Driver) -> None:
    """Broken: a restored cluster lacks a file, or offers peers that are gone for days."""
    new = old.machine.refounded(2**40)
    assert (new.applied, new.time_ms) == (2**40, 700)
    assert new.counts() == {
        "files": 5,
        "versions": 6,
        "contents": 0,
        "leases": 0,
        "memberships": 0,
        "sessions": 0,
    }
    for name in ("f0", "f0@v1", "f4"):
        assert new.query(Lookup(name)) == old.query(Lookup(name))
    content = new.query(Lookup("f0@v1"))["files"][0]["content"]
    assert new.query(Peers(content))["total"] == 0
    assert old.query(Peers(content))["total"] == 1


def test_a_founded_state_can_be_restored_from_its_snapshot(old: Driver) -> None:
    """Broken: the new cluster cannot be started, or its members differ."""
    new = old.machine.refounded(2**40)
    again = TrackerMachine.restore(new.snapshot())
    assert again.state_hash == new.state_hash == old.machine.refounded(2**40).state_hash


def test_an_old_session_is_told_that_it_is_over(old: Driver) -> None:
    """Broken: a late write of an old client runs in, or is answered from, another one's session."""
    driver = Driver()
    driver.machine, driver.index = old.machine.refounded(2**40), 2**40
    late = driver.raw(old.session, old.seq, old.seq, publish("f9", "9"))
    assert late["error"] == "session_expired"
    opened = driver.ok({"op": "open_session"})["session"]
    assert opened > 2**40, "no number that the old cluster may have given to anybody"


def test_who_watched_the_old_cluster_lists_anew(old: Driver) -> None:
    """Broken: a watch goes on from an old place and silently misses what comes below it."""
    new = old.machine.refounded(2**40)
    for place in ((1, 0), (old.index + 1, 0), (old.index + 1000, 3)):
        with pytest.raises(Compacted) as caught:
            new.changes.read("", place, 10)
        assert caught.value.oldest == 2**40 + 1
    assert new.changes.read("", (2**40 + 1, 0), 10) == ([], False)


def test_a_founded_directory_is_one_of_the_new_cluster_only(old: Driver, tmp_path: Path) -> None:
    """Broken: a member of the old cluster starts with the data of the new one, or the reverse."""
    storage = Directory(tmp_path)
    made = found(storage, old.machine, "new")
    with pytest.raises(LocalError, match="of cluster 'new', expected 'old'"):
        recover(storage, Identity("old", "n1", "b"))
    recovered = recover(storage, Identity("new", "n1", "b"))
    storage.close()
    assert recovered.snapshot == made
    assert recovered.journal[-1][1:] == (made.index, 0), "a term below that of any election"
    assert recovered.machine.query(Lookup("f3")) == old.query(Lookup("f3"))


def test_all_of_the_log_counts_when_a_majority_is_lost() -> None:
    """Broken: recovery drops entries that may have been acknowledged, or changes a directory."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    operations = [
        pack_operation(0, 0, 0, {"op": "open_session"}),
        *(pack_operation(1, n, n, publish(f"f{n}", "x")) for n in range(1, 4)),
    ]
    for index, operation in enumerate(operations, start=2):
        journal.add(b"\x00" + pack_entry(0, [operation]), index, 3)
    journal.add(b"\x01", 6, 4)
    journal.setCurrentTerm(5, "n2")
    journal.sync()
    before = storage.copy()
    state = last_state(storage)
    assert storage.copy() == before
    assert (state.index, state.term, state.current_term) == (6, 4, 5)
    assert (state.snapshot, state.uncertain) == (0, 5)
    assert state.machine.counts()["files"] == 3
    assert state.machine.applied == 6


def test_what_this_version_does_not_know_is_not_passed_over() -> None:
    """Broken: recovery with an old version loses what a newer one wrote, without a word."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    journal.add(b"\x00" + pack_entry(0, [pack_operation(1, 1, 1, {"op": "merge"})]), 2, 1)
    journal.sync()
    with pytest.raises(Unsupported, match="'merge'"):
        last_state(storage)


def test_an_empty_directory_has_nothing_to_recover() -> None:
    """Broken: an emptied disk becomes an empty cluster in the place of a full one."""
    with pytest.raises(LocalError, match="no node ever ran in it"):
        last_state(Memory())
