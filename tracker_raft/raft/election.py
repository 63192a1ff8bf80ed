"""When to stand for election, and whom to help to win one (D7). Pure: facts in, actions out.

PySyncObj stands when its time-out is over, raises its term at once and so deposes whoever leads.
Here it stands when :class:`Elections` says so, and votes when :class:`Elections` lets a request
through. Facts come with the :class:`Here` of their moment; what follows from them is asked for
with :meth:`Elections.step`.

Theory
------
* **Proof before time-out.** The kernel closes the sockets of a killed process, so a broken link
  is a hint, and a reconnect that is refused, or answered by another run of the same node, is
  proof that the leader's process is gone. A silent leader is replaced by time-out.
* **Pre-vote** (Raft thesis, 9.6). Before it raises its term a node asks the others whether they
  would vote for it. A node that cannot win disturbs nobody.
* **Stickiness** (Raft thesis, 4.2.3). While a node believes in a live leader it grants nothing.
  It does not refuse either, it *holds* the request, and judges it when its own belief ends: a
  candidate that noticed a death a moment earlier wins in that moment, not a time-out later.
  Requests of a candidate that the leader itself told to stand, or that leads over to a higher
  term, carry ``forced`` and are not held.
* **Term hint.** A leader of an older term would be ignored for ever by a node of a newer one. It
  is told the term, and stands again above it at once, forced: it has the best log. Unless it is
  told that somebody leads that term: then its time is over.
* **Order instead of chance.** All compute the same order of standing from their links: node ids,
  the lost leader left out, who still catches up last. A node that granted a request favours that
  candidate for a moment; another one is held meanwhile unless it is better placed (a better log,
  then a lower id). So two that ask at the same time do not split the votes. Who is asked by a
  candidate with a worse log than its own stands itself.
* **Who stood still itself looks again.** A machine that stops for a moment stops all its nodes
  alike: the silence then is nobody's death. A node whose own turn came late waits for one more
  sign of life, twice in a row at most.

A second attempt comes after a time-out times 1 to 2, by a number that differs from node to node.
What to re-check when you change it: ``test_election.py``, and the simulation, which says that no
healthy leader is deposed and that a connected majority finds a leader.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tracker_raft.raft.ballots import (
    Action,
    Answer,
    AskAll,
    Here,
    LastLog,
    LetVote,
    Observe,
    PreVote,
    Stand,
)

HELD_TIMEOUTS = 2.0
"""A request is held for this many time-outs at most; its candidate asks again by then."""
LATE_TIMEOUTS = 1 / 8
"""A turn that begins later than this many time-outs does not trust its clock."""
LOOK_AGAIN_TIMEOUTS = 1 / 3
"""More than the time between two signs of life."""
LOOKS = 2
FAVOUR_STAGGERS = 3.0
"""A granted candidate is favoured for this many staggers."""


class Reconnect(Enum):
    """What one attempt to reach a lost node's process showed."""

    REFUSED = "refused"
    """Nothing listens there: the process is gone."""
    OTHER_RUN = "other run"
    """The node answered with another boot id: the process we knew is gone."""
    SAME_RUN = "same run"
    """The same process answered: only the connection broke."""
    NO_ANSWER = "no answer"
    """A time-out or an unreachable host: proves nothing."""


def leader_is_gone(reconnect: Reconnect) -> bool:
    return reconnect in (Reconnect.REFUSED, Reconnect.OTHER_RUN)


def rank(node: str, reachable: Collection[str], leader: str | None) -> int:
    """Place of ``node`` in the order of standing: among itself and the members it is linked to,
    the lost leader left out, by node id. All members compute the same order from the same links.
    """
    return sorted({node, *reachable} - {leader}).index(node)


@dataclass(slots=True)
class _Held:
    """A request that waits for this node's belief in its leader to end."""

    since_s: float
    log: LastLog
    ask: PreVote | None
    """None: a real vote request, in ``message``."""
    message: dict[str, Any]


@dataclass(slots=True)
class _Favourite:
    """The candidate this node helps at the moment; ``node`` may be itself."""

    node: str
    log: LastLog
    until_s: float

    def gives_way_to(self, node: str, log: LastLog) -> bool:
        if log != self.log:
            return log > self.log
        return node < self.node


@dataclass(slots=True)
class _Round:
    """A pre-vote of this node that is under way."""

    term: int
    until_s: float
    granted: set[str]


class Elections:
    """What one node knows of leaders and candidates. Times in seconds of one monotonic clock."""

    def __init__(self, node: str, members: int, stagger_s: float, here: Here) -> None:
        self._node = node
        self._members = members
        self._voters: frozenset[str] | None = None
        """The others that decide; None: whoever is linked."""
        self._votes = True
        """This node is a voter, so it may stand."""
        self._stagger_s = stagger_s
        self._heard_s = here.now_s
        """When the leader was heard last; at the start, as if it had been just now."""
        self._grace_until_s = here.now_s + here.timeout_s
        """Until then a leader may exist that a node which just started has not heard yet."""
        self._due_s = here.now_s if members == 1 else self._grace_until_s
        self._ranked = False
        """The place in the order of standing is counted in ``_due_s``."""
        self._looks = LOOKS
        self._look_again_s = -math.inf
        """Until then silence is not death: this node stood still itself."""
        self._silent = False
        """The leader was silent for too long once: only its own word undoes that."""
        self._gone: str | None = None
        """A leader whose process is proved gone."""
        self._forced = False
        self.told = False
        """The leader of ``_heard_term`` hands over to this node."""
        self._heard_term = 0
        self._observe = 0
        self._rounds = 0
        self._round: _Round | None = None
        self._favourite: _Favourite | None = None
        self._held: dict[str, _Held] = {}
        self._answers: list[Action] = []

    # -- facts -------------------------------------------------------------------------------------

    def members_are(self, voters: frozenset[str], *, votes: bool) -> None:
        """These others decide from now on, and this node if it ``votes``. One that does not never
        stands; it grants votes like any other: who asks may know more of the members."""
        self._members, self._voters, self._votes = len(voters) + votes, voters, votes
        if not votes:
            self._round, self._forced, self.told = None, False, False

    def heard(self, now_s: float, timeout_s: float, term: int) -> None:
        """The leader this node follows, of ``term``, said something."""
        self._heard_s = now_s
        self._due_s, self._ranked = now_s + timeout_s, False
        self._grace_until_s = self._look_again_s = -math.inf
        self._looks = LOOKS
        self._gone = self._round = self._favourite = None
        self._forced = self._silent = False
        # What it says behind its word to stand comes with that in one read, and takes nothing back.
        self.told = self.told and term == self._heard_term
        self._heard_term = term

    def leader_gone(self, leader: str, here: Here) -> None:
        """The process of the leader this node follows is proved gone."""
        self._gone = leader
        self._stand_at(here.now_s + self._wait_s(leader, here))

    def lost_leadership(self, here: Here) -> None:
        """This node does not lead any more; somebody else is to try first."""
        self._put_off(here.now_s + here.timeout_s)

    def put_off(self, until_s: float) -> None:
        """This node cannot keep what a leader promises before then."""
        self._put_off(until_s)
        self._forced = self.told = False

    def told_to_stand(self) -> None:
        """The leader that was heard last hands over to this node."""
        self.told = True

    def hinted(self, term: int, *, led: bool = False) -> None:
        """A member answered this leader that the term is ``term`` already; ``led``: and that it
        follows the leader of that term."""
        self._observe, self._forced = max(self._observe, term), not led

    def stood(self, here: Here) -> None:
        """This node raised its term and asked for votes."""
        self._round, self._forced, self.told = None, False, False
        self._favour(self._node, here)
        self._put_off(here.now_s + here.timeout_s * (1 + self._chance()))

    def voted(self, candidate: str, here: Here) -> None:
        """This node gave its vote: it waits for the winner."""
        self._forced = False
        self._favour(candidate, here)
        self._put_off(here.now_s + here.timeout_s)

    def link_lost(self, node: str) -> None:
        """What came over a broken link is void."""
        self._held.pop(node, None)

    def asked(self, node: str, request: PreVote, here: Here) -> None:
        """A pre-vote of ``node`` arrived; it takes the place of an earlier request."""
        self._held[node] = _Held(here.now_s, request.log, request, {})

    def vote_asked(self, node: str, message: dict[str, Any], here: Here) -> None:
        """A vote request of ``node`` arrived; it takes the place of an earlier request."""
        log = LastLog(message["last_log_term"], message["last_log_index"])
        if message.get("forced") is True or message["term"] <= here.term:
            self._answers.append(LetVote(node, message))  # the engine refuses an old term
            self._note_candidate(node, log, message["term"], here)
        else:
            self._held[node] = _Held(here.now_s, log, None, message)

    def answered(self, node: str, number: int, granted: bool, term: int, here: Here) -> None:
        """``node`` answered the pre-vote ``number``; its own term is ``term``."""
        if self._round is None or number != self._rounds:
            return
        if granted:
            self._round.granted.add(node)
        elif term >= self._round.term:
            self._round = None
            if term > here.term:
                self._observe = max(self._observe, term)
            # Somebody may be standing in that term already: let it win.
            self._put_off(here.now_s + FAVOUR_STAGGERS * self._stagger_s)

    # -- what follows ------------------------------------------------------------------------------

    def believes(self, here: Here) -> bool:
        """Whether this node takes it that there is a live leader, itself perhaps."""
        if here.leads or here.now_s < self._grace_until_s:
            return True
        return here.leader not in (None, self._gone) and not self._is_silent(here)

    def _is_silent(self, here: Here) -> bool:
        return self._silent or here.now_s >= self._ends_s(here)

    def _ends_s(self, here: Here) -> float:
        """When the belief in the leader ends, if nothing is heard."""
        return max(self._heard_s + here.timeout_s, self._look_again_s)

    def _look_again(self, here: Here) -> None:
        """Put the end off if it only seems to have come because this node stood still."""
        late = here.late_s > LATE_TIMEOUTS * here.timeout_s
        if late and self._looks and not self._silent and here.now_s >= self._ends_s(here):
            self._looks -= 1
            self._look_again_s = here.now_s + LOOK_AGAIN_TIMEOUTS * here.timeout_s

    def deadline_s(self, here: Here) -> float:
        """When :meth:`step` has something to do although nothing happens."""
        if self._answers or self._observe or self._forced or self.told:
            return here.now_s
        if here.leads:
            return math.inf
        due_s = self._due_s if self._round is None else self._round.until_s
        due_s = due_s if self._votes else math.inf
        if self._held:
            if self.believes(here):
                due_s = min(due_s, max(self._ends_s(here), self._grace_until_s))
            elif self._favourite is not None:
                due_s = min(due_s, self._favourite.until_s)
        return due_s

    def step(self, here: Here) -> list[Action]:
        """What is to be done now."""
        actions, self._answers = self._answers, []
        self._look_again(here)
        self._silent = self._is_silent(here)
        observe, self._observe = self._observe > here.term and self._observe, 0
        forced, self._forced, self.told = self._forced or self.told, False, False
        if observe:
            actions.append(Observe(observe))
        if forced and self._votes and (observe or not here.leads):
            return [*actions, Stand(forced=True)]
        self._judge_held(here, actions)
        if not here.leads and self._votes:
            self._consider(here, actions)
        return actions

    def _judge_held(self, here: Here, actions: list[Action]) -> None:
        believes = self.believes(here)
        for node, held in list(self._held.items()):
            over = here.now_s >= held.since_s + HELD_TIMEOUTS * here.timeout_s
            if over or (not believes and self._judge(node, held, here, actions)):
                del self._held[node]

    def _judge(self, node: str, held: _Held, here: Here, actions: list[Action]) -> bool:
        """Answer one request, or leave it held (False)."""
        if held.ask is None:
            actions.append(LetVote(node, held.message))
            self._note_candidate(node, held.log, held.message["term"], here)
            return True
        if held.ask.term <= here.term or held.log < here.log:
            actions.append(Answer(node, held.ask.round, granted=False))
            if held.log < here.log:
                self._stand_at(here.now_s + self._wait_s(node, here))
            return True
        favourite = self._favourite
        if (
            favourite is not None
            and favourite.node != node
            and here.now_s < favourite.until_s
            and not favourite.gives_way_to(node, held.log)
        ):
            return False
        self._favourite = _Favourite(node, held.log, here.now_s + FAVOUR_STAGGERS * self._stagger_s)
        self._round = None
        self._put_off(self._favourite.until_s)
        actions.append(Answer(node, held.ask.round, granted=True))
        return True

    def _note_candidate(self, node: str, log: LastLog, term: int, here: Here) -> None:
        """A vote request goes to the engine. If the candidate cannot win this vote, its higher
        term still ends the watch over a lost leader: waiting for a time-out would leave the
        cluster without a leader for nothing."""
        if not here.leads and term > here.term and log < here.log:
            self._stand_at(here.now_s + self._wait_s(node, here))

    def _consider(self, here: Here, actions: list[Action]) -> None:
        """Ask for pre-votes, or stand when a majority would vote for this node."""
        if self._round is not None:
            if len(self._of_voters(self._round.granted)) + 1 > self._members / 2:
                self._round = None
                actions.append(Stand(forced=False))
            elif here.now_s >= self._round.until_s:
                self._round = None
                self._put_off(here.now_s + here.timeout_s * self._chance())
            return
        if here.now_s < self._due_s:
            return
        if self._members == 1:
            actions.append(Stand(forced=False))
            return
        if self.believes(here):
            self._due_s = max(self._ends_s(here), self._grace_until_s)
            return
        if not self._ranked:
            self._ranked = True
            self._due_s += self._wait_s(here.leader, here)
            if here.now_s < self._due_s:
                return
        self._rounds += 1
        self._round = _Round(here.term + 1, here.now_s + here.timeout_s, set())
        self._favour(self._node, here)
        actions.append(AskAll(PreVote(here.term + 1, here.log, self._rounds)))

    # -- parts -------------------------------------------------------------------------------------

    def _wait_s(self, other: str | None, here: Here) -> float:
        """Seconds before this node stands, ``other`` being one that cannot win."""
        linked = self._of_voters(here.linked)
        place = rank(self._node, linked, other)
        if here.catching_up:
            place += len(linked) + 1
        return place * self._stagger_s

    def _of_voters(self, nodes: Collection[str]) -> list[str]:
        return [node for node in nodes if self._voters is None or node in self._voters]

    def _favour(self, node: str, here: Here) -> None:
        self._favourite = _Favourite(node, here.log, here.now_s + FAVOUR_STAGGERS * self._stagger_s)

    def _stand_at(self, due_s: float) -> None:
        """Stand then at the latest; the place in the order is counted in."""
        if due_s < self._due_s:
            self._due_s, self._ranked = due_s, True

    def _put_off(self, due_s: float) -> None:
        """Stand then at the earliest; the place in the order is counted in."""
        self._due_s, self._ranked = max(due_s, self._due_s), True

    def _chance(self) -> float:
        """From 0 to 1, another for each node and attempt."""
        return zlib.crc32(f"{self._node} {self._rounds}".encode()) / 2**32

    def __repr__(self) -> str:
        round_ = "no round" if self._round is None else f"round {self._rounds}"
        return f"<Elections {self._node} due={self._due_s:.3f} {round_} held={sorted(self._held)}>"
