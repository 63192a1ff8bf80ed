"""How late this node's own loop runs, and what that makes of a time-out. Pure.

A node whose loop comes round late sees every other node late too. So the time after which it
takes silence for death has a floor that its own measured lag raises: on a busy machine nobody is
deposed for nothing. The floor falls again as the loop recovers.

One late step alone raises it little, however late it was: a process that was stopped for a second
is not a busy one. Several do.
"""

from __future__ import annotations

FLOOR_LAGS = 3.0
"""The time-out is at least this many of the worst recent lags."""
TIMEOUTS_MAX = 1.5
"""The floor raises a time-out to this many times its setting at most."""
SHARE = 0.2
"""So much of what a lag is above the recent ones is taken over."""
HALF_LIFE_S = 1.0
"""After this long without another, a lag counts half."""
NEGLIGIBLE_S = 0.002


class LoopLag:
    """Recent lags: rising with each worse one, fading with time."""

    def __init__(self, timeout_s: float) -> None:
        self._setting_s = timeout_s
        self.late_s = 0.0
        """How late the present turn began."""
        self._lag_s = 0.0
        self._at_s = 0.0

    def observe(self, lag_s: float, now_s: float) -> None:
        """A step that was due came ``lag_s`` late, its own work included."""
        faded_s = self.recent_s(now_s)
        above_s = min(lag_s, self._setting_s) - faded_s
        if above_s > 0 and lag_s > NEGLIGIBLE_S:
            self._lag_s, self._at_s = faded_s + SHARE * above_s, now_s

    def recent_s(self, now_s: float) -> float:
        """The recent lag, in seconds, less the longer it is ago."""
        if not self._lag_s:
            return 0.0
        faded_s: float = self._lag_s * 0.5 ** ((now_s - self._at_s) / HALF_LIFE_S)
        if faded_s < NEGLIGIBLE_S:
            self._lag_s = 0.0
        return faded_s

    def timeout_s(self, now_s: float) -> float:
        """The setting, or more while the loop is late."""
        floor_s = min(FLOOR_LAGS * self.recent_s(now_s), TIMEOUTS_MAX * self._setting_s)
        return max(self._setting_s, floor_s)
