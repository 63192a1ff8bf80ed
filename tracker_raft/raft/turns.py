"""When the replica takes its turns: as something arrived, and when the next deadline is due.

What is asked for is one of three, and each does what the ones before it do:

* a *flush*: messages and what the journal took in are to leave; nothing else is to be done;
* *work*: the log is to move: hand on, commit, apply, answer;
* a *turn*: whatever the rest of the node has to do as well, elections first of all.

Many asks of one round of the loop are one, and the highest of them is done (:meth:`Turns.ask`).
What need not wait for others to arrive is done at once (:meth:`Turns.at_once`): each round of the
loop costs a system call and cold caches.

Also the place where the loop's lag shows: from the moment something was asked for, or was due, to
the moment it is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from tracker_raft.raft.lag import LoopLag
from tracker_raft.raft.seams import Handle, Scheduler

TIMER_FLOOR_S = 0.001
"""Deadlines are rounded up by this, so that a turn finds them over, and those of one moment all."""
WAITING_S = 0.01
"""Work is this close while something waits for a leader or for an entry to arrive."""


class Ask(IntEnum):
    """How much is to be done."""

    NOTHING = 0
    FLUSH = 1
    WORK = 2
    TURN = 3


class Turns:
    """``flush()``, ``work(now_s)`` and ``turn(now_s)`` are called for what was asked;
    ``failed(error)`` once, then there is nothing any more."""

    def __init__(
        self,
        scheduler: Scheduler,
        lag: LoopLag,
        *,
        flush: Callable[[], None],
        work: Callable[[float], None],
        turn: Callable[[float], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._scheduler = scheduler
        self._lag = lag
        self._flush = flush
        self._work = work
        self._turn = turn
        self._failed = failed
        self._asked = Ask.NOTHING
        self._asked_s = 0.0
        self._turn_due_s = self._work_due_s = math.inf
        self._timer: Handle | None = None
        self._timer_s = 0.0
        self.stopped = False
        """Nothing is done any more: something failed, or the replica is closed."""

    # -- asked for -------------------------------------------------------------------------------

    def ask(self, what: Ask) -> None:
        """Do this soon, together with whatever else arrives in this round of the loop."""
        if what > self._asked and not self.stopped:
            if self._asked is Ask.NOTHING:
                self._asked_s = self._scheduler.time()
                self._scheduler.call_soon(self.guarded, self._do_asked)
            self._asked = what

    def kick(self) -> None:
        """Something is to be done: take a turn soon."""
        self.ask(Ask.TURN)

    def flush_soon(self) -> None:
        """Messages are to leave; nothing else is to be done."""
        self.ask(Ask.FLUSH)

    def at_once(self, what: Ask) -> None:
        """Do this now, unless as much is to be done soon."""
        if what > self._asked:
            self._asked = Ask.NOTHING
            self.guarded(self._do, what, self._scheduler.time())

    def _do_asked(self) -> None:
        what, self._asked = self._asked, Ask.NOTHING
        if what is Ask.NOTHING:
            return  # done at once meanwhile
        asked_s, now_s = self._asked_s, self._scheduler.time()
        self._do(what, now_s, asked_s)
        if what is not Ask.FLUSH:
            now_s = self._scheduler.time()
            self._lag.observe(now_s - asked_s, now_s)

    def _do(self, what: Ask, now_s: float, asked_s: float = math.inf) -> None:
        match what:
            case Ask.FLUSH:
                self._flush()
            case Ask.WORK:
                self._work(now_s)
            case Ask.TURN:
                overdue_s = self._timer_s if self._timer is not None else now_s
                self._lag.late_s = max(now_s - min(overdue_s, asked_s), 0.0)
                self._turn(now_s)

    def guarded(self, work: Callable[..., None], *args: Any) -> None:
        """Run a step whose failure leaves the engine in an unknown state: then the node stops."""
        if self.stopped:
            return
        try:
            work(*args)
        except Exception as error:  # noqa: BLE001 whatever it was, no promise can be kept any more
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Nothing is done any more."""
        if not self.stopped:
            self.stopped = True
            self._failed(error)

    # -- due -------------------------------------------------------------------------------------

    def turn_due(self, due_s: float, now_s: float) -> None:
        """The next turn is due then at the latest."""
        self._turn_due_s = max(due_s, now_s)
        self._set_timer(now_s)

    def work_due(self, due_s: float, now_s: float) -> None:
        """The next work is due then at the latest; a turn is work."""
        self._work_due_s = max(due_s, now_s)
        self._set_timer(now_s)

    def _set_timer(self, now_s: float) -> None:
        """A timer that is early enough stays, and is set anew when it is over: what is due moves
        on all the time, and to take timers back is dear."""
        due_s = min(self._turn_due_s, self._work_due_s) + TIMER_FLOOR_S
        if self._timer is not None:
            if now_s < self._timer_s <= due_s:
                return
            self._timer.cancel()
        self._timer_s = due_s
        self._timer = self._scheduler.call_at(due_s, self._timer_over)

    def _timer_over(self) -> None:
        self._timer = None
        now_s = self._scheduler.time()
        if now_s >= self._turn_due_s:
            due = Ask.TURN
        elif now_s >= self._work_due_s:
            due = Ask.WORK
        else:
            self._set_timer(now_s)
            return
        if self._asked is Ask.NOTHING:
            self._asked, self._asked_s = due, self._timer_s
            self.guarded(self._do_asked)
        else:
            self._asked = max(self._asked, due)

    def stop(self) -> None:
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
