"""Changes of the members in a simulated cluster: an operator who adds, removes, empties and moves
nodes, and what must hold of it.

After every event: a leader is a voter of its own log; no log holds two changes that nobody was
seen to commit. At the end: each change gives or takes one vote at most, what an operator was told
is done stands in the log, a member that runs and learned has a vote, whoever was removed has
stopped, and where a member is is written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.sim.cluster import SimCluster, SimNode
from tracker_raft.errors import Busy, NoLeader, OutcomeUnknown, P2PError, Unsupported
from tracker_raft.raft.configuration import Configuration, is_members, read_command
from tracker_raft.raft.engine import Role
from tracker_raft.raft.replica import Replica

PERIOD_S = 0.1
PATIENCE_S = 4.0
FOUNDED = "127.0.0.1:1"
"""Where all nodes are at first."""
KINDS = {"add": 8, "remove": 6, "empty": 1, "move": 2}
"""Changes, and how often they come beside the faults."""


@dataclass(slots=True)
class Changes:
    """What was seen of the members: committed ones by index, and what was acknowledged."""

    founding: tuple[str, ...]
    committed: dict[int, Configuration] = field(default_factory=dict)
    told: list[tuple[int, str, bool]] = field(default_factory=list)
    """(index, node, whether it is a member by it)."""

    @property
    def newest(self) -> Configuration | None:
        return self.committed[max(self.committed)] if self.committed else None

    @property
    def voters(self) -> tuple[str, ...]:
        return self.founding if self.newest is None else self.newest.voters

    def note(self, index: int, command: bytes) -> None:
        if is_members(command):
            self.committed[index] = read_command(command)

    def look(self, node: SimNode, replica: Replica) -> str | None:
        """What is wrong with the members as ``node`` sees them."""
        membership = replica.roll.membership
        if replica.engine.role is Role.LEADER and not membership.votes:
            return f"{node.node} leads and is no voter of {membership!r}"
        open_ = [p.index for p in membership._placed if p.index and p.index not in self.committed]
        if len(open_) > 1:
            return f"{node.node} has the changes at {open_} and none of them is committed"
        return None

    def check(self) -> str | None:
        """What is wrong with the whole history."""
        before = set(self.founding)
        for index in sorted(self.committed):
            voters = set(self.committed[index].voters)
            if len(voters ^ before) > 1:
                return f"entry {index} makes {sorted(before)} {sorted(voters)} in one step"
            before = voters
        for index, node, member in self.told:
            found = self.committed.get(index)
            if found is None or (found.seat(node) is not None) != member:
                return f"{node} was told to be changed by entry {index}, which says {found}"
        return None

    def is_member(self, node: SimNode) -> bool:
        """Whether the very directory of ``node`` is one, as far as was committed."""
        if self.newest is None:
            return node.node in self.founding and node.births == 1
        seat = self.newest.seat(node.node)
        return seat is not None and (seat.birth or founding_birth(node.node)) == node.birth

    def unfinished(self, cluster: SimCluster) -> str | None:
        """What has still to come after everything was healed."""
        for node in cluster.nodes.values():
            if not node.up or self.newest is None:
                continue
            if self.newest.is_retired(node.node, node.birth) and not self.is_member(node):
                return f"{node.node} was removed and runs on"
            if node.node in self.newest.learners and self.is_member(node):
                return f"{node.node} still learns"
        return self._misplaced(cluster)

    def _misplaced(self, cluster: SimCluster) -> str | None:
        """A member that runs and is elsewhere than is written down."""
        for node in cluster.nodes.values():
            seat = self.newest.seat(node.node) if self.newest else None
            place = seat.raft if seat else FOUNDED
            if node.up and self.is_member(node) and node.raft != place:
                return f"{node.node} is at {node.raft}, written down is {place}"
        return None


class Operator:
    """Asks for changes until they are done or :data:`PATIENCE_S` are over."""

    def __init__(self, cluster: SimCluster, changes: Changes) -> None:
        self.cluster = cluster
        self.changes = changes
        self.world = cluster.world
        self.done = 0
        self.emptied = False
        cluster.was_removed = self._was_removed
        self.problem: str | None = None

    def apply(self, kind: str, name: str) -> None:
        match kind:
            case "add" if not self._seated(name):
                self.cluster.spare(name).join_anew()
                self._ask(kind, name, self.world.now_s + PATIENCE_S)
            case "remove":
                self._ask(kind, name, self.world.now_s + PATIENCE_S)
            case "move" if name in self.cluster.nodes and self.cluster.nodes[name].up:
                self.cluster.nodes[name].move()
            case "empty" if not self.emptied and self._may_be_emptied(name):
                self.emptied = True
                self.cluster.nodes[name].empty()

    def _seated(self, name: str) -> bool:
        """Whether somebody takes ``name`` for a member: then its directory is not touched."""
        replicas = [node.replica for node in self.cluster.nodes.values() if node.replica]
        logs = [replica.roll.membership.in_force for replica in replicas]
        logs += [self.changes.newest] if self.changes.newest else []
        return not logs or any(members.seat(name) is not None for members in logs)

    def _may_be_emptied(self, name: str) -> bool:
        """One loss for good is all a cluster has to bear, and of a node that all have met."""
        others = [node for node in self.cluster.ids if node != name]
        met = all(name in self.cluster.nodes[node].met for node in others)
        # One that was founded alone would begin a cluster of its own: nobody could tell it.
        return (
            name in self.cluster.ids and min(len(self.changes.voters), len(others) + 1) >= 3 and met
        )

    def _ask(self, kind: str, name: str, until_s: float) -> None:
        if self.world.now_s >= until_s:
            return
        again = (kind, name, until_s)
        leaders = [n for n in self.cluster.nodes.values() if n.answers and _leads(n)]
        if not leaders:
            self.world.after(PERIOD_S, None, self._ask, *again)
            return
        leader = self.world.random.choice(leaders)
        assert leader.process is not None
        leader.process.run(self._ask_leader, leader, *again)

    def _ask_leader(self, leader: SimNode, kind: str, name: str, until_s: float) -> None:
        replica, process = leader.replica, leader.process
        assert replica is not None and process is not None
        deadline_s = process.time() + 1.0

        def done(reply: dict[str, Any] | None, error: P2PError | None) -> None:
            if reply is not None:
                self.done += 1
                self._note(kind, name, reply["index"])
            elif isinstance(error, NoLeader | Busy | OutcomeUnknown | Unsupported):
                self.world.after(PERIOD_S, None, self._ask, kind, name, until_s)

        if kind == "remove" and leader.node == name:
            self.cluster.handed_over_s = self.world.now_s
        try:
            if kind == "add":
                node = self.cluster.nodes[name]
                replica.members.add(name, node.birth, node.raft, FOUNDED, deadline_s, done)
            else:
                replica.members.remove(name, deadline_s, done)
        except P2PError as error:
            done(None, error)
        replica.kick()

    def _note(self, kind: str, name: str, index: int) -> None:
        if index:
            self.changes.told.append((index, name, kind == "add"))

    def _was_removed(self, node: SimNode) -> None:
        newest = self.changes.newest
        if newest is None or not newest.is_retired(node.node, node.birth):
            self.problem = f"{node.node} stopped as removed, the members are {newest}"


def founding_birth(node: str) -> str:
    return f"birth 1 of {node}"


def _leads(node: SimNode) -> bool:
    return node.replica is not None and node.replica.engine.role is Role.LEADER
