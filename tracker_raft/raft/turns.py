"""When the replica takes its turns: as something arrived, and when the next deadline is due.

What arrived may need no turn: new entries at a follower are only to be kept, and an answer to
another member is only to leave. Then :meth:`Turns.flush_soon` does that part alone.

Also the place where the loop's lag shows: from the moment a turn was asked for, or was due, to
the moment it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracker_raft.raft.lag import LoopLag
from tracker_raft.raft.seams import Handle, Scheduler

TIMER_FLOOR_S = 0.001
"""Deadlines are rounded up by this, so that a turn finds them over."""
WAITING_S = 0.01
"""Turns are this close while something waits for a leader or for an entry to arrive."""


class Turns:
    """``turn(now_s)`` is called for each, and flushes as well; ``flush()`` where that is enough;
    ``failed(error)`` once, then there is none any more."""

    def __init__(
        self,
        scheduler: Scheduler,
        lag: LoopLag,
        turn: Callable[[float], None],
        flush: Callable[[], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._scheduler = scheduler
        self._lag = lag
        self._turn = turn
        self._flush = flush
        self._flush_asked = False
        self._failed = failed
        self._asked_s: float | None = None
        self._timer: Handle | None = None
        self._timer_s = 0.0
        self.stopped = False
        """No turn is taken any more: one failed, or the replica is closed."""

    def kick(self) -> None:
        """Something is to be done: take a turn soon, together with whatever else arrives."""
        if self._asked_s is None and not self.stopped:
            self._asked_s = self._scheduler.time()
            self._scheduler.call_soon(self.guarded, self._run)

    def flush_soon(self) -> None:
        """Messages and what the journal took in are to leave; nothing else is to be done."""
        if not self._flush_asked and not self.stopped:
            self._flush_asked = True
            self._scheduler.call_soon(self.guarded, self._flush_if_asked)

    def _flush_if_asked(self) -> None:
        if self._flush_asked:  # no turn did it meanwhile
            self._flush_asked = False
            self._flush()

    def guarded(self, work: Callable[..., None], *args: Any) -> None:
        """Run a step whose failure leaves the engine in an unknown state: then the node stops."""
        if self.stopped:
            return
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 whatever it was, no promise can be kept any more
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """No turn is taken any more."""
        if not self.stopped:
            self.stopped = True
            self._failed(error)

    def _run(self) -> None:
        asked_s, self._asked_s = self._asked_s, None
        now_s = self._scheduler.time()
        overdue_s = self._timer_s if self._timer is not None else now_s
        self._lag.late_s = max(now_s - min(overdue_s, asked_s or now_s), 0.0)
        self._turn(now_s)
        self._flush_asked = False
        if asked_s is not None:
            now_s = self._scheduler.time()
            self._lag.observe(now_s - asked_s, now_s)

    def due(self, due_s: float, now_s: float) -> None:
        """The next turn is due then at the latest. A timer that is early enough stays."""
        due_s = max(due_s, now_s) + TIMER_FLOOR_S
        if self._timer is not None:
            if now_s < self._timer_s <= due_s:
                return
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self._scheduler.call_at(due_s, self._timer_over)

    def _timer_over(self) -> None:
        self._timer = None
        if self._asked_s is None and not self.stopped:
            self._asked_s = self._timer_s
            self.guarded(self._run)

    def stop(self) -> None:
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
