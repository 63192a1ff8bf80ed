"""The leader's part: operations into entries, entries into the log, each with its time (D2)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from tracker_raft import wire
from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.machine import Applied, Outcome, TrackerMachine, bound
from tracker_raft.raft.clock import LogicalClock
from tracker_raft.raft.engine import FAIL_REASON, Engine
from tracker_raft.raft.intake import Intake, Reply
from tracker_raft.raft.seams import Lines
from tracker_raft.versions import NEWEST, RAISE_VERSION

log = logging.getLogger("tracker_raft.replica")

GATHER_S = 0.006
"""While an entry is under way the operations that come gather for the next one, until this long
after the last. An entry costs every tracker as much as a dozen of the operations in it; and where
one is under way for longer than this, on links across the country, it delays them by a fraction."""
GATHER_MAX = 512
"""So many do not wait."""
EXPIRY_PERIOD_MS = 200
"""Entries that only move time on, so that something due expires, are at least this far apart."""
EXPIRY_LOOK_MS = 20
"""Nor is it looked more often than this whether something is due."""


def packed(outcome: Outcome) -> Reply:
    """The reply to an operation as it travels."""
    if isinstance(outcome, tuple):
        return wire.pack(bound(outcome))
    return wire.pack(outcome["ok"]) if "ok" in outcome else outcome


class Proposer:
    """Proposes what waits in ``intake``. Used while this node leads, and only then."""

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        machine: Callable[[], TrackerMachine],
        lines: Lines,
        together_bytes: int,
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._machine = machine
        self._lines = lines
        self._raising = False
        """The cluster version is on its way up."""
        self._together_bytes = together_bytes
        self._clock = LogicalClock()
        self._expiry_from_ms = 0
        """From then on it is looked again whether something expires."""
        self._under_way: dict[int, None] = {}
        """Numbers of the entries proposed in this term and not settled yet."""
        self.gathered_s = 0.0
        """Until then what waits gathers, unless :meth:`gathers` says otherwise before."""

    def begin(self, now_s: float) -> None:
        """The no-op of this leader's term was just applied: time goes on from there."""
        self._clock.lead(self._machine().time_ms, now_s)
        self._raising = False
        self._under_way.clear()

    def pass_time(self, now_s: float) -> None:
        """A turn went by: at most a second of it counts, so every turn is to be counted."""
        self._clock.stamp_ms(now_s)

    def gathers(self, now_s: float) -> bool:
        """Whether what waits is to wait for more."""
        if not self._under_way or now_s >= self.gathered_s:
            return False
        return len(self._intake.waiting) < GATHER_MAX

    def propose(self, now_s: float) -> None:
        """Everything that waits enters the log, in entries of ``together_bytes`` at most, or of one
        operation."""
        stamp_ms = self._clock.stamp_ms(now_s)
        self.gathered_s = now_s + GATHER_S
        version = self._machine().version
        while batch := self._intake.take(self._together_bytes, version):
            number = self._intake.proposed(batch)
            self._under_way[number] = None
            count = sum(pending.count for pending in batch)
            entry = pack_entry(stamp_ms, [pending.packed for pending in batch], count)
            self._engine.propose(entry, partial(self._settled, number))
        if version < NEWEST and not self._raising:
            self._raise_version(version, stamp_ms)
        if stamp_ms >= self._expiry_from_ms:
            due = self._machine().is_due(stamp_ms)
            self._expiry_from_ms = stamp_ms + (EXPIRY_PERIOD_MS if due else EXPIRY_LOOK_MS)
            if due:
                self._engine.propose(pack_entry(stamp_ms, []), lambda result, reason: None)

    def _raise_version(self, version: int, stamp_ms: int) -> None:
        """As far as the software of all members goes; not at all while one is out of sight."""
        lines = self._lines
        goal = min([NEWEST, *(lines.newest_version(node) for node in self._engine.members)])
        if goal > version:
            self._raising = True
            log.info("raises the cluster from version %d to %d", version, goal)
            operation = pack_operation(0, 0, 0, {"op": RAISE_VERSION, "version": goal})
            self._engine.propose(pack_entry(stamp_ms, [operation]), self._raised)

    def _raised(self, result: tuple[int, Applied] | None, reason: int) -> None:
        self._raising = False

    def _settled(self, number: int, result: tuple[int, Applied] | None, reason: int) -> None:
        """The engine's word on a proposed entry."""
        self._under_way.pop(number, None)
        if reason == FAIL_REASON.SUCCESS and result is not None:
            index, applied = result
            replies = [packed(outcome) for outcome in applied.outcomes]
            self._intake.committed(number, index, replies, applied.positions)
        else:
            self._intake.discarded(number)
