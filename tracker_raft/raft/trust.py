"""May the loop itself wait for the disk? While the disk has proved fast. Pure.

A sync beside the loop costs two hand-overs between threads, which is more than the sync itself
takes on a disk that is fast, and a lone write pays it on each tracker. A sync on the loop costs
what the disk makes of it: while it lasts nothing is heard and nothing is said.

So the loop waits for the disk as long as that proved to be short, wherever the syncs were done:

* :data:`RUN_MIN` syncs in a row without a stall, and most of the recent ones within
  :data:`FAST_S`. What the hand-overs cost is a tenth of a millisecond or two, and as much again on
  a machine whose processors are all busy, where a sync seems to take longer, too. Where it does
  take longer the loop has better things to do meanwhile.
* A *stall*, one sync of :data:`STALL_S`, ends it for a second, and for twice as long as the last
  time when that comes often (:mod:`away`). A stall that comes meanwhile begins that time anew.
* So does a run of slow ones, but for :data:`AWAY_SLOW_MAX_S` at most: a tracker that many clients
  kept busy for a minute would else leave the lone one behind them to the thread for five.

**What it costs**: the first stall after a good while holds the loop, once. One that is shorter than
an election time-out delays what arrives meanwhile, and no more. A longer one on the leader is an
election that a thread might have saved; on a follower it is a silence that nobody waits for. With
stalls every few minutes or more often hardly one of them meets the loop.
"""

from __future__ import annotations

from tracker_raft.raft.away import Away

BYTES_MAX = 128 * 1024
"""A larger batch is always written beside the loop, and says nothing about the next small one."""
FAST_S = 0.002
SLOW_SHARE = 0.25
"""Of the recent ones at most so many may take longer than that."""
RECENT = 32
"""So many are recent, about."""
STALL_S = 0.02
"""Less than half the time between two signs of life. On a machine that others keep busy a process
waits for its turn now and then for half as long, whatever its disk."""
RUN_MIN = 32
AWAY_SLOW_MAX_S = 8.0
"""A run of slow ones is the work of a busy machine as a rule, and over with it."""


class DiskTrust:
    """What the syncs of one directory have shown. Times in seconds of one monotonic clock."""

    def __init__(self) -> None:
        self._slow = 0.0
        """The share of slow ones among the recent syncs."""
        self._run = 0
        """Syncs since the last stall."""
        self._stalled = Away()
        self._was_slow = Away(AWAY_SLOW_MAX_S)

    def allows(self, size: int, now_s: float) -> bool:
        """Whether the loop may wait for a sync of ``size`` bytes now."""
        return (
            self._run >= RUN_MIN
            and self._slow <= SLOW_SHARE
            and size <= BYTES_MAX
            and now_s >= self._stalled.until_s
            and now_s >= self._was_slow.until_s
        )

    def took(self, seconds: float, size: int, now_s: float) -> None:
        """A sync of ``size`` bytes is done, on the loop or beside it, and took that long."""
        if size > BYTES_MAX:
            return
        trusted = self.allows(size, now_s)
        self._slow += ((seconds > FAST_S) - self._slow) / RECENT
        self._run += 1
        if seconds >= STALL_S:
            self._run = 0
            self._stalled.begin(now_s)
        elif trusted and self._slow > SLOW_SHARE:
            self._was_slow.begin(now_s)

    def __repr__(self) -> str:
        return (
            f"<DiskTrust slow={self._slow:.0%} run={self._run} "
            f"stalled={self._stalled!r} was_slow={self._was_slow!r}>"
        )
