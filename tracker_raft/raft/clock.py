"""Logical time as the leader stamps it (D2). Pure: monotonic readings are handed in.

The state machine's time when the leader's no-op was applied, plus the leader's own monotonic
clock since, at most one second more for each reading. So no wall clock enters, a clock that
jumps or a leader that was paused moves time by a second, and time stands still while there is
no leader: nothing can expire during an outage.
"""

from __future__ import annotations

STEP_MAX_S = 1.0


class LogicalClock:
    """Hands out the stamp of the next entry, in whole milliseconds, never going back."""

    def __init__(self) -> None:
        self._time_ms = 0.0
        self._read_s = 0.0

    def lead(self, machine_time_ms: int, monotonic_s: float) -> None:
        """Begin to stamp: this node's no-op was just applied at ``machine_time_ms``."""
        self._time_ms = float(machine_time_ms)  # in seconds it would round to one less
        self._read_s = monotonic_s

    def stamp_ms(self, monotonic_s: float) -> int:
        """The time now. To be read in every loop turn, so that an idle leader's time goes on."""
        step_s = min(max(monotonic_s - self._read_s, 0.0), STEP_MAX_S)
        self._read_s = monotonic_s
        self._time_ms += step_s * 1000
        return int(self._time_ms)
