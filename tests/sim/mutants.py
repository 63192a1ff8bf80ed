"""Canaries, the test of the test: the code with one of its mends taken out.

Each mutant must be caught by some seed; one that is not says that the simulation does not look
there. ``python -m tests.sim --mutant NAME`` looks for the first seed that catches one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from tests.sim.faults import draw
from tests.sim.run import FAULTY_S, Outcome, ids_of, run
from tracker_raft.errors import Damaged
from tracker_raft.machine import TrackerMachine
from tracker_raft.machine.sessions import SessionTable
from tracker_raft.raft import filters, records, segments
from tracker_raft.raft.ballots import Action, Here
from tracker_raft.raft.configuration import Configuration, Seat
from tracker_raft.raft.election import Elections
from tracker_raft.raft.engine import Engine, Member
from tracker_raft.raft.filters import Message, Situation, Verdict
from tracker_raft.raft.gate import Gate
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.keeper import SnapshotKeeper
from tracker_raft.raft.membership import Membership, Roster
from tracker_raft.raft.reads import ReadBarrier, ReadDone, Reads
from tracker_raft.raft.reconfiguration import Reconfiguration
from tracker_raft.raft.roll import Roll
from tracker_raft.raft.snapshots import Incoming

Patch = Callable[[ExitStack], None]


def _no_trim(stack: ExitStack) -> None:
    """S1: a follower truncates entries that match."""
    genuine = filters._append_entries

    def raw(message: Message, here: Situation) -> Verdict:
        return genuine(message, here) if "prevLogIdx" not in message else Verdict(deliver=message)

    stack.enter_context(patch.object(filters, "_append_entries", raw))

    def deliver(self: Engine, node: Member, message: Message) -> None:
        self._SyncObj__onMessageReceived(node, message)

    stack.enter_context(patch.object(Engine, "deliver", deliver))


def _no_term(stack: ExitStack) -> None:
    """S2: an acknowledgement of another term counts."""
    genuine = filters._acknowledgement

    def raw(message: Message, here: Situation) -> Verdict:
        return genuine({**message, "term": here.term}, here)

    stack.enter_context(patch.object(filters, "_acknowledgement", raw))


def _no_clamp(stack: ExitStack) -> None:
    """S16: a message moves the commit index beyond what it proves to match."""
    genuine = filters._append_entries

    def raw(message: Message, here: Situation) -> Verdict:
        verdict = genuine(message, here)
        if verdict.deliver is None:
            return verdict
        deliver = {**verdict.deliver, "commit_index": message["commit_index"]}
        return Verdict(deliver, verdict.answer, verdict.malformed, verdict.fatal)

    stack.enter_context(patch.object(filters, "_append_entries", raw))


def _no_sync(stack: ExitStack) -> None:
    """S4: promises leave and acknowledgements count before the disk has anything."""
    genuine = Gate.promises

    def at_once(self: Gate, durable: int) -> Iterator[tuple[str, Message]]:
        return genuine(self, 1 << 62)

    stack.enter_context(patch.object(Gate, "promises", at_once))
    stack.enter_context(patch.object(Gate, "must_wait", lambda *_: False))


def _vote_forgotten(stack: ExitStack) -> None:
    """The vote and the term are not written down."""

    def forget(self: SegmentJournal, term: int, voted_for: str | None) -> None:
        self._vote = term, voted_for

    stack.enter_context(patch.object(SegmentJournal, "setCurrentTerm", forget))


def _no_checksum(stack: ExitStack) -> None:
    """S7: a flipped bit is read as data."""
    genuine = records._record_at

    def trusting(data: memoryview, offset: int, chain: int) -> Any:
        start = offset + 8
        if start + 5 <= len(data):
            length, stored = records._FRAME.unpack_from(data, offset)
            end = start + length
            if length >= 5 and end <= len(data):
                seed = chain
                if zlib.crc32(data[start:end], seed) != stored:
                    flags, batch = records._START.unpack_from(data, start)
                    body = data[start + 5 : end]
                    record = records.Record(flags & 0x7F, batch, bool(flags & 0x80), body)
                    return end, stored, record
        return genuine(data, offset, chain)

    stack.enter_context(patch.object(records, "_record_at", trusting))
    stack.enter_context(patch.object(segments.records, "_record_at", trusting))


def _replies_forgotten(stack: ExitStack) -> None:
    """The reply table is dropped: what is asked again is run again."""
    stack.enter_context(patch.object(SessionTable, "record", lambda *_: None))


def _compacts_too_early(stack: ExitStack) -> None:
    """S6: the log is cut when a snapshot is begun, not when it is durable."""
    genuine = SnapshotKeeper._slice

    def slice_and_cut(self: SnapshotKeeper, making: Any) -> None:
        for name in self._journal.forget_before(making.cursor.applied):
            self._storage.delete(name)
        genuine(self, making)

    stack.enter_context(patch.object(SnapshotKeeper, "_slice", slice_and_cut))


def _unverified_snapshot(stack: ExitStack) -> None:
    """S3: a snapshot that came damaged is taken for good."""
    genuine = Incoming.finish

    def trusting(self: Incoming) -> TrackerMachine:
        try:
            return genuine(self)
        except Damaged:
            machine = TrackerMachine()
            machine.applied = self.offer.index
            return machine

    def careless(self: Incoming, data: bytes) -> None:
        self.offset += len(data)

    stack.enter_context(patch.object(Incoming, "feed", careless))
    stack.enter_context(patch.object(Incoming, "finish", trusting))


def _reads_unconfirmed(stack: ExitStack) -> None:
    """A leader answers reads on its own word, which it may not be any more."""

    def on_its_word(self: ReadBarrier, commit: int, now_s: float) -> int | None:
        waiters, self._waiting = self._waiting, []
        for waiter in waiters:
            waiter.answer(commit)
        return None

    stack.enter_context(patch.object(ReadBarrier, "begin_round", on_its_word))


def _reads_at_once(stack: ExitStack) -> None:
    """A read that was given its index does not wait until that is applied where it is answered."""

    def at_once(self: Reads, index: int, deadline_s: float, done: ReadDone) -> None:
        done(None)

    stack.enter_context(patch.object(Reads, "_when_applied", at_once))


def _not_sticky(stack: ExitStack) -> None:
    """Who is asked judges at once, whether a leader is heard or not."""
    genuine = Elections._judge_held

    def at_once(self: Elections, here: Here, actions: list[Action]) -> None:
        with patch.object(Elections, "believes", lambda *_: False):
            genuine(self, here, actions)

    stack.enter_context(patch.object(Elections, "_judge_held", at_once))


def _disk_is_life(stack: ExitStack) -> None:
    """Who waits for a disk is taken for dead."""
    stack.enter_context(patch.object(Engine, "heard_from", lambda *_: None))


def _stock(stack: ExitStack) -> None:
    """The library as published: no filter, so no term is looked at; nothing waits for a disk."""

    def pass_on(message: Message, here: Situation) -> Verdict:
        return Verdict(deliver=message)

    stack.enter_context(patch.object(filters, "incoming", pass_on))

    def deliver(self: Engine, node: Member, message: Message) -> None:
        self._SyncObj__onMessageReceived(node, message)

    stack.enter_context(patch.object(Engine, "deliver", deliver))
    _no_sync(stack)


def _second_change(stack: ExitStack) -> None:
    """S14: a change of the members begins while the one before is not committed."""
    stack.enter_context(patch.object(Reconfiguration, "_not_now", lambda *_: None))


def _old_members_decide(stack: ExitStack) -> None:
    """S14: a change of the members is in force when it is committed, not from its append on."""
    settled = property(lambda self: self._settled.members)
    stack.enter_context(patch.object(Membership, "in_force", settled))
    step = Roll.step

    def step_and_change(self: Roll) -> None:
        before = self.membership.settled
        step(self)
        if self.membership.settled is not before:
            self._changed()

    stack.enter_context(patch.object(Roll, "step", step_and_change))


def _kept_when_cut(stack: ExitStack) -> None:
    """S14: a change that is truncated stays in force."""
    stack.enter_context(patch.object(Membership, "cut", lambda *_: False))


def _snapshot_without_members(stack: ExitStack) -> None:
    """S14: a snapshot does not say who the members are."""
    stack.enter_context(patch.object(Membership, "for_snapshot", lambda *_: None))


def _learners_vote(stack: ExitStack) -> None:
    """Who only learns counts like a voter."""
    everybody = property(lambda self: frozenset(self.in_force.nodes) - {self._node})
    stack.enter_context(patch.object(Membership, "other_voters", everybody))


def _any_directory(stack: ExitStack) -> None:
    """Whoever comes in the name of a member is let in, whatever directory it has."""
    stack.enter_context(patch.object(Roster, "judge", lambda *_: None))
    stack.enter_context(patch.object(Seat, "is_of", lambda *_: True))
    own = Membership.own

    def any_seat(self: Membership, members: Configuration) -> Seat | None:
        return members.seat(self._node) or own(self, members)

    stack.enter_context(patch.object(Membership, "own", any_seat))


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mend taken out, and what it takes to show."""

    make: Patch
    flips: bool = False
    """Bits flip on disks."""
    weights: dict[str, int] | None = None
    """Faults that show it; None: those of the seed."""
    members: bool = False
    """Nodes are added and removed meanwhile."""


MUTANTS: dict[str, Mutant] = {
    "the library as published": Mutant(_stock),
    "no trim (S1)": Mutant(_no_trim),
    "no clamp (S16)": Mutant(_no_clamp, weights={"isolate leader": 8, "kill": 1, "break": 1}),
    "snapshot installed unverified (S3)": Mutant(_unverified_snapshot),
    "no sync before a promise (S4)": Mutant(
        _no_sync, weights={"power": 6, "power all": 4, "slow disk": 3, "leader": 2}
    ),
    "compaction before the snapshot is durable (S6)": Mutant(_compacts_too_early),
    "no checksum (S7)": Mutant(_no_checksum, flips=True),
    "reply table dropped": Mutant(_replies_forgotten),
    "no stickiness": Mutant(_not_sticky, weights={"cut": 8, "break": 2}),
    "a slow disk is taken for death": Mutant(_disk_is_life, weights={"slow disk": 8}),
    "reads on the leader's word alone": Mutant(
        _reads_unconfirmed, weights={"isolate leader": 8, "pause": 4, "cut": 2}
    ),
    "reads before their index is applied": Mutant(_reads_at_once),
    "a second change before the first is committed (S14)": Mutant(_second_change, members=True),
    "members change at the commit only (S14)": Mutant(_old_members_decide, members=True),
    "a truncated change stays in force (S14)": Mutant(
        _kept_when_cut, weights={"isolate leader": 8, "leader": 4}, members=True
    ),
    "a snapshot without its members (S14)": Mutant(_snapshot_without_members, members=True),
    "any directory in a member's name": Mutant(_any_directory, members=True),
}
"""By name. That an acknowledgement of another term counts (S2) takes a history of its own:
:mod:`tests.sim.stale_acknowledgements`."""

LEARNERS_VOTE = Mutant(_learners_vote, members=True)
"""It takes a learner that is away for good while a voter is dead: a story of its own, too, in
:mod:`tests.sim.test_member_stories`."""
NO_TERM = Mutant(_no_term)
VOTE_FORGOTTEN = Mutant(_vote_forgotten)
"""Two candidates of one term are rare since there are pre-votes: a story of its own as well, in
:mod:`tests.sim.test_elections`."""


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The code as that mutant, while the context lasts."""
    with ExitStack() as stack:
        mutant.make(stack)
        yield


def hunt(mutant: Mutant, seeds: Iterable[int]) -> Outcome | None:
    """The first of the seeds that catches the mutant; None: it gets away."""
    with mutated(mutant):
        for seed in seeds:
            faults = draw(
                seed,
                ids_of(seed),
                FAULTY_S,
                flips=mutant.flips,
                weights=mutant.weights,
                members=mutant.members,
            )
            outcome = run(seed, faults, flips=mutant.flips, members=mutant.members)
            if outcome.violation is not None:
                return outcome
    return None
