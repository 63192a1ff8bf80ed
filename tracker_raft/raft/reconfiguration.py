"""The leader's part in changing the members: when a change may begin, and when a learner may vote.

Rules (PySyncObj's defect S14; Raft thesis, chapter 4)
------------------------------------------------------
* One change at a time: the next one is refused until the one before is committed, and until the
  no-op of this leader's own term is applied. Both are needed: two changes that overlap may have
  majorities with nobody in common.
* A change must leave a majority of those it leaves that was heard just now. So the members never
  change into a set that cannot go on, nor one that could not take the change back.
* A new node learns before it votes. It is sent the log and counts for nothing; it votes when a
  round of catching up took less than an election time-out (thesis, 4.2.1), and when all voters
  that are heard know it, so that they listen when it stands.
* Who leads is not removed; it hands over first.
* A node is an id, not an address: when a member that is linked was elsewhere than is written down
  for a while (:data:`MOVED_S`), the leader logs the same members with the new address, so that
  those who are away now, and clients that come later, find it. That is a change like any other: it
  waits for its turn, and for a majority that was heard. Members that learn come first.

Whoever leads goes on with a learner, so an addition survives any leader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracker_raft.errors import (
    BadRequest,
    Busy,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    P2PError,
    Unavailable,
)
from tracker_raft.raft.configuration import Configuration, is_majority
from tracker_raft.raft.engine import FAIL_REASON, Engine, Role
from tracker_raft.raft.handover import HandOver
from tracker_raft.raft.membership import Membership
from tracker_raft.raft.seams import Lines
from tracker_raft.versions import MEMBERS, refusal

log = logging.getLogger("tracker_raft.members")

HEARD_TIMEOUTS = 2.0
"""Who was heard within so many election time-outs counts as live."""
RETRY_S = 0.05
"""Another change will be through by then, mostly."""
LOOK_S = 0.5
"""How often a leader looks whether members are elsewhere than is written down."""
MOVED_S = 2.0
"""For so long nothing moved any more: who moves to and fro does not fill the log."""

Done = Callable[[dict[str, Any] | None, P2PError | None], None]
"""Called once, with the reply or with why there is none."""


@dataclass(slots=True)
class CatchUp:
    """Rounds of one learner: each lasts until it has what the leader had when the round began."""

    until: int
    since_s: float
    caught_up: bool = False

    def look(self, matched: int, last: int, now_s: float, timeout_s: float) -> bool:
        """Whether it has caught up, as of now."""
        if matched >= self.until:
            self.caught_up = now_s - self.since_s < timeout_s
            self.until, self.since_s = last, now_s
        return self.caught_up


@dataclass(slots=True)
class _Waiting:
    deadline_s: float
    reply: dict[str, Any]
    done: Done


class Reconfiguration:
    """``version`` gives the cluster version, ``timeout_s`` the election time-out in force, ``now``
    the time of the loop."""

    def __init__(
        self,
        engine: Engine,
        membership: Membership,
        lines: Lines,
        hand_over: HandOver,
        *,
        node: str,
        version: Callable[[], int],
        timeout_s: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._version = version
        self._membership = membership
        self._lines = lines
        self._hand_over = hand_over
        self._node = node
        self._timeout_s = timeout_s
        self._now = now
        self._learning: dict[str, CatchUp] = {}
        self._waiting: list[_Waiting] = []
        self._look_s = 0.0
        self._moved: tuple[dict[str, tuple[str, str]], float] = ({}, 0.0)
        """Who is where instead of where it is written down, and since when that is so."""

    # -- asked -----------------------------------------------------------------------------------

    def add(
        self, node: str, birth: str, raft: str, endpoint: str, deadline_s: float, done: Done
    ) -> None:
        """Let ``node`` learn, and vote once it has caught up. ``done`` is called when it is
        logged that it learns. Raises a refusal, and then nothing was done."""
        members = self._completed(self._membership.in_force)
        seat = members.seat(node)
        self._require_turn()
        if seat is not None and seat.birth == birth:
            done(self._reply(node, seat.incarnation), None)
            return
        if members.is_retired(node, birth):
            raise BadRequest(
                f"the directory of node {node!r} (birth {birth}) was removed from the cluster; "
                f"nothing was done. Start it with an empty one"
            )
        new = members.with_learner(node, birth, raft, endpoint)
        number = next(one.incarnation for one in new.seats if one.node == node)
        self._enter(new, f"{node} (incarnation {number}) learns", deadline_s, node, number, done)

    def remove(self, node: str, deadline_s: float, done: Done) -> None:
        """Take ``node`` out of the members. Raises a refusal, and then nothing was done.

        Who leads hands over, and then answers :class:`NoLeader`: to be asked of the new one.
        """
        members = self._membership.in_force
        self._require_turn()
        seat = members.seat(node)
        if seat is None:
            known = [number for was, number, _ in members.retired if was == node]
            if not known:
                there = ", ".join(members.nodes)
                raise NotFound(f"node {node!r} is no member; the members are {there}")
            done(self._reply(node, known[-1]), None)
            return
        if members.voters == (node,):
            raise BadRequest(f"{node} is the only voter; nothing was done. Stop it instead")
        new = self._completed(members).without(node)
        if seat.votes:
            self._require_live(new, f"removing {node}")
        if node == self._node:
            self._hand_over.begin(None, deadline_s, self._handed_over(done))
        else:
            text = f"{node} (incarnation {seat.incarnation}) is removed"
            self._enter(new, text, deadline_s, node, seat.incarnation, done)

    @staticmethod
    def _handed_over(done: Done) -> Callable[[str | None, P2PError | None], None]:
        def handed_over(leader: str | None, error: P2PError | None) -> None:
            text = f"it led and has handed over to {leader}: ask that one; nothing else was done"
            done(None, error or NoLeader(text))

        return handed_over

    # -- may it be -------------------------------------------------------------------------------

    def _require_turn(self) -> None:
        """Raise what stands against any change now."""
        if self._engine.role is not Role.LEADER:
            raise NoLeader("this tracker does not lead; nothing was done")
        if refusal := self._not_now():
            raise Busy(f"{refusal}; nothing was done", retry_after_s=RETRY_S)

    def _not_now(self) -> str | None:
        if not self._engine.leads:
            return "this leader has not begun yet"
        if self._hand_over.waits:
            return "leadership is being handed over"
        if not self._membership.is_settled:
            return f"the change at entry {self._membership.index} is not committed yet"
        return None

    def _require_live(self, new: Configuration, what: str) -> None:
        live = self._live()
        if not is_majority(live, new.voters):
            silent = ", ".join(node for node in new.voters if node not in live)
            raise Unavailable(
                f"{what} would leave the voters {', '.join(new.voters)}, and {silent} "
                f"is not heard: there would be no majority; nothing was done"
            )

    def _live(self) -> set[str]:
        """Members heard just now, this one included."""
        since_s = self._now() - HEARD_TIMEOUTS * self._timeout_s()
        engine = self._engine
        heard = (n for n, m in engine.members.items() if engine.heard_s(m) > since_s)
        return {self._node, *(node for node in heard if self._lines.linked(node))}

    # -- doing it --------------------------------------------------------------------------------

    def _completed(self, members: Configuration) -> Configuration:
        return members.completed(self._lines.identity)

    def _reply(self, node: str, incarnation: int) -> dict[str, Any]:
        return {"node": node, "incarnation": incarnation, "index": self._membership.index}

    def _enter(
        self,
        new: Configuration,
        text: str,
        deadline_s: float,
        node: str,
        incarnation: int,
        done: Done,
    ) -> None:
        if problem := refusal(MEMBERS, self._version()):
            raise problem
        waiting = _Waiting(deadline_s, {}, done)

        def settled(result: Any, reason: int) -> None:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
                if reason == FAIL_REASON.SUCCESS:
                    done(waiting.reply, None)
                else:
                    done(None, NoLeader("another leader took the place; nothing was done"))

        self._waiting.append(waiting)
        index = self._engine.enter(new.command(), settled)
        waiting.reply = {"node": node, "incarnation": incarnation, "index": index}
        log.info("entry %d: %s; voters are %s", index, text, ", ".join(new.voters))

    def step(self, now_s: float) -> None:
        """In every turn of a replica, whoever leads."""
        for waiting in [one for one in self._waiting if one.deadline_s <= now_s]:
            self._give_up(waiting, "was not committed in time")
        members = self._membership.in_force
        leads = self._engine.role is Role.LEADER
        if not leads or not members.learners:
            self._learning.clear()
            if leads and now_s >= self._look_s:
                self._look_s = now_s + LOOK_S
                self._write_down(members, now_s)
            return
        if self._not_now() is None:
            self._promote(members, now_s)

    def _write_down(self, members: Configuration, now_s: float) -> None:
        """Log where the members are by now, if they have been there for a while."""
        new = self._completed(members)
        moved = self._elsewhere(members, new)
        before, since_s = self._moved
        if moved != before:
            self._moved = moved, now_s
        elif moved and now_s - since_s >= MOVED_S and self._not_now() is None:
            allowed = refusal(MEMBERS, self._version()) is None
            if allowed and is_majority(self._live(), new.voters):
                where = ", ".join(f"{node} is at {raft}" for node, (raft, _) in moved.items())
                self._enter(new, where, now_s, self._node, 0, lambda reply, error: None)

    def _elsewhere(self, members: Configuration, new: Configuration) -> dict[str, tuple[str, str]]:
        """Who has other addresses in ``new``. While the settings say who the members are, clients'
        addresses are written down nowhere, and are no reason to begin with it."""
        logged = self._membership.index > 0
        return {
            after.node: (after.raft, after.endpoint)
            for seat, after in zip(members.seats, new.seats, strict=True)
            if after.raft != seat.raft or (logged and after.endpoint != seat.endpoint)
        }

    def _promote(self, members: Configuration, now_s: float) -> None:
        """Let the first learner vote that has caught up."""
        engine, live = self._engine, self._live()
        for node in members.learners:
            matched, last = engine.matched(engine.members[node]), engine.last_log[1]
            rounds = self._learning.setdefault(node, CatchUp(last, now_s))
            if not rounds.look(matched, last, now_s, self._timeout_s()) or node not in live:
                continue
            new = self._completed(members).with_voter(node)
            known = all(
                engine.matched(member) >= self._membership.index
                for voter, member in engine.voters.items()
                if voter in live
            )
            if known and is_majority(live, new.voters):
                del self._learning[node]
                self._enter(new, f"{node} votes", now_s, node, 0, lambda reply, error: None)
                return

    def deadline_s(self) -> float | None:
        return min((one.deadline_s for one in self._waiting), default=None)

    def lost_leadership(self) -> None:
        """Whatever was logged and is not committed may or may not be."""
        self._moved = {}, 0.0
        for waiting in list(self._waiting):
            self._give_up(waiting, "was not committed before the leader changed")

    def refuse_all(self, error: P2PError) -> None:
        """This tracker stops."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.done(None, OutcomeUnknown(f"the change may or may not be made: {error.message}"))

    def _give_up(self, waiting: _Waiting, why: str) -> None:
        self._waiting.remove(waiting)
        waiting.done(None, OutcomeUnknown(f"the change {why}; ask for the status"))
