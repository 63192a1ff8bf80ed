"""PySyncObj as this project drives it: ticked by hand, no thread, no socket, no pickle.

With :mod:`log_motion`, on which it stands, the only module that knows the library's private names.
It is written against one version of the library's source (``pysyncobj==0.3.17``);
``tests/unit/test_engine_guard.py`` fails with a clear text when the installed source is another.

Seams used: the transport, ``createJournal``, ``doTick(0)``, the name-mangled
``__doApplyCommand``, ``__tryLogCompaction``, ``__generateRaftTimeout`` and the two deadlines.
Commands are applied by the callable handed in, which gets (index, payload) and must not raise for
anything a client sent. The library never stands for election by itself: :meth:`Engine.stand` does.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Collection
from enum import Enum
from operator import attrgetter
from typing import Any, NoReturn

import pysyncobj.serializer
import pysyncobj.syncobj
from pysyncobj import FAIL_REASON, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tracker_raft.config import RaftTiming
from tracker_raft.errors import Unsupported
from tracker_raft.raft import configuration
from tracker_raft.raft.filters import Message
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.log_motion import LEADS, LogMotion

REGULAR, NO_OP = 0, 1
_REGULAR = bytes((REGULAR,))
MEMBERS = configuration.KIND[0]
INERT = frozenset({NO_OP, 2, 3, MEMBERS})
"""Kinds that only move their index on: the library's own, and members, which are in force from
their append on."""
NEVER_S = 1e12
"""The library's own election time-out."""


class Member(Node):  # type: ignore[misc]  # the library is untyped
    """A node whose hash is the same in every process: the library iterates over sets of them."""

    id = property(attrgetter("_id"))  # asked for dozens of times for each write

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._hash = zlib.crc32(id.encode())

    def __hash__(self) -> int:
        return self._hash


class Nodes(dict[str, Member]):
    """The others by id; one that is asked for is there. The library keeps its tables by these
    objects, so there is one for each id."""

    def __missing__(self, node: str) -> Member:
        member = self[node] = Member(node)
        return member


class Role(Enum):
    """The library's three states."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = LEADS


_ROLES = tuple(Role)


class _NoPoller:
    """The library polls sockets of its own at the end of a tick; it has none here."""

    def poll(self, timeout: float) -> None:
        return None


class _Laggards:
    """Stands where the library keeps snapshots: it has none, and says who would need one."""

    def __init__(self, lags: Callable[[Member], None]) -> None:
        self._lags = lags

    def getTransmissionData(self, node: Member) -> None:
        self._lags(node)

    def cancelTransmisstion(self, node: Member) -> None:
        return None


class _NoPickle:
    """Stands where the library would pickle. Reaching it is a defect, and harmless."""

    @staticmethod
    def _refuse(*_: object) -> NoReturn:
        raise RuntimeError("pickle is not used on any wire or disk of this project")

    load = loads = dump = dumps = _refuse


# The library reads CLOCK_MONOTONIC_RAW, which drifts away from the event loop's clock; deadlines
# are handed from one to the other here, so both must read the same one.
pysyncobj.syncobj.monotonicTime = time.monotonic
pysyncobj.syncobj.pickle = _NoPickle
pysyncobj.serializer.pickle = _NoPickle


class Engine(LogMotion):
    """One node's consensus. ``applier(index, payload)`` returns what a proposer's callback gets."""

    def __init__(
        self,
        node: str,
        others: Collection[str],
        *,
        transport: Transport,
        journal: SegmentJournal,
        timing: RaftTiming,
        applier: Callable[[int, bytes | None], Any],
        on_role: Callable[[Role, Role], None],
        lags: Callable[[str], None] = lambda node: None,
        applied: int = 1,
    ) -> None:
        """``lags`` is told of a follower that needs entries the journal has no more; ``applied``:
        the index of the snapshot that the state begins with."""
        self._applier = applier
        self._log = journal
        self._last_index_seen = 0
        self.forced = False
        """Vote requests that leave now are not to be held by their receivers."""
        self._asked_to_stand = False
        conf = SyncObjConf(
            autoTick=False,
            appendEntriesUseBatch=True,
            appendEntriesPeriod=timing.heartbeat_s,
            appendEntriesBatchSizeBytes=timing.append_batch_bytes,
            raftMinTimeout=timing.election_timeout_s,  # this and the next two: checked, not used
            raftMaxTimeout=timing.election_timeout_s * 2,
            connectionTimeout=timing.election_timeout_s * 2,
            leaderFallbackTimeout=timing.election_timeout_s,
            commandsWaitLeader=True,
            commandsQueueSize=0,
            dynamicMembershipChange=False,
            onStateChanged=lambda old, new: on_role(Role(old), Role(new)),
        )
        create = pysyncobj.syncobj.createJournal
        pysyncobj.syncobj.createJournal = lambda _: journal
        try:
            super().__init__(
                Member(node),
                [Member(other) for other in others],
                conf,
                nodeClass=Member,
                transport=transport,
            )
        finally:
            pysyncobj.syncobj.createJournal = create
        self.nodes = Nodes({str(node.id): node for node in self.otherNodes})
        """Whoever was ever linked or a member: the very objects that the library's tables are kept
        by, which are found there without being compared."""
        self.voters: dict[str, Member] = {}
        """The other members that vote, by id in order."""
        self.members: dict[str, Member] = {}
        """The same, and those that learn."""
        self.members_are(others, ())
        self._poller = _NoPoller()
        self._lags = lags
        self._SyncObj__serializer = _Laggards(self._follower_lags)
        self.installed(applied)

    # -- overridden ------------------------------------------------------------------------------

    def _SyncObj__doApplyCommand(self, command: bytes) -> Any:
        """Hand a regular command to the applier; every other kind only moves its index on.

        The library's own version commands and membership commands are never proposed here and
        would be unpickled there, so they are as inert as a no-op. A kind that a newer version
        wrote stops the node: passing over it would be divergence.
        """
        index = self.raftLastApplied + 1
        if command[0] != REGULAR and command[0] not in INERT:
            raise Unsupported(f"entry {index} is of kind {command[0]}: a newer version wrote it")
        return self._applier(index, command[1:] if command[0] == REGULAR else None)

    def _follower_lags(self, node: Member) -> None:
        """``node`` needs what the journal has no more. Going on from the end lets the library's
        loop end, which would otherwise fill the link with empty messages for a whole period; the
        follower's answer leads back here."""
        self._SyncObj__raftNextIndex[node] = self._log.last_index + 1
        self._lags(str(node.id))

    def _SyncObj__tryLogCompaction(self) -> None:
        """The library never compacts by itself."""

    def _checkCommandsToApply(self) -> None:
        """Nothing is ever queued in the library (:meth:`propose`)."""

    def _SyncObj__onBecomeLeader(self) -> None:
        """A node that is alone becomes leader once its vote is durable, in :meth:`lead_alone`; the
        library would commit the no-op in this very tick."""
        if self._SyncObj__otherNodes:
            super()._SyncObj__onBecomeLeader()

    def lead_alone(self) -> None:
        """The vote of a node that is alone is durable: it has won."""
        if not self._SyncObj__otherNodes and self.role is Role.CANDIDATE:
            super()._SyncObj__onBecomeLeader()

    def _SyncObj__generateRaftTimeout(self) -> float:
        """The library never stands by itself (:mod:`election` decides)."""
        return NEVER_S

    # -- the members -----------------------------------------------------------------------------

    def members_are(self, voters: Collection[str], learners: Collection[str]) -> None:
        """From now on these others decide, and those are sent the log beside them; "read-only", as
        the library calls them. Called when the entry that says so enters the log, or leaves it."""
        self.voters.clear()
        self.voters.update((node, self.nodes[node]) for node in sorted(voters))
        before = dict(self.members)
        self.members.clear()
        self.members.update((node, self.nodes[node]) for node in sorted({*voters, *learners}))
        self._SyncObj__otherNodes = set(self.voters.values())
        self._SyncObj__readonlyNodes = {self.nodes[node] for node in learners}
        self._followers = [*(self._SyncObj__otherNodes | self._SyncObj__readonlyNodes)]
        for node in self.members.keys() - before.keys():
            member = self.members[node]
            self._SyncObj__raftNextIndex[member] = self._log.last_index + 1
            self._SyncObj__raftMatchIndex[member] = 0
            self._SyncObj__lastResponseTime[member] = pysyncobj.syncobj.monotonicTime()
        for node in before.keys() - self.members.keys():
            self._SyncObj__raftNextIndex.pop(before[node], None)
            self._SyncObj__raftMatchIndex.pop(before[node], None)
            self._SyncObj__lastResponseTime.pop(before[node], None)

    # -- what the replica asks -------------------------------------------------------------------

    @property
    def role(self) -> Role:
        return _ROLES[self._SyncObj__raftState]

    @property
    def leader(self) -> str | None:
        """Id of the leader this node believes in, itself included; may be out of date."""
        node = self._getLeader()
        return None if node is None else str(node.id)

    @property
    def last_log(self) -> tuple[int, int]:
        """(term, index) of the last entry: what votes are decided by (Raft paper, 5.4.1)."""
        return self._log[-1][2], self._log.last_index

    @property
    def leads(self) -> bool:
        """Leader, and the no-op of its own term is applied: only now may it propose (D2)."""
        noop: int = self._SyncObj__noopIDx or 0
        return self.role is Role.LEADER and bool(self.raftLastApplied >= noop)

    @property
    def voted_for(self) -> str | None:
        """Who has this node's vote in the current term."""
        voted: str | None = self._SyncObj__votedForNodeId
        return voted

    def deadline(self) -> float:
        """Monotonic time of the library's next duty: the heartbeat of a leader, else none."""
        if self.role is Role.LEADER:
            return float(self._SyncObj__newAppendEntriesTime)
        return math.inf

    def matched(self, node: Member) -> int:
        """As the leader: index up to which the log of ``node`` is known to be the same."""
        return int(self._SyncObj__raftMatchIndex.get(node, 0))

    # -- what the replica does -------------------------------------------------------------------

    def propose(self, payload: bytes, callback: Callable[[Any, int], None]) -> int:
        """As the leader: an entry stands in the log when this returns its index, and the next tick
        sends it. ``callback`` gets what the applier returned, or why it did not; it may never come
        when another one leads."""
        return self.enter(_REGULAR + payload, callback)

    def stand(self, *, forced: bool = False) -> None:
        """Let the next tick raise the term and ask for votes; ``forced``: at once everywhere."""
        self._SyncObj__raftElectionDeadline: float = 0.0
        self._asked_to_stand, self.forced = True, forced

    def stood(self) -> bool:
        """Whether the tick just done raised the term, asked for by :meth:`stand`."""
        if not self._asked_to_stand:
            return False
        stood = self._SyncObj__raftElectionDeadline > 0
        self._SyncObj__raftElectionDeadline = NEVER_S  # one tick, then it must be asked for anew
        self._asked_to_stand = self.forced = False
        return bool(stood)

    def told_committed(self, node: str, index: int) -> None:
        """``node`` answered an operation of the entry at ``index`` as its leader.

        The same entry stands here at that index if it is one of this term, which has one leader
        (Raft paper, 5.3: log matching). Else nothing follows, and an append will tell.
        """
        ours = self._log.term_at(index) == self._SyncObj__raftCurrentTerm
        if ours and self.role is Role.FOLLOWER and self.leader == node:
            self._SyncObj__raftCommitIndex = max(index, self._SyncObj__raftCommitIndex)

    def observe_term(self, term: int) -> None:
        """Another member's term is higher: follow in that term, whoever may lead it."""
        if term > self.raftCurrentTerm:
            self.step_down()
            self._SyncObj__raftLeader = None
            self._SyncObj__setCurrentTerm(term, None)

    def be_patient(self, seconds: float) -> None:
        """A leader that hears no majority for so long stops leading."""
        self._SyncObj__conf.leaderFallbackTimeout = seconds

    def installed(self, index: int) -> None:
        """The state and the log begin with a snapshot up to ``index``."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(index, self._SyncObj__raftCommitIndex)

    def step_down(self) -> None:
        """Stop leading: this node cannot keep what it would promise. Others will stand."""
        if self.role is not Role.FOLLOWER:
            self._SyncObj__setState(Role.FOLLOWER.value)
            self._SyncObj__raftLeader = None

    def heard_from(self, node: Member) -> None:
        """As the leader: ``node`` follows, whatever its disk or the one here keeps waiting."""
        if self.role is Role.LEADER:
            self._SyncObj__lastResponseTime[node] = pysyncobj.syncobj.monotonicTime()

    def heard_s(self, node: Member) -> float:
        """As the leader: the monotonic time when ``node`` was last heard."""
        return float(self._SyncObj__lastResponseTime.get(node, 0.0))

    def deliver(self, node: Member, message: Message) -> None:
        """Hand a filtered message to the library.

        A success ack lets the library move ``nextIndex`` back to it, and so send again whatever
        is in flight; links are first in, first out, so what is in flight needs no repeat.
        """
        ahead = None
        if message["type"] == "next_node_idx" and not message["reset"]:
            ahead = self._SyncObj__raftNextIndex.get(node)
        if message["type"] == "next_node_idx" and str(node.id) not in self.members:
            return  # of one that is no member any more: the library has no place for it
        self._SyncObj__onMessageReceived(node, message)
        if ahead is not None and node in self._SyncObj__raftNextIndex:
            now = self._SyncObj__raftNextIndex[node]
            self._SyncObj__raftNextIndex[node] = max(now, ahead)


__all__ = ["FAIL_REASON", "Engine", "Member", "Role", "Transport"]
