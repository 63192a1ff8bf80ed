"""What moves the log of one replica: operations handed on, entries committed, applied, answered.

This is what every write passes through, on each tracker, so it holds nothing else: what only time
or another event asks for is the rest of a turn (:mod:`replica`), and comes round a few times in a
second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tracker_raft.config import RaftTiming
from tracker_raft.raft.colleagues import Colleagues
from tracker_raft.raft.departures import Departures
from tracker_raft.raft.engine import Engine, Role
from tracker_raft.raft.handover import HandOver
from tracker_raft.raft.intake import Intake
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.proposer import Proposer
from tracker_raft.raft.reads import Reads
from tracker_raft.raft.roll import Roll
from tracker_raft.raft.turns import WAITING_S, Ask, Turns

log = logging.getLogger("tracker_raft.replica")


class LogWork:
    """``leader()`` gives the leader that is reachable; ``ticked()`` is called behind a tick in
    which everything was looked at; ``give_way()`` lets other processes have the processor."""

    def __init__(
        self,
        engine: Engine,
        journal: SegmentJournal,
        *,
        intake: Intake,
        reads: Reads,
        proposer: Proposer,
        colleagues: Colleagues,
        hand_over: HandOver,
        roll: Roll,
        departures: Departures,
        turns: Turns,
        timing: RaftTiming,
        leader: Callable[[], str | None],
        ticked: Callable[[], None],
        give_way: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._intake = intake
        self._reads = reads
        self._proposer = proposer
        self._colleagues = colleagues
        self._hand_over = hand_over
        self._roll = roll
        self._departures = departures
        self._turns = turns
        self._timing = timing
        self._leader = leader
        self._ticked = ticked
        self._give_way = give_way
        self._leading = False
        """The no-op of its own term is applied, and time goes on from there."""

    @property
    def may_tick(self) -> bool:
        """Not on a node that is alone while its journal is behind: it would commit at once."""
        return bool(self._engine.voters) or self._journal.durable == self._journal.position

    def do(self, now_s: float, *, everything: bool = False) -> None:
        """Hand on, commit, apply, answer, send. ``everything``: also what only time asks for."""
        engine, departures = self._engine, self._departures
        committed, applied = engine.raftCommitIndex, engine.raftLastApplied
        self._intake.expire(now_s)
        self._reads.barrier.expire(now_s)
        if self.may_tick:
            if engine.role is Role.FOLLOWER:
                departures.flush()  # what is new is kept before the rest is applied
                if engine.applies_more:
                    self._give_way()  # the leader may wait for this processor
            if everything or self._intake.waiting or self._reads.barrier.waiting:
                self._hand_on(now_s)
            engine.send_what_is_new(now_s)
            if self.may_tick:  # what was just handed on may have to wait for this disk alone
                if everything:
                    engine.doTick(0)
                else:
                    engine.move_log(now_s)
            if everything:
                self._ticked()
            if everything or engine.raftLastApplied != applied:
                self._roll.step()
                self._note_leadership(now_s, everything=everything)
            self._reads.wake(now_s)
        departures.flush()
        if self.may_tick and (engine.has_more or self._may_propose(now_s)):
            self._turns.ask(self.ask)
        elif self._hand_over.waits and engine.raftCommitIndex > committed:
            self._turns.ask(Ask.TURN)  # what it waits for may have come just now
        self._turns.work_due(self._due_s(now_s), now_s)

    @property
    def ask(self) -> Ask:
        """What is to be done as the log may move: whoever hands over looks at it in every turn."""
        return Ask.TURN if self._hand_over.waits else Ask.WORK

    def _hand_on(self, now_s: float) -> None:
        """Give what waits to the log, to the leader, or leave it waiting for one."""
        if self._engine.leads and self._leading:
            if not (self._hand_over.paused or self._proposer.gathers(now_s)):
                self._proposer.propose(now_s)
            self._colleagues.ask_term(tuple(self._engine.voters), 4 * self._timing.heartbeat_s)
        elif self._engine.role is not Role.LEADER:
            self._intake.refuse_remote()
            self._colleagues.ask_leader(self._leader(), self._timing.together_bytes)

    def _may_propose(self, now_s: float) -> bool:
        """What gathered for the next entry may go: the one before was committed just now."""
        if not (self._leading and self._intake.waiting) or self._hand_over.paused:
            return False
        return self._engine.leads and not self._proposer.gathers(now_s)

    def _note_leadership(self, now_s: float, *, everything: bool) -> None:
        engine = self._engine
        if engine.leads and not self._leading:
            self._leading = True
            self._proposer.begin(now_s)
            at = engine.raftCurrentTerm, engine.raftLastApplied
            log.info("leads term %d from entry %d on", *at)
            self._turns.kick()
        elif self._leading and everything:
            self._proposer.pass_time(now_s)

    def lost_leadership(self) -> None:
        """What waits and was proposed is told so."""
        self._leading = False
        self._intake.lost_leadership()
        self._reads.barrier.lost_leadership()

    def _due_s(self, now_s: float) -> float:
        due_s = self._engine.deadline()
        if due_s <= now_s:  # the tick just now could not act on it: nobody is linked, a link kicks
            due_s = now_s + self._timing.heartbeat_s
        if (deadline_s := self._intake.next_deadline_s()) is not None:
            due_s = min(due_s, deadline_s)
        if self._intake.waiting or len(self._reads):
            due_s = min(due_s, now_s + WAITING_S)
            if self._leading and self._proposer.gathers(now_s):
                due_s = min(due_s, self._proposer.gathered_s)
        return due_s
