"""May a follower let others have the processor now? While they give it back soon. Pure.

A follower that has acknowledged an entry goes on with what was committed before. If the leader runs
on the same machine, it may be waiting for that very processor to count the acknowledgement, and a
client for it. So the follower gives way first; where nobody waits, that takes no time. With three
trackers and one client on two processors a write takes a seventh less by it.

Who gives way to work that is in no hurry gets the processor back after milliseconds, and would be
late for the next entry each time. So it is measured, as :mod:`trust` measures the disk: where more
than a few of the recent times took longer than :data:`SOON_S`, nobody is let pass for a second, and
for twice as long as the last time when that comes often (:mod:`away`).
"""

from __future__ import annotations

from collections.abc import Callable

from tracker_raft.raft.away import Away

SOON_S = 0.001
"""A leader is done in a third of this. Linux lets a process that is always busy run for longer."""
LATE_SHARE = 0.2
"""Of the recent times at most so many may take longer."""
RECENT = 32
"""So many are recent, about."""


class Courtesy:
    """``yield_now()`` returns when this process is to go on; ``now()`` gives seconds."""

    def __init__(self, yield_now: Callable[[], object], now: Callable[[], float]) -> None:
        self._yield_now = yield_now
        self._now = now
        self._late = 0.0
        """The share of the recent times that took too long."""
        self._away = Away()

    def give_way(self) -> None:
        """Let others have the processor, if they give it back soon as a rule."""
        begun_s = self._now()
        if begun_s < self._away.until_s:
            return
        self._yield_now()
        now_s = self._now()
        self._late += ((now_s - begun_s > SOON_S) - self._late) / RECENT
        if self._late > LATE_SHARE:
            self._late = 0.0
            self._away.begin(now_s)

    def __repr__(self) -> str:
        return f"<Courtesy late={self._late:.0%} away={self._away!r}>"
