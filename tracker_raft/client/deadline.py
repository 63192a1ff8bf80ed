"""One point in time after which nobody waits any more, handed down from the call that set it.

A time-out per step adds up: a call of five steps with one second each takes five. A deadline is
made once, where a call enters, and every step asks it what is left.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from tracker_raft.errors import BadRequest

Clock = Callable[[], float]
"""Seconds that only ever grow, from any zero."""


class Deadline:
    """``seconds`` from now. Immutable; safe to share between threads."""

    __slots__ = ("_at", "_clock", "seconds")

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        if not 0 < seconds < math.inf:
            raise BadRequest(f"deadline of {seconds} s, expected a time above 0; nothing was done")
        self.seconds = seconds
        self._clock = clock
        self._at = clock() + seconds

    def left_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._at - self._clock())

    @property
    def over(self) -> bool:
        return self._clock() >= self._at

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and ``seconds`` (above 0) from now."""
        step = Deadline(seconds, self._clock)
        return step if step._at < self._at else self

    def __repr__(self) -> str:
        return f"<Deadline {self.left_s():.3f} of {self.seconds} s left>"
