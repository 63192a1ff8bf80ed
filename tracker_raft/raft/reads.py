"""The read barrier: at which log index may a linearizable read be answered (D6)?

Bookkeeping only: no socket, no clock of its own, no PySyncObj.

Theory (Raft thesis, 6.4). A leader that has applied the no-op of its own term notes its commit
index, then asks all members to confirm its term; once a majority (itself included) has, no newer
leader can have acknowledged anything before the question was sent, so the noted index covers
every operation acknowledged before the read arrived. The read then waits until that index is
applied where it is answered. All reads of one loop turn share one round. A follower asks the
leader for the index, again one question for all reads of a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush

from tracker_raft.commands import Level
from tracker_raft.config import NodeConfig
from tracker_raft.errors import Busy, NoLeader, P2PError

READS_RETRY_S = 0.1
"""One round among the trackers answers all reads that wait, so there is room soon or never."""

Granted = Callable[[int | None, P2PError | None], None]
"""Called once: with the index to wait for, or with why there is none."""


ReadDone = Callable[[P2PError | None], None]
"""Called once: the machine may be queried now, or why not."""


@dataclass(slots=True)
class Waiter:
    """One read that waits for its index."""

    deadline_s: float
    granted: Granted
    remote: bool = False
    """Asked by another tracker, which asks again itself."""
    answered: bool = False

    def answer(self, index: int | None, error: P2PError | None = None) -> None:
        if not self.answered:
            self.answered = True
            self.granted(index, error)


@dataclass(slots=True)
class _Round:
    index: int
    asked_s: float
    waiters: list[Waiter]
    confirmed: set[str] = field(default_factory=set)


class ReadBarrier:
    """All linearizable reads of one tracker that have no index yet."""

    def __init__(self, members: int) -> None:
        self.members = members
        self._voters: frozenset[str] | None = None
        """The others that count; None: whoever confirms."""
        self.waiting: list[Waiter] = []
        """To be read only."""
        self._rounds: dict[int, _Round] = {}
        self._asked: dict[int, tuple[str, list[Waiter]]] = {}
        self._numbers = 0

    def members_are(self, voters: frozenset[str]) -> None:
        """These others decide from now on, together with this node."""
        self.members, self._voters = len(voters) + 1, voters
        for number in list(self._rounds):
            self._settle(number)

    def add(self, waiter: Waiter) -> None:
        self.waiting.append(waiter)

    # -- on the leader ---------------------------------------------------------------------------

    def begin_round(self, commit: int, now_s: float) -> int | None:
        """Start a round for all that wait. Returns its number to probe with, or None: no need."""
        waiters, self.waiting = self.waiting, []
        if self.members == 1:
            for waiter in waiters:
                waiter.answer(commit)
            return None
        self._numbers += 1
        self._rounds[self._numbers] = _Round(commit, now_s, waiters)
        return self._numbers

    def confirmed(self, number: int, node: str) -> None:
        """``node`` confirmed the term this leader asked about in round ``number``."""
        found = self._rounds.get(number)
        if found is None:
            return
        found.confirmed.add(node)
        self._settle(number)

    def _settle(self, number: int) -> None:
        found = self._rounds[number]
        counted = found.confirmed if self._voters is None else found.confirmed & self._voters
        if 1 + len(counted) > self.members / 2:
            del self._rounds[number]
            for waiter in found.waiters:
                waiter.answer(found.index)

    def retry_rounds(self, asked_before_s: float) -> None:
        """Rounds asked that long ago lost their probes with a link: ask anew."""
        for number in [n for n, r in self._rounds.items() if r.asked_s < asked_before_s]:
            self.waiting.extend(self._rounds.pop(number).waiters)

    def lost_leadership(self) -> None:
        for number in list(self._rounds):
            self.waiting.extend(self._rounds.pop(number).waiters)
        for waiter in self.waiting:
            if waiter.remote:
                waiter.answer(None, NoLeader("this tracker does not lead any more"))
        self.waiting = [waiter for waiter in self.waiting if not waiter.answered]

    def give_back(self) -> None:
        """No leader is reachable from here for some time: what waits is answered so."""
        waiting, self.waiting = self.waiting, []
        for waiter in waiting:
            waiter.answer(None, NoLeader("no leader is reachable from here"))

    # -- on a follower ---------------------------------------------------------------------------

    def ask_leader(self, leader: str) -> int:
        """All that wait are asked of ``leader`` in one question, by this number."""
        self._numbers += 1
        self._asked[self._numbers] = leader, self.waiting
        self.waiting = []
        return self._numbers

    def told(self, number: int, index: int | None, node: str) -> bool:
        """The answer of ``node``; None: it does not lead. False: do not ask at once again.

        What was asked of another member is not its to answer.
        """
        if self._asked.get(number, ("", []))[0] != node:
            return True
        _, waiters = self._asked.pop(number)
        if index is None:
            self.waiting.extend(waiters)
            return False
        for waiter in waiters:
            waiter.answer(index)
        return True

    def leader_is(self, leader: str | None) -> None:
        """What was asked of anyone else is to be asked again. None: no leader is reachable."""
        if self._asked:
            for asked in {asked for asked, _ in self._asked.values()} - {leader}:
                self.link_lost(asked)

    def link_lost(self, node: str) -> None:
        """The link to ``node`` broke: what was asked over it is to be asked again."""
        for number, (asked, waiters) in list(self._asked.items()):
            if asked == node:
                del self._asked[number]
                self.waiting.extend(waiters)

    # -- deadlines -------------------------------------------------------------------------------

    def expire(self, now_s: float) -> None:
        """Answer with an error every read whose deadline is over."""
        if not (self.waiting or self._asked or self._rounds):
            return
        for group in self._groups():
            for waiter in group:
                if waiter.deadline_s <= now_s:
                    waiter.answer(None, NoLeader("no leader confirmed the read in time"))
            group[:] = [waiter for waiter in group if not waiter.answered]
        self._rounds = {n: r for n, r in self._rounds.items() if r.waiters}
        self._asked = {n: asked for n, asked in self._asked.items() if asked[1]}

    def refuse_all(self, error: P2PError) -> None:
        for group in self._groups():
            for waiter in group:
                waiter.answer(None, error)
        self.waiting, self._asked, self._rounds = [], {}, {}

    def _groups(self) -> list[list[Waiter]]:
        asked = [waiters for _, waiters in self._asked.values()]
        return [self.waiting, *asked, *(r.waiters for r in self._rounds.values())]


class AppliedWaiters:
    """Reads that have their index and wait until it is applied on this node."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, float, ReadDone]] = []
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, index: int, deadline_s: float, done: ReadDone) -> None:
        self._numbers += 1
        heappush(self._heap, (index, self._numbers, deadline_s, done))

    def wake(self, applied: int, now_s: float) -> None:
        """Answer what ``applied`` covers, and with an error what is over its deadline."""
        if not self._heap:
            return
        while self._heap and self._heap[0][0] <= applied:
            heappop(self._heap)[3](None)
        late = [waiter for waiter in self._heap if waiter[2] <= now_s]
        if late:
            self._heap = [waiter for waiter in self._heap if waiter[2] > now_s]
            heapify(self._heap)
            for index, _, _, done in late:
                done(NoLeader(f"entry {index} did not arrive here in time, {applied} did"))

    def refuse_all(self, error: P2PError) -> None:
        waiting, self._heap = self._heap, []
        for _, _, _, done in waiting:
            done(error)


class Reads:
    """All reads of one tracker that are not answered yet, at whatever level they were asked.

    ``applied`` gives the index applied here; ``kick`` asks for a turn of the replica. No more than
    ``limits.reads_max`` wait at a time: who comes then is told ``busy``.
    """

    def __init__(
        self, config: NodeConfig, applied: Callable[[], int], kick: Callable[[], None]
    ) -> None:
        self.barrier = ReadBarrier(len(config.members))
        self.under_way = 0
        """Reads that were asked and are not answered."""
        self._most = config.limits.reads_max
        self._waiters = AppliedWaiters()
        self._applied = applied
        self._kick = kick
        self._refusal: P2PError | None = None

    def __len__(self) -> int:
        """Reads that wait for something to arrive here."""
        return len(self.barrier.waiting) + len(self._waiters)

    def read(self, level: Level, seen: int, deadline_s: float, done: ReadDone) -> None:
        """Call ``done`` once: when the machine may be queried at ``level``, or with an error.

        ``seen``: the newest index the client was shown, for the level ``session``.
        ``deadline_s`` is a time of the replica's clock.
        """
        if self._refusal is not None:
            done(self._refusal)
        elif level is Level.LOCAL or (level is Level.SESSION and self._applied() >= seen):
            done(None)
        elif self.under_way >= self._most:
            text = f"{self.under_way} reads wait already, limit {self._most}"
            done(Busy(text, retry_after_s=READS_RETRY_S))
        else:
            self.under_way += 1
            done = partial(self._answer, done)
            if level is Level.SESSION:
                self._when_applied(seen, deadline_s, done)
            else:
                self.barrier.add(Waiter(deadline_s, partial(self._granted, deadline_s, done)))
                self._kick()

    def _answer(self, done: ReadDone, error: P2PError | None) -> None:
        self.under_way -= 1
        done(error)

    def _granted(
        self, deadline_s: float, done: ReadDone, index: int | None, error: P2PError | None
    ) -> None:
        if index is None:
            done(error)
        else:
            self._when_applied(index, deadline_s, done)

    def _when_applied(self, index: int, deadline_s: float, done: ReadDone) -> None:
        if self._applied() >= index:
            done(None)
        else:
            self._waiters.add(index, deadline_s, done)
            self._kick()

    def wake(self, now_s: float) -> None:
        """Answer what is applied by now, and with an error what is over its deadline."""
        self._waiters.wake(self._applied(), now_s)

    def refuse_all(self, error: P2PError) -> None:
        """Answer what waits, and whatever is asked from now on, with ``error``."""
        self._refusal = error
        self.barrier.refuse_all(error)
        self._waiters.refuse_all(error)
