"""The cursor of a snapshot: what it remembers, what it lets pass, how little it does at once."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from machine_driver import Driver, content, join, publish

from tracker_raft.commands import Lookup
from tracker_raft.config import MachineLimits
from tracker_raft.entries import pack_entry
from tracker_raft.errors import Damaged
from tracker_raft.machine import SnapshotCursor, TrackerMachine, snapshot_format


def remove(name: str) -> dict[str, Any]:
    return {"op": "remove", "name": name}


def rest(cursor: SnapshotCursor, rows_max: int = 1) -> bytes:
    blocks = []
    while (block := cursor.next(rows_max)) is not None:
        blocks.append(block)
    return b"".join(blocks)


def whole(driver: Driver) -> bytes:
    return b"".join(driver.machine.snapshot())


def apply_all(driver: Driver, bodies: list[dict[str, Any]]) -> None:
    """Apply all in entries of a hundred; the client numbers them on and waits for none."""
    for start in range(0, len(bodies), 100):
        first = driver.seq + 1
        part = bodies[start : start + 100]
        driver.seq += len(part)
        rows = ((driver.session, first + n, first + n, op) for n, op in enumerate(part))
        assert all("ok" in reply for reply in driver.entry(*rows).replies)


WRITING = 3
"""Rows that change for a client that writes at all, at the same time and however often: its
session, the reply that is dropped and the newest reply."""


class AtB:
    """A machine with the files a, b, c and a cursor that has come past b."""

    def __init__(self) -> None:
        self.driver = Driver()
        for name in "abc":
            self.driver.ok(publish(name, name))
        self.wanted = whole(self.driver)
        self.cursor = self.driver.machine.begin_snapshot()
        # The head, three changes and their block, a, b.
        self.read = b"".join(self.cursor.next(1) or b"" for _ in range(7))

    def change(self, *bodies: dict[str, Any]) -> int:
        """Apply ``bodies`` and say how many files are remembered for it."""
        for body in bodies:
            self.driver.ok(body)
        return self.cursor.kept - WRITING


@pytest.fixture
def at_b() -> AtB:
    return AtB()


def whole_is_as_it_was(at_b: AtB) -> None:
    assert at_b.read + rest(at_b.cursor) == at_b.wanted
    assert at_b.cursor.kept == 0
    assert at_b.wanted != whole(at_b.driver)


def test_an_empty_machine_has_a_head_and_an_end() -> None:
    """If this fails, a new cluster cannot save its state, or saves what nobody can read."""
    machine = TrackerMachine()
    cursor = machine.begin_snapshot()

    blocks = [cursor.next(), cursor.next()]

    assert cursor.next() is None
    assert cursor.next() is None
    assert blocks == list(machine.snapshot())
    assert (cursor.applied, cursor.time_ms, cursor.state_hash) == (0, 0, machine.state_hash)


def test_what_comes_to_an_empty_machine_later_is_not_in_it() -> None:
    """If this fails, a snapshot holds entries that are beyond the place in the log it names."""
    driver = Driver()
    machine = TrackerMachine()
    wanted = b"".join(machine.snapshot())
    cursor = machine.begin_snapshot()
    driver.machine, driver.index = machine, 0
    driver.session = driver.open()
    driver.ok(publish("a", "a"))
    driver.ok(join("p", "a"))

    assert rest(cursor) == wanted
    assert cursor.applied == 0


def test_a_change_at_the_cursor_is_neither_seen_nor_remembered(at_b: AtB) -> None:
    """If this fails, a busy name is written twice, or costs memory after it was written."""
    assert at_b.change(publish("b", "new", replace=True), remove("b")) == 0
    assert at_b.change(publish("b", "newer")) == 0

    whole_is_as_it_was(at_b)


def test_a_change_just_beyond_the_cursor_is_undone_in_the_snapshot(at_b: AtB) -> None:
    """If this fails, half of a snapshot is older than the other half."""
    assert at_b.change(publish("c", "new", replace=True)) == 1

    whole_is_as_it_was(at_b)


def test_names_that_come_before_and_beyond_the_cursor_are_both_left_out(at_b: AtB) -> None:
    """If this fails, files published meanwhile slip into a snapshot by their place in it."""
    assert at_b.change(publish("a1", "x"), publish("A", "x")) == 0
    assert at_b.change(publish("b1", "x")) == 1
    assert at_b.change(publish("d", "x")) == 2

    whole_is_as_it_was(at_b)


def test_names_removed_before_and_beyond_the_cursor_are_both_in_it(at_b: AtB) -> None:
    """If this fails, files removed meanwhile are missing in a snapshot by their place in it."""
    assert at_b.change(remove("a"), remove("b")) == 0
    assert at_b.change(remove("c")) == 1

    whole_is_as_it_was(at_b)


def test_removed_and_published_again_it_is_what_it_was(at_b: AtB) -> None:
    """If this fails, the second change of a name overwrites the memory of the first."""
    assert at_b.change(remove("c"), publish("c", "new"), remove("c"), publish("c", "newer")) == 1

    whole_is_as_it_was(at_b)


def test_what_came_and_went_leaves_no_memory(at_b: AtB) -> None:
    """If this fails, names of a moment pile up for as long as a snapshot takes."""
    assert at_b.change(publish("d", "x"), remove("d"), publish("e", "x")) == 1
    assert at_b.change(remove("e")) == 0
    assert at_b.change(publish("d", "x")) == 1

    whole_is_as_it_was(at_b)


def test_replies_that_are_dropped_meanwhile_are_kept_with_their_texts() -> None:
    """If this fails, a write repeated at a restored tracker gets a reply without its reason."""
    driver = Driver()
    first = driver.raw(1, 1, 1, remove("nothing"))
    assert first["error"] == "not_found"
    wanted = whole(driver)
    cursor = driver.machine.begin_snapshot()
    assert "error" in driver.raw(1, 2, 2, remove("nothing else"))

    data = rest(cursor)

    assert data == wanted
    driver.machine = TrackerMachine.restore([data])
    assert driver.raw(1, 1, 1, remove("nothing")) == first


def test_thousands_that_end_at_once_are_all_still_in_it() -> None:
    """If this fails, a mass of peers that vanish during a snapshot tears it."""
    driver = Driver(MachineLimits(session_ttl_ms=2000))
    apply_all(driver, [join(f"p{n:04}", f"c{n % 7}", complete=n % 3 == 0) for n in range(3000)])
    driver.entry(*[(0, 0, 0, {"op": "open_session"})] * 3000)
    counts, wanted = driver.machine.counts(), whole(driver)
    cursor = driver.machine.begin_snapshot()
    read = b"".join(cursor.next(500) or b"" for _ in range(4))

    driver.tick(1500)
    assert driver.machine.counts()["leases"] == 0
    assert cursor.kept > 4000
    read += b"".join(cursor.next(500) or b"" for _ in range(8))
    driver.tick(5000)
    assert driver.machine.counts()["sessions"] == 0

    data = read + rest(cursor, 500)
    assert data == wanted
    restored = TrackerMachine.restore([data], MachineLimits(session_ttl_ms=2000))
    assert restored.counts() == counts
    restored.apply(driver.index, pack_entry(5000, []))
    assert restored.counts() == driver.machine.counts()


def test_a_slice_comes_past_a_limited_number_of_rows_of_any_kind() -> None:
    """If this fails, a slice takes as long as a table is large: the pause slices are made for."""
    driver = Driver()
    apply_all(driver, [publish(f"n{n:04}", "x") for n in range(300)])
    driver.entry(*[(0, 0, 0, {"op": "open_session"})] * 300)
    cursor = driver.machine.begin_snapshot()
    apply_all(driver, [publish(f"m{n:04}", "x") for n in range(300)])

    slices = 0
    while cursor.next(10) is not None:
        slices += 1

    # Names that are in, names that are passed over, sessions, and sessions without a reply.
    # And the changes, those that came meanwhile as well.
    assert slices >= (300 + 300 + 300 + 300 + 600) / 10
    assert slices <= 190


def test_a_slice_is_one_block_however_many_rows_are_asked_for() -> None:
    """If this fails, rows of twenty kilobytes make a slice of forty megabytes."""
    driver = Driver()
    apply_all(driver, [publish(f"{'n' * 500}{n}", "x") for n in range(1500)])

    cursor = driver.machine.begin_snapshot()
    blocks = []
    while (block := cursor.next(10**9)) is not None:
        blocks.append(block)

    assert max(map(len, blocks)) < snapshot_format.BLOCK_BYTES + 4096
    assert blocks == list(driver.machine.snapshot())


def test_it_is_the_same_bytes_however_it_is_sliced(at_b: AtB) -> None:
    """If this fails, the bytes tell how busy a tracker was, and comparing them is idle."""
    at_b.change(publish("c", "new", replace=True), remove("a"))
    at_b.driver.tick(300)
    wanted = whole(at_b.driver)

    for rows_max in (1, 2, 3, 5, 1000):
        assert rest(at_b.driver.machine.begin_snapshot(), rows_max) == wanted


def test_a_second_snapshot_ends_the_first(at_b: AtB) -> None:
    """If this fails, a snapshot whose memory stopped midway is taken for a state."""
    second = at_b.driver.machine.begin_snapshot()
    at_b.driver.ok(publish("c", "new", replace=True))

    with pytest.raises(RuntimeError, match="another begun"):
        at_b.cursor.next()
    at_b.cursor.close()  # and does not disturb the second
    at_b.driver.ok(publish("d", "x"))
    assert rest(second) == at_b.wanted


def test_a_closed_cursor_remembers_nothing_and_gives_nothing(at_b: AtB) -> None:
    """If this fails, an abandoned snapshot holds every row that changes from then on."""
    assert at_b.change(publish("c", "new", replace=True)) == 1

    at_b.cursor.close()
    at_b.driver.ok(publish("d", "x"))

    assert at_b.cursor.kept == 0
    with pytest.raises(RuntimeError, match="closed"):
        at_b.cursor.next()


def test_after_its_end_nothing_is_remembered(at_b: AtB) -> None:
    """If this fails, each write costs more once a tracker has saved its state."""
    rest(at_b.cursor)
    at_b.driver.ok(publish("d", "x"))

    assert at_b.cursor.kept == 0
    assert at_b.cursor.next() is None
    at_b.cursor.close()
    assert at_b.cursor.next() is None


def test_tables_that_are_written_are_remembered_no_more() -> None:
    """If this fails, a file that changes while peers are written costs memory for nothing."""
    driver = Driver()
    driver.ok(publish("z", "z"))
    for n in range(3):
        driver.ok(join(f"p{n}", "z"))
    wanted = whole(driver)
    cursor = driver.machine.begin_snapshot()
    read = b"".join(cursor.next(1) or b"" for _ in range(6))
    left = "leases+members+sessions+replies+settings+marks+sweep"
    assert repr(cursor) == f"<SnapshotCursor applied=5 left={left} kept=0>"

    driver.ok(publish("zz", "z"))

    assert cursor.kept == WRITING
    assert read + rest(cursor) == wanted


def test_a_slice_of_no_rows_is_refused(at_b: AtB) -> None:
    """If this fails, a wrong setting makes a snapshot that never comes to an end."""
    with pytest.raises(ValueError, match="rows_max is 0, expected at least 1"):
        at_b.cursor.next(0)


def test_the_whole_snapshot_is_not_read_from_a_machine_that_changes(at_b: AtB) -> None:
    """If this fails, a caller who takes the simple way gets a state that never was."""
    blocks = at_b.driver.machine.snapshot()
    next(blocks)
    at_b.driver.ok(publish("d", "x"))

    with pytest.raises(RuntimeError, match="machine changed"):
        list(blocks)


def test_the_whole_snapshot_leaves_one_in_slices_alone(at_b: AtB) -> None:
    """If this fails, looking at a tracker's state spoils the snapshot it is taking."""
    at_b.change(publish("c", "new", replace=True))
    whole(at_b.driver)

    whole_is_as_it_was(at_b)


# -- loading --------------------------------------------------------------------------------------


def test_a_snapshot_is_loaded_bit_by_bit(at_b: AtB) -> None:
    """If this fails, a tracker that catches up does nothing else until it has."""
    restoring = TrackerMachine.restoring()
    for n in range(len(at_b.wanted)):
        with pytest.raises(Damaged, match="breaks off"):
            restoring.finish()
        restoring.feed(at_b.wanted[n : n + 1])

    machine = restoring.finish()

    assert machine.state_hash == at_b.driver.machine.state_hash
    assert machine.query(Lookup(content=content("b"))) == {
        "files": [machine.query(Lookup(name="b"))["files"][0]],
        "more": False,
    }


def test_damage_is_told_by_the_feed_that_brings_it(at_b: AtB) -> None:
    """If this fails, a damaged snapshot of a million files is loaded to its end before it is
    refused."""
    restoring = TrackerMachine.restoring()
    blocks = list(at_b.driver.machine.snapshot())
    restoring.feed(blocks[0])

    with pytest.raises(Damaged, match="does not match its seal"):
        restoring.feed(blocks[2])


# -- garbage collection ---------------------------------------------------------------------------


def test_a_file_is_nothing_to_the_garbage_collector() -> None:
    """If this fails, each full collection walks every file, and a tracker pauses for it."""
    driver = Driver()
    driver.ok(publish("first", "x"))
    gc.collect()
    before = len(gc.get_objects())

    operations = [publish(f"models/{n}", f"c{n}") for n in range(4000)]
    apply_all(driver, operations)
    restored = TrackerMachine.restore(driver.machine.snapshot())

    # Sorted lists of a thousand names each are left; a dict of names would be walked as a whole.
    del operations
    gc.collect()
    tracked = gc.get_objects()
    assert len(tracked) - before < 150  # a machine itself, its sorted tables above all, is 100
    assert not [found for found in tracked if isinstance(found, dict) and "models/7" in found]
    assert restored.counts() == driver.machine.counts()
