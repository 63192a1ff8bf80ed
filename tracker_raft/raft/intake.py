"""Operations on their way into the log: what waits, what was proposed, what was forwarded.

Bookkeeping only: no socket, no clock, no PySyncObj. The replica asks what to propose or forward
next and reports what became of it; every operation taken in is answered exactly once.

Theory. An operation waits here until this node can hand it on. Handed on, it may be lost with a
leader: then it *may* have happened, and it goes back to the front marked ``unknown``. Trying it
again is safe because the state machine answers a repeated (session, seq) from its reply table
(Raft thesis, 6.3); operations without a session are harmless to repeat. An operation that came
from another tracker is not tried again here: its sender is told and tries again itself.

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

from tracker_raft import versions
from tracker_raft.errors import Busy, NoLeader, OutcomeUnknown, P2PError, TooLarge
from tracker_raft.raft.pace import Pace

Reply = dict[str, Any]
Position = tuple[int, int]
NOWHERE: Position = (0, 0)
"""The position of a reply that no log entry gave: this node's own refusal."""
Sink = Callable[[Reply, Position], None]
"""Takes the one answer of an operation: ``{"ok": ...}`` or ``{"error": ...}``, and its position."""


def _nobody(reply: Reply, at: Position) -> None:
    """Stands where an answered operation had its sink."""


class Pending:
    """One operation that was taken in and is not answered yet."""

    __slots__ = (
        "_pace",
        "_sink",
        "answered",
        "deadline_s",
        "handed_on",
        "packed",
        "remote",
        "unknown",
        "word",
    )

    def __init__(
        self, packed: bytes, deadline_s: float, sink: Sink, pace: Pace, *, remote: bool, word: str
    ) -> None:
        self._pace = pace
        self.packed = packed
        self.deadline_s = deadline_s
        self.remote = remote
        """Came from another tracker, which tries again itself."""
        self.word = word
        self.handed_on = False
        self.unknown = False
        """Was handed on and lost: it may have happened."""
        self.answered = False
        self._sink = sink

    def answer(self, reply: Reply, at: Position) -> None:
        """Give the answer, unless one was given before."""
        if self.answered:
            return
        self.answered = True
        self._pace.answered(logged=at != NOWHERE)
        if self.unknown and reply.get("error") in ("session_expired", "unsupported"):
            # An earlier attempt may have run, before the session was forgotten or elsewhere.
            reply = OutcomeUnknown(f"an attempt was lost, then: {reply['message']}").to_wire()
        sink, self._sink, self.packed = self._sink, _nobody, b""  # it stays until its deadline
        sink(reply, at)

    def refuse(self, error: P2PError) -> None:
        self.answer(error.to_wire(), NOWHERE)


Batch = list[Pending]


class Intake:
    """All pending operations of one tracker."""

    def __init__(self, *, pending_max: int, operation_bytes_max: int) -> None:
        self.pending_max = pending_max
        self.pace = Pace(pending_max)
        self.operation_bytes_max = operation_bytes_max
        self._waiting: deque[Pending] = deque()
        self._deadlines: list[tuple[float, int, Pending]] = []
        self._count = 0
        self._proposed: dict[int, Batch] = {}
        self._forwarded: dict[int, tuple[str, Batch]] = {}
        self._numbers = 0

    def __len__(self) -> int:
        """Operations waiting to be handed on (answered ones not yet swept included)."""
        return len(self._waiting)

    def add(
        self,
        packed: bytes,
        deadline_s: float,
        sink: Sink,
        *,
        remote: bool = False,
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
        refusal = self.refusal(unless_full=remote or own)
        if refusal is not None:
            raise refusal
        pending = Pending(packed, deadline_s, sink, self.pace, remote=remote, word=word)
        self.pace.taken()
        self._waiting.append(pending)
        self._count += 1
        heapq.heappush(self._deadlines, (deadline_s, self._count, pending))

    def refusal(self, *, unless_full: bool = False) -> Busy | None:
        """Why no operation is taken in now; None: one is. Counts as one refused if not None."""
        most = self.pending_max if unless_full else self.pace.limit
        return self.pace.refusal(most) if self.pace.under_way >= most else None

    def take(self, bytes_max: int, version: int = versions.NEWEST) -> Batch:
        """The next operations that fit into ``bytes_max`` together, oldest first. What a cluster at
        ``version`` must not be given is refused."""
        batch: Batch = []
        size = 0
        while self._waiting:
            pending = self._waiting[0]
            if version < versions.NEWEST and (early := versions.refusal(pending.word, version)):
                pending.refuse(early)
            if not pending.answered:
                size += len(pending.packed)
                if size > bytes_max and batch:
                    break
                pending.handed_on = True
                batch.append(pending)
            self._waiting.popleft()
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
        replies: tuple[Reply, ...],
        positions: Sequence[int] | None = None,
    ) -> None:
        """``positions``: of the operations in their entry; None: 0, 1, 2..."""
        for at, pending in enumerate(self._proposed.pop(number, [])):
            pending.answer(replies[at], (index, at if positions is None else positions[at]))

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
        for pending in [p for p in self._waiting if p.remote]:
            pending.refuse(NoLeader("this tracker does not lead; not run"))

    def give_back(self) -> None:
        """No leader is reachable from here for some time; others may reach one. What waits goes
        back to its clients, who know the others."""
        for pending in list(self._waiting):
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

    def returned(self, number: int, replies: list[tuple[Reply, Position]], node: str) -> bool:
        """The answers of ``node``. False when it refused some for now: do not ask at once again.

        What was forwarded to another member is not its to answer.
        """
        if self._forwarded.get(number, ("", []))[0] != node:
            return True
        _, batch = self._forwarded.pop(number)
        willing = True
        self._put_back(batch[len(replies) :], unknown=True)
        for pending, (reply, at) in reversed(list(zip(batch, replies, strict=False))):
            if at[0] > 0 or reply.get("error") not in ("no_leader", "outcome_unknown", "busy"):
                pending.answer(reply, at)
            else:
                willing = False
                self._put_back([pending], unknown=reply["error"] == "outcome_unknown")
        return willing

    def leader_is(self, leader: str | None) -> None:
        """What was forwarded to anyone else will not be answered, or too late: try it again.

        None: no leader is reachable.
        """
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
        while self._deadlines and (
            self._deadlines[0][0] <= now_s or self._deadlines[0][2].answered
        ):
            _, _, pending = heapq.heappop(self._deadlines)
            if pending.answered:
                continue
            if pending.handed_on or pending.unknown:
                pending.refuse(OutcomeUnknown("no answer from the log within the deadline"))
            else:
                pending.refuse(NoLeader("no leader within the deadline; not run"))
        while self._waiting and self._waiting[0].answered:
            self._waiting.popleft()  # or a long time without a leader would leave it full of them

    def next_deadline_s(self) -> float | None:
        return self._deadlines[0][0] if self._deadlines else None

    def refuse_all(self, error: P2PError) -> None:
        """This tracker stops: answer everything, unknown where it was handed on."""
        for pending in self._all():
            if pending.handed_on or pending.unknown:
                pending.refuse(OutcomeUnknown("the tracker stopped before the log answered"))
            else:
                pending.refuse(error)
        self._waiting.clear()
        self._proposed.clear()
        self._forwarded.clear()

    def _all(self) -> Iterator[Pending]:
        forwarded = (batch for _, batch in self._forwarded.values())
        for batch in (self._waiting, *self._proposed.values(), *forwarded):
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
                self._waiting.appendleft(pending)
