"""Publishes run together do what they do one after the other, as arrays and as maps."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machine_logs import LIMITS, OPEN, rows

from tracker_raft.entries import as_map, pack_entry, pack_operation, wire
from tracker_raft.machine import TrackerMachine, tracker_machine
from tracker_raft.machine.publishing import run_together
from tracker_raft.versions import NEWEST, RAISE_VERSION

ROOMY = replace(LIMITS, files_max=12, sessions_max=6, changes_kept_max=5)
RAISE = pack_entry(0, [pack_operation(0, 0, 0, {"op": RAISE_VERSION, "version": NEWEST})])

publishes = st.tuples(
    st.just("publish"),
    st.sampled_from([f"n{n}" for n in range(9)] + ["n/" + "x" * 70, "ü"]),
    st.sampled_from([sha256(bytes([n])).digest() for n in range(4)]),
    st.sampled_from([1, 1, 1, 2]),
    st.just(9),
    st.just(16384),
)
spoilt = st.sampled_from(
    [
        ("publish", "n1", b"short", 1, 9, 16384),
        ("publish", "@", bytes(32), 1, 9, 16384),
        ("publish", "n2", bytes(32), -1, 9, 16384),
        ("publish", "n3", bytes(32), 1, 9, 16385),
        ("publish", "n4", bytes(32), True, 9, 16384),
        ("publish", "n5", bytes(32), 1, 9),
        ("publish", ("n6",), bytes(32), 1, 9, 16384),
        ("publish", "n7", bytes(32), 1, 9, 16384, "me", "us", True),
        ("publish", "n8", bytes(32), 1, 9, 16384, "me", "us", 1),
        (),
        (7, "n9", bytes(32), 1, 9, 16384),
    ]
)


@st.composite
def arrays(draw: Any) -> tuple[int, int, int, tuple[Any, ...]]:
    """A publish as an array, in a session that may be open, with numbers that may be right."""
    seq = draw(st.integers(1, 6))
    low = draw(st.integers(1, 7))
    return draw(st.integers(1, 6)), seq, low, draw(publishes | publishes | publishes | spoilt)


@st.composite
def runs(draw: Any) -> list[Any]:
    """Publishes of which most are sound and most names free: what is run together, and what only
    just must not be."""
    operations = []
    for name in draw(st.lists(st.integers(0, 40), min_size=1, max_size=6)):
        session = draw(st.sampled_from([1, 1, 1, 2, 3, 6]))
        seq = draw(st.integers(1, 3))
        low = draw(st.integers(1, seq))
        content = sha256(bytes([draw(st.integers(0, 2))])).digest()
        operations.append((session, seq, low, ("publish", f"n{name}", content, 1, 9, 16384)))
    return operations


entries = st.lists(runs() | runs() | st.lists(arrays() | rows, max_size=8), max_size=6)


def machine_with_sessions() -> TrackerMachine:
    machine = TrackerMachine(ROOMY)
    machine.apply(1, RAISE)
    for index in range(2, 7):
        machine.apply(index, OPEN.pack())
    return machine


def run(machine: TrackerMachine, log: list[list[Any]]) -> list[Any]:
    applied = []
    for index, operations in enumerate(log, 7):
        entry = pack_entry(index * 300, [wire.pack(row) for row in operations])
        done = machine.apply(index, entry)
        applied.append((done.replies, done.stop, done.positions))
    return applied


@settings(max_examples=400)
@given(entries)
def test_together_or_one_after_the_other_is_the_same(log: list[list[Any]]) -> None:
    """Broken: a tracker that took another way through an entry differs from the others."""
    together, single = machine_with_sessions(), machine_with_sessions()
    replies = run(together, log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker_machine, "run_together", lambda *args: None)
        assert run(single, log) == replies
    assert together.state_hash == single.state_hash
    assert list(together.snapshot()) == list(single.snapshot())
    restored = TrackerMachine.restore(together.snapshot(), ROOMY)
    assert restored.state_hash == together.state_hash


@given(st.lists(runs() | st.lists(arrays(), max_size=8), max_size=6))
def test_an_array_does_what_the_map_of_its_fields_does(log: list[list[Any]]) -> None:
    """Broken: what a publish does depends on the version of the tracker that logged it."""
    sound = [[row for row in operations if len(row[3]) in (6, 9)] for operations in log]
    sound = [[row for row in operations if row[3][0] == "publish"] for operations in sound]
    maps = [
        [(session, seq, low, as_map(body)) for session, seq, low, body in operations]
        for operations in sound
    ]
    by_array, by_map = machine_with_sessions(), machine_with_sessions()
    assert run(by_array, sound) == run(by_map, maps)
    assert by_array.state_hash == by_map.state_hash
    assert list(by_array.snapshot()) == list(by_map.snapshot())


def test_side_by_side_publishes_of_free_names_are_run_together() -> None:
    """Broken: every operation takes the long way, and a tracker does half as many a second."""
    machine, taken = machine_with_sessions(), []
    with pytest.MonkeyPatch.context() as patch:

        def noted(*args: Any) -> Any:
            taken.append(run_together(*args))
            return taken[-1]

        patch.setattr(tracker_machine, "run_together", noted)
        row = ("publish", "n", bytes(32), 1, 9, 16384)
        operations = [(n, 1, 1, ("publish", f"n{n}", *row[2:])) for n in range(1, 6)]
        ((replies, _, _),) = run(machine, [operations])
    assert [len(outcomes) for outcomes in taken] == [5]
    assert all("ok" in reply for reply in replies)
