"""The changes the state machine keeps for watchers: which, how told, and how many."""

from __future__ import annotations

from typing import Any

import pytest
from machine_driver import Driver, content, publish

from tracker_raft.changes import Change
from tracker_raft.config import MachineLimits
from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.errors import Compacted
from tracker_raft.machine import TrackerMachine, history
from tracker_raft.machine.history import unpack


def changes(machine: TrackerMachine) -> list[Change]:
    found, more = machine.changes.read("", machine.changes.horizon, 10**6)
    assert not more
    return [unpack(kept) for kept in found]


def short(change: Change) -> tuple[Any, ...]:
    return change.kind, change.file.versioned, change.newest, change.dropped


def test_every_way_a_name_can_change_has_its_word() -> None:
    """Broken: a watcher takes a removal for a new version, or does not learn what a name means."""
    driver = Driver(MachineLimits(versions_per_name_max=2))
    for label in ("one", "two", "three", "four"):
        driver.ok(publish("a", label, replace=True))
    driver.ok({"op": "remove", "name": "a@v4"})
    driver.ok(publish("a", "five", replace=True))
    driver.ok({"op": "remove", "name": "a"})
    driver.ok(publish("a", "six"))
    driver.ok({"op": "remove", "name": "a@v1"})

    told = changes(driver.machine)

    assert [short(change) for change in told] == [
        ("published", "a@v1", 1, 0),
        ("replaced", "a@v2", 2, 0),
        ("replaced", "a@v3", 3, 1),
        ("replaced", "a@v4", 4, 2),
        ("version_removed", "a@v4", 3, 0),
        ("replaced", "a@v5", 5, 0),
        ("removed", "a@v5", 0, 0),
        ("published", "a@v1", 1, 0),
        ("removed", "a@v1", 0, 0),
    ]
    assert told[0].file.content == content("one")
    assert told[-3].file.content == content("five")


def test_what_changes_nothing_is_no_change() -> None:
    """Broken: a watcher fetches again what it has, once for each retry of a publisher."""
    driver = Driver()
    driver.ok(publish("a", "one"))
    driver.ok(publish("a", "one"))
    driver.refused(publish("a", "two"))
    driver.refused({"op": "remove", "name": "b"})
    driver.raw(driver.session, driver.seq, driver.seq, {"op": "remove", "name": "a"})

    assert [short(change) for change in changes(driver.machine)] == [("published", "a@v1", 1, 0)]


def test_the_place_of_a_change_is_that_of_the_reply() -> None:
    """Broken: who publishes cannot tell its own change from those of others."""
    driver = Driver()
    driver.entry(
        *[(1, n, 1, publish(f"n{n}", "x")) for n in (1, 2, 3)], (1, 2, 1, publish("z", ""))
    )

    assert [(change.place, change.file.name) for change in changes(driver.machine)] == [
        ((2, 0), "n1"),
        ((2, 1), "n2"),
        ((2, 2), "n3"),
    ]


def test_exactly_so_many_are_kept_however_many_there_were() -> None:
    """Broken: trackers forget at different times, or keep more and more."""
    driver = Driver(MachineLimits(changes_kept_max=5))
    for index in range(2, 702):
        rows = []
        for _ in range(5):
            driver.seq += 1
            body = publish("a", f"{driver.seq}", replace=True)
            rows.append(pack_operation(driver.session, driver.seq, driver.seq, body))
        driver.machine.apply(index, pack_entry(0, rows))
        assert len(driver.machine.changes) == 5
        assert [change.place for change in changes(driver.machine)] == [
            (index, position) for position in range(5)
        ]
    assert len(driver.machine.changes._stored) < 2_000


@pytest.fixture
def risen(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """At a cluster version with runs, of at most three changes; ten changes are kept."""
    monkeypatch.setattr(history, "RUN_MAX", 3)
    driver = Driver(MachineLimits(changes_kept_max=10))
    driver.raw(0, 0, 0, {"op": "raise_version", "version": 2})
    return driver


def write(driver: Driver, *names: str) -> None:
    """One entry that publishes these and, where a name begins with ``!``, removes it."""
    rows = []
    for name in names:
        driver.seq += 1
        body = publish(name, name) if name[0] != "!" else {"op": "remove", "name": name[1:]}
        rows.append((driver.session, driver.seq, driver.seq, body))
    assert all("ok" in reply for reply in driver.entry(*rows).replies)


def test_changes_in_runs_are_told_one_by_one_from_any_place(risen: Driver) -> None:
    """Broken: a watcher that resumes in the midst of an entry misses a change or has one twice."""
    write(risen, "a", "b", "c", "d", "!b", "e", "f")
    index = risen.index
    told = ["a", "b", "c", "d", "b", "e", "f"]
    assert [change.place for change in changes(risen.machine)] == [(index, n) for n in range(7)]
    for position in range(8):
        since = list(risen.machine.changes.since((index, position)))
        assert [name for _, _, name, _ in since] == told[position:]
        assert [unpack(kept).place for kept in since] == [(index, n) for n in range(position, 7)]
    found, more = risen.machine.changes.read("d", (index, 1), 1)
    assert [unpack(kept).file.content for kept in found] == [content("d")]
    assert not more
    restored = TrackerMachine.restore(risen.machine.snapshot())
    assert changes(restored) == changes(risen.machine)
    assert list(restored.snapshot()) == list(risen.machine.snapshot())


def test_a_run_is_forgotten_as_a_whole(risen: Driver) -> None:
    """Broken: trackers forget at different times, or a watcher is not told that it missed some."""
    for number in range(9):
        write(risen, *(f"{number}-{n}" for n in range(4)))  # a run of three and one of one
    kept = changes(risen.machine)
    assert 10 <= len(kept) < 10 + 3
    assert len(kept) == len(risen.machine.changes)
    assert [change.file.name for change in kept] == [
        f"{number}-{n}" for number in range(9) for n in range(4)
    ][-len(kept) :]
    horizon = risen.machine.changes.horizon
    assert kept[0].place > horizon
    with pytest.raises(Compacted):
        risen.machine.changes.read("", (horizon[0], horizon[1] - 1), 10)
    assert risen.machine.state_hash == TrackerMachine.restore(risen.machine.snapshot()).state_hash


def test_a_listener_is_told_once_for_each_entry_that_changed_files() -> None:
    """Broken: watchers are woken by every heartbeat of a peer, or not at all."""
    driver = Driver(MachineLimits(changes_kept_max=2))
    told: list[int] = []
    driver.machine.on_changes(lambda: told.append(driver.index))
    driver.entry(*[(1, n, 1, publish(f"n{n}", "x")) for n in (1, 2)])
    driver.entry((1, 3, 1, publish("n3", "x")))
    driver.entry((1, 4, 1, publish("n3", "x")))
    driver.tick(5)

    assert told == [2, 3]
