"""One replica: the engine ticked by hand, its log synced in time, operations in, answers out.

Everything runs on one event loop; nothing here is touched by a second thread. Work is done in
*turns* (:meth:`Replica._turn`): whatever arrived since the last one (operations, reads, messages)
is handled together, so that one log entry and one sync serve all of it. A turn is due when
something arrived (:meth:`Replica.kick`) or when the next deadline is over; an idle replica sleeps.

The order of a turn is the safety argument (S4, S5 of the library's defects):

1. what waits is packed into entries and enters the log of a leader, or is forwarded to it;
2. the engine ticks: commit, apply (callbacks answer proposers), send;
3. messages that promise nothing (appends, forwards) leave;
4. the journal is synced, once, for everything in this turn;
5. messages that promise durability (acknowledgements, votes, vote requests) leave.

A leader counts itself as soon as an acknowledgement arrives, so its own journal is synced before
any acknowledgement is delivered, and before the tick when it is alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import Any

from tracker_raft.commands import Level
from tracker_raft.config import NodeConfig
from tracker_raft.entries import pack_entry
from tracker_raft.errors import BadRequest, NoLeader, P2PError, ShuttingDown, TooLarge
from tracker_raft.machine import Applied, TrackerMachine
from tracker_raft.raft import election, filters
from tracker_raft.raft.clock import LogicalClock
from tracker_raft.raft.engine import FAIL_REASON, Engine, Node, Role, Transport
from tracker_raft.raft.intake import Intake, Position, Reply, Sink
from tracker_raft.raft.journal import FileJournal
from tracker_raft.raft.links import Links
from tracker_raft.raft.reads import ReadBarrier, Waiter

log = logging.getLogger("tracker_raft.replica")

Message = dict[str, Any]
ReadDone = Callable[[P2PError | None], None]

TIMER_FLOOR_S = 0.002
PACE_S = 0.01
"""Before a tracker that was told "I do not lead" asks the same leader again."""
RECONNECT_TRIES = 8
EXPIRY_PERIOD_MS = 200
"""Entries that only move time on, so that something due expires, are at least this far apart."""


class FatalReplicaError(Exception):
    """Going on would risk what this node promised; the process must end."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    role: str
    leader: str | None
    term: int
    commit: int
    applied: int
    state_hash: str
    log_entries: int
    journal_syncs: int


class _Outbox(Transport):  # type: ignore[misc]  # the library is untyped
    """Where the engine's messages wait for their turn to leave."""

    def __init__(self, replica: Replica) -> None:
        super().__init__(None, None, None)
        self.replica = replica
        self.queue: deque[tuple[str, Message]] = deque()

    def send(self, node: Node, message: Message) -> bool:
        links, limits = self.replica.links, self.replica.config.limits
        if node.id not in links.connected:
            return False
        behind = message.get("entries") and links.backlog(node.id) > limits.link_buffer_bytes_soft
        if not behind:  # a dropped append is found missing by the next one, and sent again
            term = self.replica.engine.raftCurrentTerm
            self.queue.append((str(node.id), filters.outgoing(message, term)))
        return True


class Replica:
    """This node's part in the replicated state machine. ``links.owner`` must be this object."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        machine: TrackerMachine,
        journal: FileJournal,
        links: Links,
        on_fatal: Callable[[str], None],
        on_role: Callable[[Role], None] = lambda role: None,
    ) -> None:
        self.config = config
        self.machine = machine
        self.journal = journal
        self.links = links
        self._on_fatal = on_fatal
        self._on_role = on_role
        self._loop = asyncio.get_running_loop()
        self._clock = LogicalClock()
        self._outbox = _Outbox(self)
        others = [member.node for member in config.members if member.node != config.node]
        self._nodes = {other: Node(other) for other in others}
        self.intake = Intake(
            pending_max=config.limits.intake_max,
            operation_bytes_max=config.timing.entry_bytes_max // 2,
        )
        self.barrier = ReadBarrier(len(config.members))
        self._applied_waiters: list[tuple[int, int, float, ReadDone]] = []
        self._waiter_numbers = 0
        self._leading = False
        self._expiry_asked_ms = -EXPIRY_PERIOD_MS
        self._ask_leader_from_s = 0.0
        self._last_index_seen = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._investigations: set[asyncio.Task[None]] = set()
        self.engine = Engine(
            config.node,
            others,
            transport=self._outbox,
            journal=journal,
            timing=config.timing,
            applier=self._apply,
            on_role=self._role_changed,
        )
        self.kick()

    # -- operations and reads --------------------------------------------------------------------

    def submit(self, packed: bytes, deadline_s: float, sink: Sink) -> None:
        """Get one operation (:func:`~tracker_raft.entries.pack_operation`) into the log.

        ``sink`` is called once, before ``deadline_s`` (loop time) is much over, with the state
        machine's reply and its position, or with ``no_leader`` or ``outcome_unknown``. Raises
        :class:`Busy` or :class:`TooLarge`, and then does not call it.
        """
        self.intake.add(packed, deadline_s, sink)
        self.kick()

    def read(self, level: Level, seen: int, deadline_s: float, done: ReadDone) -> None:
        """Call ``done`` when the machine may be queried at ``level``, or with an error."""
        if level is Level.LOCAL:
            done(None)
        elif level is Level.SESSION:
            self._when_applied(seen, deadline_s, done)
        else:
            self.barrier.add(Waiter(deadline_s, partial(self._read_granted, deadline_s, done)))
            self.kick()

    def _read_granted(
        self, deadline_s: float, done: ReadDone, index: int | None, error: P2PError | None
    ) -> None:
        if index is None:
            done(error)
        else:
            self._when_applied(index, deadline_s, done)

    def _when_applied(self, index: int, deadline_s: float, done: ReadDone) -> None:
        if self.engine.raftLastApplied >= index:
            done(None)
            return
        self._waiter_numbers += 1
        heappush(self._applied_waiters, (index, self._waiter_numbers, deadline_s, done))

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
        )

    @property
    def leader(self) -> str | None:
        """The leader this node believes in and is, or is linked to."""
        leader = self.engine.leader
        if leader == self.config.node or leader in self.links.connected:
            return leader
        return None

    def close(self) -> None:
        """Stop: answer whatever is pending, sync and close the journal. The loop must still run."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._investigations:
            task.cancel()
        stopping = ShuttingDown("this tracker is stopping; not run")
        self.intake.refuse_all(stopping)
        self.barrier.refuse_all(stopping)
        for _, _, _, done in self._applied_waiters:
            done(stopping)
        self._applied_waiters.clear()
        self.engine.destroy()

    # -- turns -----------------------------------------------------------------------------------

    def kick(self) -> None:
        """Something is to be done: take a turn soon, together with whatever else arrives."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._guarded, self._turn)

    def _guarded(self, work: Callable[..., None], *args: Any) -> None:
        """Run a step whose failure leaves the engine in an unknown state: then the node stops."""
        if self._closed:
            return
        try:
            work(*args)
        except Exception as error:
            log.critical("the replica stops: %s", error, exc_info=not isinstance(error, P2PError))
            self._closed = True
            self._on_fatal(str(error) or type(error).__name__)

    def _turn(self) -> None:
        self._scheduled = False
        now_s = self._loop.time()
        self.intake.expire(now_s)
        self.barrier.expire(now_s)
        self._hand_on(now_s)
        if not self._nodes:
            self.journal.sync()
        if self.journal.last_index != self._last_index_seen or self.engine.commit_would_move():
            self.engine.send_now()
            self._last_index_seen = self.journal.last_index
        self.engine.doTick(0)
        self._note_leadership(now_s)
        self._wake_readers(now_s)
        self._flush()
        self._arm(now_s)

    def _hand_on(self, now_s: float) -> None:
        """Give what waits to the log, to the leader, or leave it waiting for one."""
        if self.engine.leads and self._leading:
            self._propose(now_s)
            self._begin_read_round(now_s)
        elif self.engine.role is not Role.LEADER:
            self.intake.refuse_remote()
            leader = self.leader
            if leader is not None and now_s >= self._ask_leader_from_s:
                self._forward(leader, now_s)

    def _propose(self, now_s: float) -> None:
        stamp_ms = self._clock.stamp_ms(now_s)
        while batch := self.intake.take(self.config.timing.entry_bytes_max):
            number = self.intake.proposed(batch)
            entry = pack_entry(stamp_ms, [pending.packed for pending in batch])
            self.engine.propose(entry, partial(self._settled, number))
        due_ms = self.machine.next_expiry_ms()
        since_ms = stamp_ms - self._expiry_asked_ms
        if due_ms is not None and due_ms <= stamp_ms and since_ms >= EXPIRY_PERIOD_MS:
            self._expiry_asked_ms = stamp_ms
            self.engine.propose(pack_entry(stamp_ms, []), lambda result, reason: None)
        self.engine.enter_queued()

    def _settled(self, number: int, result: tuple[int, Applied] | None, reason: int) -> None:
        """The engine's word on a proposed entry."""
        if reason == FAIL_REASON.SUCCESS and result is not None:
            index, applied = result
            self.intake.committed(number, index, applied.replies)
        else:
            self.intake.discarded(number)

    def _begin_read_round(self, now_s: float) -> None:
        self.barrier.retry_rounds(now_s - 4 * self.config.timing.heartbeat_s)
        if not len(self.barrier):
            return
        number = self.barrier.begin_round(self.engine.raftCommitIndex, now_s)
        if number is not None:
            probe = {"type": "probe", "term": self.engine.raftCurrentTerm, "round": number}
            for node in self.links.connected:
                self.links.send(node, probe)

    def _forward(self, leader: str, now_s: float) -> None:
        while batch := self.intake.take(self.config.timing.entry_bytes_max):
            number = self.intake.forwarded(batch)
            left_s = max(pending.deadline_s for pending in batch) - now_s
            message = {
                "type": "forward",
                "batch": number,
                "left_ms": max(1, round(left_s * 1000)),
                "ops": [pending.packed for pending in batch],
            }
            self.links.send(leader, message)
        if len(self.barrier):
            self.links.send(leader, {"type": "read", "number": self.barrier.ask_leader()})

    def _note_leadership(self, now_s: float) -> None:
        if self.engine.leads and not self._leading:
            self._leading = True
            self._clock.lead(self.machine.time_ms, now_s)
            log.info(
                "leads term %d from entry %d on",
                self.engine.raftCurrentTerm,
                self.engine.raftLastApplied,
            )
            self.kick()
        elif self._leading:
            self._clock.stamp_ms(now_s)

    def _wake_readers(self, now_s: float) -> None:
        applied = self.engine.raftLastApplied
        while self._applied_waiters and self._applied_waiters[0][0] <= applied:
            heappop(self._applied_waiters)[3](None)
        late = [waiter for waiter in self._applied_waiters if waiter[2] <= now_s]
        if late:
            self._applied_waiters = [w for w in self._applied_waiters if w[2] > now_s]
            self._applied_waiters.sort()
            for index, _, _, done in late:
                done(NoLeader(f"entry {index} did not arrive here in time, {applied} did"))

    def _flush(self) -> None:
        """Let messages leave, those that promise durability only after the sync."""
        queue = self._outbox.queue
        while queue and queue[0][1]["type"] not in filters.NEEDS_DURABLE:
            self.links.send(*queue.popleft())
        self.links.flush()
        self.journal.sync()
        while queue:
            self.links.send(*queue.popleft())
        self.links.flush()

    def _arm(self, now_s: float) -> None:
        due_s = self.engine.deadline()
        if not self._nodes:
            due_s = now_s + self.config.timing.heartbeat_s
        if due_s <= now_s:  # the tick just now could not act on it: nobody is linked
            due_s = now_s + PACE_S
        pending_s = self.intake.next_deadline_s()
        if pending_s is not None:
            due_s = min(due_s, pending_s)
        if len(self.intake) or len(self.barrier) or self._applied_waiters:
            due_s = min(due_s, now_s + PACE_S)
        if self.journal.last_index != self._last_index_seen or self.engine.commit_would_move():
            self.kick()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(due_s, now_s) + TIMER_FLOOR_S, self.kick)

    # -- what the engine reports -----------------------------------------------------------------

    def _apply(self, index: int, payload: bytes | None) -> tuple[int, Applied] | None:
        if payload is None:
            self.machine.skip(index)
            return None
        applied = self.machine.apply(index, payload)
        if applied.stop is not None:
            raise FatalReplicaError(f"entry {index}: {applied.stop}")
        return index, applied

    def _role_changed(self, old: Role, new: Role) -> None:
        if old is Role.LEADER:
            self._leading = False
            self.intake.lost_leadership()
            self.barrier.lost_leadership()
        log.info("is %s in term %d", new.name.lower(), self.engine.raftCurrentTerm)
        self._on_role(new)

    # -- what the links report -------------------------------------------------------------------

    def link_up(self, node: str, *, other_run: bool) -> None:
        self._guarded(self._outbox._onNodeConnected, self._nodes[node])
        if other_run and self._follows(node):
            self._stand(node)
        self.kick()

    def link_down(self, node: str) -> None:
        self._guarded(self._outbox._onNodeDisconnected, self._nodes[node])
        if node == self.engine.leader:
            self.intake.leader_unreachable()
            self.barrier.leader_unreachable()
            if self._follows(node) and not self._closed:
                task = self._loop.create_task(self._investigate(node))
                self._investigations.add(task)
                task.add_done_callback(self._investigations.discard)
        self.kick()

    def _follows(self, node: str) -> bool:
        return self.engine.leader == node and self.engine.role is Role.FOLLOWER

    async def _investigate(self, leader: str) -> None:
        """The link to the leader broke: stand at once if its process is proved gone."""
        for _ in range(RECONNECT_TRIES):
            reconnect = await self.links.reconnect(leader)
            if not self._follows(leader) or leader in self.links.connected:
                return
            if election.leader_is_gone(reconnect):
                log.info("leader %s is gone (%s)", leader, reconnect.value)
                self._stand(leader)
                return
            if reconnect is election.Reconnect.SAME_RUN:
                return
            await asyncio.sleep(TIMER_FLOOR_S)

    def _stand(self, leader: str) -> None:
        place = election.rank(self.config.node, self.links.connected, leader)
        wait_s = election.stand_after_s(place, self.config.timing.stagger_s)
        self.engine.stand_at(self._loop.time() + wait_s)
        self.kick()

    def link_message(self, node: str, message: Message) -> None:
        """One message of a member. Raises :class:`BadRequest` when it makes no sense."""
        self._guarded(self._message, node, message)

    def _message(self, node: str, message: Message) -> None:
        kind = message.get("type")
        if kind in filters.RAFT_TYPES:
            self._raft_message(node, message)
        else:
            handler = self._handlers.get(kind) if isinstance(kind, str) else None
            if handler is None:
                self.links.drop(node, f"message type {kind!r}")
                return
            try:
                handler(self, node, message)
            except (BadRequest, KeyError, TypeError, ValueError) as error:
                self.links.drop(node, f"malformed {kind}: {error!r}")
        self.kick()

    def _raft_message(self, node: str, message: Message) -> None:
        engine = self.engine
        here = filters.Situation(
            engine.raftCurrentTerm, engine.raftCommitIndex, engine.raftLastApplied, self.journal
        )
        verdict = filters.incoming(message, here)
        if verdict.fatal is not None:
            raise FatalReplicaError(verdict.fatal)
        if verdict.malformed is not None:
            self.links.drop(node, verdict.malformed)
            return
        if verdict.deliver is not None:
            if message["type"] == "next_node_idx":
                self.journal.sync()
            engine.deliver(self._nodes[node], verdict.deliver)
        if verdict.answer is not None:
            self._outbox.send(self._nodes[node], verdict.answer)

    def _on_forward(self, node: str, message: Message) -> None:
        number, operations = message["batch"], message["ops"]
        deadline_s = self._loop.time() + min(
            message["left_ms"] / 1000, self.config.limits.request_deadline_max_s
        )
        replies: list[tuple[Reply, Position]] = [({}, (0, 0))] * len(operations)
        left = len(operations)

        def sink(place: int, reply: Reply, at: Position) -> None:
            nonlocal left
            replies[place] = (reply, at)
            left -= 1
            if left == 0:
                self._answer_forward(node, number, replies)

        for place, packed in enumerate(operations):
            answer = partial(sink, place)
            try:
                if type(packed) is not bytes:
                    raise BadRequest("a forwarded operation that is not bytes")
                self.intake.add(packed, deadline_s, answer, remote=True)
            except P2PError as error:
                answer(error.to_wire(), (0, 0))

    def _answer_forward(
        self, node: str, number: int, replies: list[tuple[Reply, Position]]
    ) -> None:
        try:
            self.links.send(node, {"type": "forwarded", "batch": number, "replies": replies})
        except TooLarge as error:
            self.links.drop(node, str(error))
        self.kick()

    def _on_forwarded(self, node: str, message: Message) -> None:
        replies = [(dict(reply), (int(at[0]), int(at[1]))) for reply, at in message["replies"]]
        if not self.intake.returned(message["batch"], replies):
            self._ask_leader_from_s = self._loop.time() + PACE_S

    def _on_read(self, node: str, message: Message) -> None:
        number = message["number"]

        def granted(index: int | None, error: P2PError | None) -> None:
            self.links.send(node, {"type": "read_at", "number": number, "index": index})
            self.kick()

        if self.engine.role is Role.LEADER:
            deadline_s = self._loop.time() + self.config.limits.hello_timeout_s
            self.barrier.add(Waiter(deadline_s, granted, remote=True))
        else:
            granted(None, None)

    def _on_read_at(self, node: str, message: Message) -> None:
        index = message["index"]
        if not self.barrier.told(message["number"], None if index is None else int(index)):
            self._ask_leader_from_s = self._loop.time() + PACE_S

    def _on_probe(self, node: str, message: Message) -> None:
        if message["term"] == self.engine.raftCurrentTerm:
            self.links.send(node, {**message, "type": "probed"})

    def _on_probed(self, node: str, message: Message) -> None:
        if self._leading and message["term"] == self.engine.raftCurrentTerm:
            self.barrier.confirmed(message["round"], node)

    _handlers = {  # noqa: RUF012 a constant table
        "forward": _on_forward,
        "forwarded": _on_forwarded,
        "read": _on_read,
        "read_at": _on_read_at,
        "probe": _on_probe,
        "probed": _on_probed,
    }
