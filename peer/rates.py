"""How fast a peer delivers, and what follows from it. Pure; the clock is handed in.

A rate is bytes over the time in which something was asked for: a peer that was not asked is not
slow. The past fades with :data:`MEMORY_S`. A peer that stays silent while it is asked gets slower
with every moment, so a paused one is known as slow long before its connection is given up.
"""

from __future__ import annotations

import math

MEMORY_S = 1.0
"""After this time of being asked, a measurement counts for a third of what it did."""


class Rate:
    """What one peer delivers."""

    def __init__(self) -> None:
        self._bytes = 0.0
        self._seconds = 0.0
        self._since_s: float | None = None

    def asked(self, now_s: float) -> None:
        """It is asked for something from now on, if it was not before."""
        if self._since_s is None:
            self._since_s = now_s

    def delivered(self, size: int, now_s: float) -> None:
        """``size`` bytes came."""
        elapsed_s = max(now_s - self._since_s, 0.0) if self._since_s is not None else 0.0
        fade = math.exp(-elapsed_s / MEMORY_S)
        self._bytes = self._bytes * fade + size
        self._seconds = self._seconds * fade + elapsed_s
        self._since_s = now_s

    def rested(self) -> None:
        """Nothing is asked of it any more."""
        self._since_s = None

    def silent_s(self, now_s: float) -> float:
        """How long it has been asked and sent nothing; 0.0 when it is not asked."""
        return max(now_s - self._since_s, 0.0) if self._since_s is not None else 0.0

    def bytes_s(self, now_s: float) -> float | None:
        """Bytes a second, its present silence included; None before the first bytes."""
        if not self._bytes:
            return None
        return self._bytes / max(self._seconds + self.silent_s(now_s), 1e-6)


def run_bytes(rate_bytes_s: float | None, *, run_s: float, first_bytes: int, bytes_max: int) -> int:
    """What to ask of a peer at once: ``run_s`` seconds of its rate, at most ``bytes_max``;
    ``first_bytes`` while nothing is known of it."""
    if rate_bytes_s is None:
        return min(first_bytes, bytes_max)
    return min(int(rate_bytes_s * run_s) + 1, bytes_max)
