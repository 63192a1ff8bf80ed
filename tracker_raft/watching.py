"""The watches that wait on one tracker: who is told which change, and when.

A watch is a long poll. The client says from which place in the log it wants the changes of which
names; it is answered at once if there are some, else with the first ones, else with none when its
time is over; and the answer says from which place to ask next. So all there is to know of a watch
is in its next question, any tracker can answer that, and who reads slowly makes nothing grow here.

Rules
-----
* What is answered is read from the history of the state machine when the answer leaves, and from
  nowhere else: no gap and no repeat, however often and wherever the question is asked.
* A place that this tracker has not come to is waited for, never refused: it lags.
* A tracker that knows no leader when a watch has waited in vain says so. It may be cut off, and
  the client, who cannot tell silence from that, goes to another one.

How it works
------------
Nobody looks round: the state machine tells of an entry with changes (:meth:`Watches.changed`), and
in the next turn of the loop each new change is looked at once. Those who wait are found by the
prefixes of its name, of all lengths that are waited for, so a change that concerns nobody costs
about a microsecond, whoever waits. Who is concerned is answered :data:`ANSWERS_PER_TURN` at a
time, for ten thousand answers at once would keep the loop from its heartbeats.

What to re-check when you change it: that whoever waits has been told of, or passed over, each
change before :attr:`Watches.seen`.
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tracker_raft.changes import Place
from tracker_raft.commands import Watch
from tracker_raft.config import WireLimits
from tracker_raft.errors import Busy, LimitReached, NoLeader, P2PError, ShuttingDown
from tracker_raft.machine import TrackerMachine
from tracker_raft.machine.history import unpack

ANSWERS_PER_TURN: Final = 200
BUSY_RETRY_S: Final = 1.0

Answer = Callable[[dict[str, Any], Place], None]
"""Takes the reply and the place in the log that it reflects. Called once."""


class Loop(Protocol):
    """What is needed of the event loop."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[[], object], /) -> object: ...
    def call_at(
        self, when: float, callback: Callable[..., object], /, *args: Any
    ) -> TimerHandle: ...


class Source(Protocol):
    """What is needed of the replica. ``machine`` may be another one at any time."""

    @property
    def machine(self) -> TrackerMachine: ...
    @property
    def leader(self) -> str | None: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """One watch that is not answered yet."""

    wanted: Watch
    place: Place
    owner: object
    answer: Answer
    timer: TimerHandle | None = None
    """None once it is answered or forgotten."""
    due: bool = False
    """To be answered soon: ``place`` is that of the change it waited for."""


class Watches:
    """All watches that wait on this tracker."""

    def __init__(self, loop: Loop, source: Source, limits: WireLimits) -> None:
        self.seen: Place = (0, 0)
        """Who waits has been told of each change before it, or passed over it."""
        self._loop = loop
        self._source = source
        self._limits = limits
        self._waiting: dict[str, dict[_Waiting, None]] = {}
        """By prefix."""
        self._lengths: dict[int, int] = {}
        """Of these prefixes, and how many prefixes have each."""
        self._owned: dict[object, dict[_Waiting, None]] = {}
        self._due: deque[_Waiting] = deque()
        """To be answered: something has happened for them."""
        self._count = 0
        self._scheduled = self._closed = False
        source.machine.on_changes(self.changed)

    def __len__(self) -> int:
        return self._count

    # -- asked ------------------------------------------------------------------------------------

    def watch(self, wanted: Watch, deadline_s: float, owner: object, answer: Answer) -> None:
        """Answer once: now, when there is a change, or after ``wanted.wait_ms``; by ``deadline_s``
        (loop time) at the latest. ``owner``: who asks, for :meth:`forget` and the limit.

        Raises :class:`Compacted`, :class:`Busy`, :class:`LimitReached` or :class:`ShuttingDown`,
        and then does not answer.
        """
        if self._closed:
            raise ShuttingDown("this tracker is stopping; ask another one")
        place = (wanted.index, wanted.position)
        reply = self._read(wanted, place)
        wait_until_s = min(self._loop.time() + wanted.wait_ms / 1000, deadline_s)
        if reply["changes"] or wait_until_s <= self._loop.time():
            answer({"ok": reply}, self._applied)
            return
        self._require_room(owner)
        waiting = _Waiting(wanted, place, owner, answer)
        waiting.timer = self._loop.call_at(wait_until_s, self._in_vain, waiting)
        self._owned.setdefault(owner, {})[waiting] = None
        self._count += 1
        self._wait(waiting)
        if self._count == 1:  # nobody was passed over anything: there was nobody
            self.seen = self._applied[0] + 1, 0

    def _require_room(self, owner: object) -> None:
        if self._count >= self._limits.watches_max:
            raise Busy(
                f"{self._count} watches wait on this tracker, limit {self._limits.watches_max}",
                retry_after_s=BUSY_RETRY_S,
            )
        own, limit = len(self._owned.get(owner, ())), self._limits.watches_per_connection_max
        if own >= limit:
            raise LimitReached(f"{own} watches wait on this connection, limit {limit}")

    @property
    def _applied(self) -> Place:
        return self._source.machine.applied, 0

    def _read(self, wanted: Watch, place: Place) -> dict[str, Any]:
        """The ``ok`` map of an answer. Raises :class:`Compacted`."""
        found, more = self._source.machine.changes.read(wanted.prefix, place, wanted.limit)
        # Entries that have been applied have no changes to come.
        after = (found[-1][0], found[-1][1] + 1) if more else (self._applied[0] + 1, 0)
        changes = [unpack(change).to_wire() for change in found]
        return {"changes": changes, "next": max(place, after)}

    # -- something happened -----------------------------------------------------------------------

    def changed(self) -> None:
        """There are new changes: look at them in the next turn of the loop."""
        if self._count:
            self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._look()
        for _ in range(min(ANSWERS_PER_TURN, len(self._due))):
            waiting = self._due.popleft()
            if waiting.timer is not None:
                self._settle(waiting)
        if self._due:
            self._schedule()

    def _look(self) -> None:
        """Find out whom the new changes concern."""
        changes = self._source.machine.changes
        if self.seen < changes.horizon:  # some were never looked at: a snapshot came instead
            for group in list(self._waiting.values()):
                self._make_due(group, changes.horizon, self.seen)
        for index, position, name, _ in changes.since(self.seen):
            place = (index, position)
            for length in list(self._lengths):
                group = self._waiting.get(name[:length], {}) if length <= len(name) else {}
                self._make_due(group, place, place)
        self.seen = max(self.seen, (self._applied[0] + 1, 0))

    def _make_due(self, group: dict[_Waiting, None], least: Place, place: Place) -> None:
        """Who of ``group`` waits from ``least`` or earlier is answered from ``place`` on."""
        for waiting in [waiting for waiting in group if waiting.place <= least]:
            self._unwait(waiting)
            waiting.due, waiting.place = True, max(waiting.place, place)
            self._due.append(waiting)

    def _in_vain(self, waiting: _Waiting) -> None:
        """Its time is over."""
        self._unwait(waiting)
        if not waiting.due:
            waiting.place = max(waiting.place, self.seen)
        self._settle(waiting)

    def _settle(self, waiting: _Waiting) -> None:
        """Answer what there is, be it nothing."""
        self._drop(waiting)
        try:
            reply = self._read(waiting.wanted, waiting.place)
            if not reply["changes"] and self._source.leader is None:
                raise NoLeader("no change came, and no leader is reachable from this tracker")
        except P2PError as error:
            waiting.answer(error.to_wire(), self._applied)
        else:
            waiting.answer({"ok": reply}, self._applied)

    # -- who waits --------------------------------------------------------------------------------

    def _wait(self, waiting: _Waiting) -> None:
        prefix = waiting.wanted.prefix
        group = self._waiting.get(prefix)
        if group is None:
            group = self._waiting[prefix] = {}
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        group[waiting] = None

    def _unwait(self, waiting: _Waiting) -> None:
        prefix = waiting.wanted.prefix
        group = self._waiting.get(prefix)
        if group is None or group.pop(waiting, self) is self or group:
            return
        del self._waiting[prefix]
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]

    def _drop(self, waiting: _Waiting) -> None:
        """It is answered, or nobody wants the answer."""
        if waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None
        own = self._owned[waiting.owner]
        del own[waiting]
        if not own:
            del self._owned[waiting.owner]
        self._count -= 1

    def forget(self, owner: object) -> None:
        """Answer none of its watches any more: the connection is gone."""
        for waiting in list(self._owned.get(owner, ())):
            self._unwait(waiting)
            self._drop(waiting)

    def close(self) -> None:
        """Send everybody to another tracker."""
        self._closed = True
        stopping = ShuttingDown("this tracker is stopping; ask another one").to_wire()
        for own in list(self._owned.values()):
            for waiting in list(own):
                self._unwait(waiting)
                self._drop(waiting)
                waiting.answer(stopping, self._applied)

    def __repr__(self) -> str:
        return f"<Watches {self._count} prefixes={len(self._waiting)} seen={self.seen}>"
