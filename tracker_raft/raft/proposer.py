"""The leader's part: operations into entries, entries into the log, each with its time (D2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tracker_raft.entries import pack_entry
from tracker_raft.machine import Applied, TrackerMachine
from tracker_raft.raft.clock import LogicalClock
from tracker_raft.raft.engine import FAIL_REASON, Engine
from tracker_raft.raft.intake import Intake

EXPIRY_PERIOD_MS = 200
"""Entries that only move time on, so that something due expires, are at least this far apart."""


class Proposer:
    """Proposes what waits in ``intake``. Used while this node leads, and only then."""

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        machine: Callable[[], TrackerMachine],
        entry_bytes_max: int,
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._machine = machine
        self._entry_bytes_max = entry_bytes_max
        self._clock = LogicalClock()
        self._expiry_asked_ms = -EXPIRY_PERIOD_MS

    def begin(self, now_s: float) -> None:
        """The no-op of this leader's term was just applied: time goes on from there."""
        self._clock.lead(self._machine().time_ms, now_s)

    def pass_time(self, now_s: float) -> None:
        """A turn went by: at most a second of it counts, so every turn is to be counted."""
        self._clock.stamp_ms(now_s)

    def propose(self, now_s: float) -> None:
        """Everything that waits enters the log, as few entries as the limit of one allows."""
        stamp_ms = self._clock.stamp_ms(now_s)
        while batch := self._intake.take(self._entry_bytes_max):
            number = self._intake.proposed(batch)
            entry = pack_entry(stamp_ms, [pending.packed for pending in batch])
            self._engine.propose(entry, partial(self._settled, number))
        due_ms = self._machine().next_expiry_ms()
        since_ms = stamp_ms - self._expiry_asked_ms
        if due_ms is not None and due_ms <= stamp_ms and since_ms >= EXPIRY_PERIOD_MS:
            self._expiry_asked_ms = stamp_ms
            self._engine.propose(pack_entry(stamp_ms, []), lambda result, reason: None)
        self._engine.enter_queued()

    def _settled(self, number: int, result: tuple[int, Applied] | None, reason: int) -> None:
        """The engine's word on a proposed entry."""
        if reason == FAIL_REASON.SUCCESS and result is not None:
            index, applied = result
            self._intake.committed(number, index, applied.replies)
        else:
            self._intake.discarded(number)
