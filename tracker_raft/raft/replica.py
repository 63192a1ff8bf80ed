"""One replica: the engine ticked by hand, its log synced in time, operations in, answers out.

Everything runs on one loop (:mod:`seams`); nothing here is touched by a second thread. Work is
done in *turns* (:meth:`Replica._turn`): whatever arrived since the last one (operations, reads,
messages) is handled together, so that one log entry and one sync serve all of it. A turn is due
when something arrived (:meth:`Replica.kick`) or when the next deadline is over; an idle replica
sleeps.

The order of a turn is the safety argument (S4, S5 of the library's defects):

1. what waits is packed into an entry and enters the log of a leader, unless it gathers while one
   is under way (:meth:`Proposer.gathers`); or it is forwarded to the leader;
2. the engine ticks: commit, apply (callbacks answer proposers), send;
3. messages leave, and the disk keeps what the journal took in; what promises durability leaves
   when it does (:mod:`departures`).

A follower takes step 3 before a tick as well, and alone where it only got entries. A leader
counts itself as soon as an acknowledgement arrives, so those above its own durable index wait at
the gate; a node that is alone ticks only when its journal is durable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tracker_raft.config import NodeConfig
from tracker_raft.errors import LocalError, P2PError, Removed, ShuttingDown
from tracker_raft.machine import Applied, TrackerMachine
from tracker_raft.raft import filters
from tracker_raft.raft.agreement import CHECK_EVERY, Agreement
from tracker_raft.raft.colleagues import Colleagues
from tracker_raft.raft.departures import Departures
from tracker_raft.raft.engine import Engine, Role
from tracker_raft.raft.flights import Flights
from tracker_raft.raft.gate import Gate
from tracker_raft.raft.handover import Done, HandOver
from tracker_raft.raft.inbox import FatalReplicaError, Inbox, asks
from tracker_raft.raft.intake import Intake, Sink
from tracker_raft.raft.keeper import SnapshotKeeper
from tracker_raft.raft.lag import LoopLag
from tracker_raft.raft.logwork import LogWork
from tracker_raft.raft.membership import Membership, Placed, begun
from tracker_raft.raft.outbox import Outbox
from tracker_raft.raft.proposer import Proposer
from tracker_raft.raft.reads import Reads
from tracker_raft.raft.reconfiguration import Reconfiguration
from tracker_raft.raft.recovery import Recovered
from tracker_raft.raft.roll import Roll
from tracker_raft.raft.seams import Lines, Message, Scheduler
from tracker_raft.raft.snapshots import Snapshot
from tracker_raft.raft.status import ReplicaStatus
from tracker_raft.raft.storage import Storage, Writer
from tracker_raft.raft.turns import Ask, Turns
from tracker_raft.raft.watch import LeaderWatch

log = logging.getLogger("tracker_raft.replica")


class Replica:
    """This node's part in the replicated state machine. ``links.owner`` must be this object."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        recovered: Recovered,
        storage: Storage,
        writer: Writer,
        links: Lines,
        scheduler: Scheduler,
        on_fatal: Callable[[str], None],
        give_way: Callable[[], object] = lambda: None,
    ) -> None:
        self.config = config
        self.machine = recovered.machine
        self.journal = recovered.journal
        self.links = links
        self._writer, self._gate = writer, Gate()
        self._on_fatal, self._scheduler = on_fatal, scheduler
        self._lag = LoopLag(config.timing.election_timeout_s)
        self._turns = Turns(
            scheduler,
            self._lag,
            flush=lambda: self._departures.flush(),
            work=lambda now_s: self._work.do(now_s),
            turn=self._turn,
            failed=self._failed,
        )
        self.kick = self._turns.kick
        self._flights = Flights()
        self._outbox = Outbox(
            config, links, self._flights, self._gate, lambda: self.engine, scheduler.time
        )
        self.intake = Intake(
            pending_max=config.limits.intake_max,
            operation_bytes_max=config.timing.entry_bytes_max // 2,
        )
        self.reads = Reads(config, lambda: int(self.engine.raftLastApplied), self._ask_work)
        self.removed = False
        """It failed because this node is no member any more."""
        self._closed = False
        membership = begun(config, self.journal, recovered.members)
        self.engine = self._make_engine(membership)
        self._nodes = self.engine.nodes
        self._agreement = Agreement(config.node, len(config.members))
        self.keeper = self._make_keeper(recovered, storage)
        self._colleagues = self._make_colleagues()
        self._watch = self._make_watch()
        self._hand_over = HandOver(
            self.engine, self.engine.voters, links, self._outbox.send, config.timing.heartbeat_s
        )
        self.roll = self._make_roll(membership)
        self.members = self._make_members(membership)
        self._inbox = self._make_inbox()
        self._departures = self._make_departures()
        self._work = self._make_work(give_way)
        self.kick()

    def _make_engine(self, membership: Membership) -> Engine:
        return Engine(
            self.config.node,
            membership.other_voters,
            transport=self._outbox,
            journal=self.journal,
            timing=self.config.timing,
            applier=self._apply,
            on_role=self._role_changed,
            lags=lambda node: self.keeper.lags(node),
            applied=self.machine.applied or 1,
        )

    def _make_members(self, membership: Membership) -> Reconfiguration:
        now = self._scheduler.time
        return Reconfiguration(
            self.engine,
            membership,
            self.links,
            self._hand_over,
            node=self.config.node,
            version=lambda: self.machine.version,
            timeout_s=lambda: self._lag.timeout_s(now()),
            now=now,
        )

    def _make_roll(self, membership: Membership) -> Roll:
        return Roll(
            membership,
            self.engine,
            self.journal,
            self.links,
            elections=self._watch.members_are,
            voting=(self.reads.barrier,),
            everybody=self._agreement.members_are,
        )

    def _make_colleagues(self) -> Colleagues:
        return Colleagues(
            self.engine,
            self.intake,
            self.reads.barrier,
            self.links,
            self.config.limits,
            version=lambda: self.machine.version,
            leaderless_s=2 * self.config.timing.election_timeout_s,
            now=self._scheduler.time,
            flush=self._turns.flush_soon,
        )

    def _make_watch(self) -> LeaderWatch:
        return LeaderWatch(
            self._nodes,
            self.engine,
            self.links,
            self._scheduler,
            node=self.config.node,
            stagger_s=self.config.timing.stagger_s,
            lag=self._lag,
            handing_over=lambda: self._hand_over.waits,
            kick=self.kick,
        )

    def _make_keeper(self, recovered: Recovered, storage: Storage) -> SnapshotKeeper:
        return SnapshotKeeper(
            cluster=self.config.cluster,
            policy=self.config.snapshots,
            host=self,
            storage=storage,
            writer=self._writer,
            journal=self.journal,
            lines=self.links,
            scheduler=self._scheduler,
            durable=recovered.snapshot,
        )

    def _make_inbox(self) -> Inbox:
        return Inbox(
            members=self._nodes,
            engine=self.engine,
            journal=self.journal,
            lines=self.links,
            outbox=self._outbox,
            flights=self._flights,
            gate=self._gate,
            watch=self._watch,
            keeper=self.keeper,
            colleagues=self._colleagues,
            agreement=self._agreement,
            roll=self.roll,
        )

    def _make_departures(self) -> Departures:
        return Departures(
            self.journal,
            self._writer,
            self._outbox,
            self._gate,
            count=self._count,
            durable=self._made_durable,
            full=self._out_of_room,
            later=self._turns.guarded,
        )

    def _make_work(self, give_way: Callable[[], object]) -> LogWork:
        timing = self.config.timing
        return LogWork(
            self.engine,
            self.journal,
            intake=self.intake,
            reads=self.reads,
            proposer=Proposer(
                self.engine, self.intake, lambda: self.machine, self.links, timing.together_bytes
            ),
            colleagues=self._colleagues,
            hand_over=self._hand_over,
            roll=self.roll,
            departures=self._departures,
            turns=self._turns,
            timing=timing,
            leader=lambda: self.leader,
            ticked=self._watch.ticked,
            give_way=give_way,
        )

    # -- operations and reads --------------------------------------------------------------------

    def submit(
        self, packed: bytes, deadline_s: float, sink: Sink, *, own: bool = False, word: str = ""
    ) -> None:
        """Get one operation (:func:`~tracker_raft.entries.pack_operation`) into the log.

        ``own``: it is this tracker's, not a client's. ``word``: the operation's, for the sake of
        those that the cluster version may not allow.
        ``sink`` is called once, before ``deadline_s`` (loop time) is much over, with the state
        machine's reply and its position, or with ``no_leader`` or ``outcome_unknown``. Raises
        :class:`Busy`, :class:`TooLarge` or :class:`ShuttingDown`, and then does not call it.
        """
        if self._turns.stopped:
            raise ShuttingDown("this tracker is stopping; not run")
        self.intake.add(packed, deadline_s, sink, own=own, word=word)
        self._ask_work()

    def status(self) -> ReplicaStatus:
        engine = self.engine
        return ReplicaStatus(
            role=engine.role.name.lower(),
            leader=self.leader,
            term=engine.raftCurrentTerm,
            commit=engine.raftCommitIndex,
            applied=engine.raftLastApplied,
            state_hash=self.machine.state_hash,
            log_entries=len(self.journal),
            journal_syncs=self.journal.syncs,
            disk_full=self.journal.full,
            snapshot=0 if self.keeper.durable is None else self.keeper.durable.index,
            sight=self._watch.sight(self.journal),
        )

    @property
    def leader(self) -> str | None:
        """The leader this node believes in and is, or is linked to."""
        leader = self.engine.leader
        if leader is None or leader == self.config.node or self.links.linked(leader):
            return leader
        return None

    def close(self) -> None:
        """Stop: answer whatever is pending, sync and close the journal. The loop must still run."""
        if self._closed:
            return
        self._closed = True
        self._turns.stop()
        self._watch.close()
        self.keeper.close()
        stopping = ShuttingDown("this tracker is stopping; not run")
        self.intake.refuse_all(stopping)
        self.reads.refuse_all(stopping)
        self.members.refuse_all(stopping)
        self.engine.destroy()

    def hand_over(self, target: str | None, patience_s: float, done: Done) -> None:
        """As the leader: let ``target`` lead (None: whoever is most up to date). ``done`` is called
        once, within ``patience_s``. Raises :class:`BadRequest` for a target that
        is no other member, :class:`NoLeader` when this node does not lead.
        """
        self._hand_over.begin(target, self._scheduler.time() + patience_s, done)
        self.kick()

    # -- turns -----------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> None:
        log.critical("the replica stops: %s", error, exc_info=not isinstance(error, P2PError))
        self.removed = isinstance(error, Removed)
        self._on_fatal(str(error) or type(error).__name__)

    def _ask_work(self) -> None:
        self._turns.ask(Ask.WORK)

    def _turn(self, now_s: float) -> None:
        self.engine.be_patient(self._lag.timeout_s(now_s))
        if self._work.may_tick:
            self.engine.lead_alone()
            self._watch.step()
            self._hand_over.step(now_s)
            self.members.step(now_s)
        self._work.do(now_s, everything=True)
        self.keeper.consider()
        self._arm(now_s)

    def _out_of_room(self) -> None:
        """The disk is full: promise nothing. Reads go on; the next turn asks for room again."""
        self.engine.step_down()
        self._watch.put_off(2 * self.config.timing.election_timeout_s)

    def _count(self, node: str, message: Message) -> None:
        """An acknowledgement that waited for this node's own disk."""
        self._inbox.raft(node, message, waited=True)
        self._turns.ask(self._work.ask)

    def _made_durable(self) -> None:
        if not self.engine.voters and not self.journal.full:  # a tick waits for this disk alone
            self.kick()

    def _arm(self, now_s: float) -> None:
        """A leader looks at everything as often as it gives a sign of life."""
        latest_s = now_s + self.config.timing.heartbeat_s
        due_s = self._watch.deadline_s()
        if due_s <= now_s or self.engine.role is Role.LEADER:
            due_s = latest_s
        for deadline_s in (self._hand_over.deadline_s(), self.members.deadline_s()):
            if deadline_s is not None:
                due_s = min(due_s, deadline_s)
        self._turns.turn_due(due_s, now_s)

    # -- what the engine reports -----------------------------------------------------------------

    def _apply(self, index: int, payload: bytes | None) -> tuple[int, Applied] | None:
        if payload is None:
            self.machine.skip(index)
            return None
        applied = self.machine.apply(index, payload)
        if applied.stop is not None:
            raise FatalReplicaError(f"entry {index}: {applied.stop}")
        if index % CHECK_EVERY == 0:
            self._inbox.applied(index, self.machine.state_hash)
        return index, applied

    # -- what the keeper of snapshots asks ---------------------------------------------------------

    @property
    def term(self) -> int:
        return int(self.engine.raftCurrentTerm)

    def members_at(self, index: int) -> Placed | None:
        return self.roll.membership.for_snapshot(index)

    def install(self, snapshot: Snapshot, machine: TrackerMachine, leader: str) -> None:
        """Go on from a snapshot that is durable here, unless the log got beyond it meanwhile."""
        self._turns.guarded(self._install, snapshot, machine, leader)

    def _install(self, snapshot: Snapshot, machine: TrackerMachine, leader: str) -> None:
        if snapshot.index <= self.engine.raftLastApplied:
            return
        if self.journal.term_at(snapshot.index) != snapshot.term:
            self.journal.restart_at(snapshot.index, snapshot.term)
            self.roll.restarted(snapshot.members)
        machine.succeed(self.machine)
        self.machine = machine
        self.engine.installed(snapshot.index)
        if self.links.linked(leader):
            self._outbox.send(self._nodes[leader], filters.acknowledge(snapshot.index))
        self.kick()

    def fail(self, failure: LocalError) -> None:
        self._turns.fail(failure)

    def _role_changed(self, old: Role, new: Role) -> None:
        if old is Role.LEADER:
            self._work.lost_leadership()
            self.members.lost_leadership()
        log.info("becomes %s", new.name.lower())
        self.kick()

    # -- what the links report -------------------------------------------------------------------

    def link_up(self, node: str, *, other_run: bool) -> None:
        self._turns.guarded(self._outbox._onNodeConnected, self._nodes[node])
        self._watch.link_up(node, other_run=other_run)
        self.roll.link_up(node)
        self.kick()

    def link_down(self, node: str) -> None:
        self._turns.guarded(self._outbox._onNodeDisconnected, self._nodes[node])
        self._gate.link_lost(node)
        self.intake.link_lost(node)
        self.reads.barrier.link_lost(node)
        if not self._turns.stopped:
            self._watch.link_down(node)
        self.kick()

    def told_removed(self, node: str) -> None:
        """``node`` refuses this very directory: it was removed."""
        self._turns.guarded(self.roll.told_removed, node)

    def link_message(self, node: str, message: Message) -> None:
        """One message of a member; one that makes no sense costs it the link. :meth:`link_read`
        follows when all that came with it was told."""
        before = self.engine.standing
        self._turns.guarded(self._inbox.received, node, message)
        if before != self.engine.standing or self._hand_over.waits:
            self.kick()
        else:
            self._turns.ask(asks(message))

    def link_read(self, node: str) -> None:
        """All that was read from a link was told. What it brought is done at once, but for what is
        to wait for others: new operations."""
        moves = self._work.may_tick and self.engine.advances
        self._turns.at_once(Ask.WORK if moves else Ask.FLUSH)
