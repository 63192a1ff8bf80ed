"""How many operations one tracker lets be under way, and when those it refuses may come back. Pure.

Theory. Work that is taken in beyond what can be done in time is done in vain: its client has given
up, and what it cost is missing to the others. So the queue is bounded by *time*: no more is under
way than is answered in :data:`QUEUE_S` (Little's law: number = rate x time), at the rate at which
the log answered lately. Whoever is refused is told so at once, which costs a tenth of the work.

The rate is counted in windows. A faster window counts whatever the load was; a slower one only if
somebody was refused in it, for otherwise it says how much was asked and not how much can be done.
While there is no answer at all (no leader, or one long sync) the window goes on until there is: so
a failover counts as one slow window and not as a log that has come to a halt.

Whoever is refused may come back when all that is under way now, and all that was refused in the
last second and will come back as well, could have been answered.
"""

from __future__ import annotations

from tracker_raft.errors import Busy

QUEUE_S = 0.25
"""Time in which what is under way is answered: well above one sync, well below any deadline."""
LEAST = 1_000
"""So many may always be under way: a burst after a quiet time, or a disk that takes its time."""
WINDOW_S = 0.1
RATE_START_PER_S = 1_000.0
RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0


class Pace:
    """Counts what one tracker took in, answered and refused. Time comes in by :meth:`turn`."""

    def __init__(self, most: int) -> None:
        """``most``: the limit is never above it, whatever the rate."""
        self.under_way = 0
        self.rate_per_s = RATE_START_PER_S
        """Operations that the log answers in a second, as far as known."""
        self._most = most
        self.limit = self._new_limit()
        """So many operations of clients may be under way."""
        self._logged = 0
        self._refused = 0
        self._refused_per_s = 0.0
        self._begun_s: float | None = None
        self._busy: Busy | None = None

    def taken(self, count: int = 1) -> None:
        self.under_way += count

    def answered(self, count: int = 1, *, logged: bool) -> None:
        """``logged``: by the state machine, not by this tracker alone."""
        self.under_way -= count
        if logged:
            self._logged += count

    def refusal(self, most: int) -> Busy:
        """What one more is told while ``most`` are under way; the same object for a while."""
        self._refused += 1
        if most != self.limit:
            return self._make(most)
        if self._busy is None:
            self._busy = self._make(most)
        return self._busy

    def _make(self, most: int) -> Busy:
        return Busy(
            f"{self.under_way} operations are under way, limit {most} at "
            f"{self.rate_per_s:.0f} a second; not run",
            retry_after_s=self.retry_after_s(),
        )

    def retry_after_s(self) -> float:
        returning = self.under_way + self._refused_per_s
        return min(max(returning / self.rate_per_s, RETRY_MIN_S), RETRY_MAX_S)

    def turn(self, now_s: float) -> None:
        """Some time went by; windows end here."""
        if self._begun_s is None:
            self._begun_s = now_s
        elapsed_s = now_s - self._begun_s
        if elapsed_s < WINDOW_S:
            return
        self._refused_per_s = self._refused / elapsed_s
        self._busy = None
        if self.under_way and not self._logged:
            return
        measured_per_s = self._logged / elapsed_s
        if measured_per_s > self.rate_per_s or self._refused:
            self.rate_per_s = max(1.0, (self.rate_per_s + measured_per_s) / 2)
        self.limit = self._new_limit()
        self._begun_s, self._logged, self._refused = now_s, 0, 0

    def _new_limit(self) -> int:
        return min(self._most, max(LEAST, round(self.rate_per_s * QUEUE_S)))

    def __repr__(self) -> str:
        return (
            f"<Pace under_way={self.under_way} limit={self.limit} rate={self.rate_per_s:.0f}/s "
            f"refused={self._refused_per_s:.0f}/s>"
        )
