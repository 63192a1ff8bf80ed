"""Operations on their way into the log: what waits, what was proposed, what was forwarded.

Bookkeeping only: no socket, no clock, no PySyncObj. The replica asks what to propose or forward
next and reports what became of it; every operation taken in is answered exactly once.

Theory. An operation waits here until this node can hand it on. Handed on, it may be lost with a
leader: then it *may* have happened, and it goes back to the front marked ``unknown``. Trying it
again is safe because the state machine answers a repeated (session, seq) from its reply table
(Raft thesis, 6.3); operations without a session are harmless to repeat. One that came from another
tracker is not tried again here: its sender, who keeps the account of it, is told and does that. So
what a tracker forwarded together is one thing here (:class:`Bundle`).

How many may be under way, wherever they are, :mod:`pace` says. Clients are refused beyond that;
another tracker only beyond ``pending_max``, for it has let its clients in by the same rule, and
would send again and again what is refused here.

An operation that the cluster version does not allow (:mod:`tracker_raft.versions`) is refused when
it would be handed on, not before: only then it is known who leads, and what that one may propose.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tracker_raft import versions, wire
from tracker_raft.errors import Busy, NoLeader, OutcomeUnknown, P2PError, TooLarge
from tracker_raft.raft.pace import Pace

Reply = dict[str, Any] | bytes
"""``{"ok": ...}`` or ``{"error": ...}``; or, of the log, the packed value of an ``ok``, which goes
from the leader to the client's frame as it is: nobody on the way has to look into it."""
Position = tuple[int, int]
NOWHERE: Position = (0, 0)
"""The position of a reply that no log entry gave: this node's own refusal."""
Sink = Callable[[Reply, Position], None]
"""Takes the one answer of an operation, and its position."""
BundleSink = Callable[[Sequence[Reply], int, Sequence[int]], None]
"""Takes the answers of the operations of a bundle, their index and their positions there."""


def opened(reply: Reply) -> dict[str, Any]:
    """A reply as a map, however it came."""
    return {"ok": wire.decode(reply)} if isinstance(reply, bytes) else reply


def _nobody(reply: Reply, at: Position) -> None:
    """Stands where an answered operation had its sink."""


def _no_colleague(replies: Sequence[Reply], index: int, positions: Sequence[int]) -> None:
    """The same of a bundle."""


class Pending:
    """One operation that was taken in and is not answered yet."""

    __slots__ = (
        "_pace",
        "_sink",
        "answered",
        "deadline_s",
        "handed_on",
        "packed",
        "unknown",
        "word",
    )
    count = 1
    """Operations in ``packed``."""
    remote = False
    """Came from another tracker, which tries again itself."""

    def __init__(self, packed: bytes, deadline_s: float, sink: Any, pace: Pace, word: str) -> None:
        self.packed = packed
        self.deadline_s = deadline_s
        self.word = word
        self.handed_on = False
        self.unknown = False
        """Was handed on and lost: it may have happened."""
        self.answered = False
        self._sink = sink
        self._pace = pace

    def answer(self, reply: Reply, at: Position) -> None:
        """Give the answer, unless one was given before."""
        if self.answered:
            return
        self.answered = True
        self._pace.answered(1, logged=at[0] > 0)
        if self.unknown and error_of(reply) in ("session_expired", "unsupported"):
            # An earlier attempt may have run, before the session was forgotten or elsewhere.
            text = opened(reply)["message"]
            reply = OutcomeUnknown(f"an attempt was lost, then: {text}").to_wire()
        sink, self._sink, self.packed = self._sink, _nobody, b""  # it stays until its deadline
        sink(reply, at)

    def settle(
        self, replies: Sequence[Reply], index: int, positions: Sequence[int], first: int
    ) -> None:
        """Entry ``index`` was applied; the answer is the one at ``first``."""
        self.answer(replies[first], (index, positions[first]))

    def refuse(self, error: P2PError) -> None:
        self.answer(error.to_wire(), NOWHERE)


class Bundle(Pending):
    """Operations of another tracker that are logged and answered together.

    One of these costs what one operation costs: that tracker keeps account of each.
    """

    __slots__ = ("count",)
    remote = True

    def __init__(
        self,
        packed: bytes,
        count: int,
        deadline_s: float,
        sink: BundleSink,
        pace: Pace,
        word: str,
    ) -> None:
        super().__init__(packed, deadline_s, sink, pace, word)
        self.count: int = count

    def answer(self, reply: Reply, at: Position) -> None:
        """Give all of them this answer."""
        self._give([reply] * self.count, at[0], [at[1]] * self.count)

    def settle(
        self, replies: Sequence[Reply], index: int, positions: Sequence[int], first: int
    ) -> None:
        end = first + self.count
        self._give(replies[first:end], index, positions[first:end])

    def _give(self, replies: Sequence[Reply], index: int, positions: Sequence[int]) -> None:
        if self.answered:
            return
        self.answered = True
        self._pace.answered(self.count, logged=index > 0)
        sink, self._sink, self.packed = self._sink, _no_colleague, b""
        sink(replies, index, positions)


def error_of(reply: Reply) -> str | None:
    """The error word of a reply; None: it is none."""
    return None if isinstance(reply, bytes) else reply.get("error")


Batch = list[Pending]


class Intake:
    """All pending operations of one tracker."""

    def __init__(self, *, pending_max: int, operation_bytes_max: int) -> None:
        self.pending_max = pending_max
        self.pace = Pace(pending_max)
        self.operation_bytes_max = operation_bytes_max
        self.waiting: deque[Pending] = deque()
        """What waits to be handed on, answered ones not yet swept included; to be read only."""
        self._due: deque[Pending] = deque()
        """All that came in order of their deadlines, as they nearly always do."""
        self._due_early: list[tuple[float, int, Pending]] = []
        """A heap of those that came behind one with a later deadline."""
        self._count = 0
        self._proposed: dict[int, Batch] = {}
        self._forwarded: dict[int, tuple[str, Batch]] = {}
        self._numbers = 0

    def add(
        self,
        packed: bytes,
        deadline_s: float,
        sink: Sink,
        *,
        own: bool = False,
        word: str = "",
    ) -> None:
        """Take one operation in. Raises :class:`Busy` or :class:`TooLarge`; then it was not.

        ``word``: its word, where the cluster version may not allow it.
        ``own``: of this tracker itself, which has few and important ones: no client's load keeps
        it out.
        """
        if len(packed) > self.operation_bytes_max:
            raise TooLarge(
                f"operation of {len(packed)} bytes, limit {self.operation_bytes_max}; not run"
            )
        refusal = self.refusal(unless_full=own)
        if refusal is not None:
            raise refusal
        self._take_in(Pending(packed, deadline_s, sink, self.pace, word))

    def add_bundle(
        self, packed: bytes, count: int, deadline_s: float, sink: BundleSink, *, word: str = ""
    ) -> None:
        """The same of ``count`` operations of another tracker; taken in are all of them or none."""
        if len(packed) > self.operation_bytes_max:
            raise TooLarge(
                f"{count} operations of {len(packed)} bytes, limit {self.operation_bytes_max}; "
                f"not run"
            )
        refusal = self.refusal(count, unless_full=True)
        if refusal is not None:
            raise refusal
        self._take_in(Bundle(packed, count, deadline_s, sink, self.pace, word))

    def _take_in(self, pending: Pending) -> None:
        self.pace.taken(pending.count)
        self.waiting.append(pending)
        if not self._due or pending.deadline_s >= self._due[-1].deadline_s:
            self._due.append(pending)
        else:
            self._count += 1
            heapq.heappush(self._due_early, (pending.deadline_s, self._count, pending))

    def refusal(self, count: int = 1, *, unless_full: bool = False) -> Busy | None:
        """Why no ``count`` operations are taken in now; None: they are. Counts as one refused if
        not None."""
        pace = self.pace
        most = self.pending_max if unless_full else pace.limit
        return pace.refusal(most) if pace.under_way + count > most else None

    def take(self, bytes_max: int, version: int = versions.NEWEST) -> Batch:
        """The next operations that fit into ``bytes_max`` together, oldest first. What a cluster at
        ``version`` must not be given is refused."""
        batch: Batch = []
        size, waiting = 0, self.waiting
        while waiting:
            pending = waiting[0]
            if version < versions.NEWEST and (early := versions.refusal(pending.word, version)):
                pending.refuse(early)
            if not pending.answered:
                size += len(pending.packed)
                if size > bytes_max and batch:
                    break
                pending.handed_on = True
                batch.append(pending)
            waiting.popleft()
        return batch

    # -- proposed by this node -------------------------------------------------------------------

    def proposed(self, batch: Batch) -> int:
        """Remember a batch that went into this node's log; its number settles it."""
        self._numbers += 1
        self._proposed[self._numbers] = batch
        return self._numbers

    def committed(
        self,
        number: int,
        index: int,
        replies: Sequence[Reply],
        positions: Sequence[int] | None = None,
    ) -> None:
        """``positions``: of the operations in their entry; None: 0, 1, 2..."""
        places = list(range(len(replies))) if positions is None else positions
        first = 0
        for pending in self._proposed.pop(number, []):
            pending.settle(replies, index, places, first)
            first += pending.count

    def discarded(self, number: int) -> None:
        """Another entry stands at the index of this one: it certainly did not happen."""
        self._put_back(self._proposed.pop(number, []), unknown=False)

    def lost_leadership(self) -> None:
        """Whatever was proposed and not committed may or may not be in the next leader's log."""
        for number in list(self._proposed):
            self._put_back(self._proposed.pop(number), unknown=True)
        self.refuse_remote()

    def refuse_remote(self) -> None:
        """This node does not lead: operations of other trackers go back to them."""
        for pending in [p for p in self.waiting if p.remote]:
            pending.refuse(NoLeader("this tracker does not lead; not run"))

    def give_back(self) -> None:
        """No leader is reachable from here for some time; others may reach one. What waits goes
        back to its clients, who know the others."""
        for pending in list(self.waiting):
            if pending.handed_on or pending.unknown:
                pending.refuse(
                    OutcomeUnknown("the leader was lost and none is reachable from here")
                )
            else:
                pending.refuse(NoLeader("no leader is reachable from here; not run"))

    # -- forwarded to the leader -----------------------------------------------------------------

    def forwarded(self, batch: Batch, leader: str) -> int:
        """Remember a batch that was sent to ``leader``; its number settles it."""
        self._numbers += 1
        self._forwarded[self._numbers] = leader, batch
        return self._numbers

    def returned(self, number: int, replies: Sequence[tuple[Reply, Position]], node: str) -> bool:
        """The answers of ``node``. False when it refused some for now: do not ask at once again.

        What was forwarded to another member is not its to answer.
        """
        if self._forwarded.get(number, ("", []))[0] != node:
            return True
        _, batch = self._forwarded.pop(number)
        self._put_back(batch[len(replies) :], unknown=True)
        again: list[tuple[Pending, bool]] = []
        for pending, (reply, at) in zip(batch, replies, strict=False):
            word = None if at[0] > 0 else error_of(reply)
            if word in ("no_leader", "outcome_unknown", "busy"):
                again.append((pending, word == "outcome_unknown"))
            else:
                pending.answer(reply, at)
        for pending, unknown in reversed(again):
            self._put_back([pending], unknown=unknown)
        return not again

    def leader_is(self, leader: str | None) -> None:
        """What was forwarded to anyone else will not be answered, or too late: try it again.

        None: no leader is reachable.
        """
        if self._forwarded:
            for asked in {asked for asked, _ in self._forwarded.values()} - {leader}:
                self.link_lost(asked)

    def link_lost(self, node: str) -> None:
        """The link to ``node`` broke: what was forwarded over it is tried again."""
        for number, (asked, batch) in list(self._forwarded.items()):
            if asked == node:
                del self._forwarded[number]
                self._put_back(batch, unknown=True)

    # -- answers without the log -----------------------------------------------------------------

    def expire(self, now_s: float) -> None:
        """Answer everything whose deadline is over, each by what is known of it."""
        self.pace.turn(now_s)
        due, early = self._due, self._due_early
        while due and (due[0].answered or due[0].deadline_s <= now_s):
            self._expire(due.popleft())
        while early and (early[0][2].answered or early[0][0] <= now_s):
            self._expire(heapq.heappop(early)[2])
        while self.waiting and self.waiting[0].answered:
            self.waiting.popleft()  # or a long time without a leader would leave it full of them

    @staticmethod
    def _expire(pending: Pending) -> None:
        if pending.answered:
            return
        if pending.handed_on or pending.unknown:
            pending.refuse(OutcomeUnknown("no answer from the log within the deadline"))
        else:
            pending.refuse(NoLeader("no leader within the deadline; not run"))

    def next_deadline_s(self) -> float | None:
        if not self._due_early:
            return self._due[0].deadline_s if self._due else None
        early_s = self._due_early[0][0]
        return min(early_s, self._due[0].deadline_s) if self._due else early_s

    def refuse_all(self, error: P2PError) -> None:
        """This tracker stops: answer everything, unknown where it was handed on."""
        for pending in self._all():
            if pending.handed_on or pending.unknown:
                pending.refuse(OutcomeUnknown("the tracker stopped before the log answered"))
            else:
                pending.refuse(error)
        self.waiting.clear()
        self._proposed.clear()
        self._forwarded.clear()

    def _all(self) -> Iterator[Pending]:
        forwarded = (batch for _, batch in self._forwarded.values())
        for batch in (self.waiting, *self._proposed.values(), *forwarded):
            yield from list(batch)

    def _put_back(self, batch: Batch, *, unknown: bool) -> None:
        for pending in reversed(batch):
            if pending.answered:
                continue
            pending.handed_on = False
            pending.unknown = pending.unknown or unknown
            if pending.remote:
                pending.refuse(
                    OutcomeUnknown("the leader changed before the entry was committed")
                    if unknown
                    else NoLeader("this tracker does not lead any more; not run")
                )
            else:
                self.waiting.appendleft(pending)
