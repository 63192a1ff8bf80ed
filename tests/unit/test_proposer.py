"""The leader's part: which operations go into one entry, and when it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from tracker_raft.config import RaftTiming
from tracker_raft.entries import pack_operation, unpack_entry
from tracker_raft.machine import Applied, TrackerMachine
from tracker_raft.raft.engine import FAIL_REASON, Engine
from tracker_raft.raft.intake import Intake
from tracker_raft.raft.proposer import GATHER_MAX, GATHER_S, Proposer
from tracker_raft.raft.seams import Lines


class Log:
    """Stands where the engine is: takes entries, and commits the oldest when told to."""

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.entries: list[bytes] = []
        self._waiting: list[Callable[[Any, int], None]] = []

    def propose(self, entry: bytes, callback: Callable[[Any, int], None]) -> None:
        self.entries.append(entry)
        self._waiting.append(callback)

    def commit(self) -> None:
        entry = self.entries[-len(self._waiting)]
        replies = tuple({"ok": {}} for _ in unpack_entry(entry).operations)
        self._waiting.pop(0)((len(self.entries), Applied(replies)), FAIL_REASON.SUCCESS)


class Desk:
    """A proposer and what waits for it. ``sizes``: operations of each entry."""

    def __init__(self) -> None:
        self.log = Log()
        self.intake = Intake(pending_max=10_000, operation_bytes_max=10_000)
        machine = TrackerMachine()
        machine.version = 2  # as far as it goes, so no entry says so
        engine, lines = cast(Engine, self.log), cast(Lines, None)
        together_bytes = RaftTiming().together_bytes
        self.proposer = Proposer(engine, self.intake, lambda: machine, lines, together_bytes)
        self.proposer.begin(0.0)

    def write(self, count: int = 1) -> None:
        for _ in range(count):
            packed = pack_operation(1, 1, 1, {"op": "leave", "peer": "p", "content": b""})
            self.intake.add(packed, 60.0, lambda reply, at: None, own=True)

    def turn(self, now_s: float) -> None:
        if len(self.intake.waiting) and not self.proposer.gathers(now_s):
            self.proposer.propose(now_s)

    @property
    def sizes(self) -> list[int]:
        return [len(unpack_entry(entry).operations) for entry in self.log.entries]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_lone_operation_leaves_at_once(desk: Desk) -> None:
    """Broken: whoever writes alone waits for company that does not come."""
    desk.write()
    desk.turn(1.0)
    assert desk.sizes == [1]
    assert not desk.proposer.gathers(1.0 + GATHER_S)


def test_what_comes_while_an_entry_is_under_way_is_one_entry(desk: Desk) -> None:
    """Broken: every turn of a busy leader is an entry of its own, which costs all trackers a
    seventh of what they can do."""
    desk.write()
    desk.turn(1.0)
    for step in range(5):
        desk.write(3)
        desk.turn(1.0 + step * GATHER_S / 10)
    assert desk.sizes == [1]
    desk.log.commit()
    desk.turn(1.0 + GATHER_S / 2)
    assert desk.sizes == [1, 15]


def test_a_slow_link_is_not_waited_for(desk: Desk) -> None:
    """Broken: across long links there is one entry in a round trip, and every operation waits."""
    desk.write()
    desk.turn(1.0)
    desk.write()
    desk.turn(1.0 + GATHER_S / 2)
    assert desk.sizes == [1]
    assert desk.proposer.gathered_s == pytest.approx(1.0 + GATHER_S)
    desk.turn(desk.proposer.gathered_s)
    assert desk.sizes == [1, 1]


def test_many_operations_do_not_wait(desk: Desk) -> None:
    """Broken: entries grow beyond what one sync and one message take well."""
    desk.write()
    desk.turn(1.0)
    desk.write(GATHER_MAX)
    desk.turn(1.0)
    assert desk.sizes == [1, GATHER_MAX]


def test_what_waited_long_is_several_entries(desk: Desk) -> None:
    """Broken: under overload a second's operations are one entry; while it is applied no tracker
    hears another, and they elect a leader."""
    desk.write(5_000)
    desk.turn(1.0)
    assert sum(desk.sizes) == 5_000
    assert len(desk.sizes) > 2
    assert max(map(len, desk.log.entries)) < 70_000
