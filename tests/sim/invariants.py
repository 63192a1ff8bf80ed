"""What must hold after every event, and what must hold of a whole history.

After every event: one leader a term; an index once committed keeps its term and bytes; nothing
is applied that is not committed; replicas that applied the same index have the same state hash.

At the end: the committed log, applied by a machine that no mutant touched, gives the state every
replica has, and gives every acknowledged operation the very reply its client got, at the
position it was told; operations that do not overlap in time stand in the log in their order; a
linearizable read reflects everything acknowledged before it was asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from tests.sim.cluster import SimCluster
from tests.sim.members import Changes
from tests.sim.steadiness import Steadiness
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft.engine import REGULAR, Role
from tracker_raft.raft.journal import NO_OP


def _plain(reply: dict[str, Any]) -> bytes:
    """A reply as it stands on the wire, where lists and tuples are one."""
    packed: bytes = msgpack.packb(reply)
    return packed


class Violation(AssertionError):
    """Something that must never happen did."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One operation that a client was told the outcome of."""

    asked_s: float
    told_s: float
    reply: dict[str, Any]
    at: tuple[int, int]
    what: str


class Watch:
    """Looks at a cluster after every event."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.leaders: dict[int, str] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.hashes: dict[int, str] = {}
        self.acknowledged: list[Acknowledged] = []
        self.reads: list[tuple[float, int, str]] = []
        """(asked at, index it reflects, what)."""
        self.changes = Changes(tuple(cluster.ids))
        self.elections = 0
        self.steadiness = Steadiness(cluster)
        self._looked: dict[str, tuple[int, int, int]] = {}
        """(run, commit, applied) of each node when it was looked at last."""

    def look(self) -> None:
        if problem := self.steadiness.look():
            raise Violation(problem)
        for node in self.cluster.nodes.values():
            if node.replica is None or node.process is None or not node.process.alive:
                continue
            engine = node.replica.engine
            if engine.role is Role.LEADER:
                self._leader(node.node, engine.raftCurrentTerm)
            if problem := self.changes.look(node, node.replica):
                raise Violation(problem)
            commit, applied = engine.raftCommitIndex, node.replica.machine.applied
            if self._looked.get(node.node) == (node.runs, commit, applied):
                continue
            if applied > commit:
                raise Violation(f"{node.node} applied {applied}, committed {commit}")
            run, before = self._looked.get(node.node, (0, 0, 0))[:2]
            if run != node.runs:
                before = 0  # a new process learns the commit index from a leader
            journal = node.replica.journal
            if commit < before or journal.last_index < commit:
                raise Violation(
                    f"{node.node} had committed {before}, its log ends at {journal.last_index}"
                )
            for index in range(
                max(before + 1 if before <= commit else 1, journal.first_index), commit + 1
            ):
                self._commits(node.node, index, journal[index - journal.first_index])
            if applied:
                self._hash(node.node, applied, node.replica.machine.state_hash)
            self._looked[node.node] = (node.runs, commit, applied)

    def _leader(self, node: str, term: int) -> None:
        before = self.leaders.get(term)
        if before is None:
            self.elections += 1
            self.leaders[term] = node
        elif before != node:
            raise Violation(f"two leaders of term {term}: {before} and {node}")

    def _commits(self, node: str, index: int, entry: tuple[bytes, int, int]) -> None:
        command, at, term = entry
        if at != index:
            raise Violation(f"{node} has entry {at} at the place of {index}")
        if command == NO_OP and index in self.committed and self.committed[index][0] == term:
            return  # stands for the entry at the index of a snapshot
        before = self.committed.setdefault(index, (term, command))
        self.changes.note(index, command)
        if before != (term, command):
            raise Violation(
                f"{node} committed at index {index} term {term}, {len(command)} bytes; "
                f"term {before[0]}, {len(before[1])} bytes was committed there before"
            )

    def _hash(self, node: str, applied: int, state_hash: str) -> None:
        before = self.hashes.setdefault(applied, state_hash)
        if before != state_hash:
            raise Violation(f"{node} has another state than others at index {applied}")

    # -- at the end --------------------------------------------------------------------------------

    def check_history(self) -> None:
        if problem := self.changes.check():
            raise Violation(problem)
        replies = self._replay()
        for done in self.acknowledged:
            index, position = done.at
            if index not in replies or position >= len(replies[index]):
                raise Violation(f"acknowledged and not in the log: {done.what} at {done.at}")
            if _plain(replies[index][position]) != _plain(done.reply):
                raise Violation(
                    f"{done.what} at {done.at} was answered {done.reply}, "
                    f"the log gives {replies[index][position]}"
                )
        self._check_order()

    def _replay(self) -> dict[int, tuple[dict[str, Any], ...]]:
        machine, replies = TrackerMachine(), {}
        for index in range(2, max(self.committed, default=0) + 1):
            if index not in self.committed:
                raise Violation(f"nobody was seen to commit index {index}")
            command = self.committed[index][1]
            if command[0] == REGULAR:
                replies[index] = machine.apply(index, command[1:]).replies
            else:
                machine.skip(index)
            expected = self.hashes.get(index, machine.state_hash)
            if machine.state_hash != expected:
                raise Violation(f"the log gives another state at index {index} than replicas had")
        return replies

    def _check_order(self) -> None:
        """Positions respect real time: told before asked means a lower position."""
        told = sorted((done.told_s, done.at) for done in self.acknowledged)
        asked = sorted((done.asked_s, done.at, done.what) for done in self.acknowledged)
        reads = sorted(self.reads)
        self._sweep(told, [(at_s, at, what) for at_s, at, what in asked], strict=True)
        self._sweep(
            told, [(at_s, (index, 1 << 62), what) for at_s, index, what in reads], strict=False
        )

    @staticmethod
    def _sweep(
        told: list[tuple[float, tuple[int, int]]],
        asked: list[tuple[float, tuple[int, int], str]],
        *,
        strict: bool,
    ) -> None:
        newest, place = (0, 0), 0
        for asked_s, at, what in asked:
            while place < len(told) and told[place][0] < asked_s:
                newest = max(newest, told[place][1])
                place += 1
            if at < newest or (strict and at == newest):
                raise Violation(
                    f"{what} stands at {at}, {newest} was acknowledged before it was asked"
                )
