"""What members say, taken to where it belongs: filters and engine, snapshots, or colleagues.

A message that makes no sense costs its sender the link; one after which going on would diverge
raises :class:`FatalReplicaError`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from tracker_raft.errors import BadRequest
from tracker_raft.raft import filters
from tracker_raft.raft.agreement import Agreement
from tracker_raft.raft.colleagues import Colleagues
from tracker_raft.raft.engine import Engine, Member
from tracker_raft.raft.flights import Flights
from tracker_raft.raft.gate import Gate
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.keeper import SnapshotKeeper
from tracker_raft.raft.outbox import Outbox
from tracker_raft.raft.roll import Roll
from tracker_raft.raft.seams import Lines, Message
from tracker_raft.raft.turns import Ask
from tracker_raft.raft.watch import LeaderWatch

log = logging.getLogger("tracker_raft.replica")

COUNTED = ("next_node_idx", "response_vote", "pre_voted", "probed", "alive")
"""What a member says that is counted: nobody else's word is."""
OPERATIONS = frozenset({"forward", "answered", "forwarded", "read", "read_at", "probed"})
"""What members say of operations and reads: the log is to move by it, or has moved."""
NO_ASK = frozenset({"append_entries", "next_node_idx", "alive", "state", "probe"})
"""What is taken in and perhaps answered, and needs no more where it changes nothing."""
HASH_CHARS = 64
"""Of a state hash."""


def asks(message: Message) -> Ask:
    """What is to be done soon about a message of a member, if it changed nothing by itself."""
    kind = message.get("type")
    if type(kind) is not str or message.get("reset") is True:
        return Ask.TURN
    return Ask.WORK if kind in OPERATIONS else Ask.NOTHING if kind in NO_ASK else Ask.TURN


class FatalReplicaError(Exception):
    """Going on would risk what this node promised; the process must end."""


class Inbox:
    """The way in of one replica. Built where the replica is, from its parts."""

    def __init__(
        self,
        *,
        members: Mapping[str, Member],
        engine: Engine,
        journal: SegmentJournal,
        lines: Lines,
        outbox: Outbox,
        flights: Flights,
        gate: Gate,
        watch: LeaderWatch,
        keeper: SnapshotKeeper,
        colleagues: Colleagues,
        agreement: Agreement,
        roll: Roll,
    ) -> None:
        self._members = members
        self._engine = engine
        self._journal = journal
        self._lines = lines
        self._outbox = outbox
        self._flights = flights
        self._gate = gate
        self._watch = watch
        self._keeper = keeper
        self._colleagues = colleagues
        self._agreement = agreement
        self._roll = roll
        self._takers = watch, keeper, roll
        self._votes: tuple[int, set[str]] = 0, set()
        """Who voted for this node, and in which term: the library counts whatever comes."""

    def received(self, node: str, message: Message) -> None:
        """One message of a member."""
        if message.get("type") in COUNTED and not self._lines.sits(node):
            return
        if filters.is_raft(message):
            self.raft(node, message)
        else:
            self._other(node, message)

    def raft(self, node: str, message: Message, *, waited: bool = False) -> None:
        """Filter a message and hand what is left of it to the engine.

        ``waited``: an acknowledgement that comes out of the gate.
        """
        engine = self._engine
        here = filters.Situation(
            engine.raftCurrentTerm, engine.raftCommitIndex, engine.raftLastApplied, self._journal
        )
        verdict = filters.incoming(message, here)
        if verdict.fatal is not None:
            raise FatalReplicaError(verdict.fatal)
        if verdict.malformed is not None:
            self._lines.drop(node, verdict.malformed)
            return
        deliver = verdict.deliver
        match message["type"]:
            case "append_entries":
                self._flights.answering(message)
                if self._journal.full and deliver is not None:
                    deliver, verdict = filters.heartbeat(message, here), filters.DROP
            case "next_node_idx" if deliver is not None:
                if not waited and self._gate.must_wait(node, deliver, self._journal.durable_index):
                    engine.heard_from(self._members[node])
                    deliver = None
                else:
                    deliver = self._flights.current(node, deliver)
            case "request_vote" if not self._roll.membership.may_stand(node):
                deliver = None
            case "request_vote":
                self._watch.vote_asked(node, message)
                deliver = None
            case "response_vote" if not self._is_new_vote(node, message["term"]):
                deliver = None
            case "timeout_now":
                self._watch.told_to_stand(node, message)
                deliver = None
        if deliver is not None:
            engine.deliver(self._members[node], deliver)
            if deliver["type"] == "next_node_idx" and deliver["reset"]:
                self._go_on_from(deliver["next_node_idx"])
            if deliver["type"] == "append_entries":
                self._watch.heard(
                    node, deliver, waits=self._journal.durable < self._journal.position
                )
        if verdict.answer is not None:
            hint = verdict.answer.get("type") == "term_hint"
            led = {"led": self._watch.knows_leader} if hint else {}
            self._answer(node, {**verdict.answer, **led})

    def _go_on_from(self, index: int) -> None:
        """A follower asks to go on from ``index``: now, and not with the next sign of life, unless
        it is a snapshot that it needs."""
        if index > self._journal.first_index:
            self._engine.send_now()

    def _answer(self, node: str, answer: Message) -> None:
        if filters.is_raft(answer):
            self._outbox.send(self._members[node], answer)
        elif self._journal.full or self._journal.durable == self._journal.position:
            # A term hint: behind the vote request of that term, which waits for the disk. Before
            # it, a leader that hands over would take the place back from its successor.
            self._lines.send(node, answer)

    def _is_new_vote(self, node: str, term: int) -> bool:
        if node not in self._engine.voters:
            return False
        if term != self._engine.raftCurrentTerm:
            return False  # nor must it make this node forget who voted in its own term
        if self._votes[0] != term:
            self._votes = term, set()
        known, self._votes = node in self._votes[1], (term, self._votes[1] | {node})
        return not known

    def _other(self, node: str, message: Message) -> None:
        kind = message.get("type")
        try:
            if kind == "state":
                self._compare(node, message["index"], message["hash"])
            elif kind == "pre_vote" and not self._roll.membership.may_stand(node):
                log.info("%s asks for votes and is no member", node)
            elif not any(one.received(node, message) for one in self._takers):
                self._colleagues.received(node, message)
        except (BadRequest, KeyError, TypeError, ValueError) as error:
            self._lines.drop(node, f"malformed {kind!r}: {error!r}")

    # -- state hashes ----------------------------------------------------------------------------

    def applied(self, index: int, state_hash: str) -> None:
        """This replica has that state hash at ``index``: tell the others, compare with theirs."""
        for node in self._lines.connected:
            self._lines.send(node, {"type": "state", "index": index, "hash": state_hash})
        self._stop_if(self._agreement.applied(index, state_hash))
        self._report(index)

    def _compare(self, node: str, index: object, state_hash: object) -> None:
        if type(index) is not int or type(state_hash) is not str or len(state_hash) != HASH_CHARS:
            raise ValueError("index or hash")
        if not self._lines.sits(node):
            return
        self._stop_if(self._agreement.heard(node, index, state_hash))
        self._report(index)

    def _report(self, index: int) -> None:
        if reason := self._agreement.dispute(index):
            log.error("%s", reason)

    @staticmethod
    def _stop_if(reason: str | None) -> None:
        if reason is not None:
            raise FatalReplicaError(reason)
