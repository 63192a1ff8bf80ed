"""What nobody serves: found in slices, shown, removed if so set, the same on every replica."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from machine_driver import Driver, content, join, publish, publish_many

from tracker_raft.changes import Change
from tracker_raft.commands import List, Lookup
from tracker_raft.machine import TrackerMachine
from tracker_raft.machine.history import unpack
from tracker_raft.machine.sweep import SLICE_GAP_MS, SLICE_NAMES, SLICE_REMOVALS

Body = dict[str, Any]
PASS_MS = 1_000


def retain(show_ms: int | None = None, remove_ms: int | None = None) -> Body:
    return {
        "op": "set_retention",
        "unsourced_after_ms": show_ms,
        "remove_unsourced_after_ms": remove_ms,
    }


def risen(names: int = 0) -> Driver:
    """A machine at cluster version 2 with so many names, each of a content of its own."""
    driver = Driver()
    driver.entry((0, 0, 0, {"op": "raise_version", "version": 2}))
    for number in range(0, names, 500):
        files = tuple(
            (f"n{each:05}", content(f"c{each}"), 10, 100, 524288, "", "", False)
            for each in range(number, min(number + 500, names))
        )
        driver.ok(publish_many(*files))
    return driver


def run_ms(driver: Driver, until_ms: int, step_ms: int = SLICE_GAP_MS) -> None:
    """Empty entries from the machine's time on."""
    for at_ms in range(driver.machine.time_ms + step_ms, until_ms + 1, step_ms):
        driver.tick(at_ms)


def changes(driver: Driver, after: tuple[int, int] = (0, 0)) -> list[Change]:
    return [unpack(kept) for kept in driver.machine.changes.since(after)]


def names(driver: Driver) -> list[str]:
    """All of them, page by page."""

    def pages() -> Iterator[str]:
        after = ""
        while True:
            page = driver.query(List(after=after, limit=1_000))
            yield from (record["name"] for record in page["files"])
            if not page["more"]:
                return
            after = page["files"][-1]["name"]

    return list(pages())


def record_of(driver: Driver, name: str) -> Body:
    (record,) = driver.query(Lookup(name=name))["files"]
    found: Body = record
    return found


def restored(driver: Driver) -> Driver:
    """Another replica that began with a snapshot of this one's."""
    other = Driver()
    other.machine = TrackerMachine.restore(driver.machine.snapshot())
    other.index, other.seq, other.session = driver.index, driver.seq, driver.session
    return other


def test_what_nobody_serves_says_so_until_somebody_does() -> None:
    """Broken: dead files look alive, or a file that came back is counted as dead for ever."""
    driver = risen(2)
    driver.ok(retain(show_ms=2_000))
    driver.tick(1_999)
    assert "unsourced_ms" not in record_of(driver, "n00000")
    driver.tick(2_500)
    assert record_of(driver, "n00000")["unsourced_ms"] == 2_500

    driver.ok(join("p", "c0", lease_ms=5_000))

    assert "unsourced_ms" not in record_of(driver, "n00000")
    assert record_of(driver, "n00001")["unsourced_ms"] == 2_500
    run_ms(driver, 9_000)  # its lease ends at 7,500 and its time begins anew with a pass
    assert "unsourced_ms" not in record_of(driver, "n00000")
    run_ms(driver, 12_000)
    assert 2_000 <= record_of(driver, "n00000")["unsourced_ms"] <= 4_500


def test_publishing_again_begins_the_time_anew_under_any_name() -> None:
    """Broken: what is published anew is removed before its source can have joined."""
    driver = risen(3)
    driver.ok(retain(remove_ms=3_000))
    run_ms(driver, 2_900)
    driver.ok(publish("n00000", "c0"))
    driver.ok(publish("other", "c1"))
    run_ms(driver, 5_000)
    assert names(driver) == ["n00000", "n00001", "other"]
    run_ms(driver, 8_000)
    assert names(driver) == []


def test_a_pass_of_several_slices_finds_every_name_once() -> None:
    """Broken: names at the seam of two slices are never noticed, or a slice takes them all."""
    count = 2 * SLICE_NAMES + 17
    driver = risen(count)
    driver.ok(retain(show_ms=1_000))
    marks = driver.machine._marks
    assert len(marks) == SLICE_NAMES
    driver.tick(SLICE_GAP_MS - 1)
    assert len(marks) == SLICE_NAMES
    driver.tick(SLICE_GAP_MS)
    assert len(marks) == 2 * SLICE_NAMES
    driver.tick(2 * SLICE_GAP_MS)
    assert len(marks) == count
    due_ms = driver.machine.next_expiry_ms()
    assert due_ms == 2 * SLICE_GAP_MS + PASS_MS


@pytest.mark.parametrize("names_in_all", [SLICE_NAMES, 2 * SLICE_NAMES])
def test_a_pass_that_ends_with_a_full_slice_ends(names_in_all: int) -> None:
    """Broken: with just so many names a pass never comes to its end, or begins at once anew."""
    driver = risen(names_in_all)
    driver.ok(retain(show_ms=1_000))
    run_ms(driver, 300)
    assert len(driver.machine._marks) == names_in_all
    due_ms = driver.machine.next_expiry_ms()
    assert due_ms is not None and PASS_MS <= due_ms <= 300 + PASS_MS


def test_a_pass_without_anything_to_do_is_not_due_again_at_once() -> None:
    """Broken: an idle leader writes its log full with entries that do nothing."""
    driver = risen()
    driver.ok(retain(show_ms=1_000))
    slices, hashes = 0, set()
    for at_ms in range(10, 10_001, 10):
        due_ms = driver.machine.next_expiry_ms()
        slices += due_ms is not None and due_ms <= at_ms
        driver.tick(at_ms)
        hashes.add(driver.machine.next_expiry_ms())
    assert slices == 10_000 // PASS_MS
    driver.ok(retain(show_ms=86_400_000))
    assert driver.machine.next_expiry_ms() == driver.machine.time_ms + 60_000


def test_a_name_that_goes_while_the_pass_stands_on_it_does_not_stop_it() -> None:
    """Broken: a pass that lost the name it came to begins again, or skips those behind it."""
    driver = risen(SLICE_NAMES + 10)
    driver.ok(retain(show_ms=1_000))
    driver.ok({"op": "remove", "name": f"n{SLICE_NAMES - 1:05}"})
    driver.tick(SLICE_GAP_MS)
    assert len(driver.machine._marks) == SLICE_NAMES + 9


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_snapshot_in_the_middle_of_a_pass_goes_on_where_it_was(slices: int) -> None:
    """Broken: a tracker that came from a snapshot removes other files than the rest do."""
    driver = risen(3 * SLICE_NAMES)
    driver.ok(join("p", "c7", lease_ms=60_000))
    driver.ok(retain(show_ms=1_000, remove_ms=2_000))
    run_ms(driver, slices * SLICE_GAP_MS)
    other = restored(driver)
    assert other.machine.state_hash == driver.machine.state_hash
    while len(names(driver)) > 1:
        at_ms = driver.machine.time_ms + SLICE_GAP_MS
        assert at_ms < 20_000
        for each in (driver, other):
            each.tick(at_ms)
        assert other.machine.state_hash == driver.machine.state_hash
        assert other.machine.next_expiry_ms() == driver.machine.next_expiry_ms()
    assert names(other) == names(driver) == ["n00007"]


def test_a_snapshot_is_of_the_moment_it_began_though_the_pass_goes_on() -> None:
    """Broken: a snapshot written while a pass runs has marks of one moment and names of another."""
    driver = risen(2 * SLICE_NAMES)
    driver.ok(retain(show_ms=1_000, remove_ms=1_000))
    run_ms(driver, SLICE_GAP_MS)
    wanted, state_hash = b"".join(driver.machine.snapshot()), driver.machine.state_hash
    cursor = driver.machine.begin_snapshot()
    found = []
    while (block := cursor.next(100)) is not None:
        found.append(block)
        driver.tick(driver.machine.time_ms + SLICE_GAP_MS)
    assert len(names(driver)) < 2 * SLICE_NAMES
    assert b"".join(found) == wanted
    assert TrackerMachine.restore(found).state_hash == state_hash


def test_watchers_are_told_of_removals_behind_the_operations_of_the_entry() -> None:
    """Broken: two changes have one place, and who resumes there misses one of them."""
    driver = risen()
    for label in "xyz":
        driver.ok(publish("a", label, replace=True))
    driver.ok(publish("b", "b"))
    driver.ok({"op": "tag", "name": "a", "tag": "stable", "version": 2})
    driver.ok(retain(remove_ms=1_000))
    driver.tick(999)
    files = tuple((f"m{n}", content(f"m{n}"), 10, 100, 524288, "", "", False) for n in range(3))
    rows: list[tuple[int, int, int, Body]] = []
    for body in (publish("c", "c"), publish_many(*files), publish("d", "d")):
        driver.seq += 1
        rows.append((driver.session, driver.seq, driver.seq, body))

    applied = driver.entry(*rows, at_ms=1_000)

    assert applied.positions == [0, 1, 4]
    told = [(c.index, c.position, c.kind, c.file.versioned) for c in changes(driver)]
    index = driver.index
    assert [row for row in told if row[0] == index] == [
        (index, 0, "published", "c@v1"),
        (index, 1, "published", "m0@v1"),
        (index, 2, "published", "m1@v1"),
        (index, 3, "published", "m2@v1"),
        (index, 4, "published", "d@v1"),
        (index, 5, "version_removed", "a@v1"),
        (index, 6, "version_removed", "a@v3"),
        (index, 7, "removed", "b@v1"),
    ]
    assert told == sorted(told)
    assert record_of(driver, "a")["version"] == 2


def test_a_slice_removes_only_so_much() -> None:
    """Broken: one entry takes a second because everything is removed in it."""
    driver = risen(3 * SLICE_REMOVALS)
    driver.ok(retain(remove_ms=1_000))
    left = 3 * SLICE_REMOVALS
    run_ms(driver, 1_000)
    for _ in range(3):
        left -= SLICE_REMOVALS
        assert len(names(driver)) == left
        driver.tick(driver.machine.time_ms + SLICE_GAP_MS)


def test_switched_off_nothing_is_removed_and_the_marks_go_in_slices() -> None:
    """Broken: what is switched off goes on, or it leaves its traces in the state for ever."""
    count = 2 * SLICE_NAMES + 5
    driver = risen(count)
    driver.ok(retain(show_ms=1_000, remove_ms=1_500))
    run_ms(driver, 1_400)
    marks = driver.machine._marks
    assert len(marks) == count
    driver.ok(retain(show_ms=0, remove_ms=0))
    assert len(marks) == count - SLICE_NAMES
    assert "unsourced_ms" not in record_of(driver, f"n{count - 1:05}")
    other = restored(driver)
    for each in (driver, other):
        run_ms(each, 1_700)
        assert len(each.machine._marks) == 0
        assert each.machine._sweep.due_ms is None
        run_ms(each, 5_000, 500)
        assert len(names(each)) == count
    assert other.machine.state_hash == driver.machine.state_hash


def test_switched_off_it_leaves_the_state_of_a_cluster_that_never_had_it() -> None:
    """Broken: a cluster cannot get back to the snapshot that it had without it."""
    driver, plain = risen(20), risen(20)
    driver.ok(retain(show_ms=1_000))
    plain.ok(retain())
    for each in (driver, plain):
        each.tick(500)
        each.ok(retain(show_ms=0))
        run_ms(each, 1_000)

    def rows(each: Driver) -> list[Any]:
        parts = (each.machine._settings, each.machine._marks, each.machine._sweep)
        return [row for part in parts for table in part.tables() for row in table.after(None)]

    assert rows(driver) == rows(plain) == []
    other, another = restored(driver), restored(plain)
    assert other.machine._marks._order == another.machine._marks._order == []


def test_switched_on_again_it_counts_from_then() -> None:
    """Broken: a file is removed for time that passed while nobody had asked for it."""
    driver = risen(3)
    driver.ok(retain(remove_ms=5_000))
    run_ms(driver, 4_000)
    driver.ok(retain(remove_ms=0))
    run_ms(driver, 8_000)
    driver.ok(retain(remove_ms=5_000))
    run_ms(driver, 12_000)
    assert len(names(driver)) == 3
    run_ms(driver, 15_000)
    assert names(driver) == []


def test_a_new_founding_counts_from_its_beginning() -> None:
    """Broken: a restored cluster removes all its files before the first peer is back."""
    driver = risen(3)
    driver.ok(retain(show_ms=1_000, remove_ms=5_000))
    run_ms(driver, 4_900)
    machine = driver.machine.refounded(driver.machine.applied + 100)
    assert machine.next_expiry_ms() is not None
    assert len(machine._marks) == 0
    assert machine.counts()["files"] == 3


@pytest.mark.parametrize(
    "body", [retain(show_ms=1_000), retain(remove_ms=1_000)], ids=["show", "remove"]
)
def test_a_cluster_that_has_not_risen_refuses_it(body: Body) -> None:
    """Broken: a tracker of the release before would keep what the others remove."""
    driver = Driver()
    driver.ok(publish("a", "x"))
    assert driver.refused(body)[0] == "unsupported"
    run_ms(driver, 3_000, 500)
    assert driver.machine._sweep.due_ms is None
    assert names(driver) == ["a"]


@pytest.mark.parametrize("number", [-1, 1, 999, True, 1.5, "3000", 2**60])
def test_times_that_make_no_sense_are_refused(number: Any) -> None:
    """Broken: a slip of a digit removes all files at once."""
    driver = risen(1)
    for body in (retain(show_ms=number), retain(remove_ms=number)):
        assert driver.refused(body)[0] == "bad_request"
