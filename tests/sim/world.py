"""Virtual time, and the processes that live in it.

One heap of events in (time, number) order; nothing else decides what happens next. A *process*
is what a crash ends and a pause stands still: events of a dead one are dropped, those of a
paused one wait until it goes on. Its clock may run fast or slow and jump, like a bad machine's.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Call:
    """One event; ``cancel`` makes it none."""

    work: Callable[..., object] | None
    args: tuple[Any, ...]

    def cancel(self) -> None:
        self.work = None
        self.args = ()


class MachineStops(BaseException):
    """Raised in the middle of what a process does: it gets no further, and its machine is off."""


class World:
    """The only clock and the only source of chance of one run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.events = 0
        self.after_event: Callable[[], None] = lambda: None
        self._heap: list[tuple[float, int, Process | None, Call]] = []
        self._numbers = 0

    def at(
        self, time_s: float, process: Process | None, work: Callable[..., object], *args: Any
    ) -> Call:
        """Ask for ``work(*args)`` at ``time_s``, in the life of ``process`` (None: the world)."""
        call = Call(work, args)
        self._numbers += 1
        heapq.heappush(self._heap, (max(time_s, self.now_s), self._numbers, process, call))
        return call

    def after(
        self, delay_s: float, process: Process | None, work: Callable[..., object], *args: Any
    ) -> Call:
        return self.at(self.now_s + delay_s, process, work, *args)

    def run_until(self, end_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Let everything happen that is due before ``end_s``, or until ``stop()``."""
        while self._heap and self._heap[0][0] <= end_s and not stop():
            time_s, _, process, call = heapq.heappop(self._heap)
            self.now_s = time_s
            if call.work is None or (process is not None and not process.alive):
                continue
            if process is not None and process.paused:
                process.stood_still.append(call)
                continue
            if process is not None and time_s < process.busy_until_s:
                self._numbers += 1
                heapq.heappush(self._heap, (process.busy_until_s, self._numbers, process, call))
                continue
            self.events += 1
            work, args, call.work = call.work, call.args, None
            if process is None:
                work(*args)
            else:
                process.run(work, *args)
            self.after_event()
        if not stop():
            self.now_s = max(self.now_s, end_s)


@dataclass(eq=False)
class Process:
    """One run of one node: a scheduler (:class:`tracker_raft.raft.seams.Scheduler`) of its own."""

    world: World
    node: str
    rate: float = 1.0
    """Its clock's seconds for one of the world's."""
    offset_s: float = 0.0
    alive: bool = True
    paused: bool = False
    stood_still: deque[Call] = field(default_factory=deque)
    around: Callable[[Process], None] = lambda process: None
    """Called before anything of this process runs: sets what the library has as globals."""
    stops: Callable[[], None] = lambda: None
    """Its machine stopped in the middle of something."""
    busy_until_s: float = 0.0
    """It does one thing until then; whatever is due meanwhile comes late."""

    def run(self, work: Callable[..., object], *args: Any) -> None:
        self.around(self)
        try:
            work(*args)
        except MachineStops:
            self.stops()

    def kill(self) -> None:
        self.alive = False
        self.stood_still.clear()

    def resume(self) -> None:
        """Go on: what stood still happens now, in the order in which it was due."""
        self.paused = False
        while self.stood_still:
            call = self.stood_still.popleft()
            if call.work is not None:
                self.world.at(self.world.now_s, self, call.work, *call.args)

    # -- the scheduler -----------------------------------------------------------------------------

    def time(self) -> float:
        return self.world.now_s * self.rate + self.offset_s

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Call:
        return self.world.at(self.world.now_s, self, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Call:
        return self.world.at((when - self.offset_s) / self.rate, self, callback, *args)
