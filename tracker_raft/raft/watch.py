"""Carries out what :mod:`election` decides, and brings it the facts.

The shell around the policy: it knows the engine, the links and the clock. When the link to the
leader breaks it finds out whether the leader's process is gone. A pre-vote is two messages of
ours; a vote request is the library's, let through when the policy says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

from tracker_raft.commands import INTEGER_MAX, check_int
from tracker_raft.raft import ballots, election
from tracker_raft.raft.ballots import Here, LastLog, PreVote
from tracker_raft.raft.election import Elections
from tracker_raft.raft.engine import Engine, Member, Role
from tracker_raft.raft.filters import INDEX_MAX, TERM_JUMP_MAX
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.lag import LoopLag
from tracker_raft.raft.seams import Lines, Message, Scheduler
from tracker_raft.raft.status import Election, Sight

log = logging.getLogger("tracker_raft.watch")

RECONNECT_TRIES = 8
RECONNECT_PAUSE_S = 0.002
"""A dying process may still complete a handshake: ask again a moment later."""


class LeaderWatch:
    """``kick`` asks for a turn of the replica, which calls :meth:`step`."""

    def __init__(
        self,
        members: dict[str, Member],
        engine: Engine,
        lines: Lines,
        scheduler: Scheduler,
        *,
        node: str,
        stagger_s: float,
        lag: LoopLag,
        handing_over: Callable[[], bool],
        kick: Callable[[], None],
    ) -> None:
        """``members``: the others by id, whoever was ever linked."""
        self._members = members
        self._engine = engine
        self._lines = lines
        self._scheduler = scheduler
        self._lag = lag
        self._handing_over = handing_over
        self._kick = kick
        self._closed = False
        self._told_alive_s = -math.inf
        self._role = engine.role
        self._elections = Elections(node, len(engine.voters) + 1, stagger_s, self._here())
        self._node = node
        self.election: Election | None = None
        """The last one that this process knows of."""
        self._cause = ""
        """Why there is no leader, as far as noted since one was heard; for people."""
        self._heard_s = -math.inf

    def _here(self) -> Here:
        engine, now_s = self._engine, self._scheduler.time()
        return Here(
            now_s,
            timeout_s=self._lag.timeout_s(now_s),
            leads=engine.role is Role.LEADER,
            term=engine.raftCurrentTerm,
            leader=engine.leader,
            log=LastLog(*engine.last_log),
            linked=self._lines.connected,
            late_s=self._lag.late_s,
            catching_up=engine.applies_more,
        )

    # -- a turn of the replica ---------------------------------------------------------------------

    def deadline_s(self) -> float:
        return self._elections.deadline_s(self._here())

    def step(self) -> None:
        """Before a tick: do what is due. The tick then stands, if it is to."""
        for action in self._elections.step(self._here()):
            match action:
                case ballots.AskAll(request):
                    self._note_cause()
                    self._ask_all(request)
                case ballots.Answer(node, number, granted):
                    term = self._engine.raftCurrentTerm
                    log.info("would%s vote for %s", "" if granted else " not", node)
                    answer = {"type": "pre_voted", "round": number, "granted": granted}
                    self._lines.send(node, {**answer, "term": term})
                case ballots.LetVote(node, message):
                    self._let_vote(node, message)
                case ballots.Observe(term):
                    self._engine.observe_term(term)
                case ballots.Stand(forced):
                    self._note_cause()
                    self._engine.stand(forced=forced)

    def _ask_all(self, request: PreVote) -> None:
        ask = {
            "type": "pre_vote",
            "term": request.term,
            "round": request.round,
            "last_log_index": request.log.index,
            "last_log_term": request.log.term,
        }
        log.info("asks whether it would be elected in term %d", request.term)
        for node in self._lines.connected:
            if node in self._engine.voters:
                self._lines.send(node, ask)

    def _let_vote(self, node: str, message: Message) -> None:
        engine = self._engine
        engine.deliver(self._members[node], message)
        if engine.raftCurrentTerm == message["term"] and engine.voted_for == node:
            self._elections.voted(node, self._here())

    def ticked(self) -> None:
        """After a tick: what it made of this node."""
        before, self._role = self._role, self._engine.role
        if self._engine.stood():
            self._elections.stood(self._here())
        elif before is Role.LEADER and self._role is not Role.LEADER:
            self._cause = self._cause or f"{self._node} stopped leading"
            self._elections.lost_leadership(self._here())
        if before is not Role.LEADER and self._role is Role.LEADER:
            self._note_election(self._node)

    def _note_cause(self) -> None:
        leader = self._engine.leader
        if self._cause:
            return
        if not self._engine.voters:
            self._cause = "alone"
        elif leader is None or leader == self._node or self._heard_s == -math.inf:
            self._cause = "no leader was heard"
        else:
            silent_s = self._scheduler.time() - self._heard_s
            self._cause = f"leader {leader} silent for {silent_s:.2f} s"

    def _note_election(self, leader: str) -> None:
        term, now_s = self._engine.raftCurrentTerm, self._scheduler.time()
        self.election = Election(term, leader, self._cause, now_s)
        if leader == self._node:
            log.info("elected in term %d: %s", term, self._cause)

    def sight(self, journal: SegmentJournal) -> Sight:
        engine, now_s = self._engine, self._scheduler.time()
        silent_s: float | None = now_s - self._heard_s
        behind = None
        if engine.role is Role.LEADER:
            last, silent_s = journal.last_index, 0.0
            behind = {n: last - engine.matched(member) for n, member in engine.members.items()}
        elif engine.leader is None or self._heard_s == -math.inf:
            silent_s = None
        return Sight(
            election_timeout_s=self._lag.timeout_s(now_s),
            election=self.election,
            election_ago_s=None if self.election is None else now_s - self.election.at_s,
            leader_silent_s=silent_s,
            behind=behind,
            log_bytes=journal.disk_bytes,
        )

    def members_are(self, voters: frozenset[str], votes: bool) -> None:
        """These others vote from now on, and this node if it ``votes``."""
        self._elections.members_are(voters, votes=votes)

    @property
    def knows_leader(self) -> bool:
        """Whether this node takes it that somebody leads its term."""
        return self._engine.leader is not None and self._elections.believes(self._here())

    def put_off(self, seconds: float) -> None:
        """This node cannot keep what a leader promises for that long."""
        self._elections.put_off(self._scheduler.time() + seconds)

    def close(self) -> None:
        self._closed = True

    # -- what members say --------------------------------------------------------------------------

    def heard(self, leader: str, message: Message, *, waits: bool) -> None:
        """An append of the leader was taken in. ``waits``: the answer waits for the disk here, and
        the leader is told meanwhile that somebody follows."""
        if message["term"] != self._engine.raftCurrentTerm:
            return
        now_s, term = self._scheduler.time(), message["term"]
        timeout_s = self._lag.timeout_s(now_s)
        self._elections.heard(now_s, timeout_s, term)
        self._heard_s = now_s
        if self.election is None or self.election.term != term:
            self._note_election(leader)
        if not self._elections.told:  # what comes behind that word takes no cause back
            self._cause = ""
        if waits and now_s >= self._told_alive_s + timeout_s / 4:
            self._told_alive_s = now_s
            self._lines.send(leader, {"type": "alive", "term": term})

    def vote_asked(self, node: str, message: Message) -> None:
        """A vote request, as the filters let it through."""
        self._elections.vote_asked(node, message, self._here())

    def told_to_stand(self, node: str, message: Message) -> None:
        """``timeout_now``: the leader hands over to this node."""
        if node == self._engine.leader and message["term"] == self._engine.raftCurrentTerm:
            log.info("leader %s hands over to this node", node)
            self._cause = f"told to stand by {node}"
            self._elections.told_to_stand()

    def received(self, node: str, message: Message) -> bool:
        """A message of ours about elections; False: it is about something else. Raises
        :class:`BadRequest`, KeyError or ValueError for a malformed one."""
        match message.get("type"):
            case "pre_vote":
                last = LastLog(
                    _number(message, "last_log_term"), _number(message, "last_log_index")
                )
                request = PreVote(_number(message, "term"), last, _number(message, "round"))
                self._elections.asked(node, request, self._here())
            case "pre_voted":
                if type(message["granted"]) is not bool:
                    raise ValueError(f"granted is {message['granted']!r}")
                self._elections.answered(
                    node,
                    _number(message, "round"),
                    message["granted"],
                    self._term(message),
                    self._here(),
                )
            case "alive":
                if _number(message, "term") == self._engine.raftCurrentTerm:
                    self._engine.heard_from(self._members[node])
            case "term_hint":
                term = self._term(message)
                if self._engine.role is Role.LEADER:
                    log.info("%s has seen term %d already", node, term)
                    self._cause = f"{node} had seen term {term} already"
                    led = message.get("led") is True or self._handing_over()
                    self._elections.hinted(term, led=led)
            case _:
                return False
        return True

    def _term(self, message: Message) -> int:
        """A term that this node may take over."""
        most = min(self._engine.raftCurrentTerm + TERM_JUMP_MAX, INDEX_MAX)
        return check_int("term", message["term"], 0, most)

    # -- links -------------------------------------------------------------------------------------

    def link_up(self, node: str, *, other_run: bool) -> None:
        """A link came up; the process behind it may be another than the one that led."""
        if other_run and self._follows(node):
            self._gone(node, election.Reconnect.OTHER_RUN)

    def link_down(self, node: str) -> None:
        """A link broke; if it was the leader's, find out whether its process is gone."""
        self._elections.link_lost(node)
        if self._follows(node):
            self._investigate(node, RECONNECT_TRIES)

    def _follows(self, node: str) -> bool:
        return self._engine.leader == node and self._engine.role is Role.FOLLOWER

    def _investigate(self, leader: str, tries: int) -> None:
        if tries and not self._closed and self._follows(leader) and not self._lines.linked(leader):
            self._lines.reconnect(leader, partial(self._showed, leader, tries))

    def _showed(self, leader: str, tries: int, reconnect: election.Reconnect) -> None:
        if self._closed or not self._follows(leader) or self._lines.linked(leader):
            return
        if election.leader_is_gone(reconnect):
            self._gone(leader, reconnect)
        elif reconnect is election.Reconnect.NO_ANSWER:
            again_s = self._scheduler.time() + RECONNECT_PAUSE_S
            self._scheduler.call_at(again_s, self._investigate, leader, tries - 1)

    def _gone(self, leader: str, reconnect: election.Reconnect) -> None:
        self._cause = f"leader {leader} is gone ({reconnect.value})"
        log.info("%s", self._cause)
        self._elections.leader_gone(leader, self._here())
        self._kick()


def _number(message: Message, name: str) -> int:
    return check_int(name, message[name], 0, INTEGER_MAX)
