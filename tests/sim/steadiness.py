"""No healthy leader is deposed: looked at after every event.

A leader is healthy while it runs, and a majority with it that it is linked to both ways, with
nothing cut between them and room on every disk. Slow disks, slow links and clocks that run fast
or slow are no excuse. Once it has been so for :data:`SETTLED_S`, nobody else may take its place,
unless it was told to hand over. (It may have to lead on in a higher term: a member that stood in
vain while it was cut off comes back with one.)
"""

from __future__ import annotations

from tests.sim.cluster import SimCluster, SimNode
from tracker_raft.raft.engine import Role

SETTLED_S = 1.0
"""What is left over from before (requests held, links just dialled) is through by then."""
HAND_OVER_S = 1.0


class Steadiness:
    """Watches one cluster."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._leader: SimNode | None = None
        self._healthy_from_s: float | None = None
        self._left: SimNode | None = None
        """A healthy leader that leads no more; it must be the next one."""
        self.settled_s = 0.0
        """How long some leader was healthy and settled, in all: what this looked at."""
        self._looked_s = 0.0

    def look(self) -> str | None:
        """What went wrong, if something did."""
        now_s = self._cluster.world.now_s
        if now_s < self._cluster.handed_over_s + HAND_OVER_S:
            self._left = self._leader = self._healthy_from_s = None
        newest = self._newest_leader()
        problem = None
        replaced = self._leader is not None and newest is not self._leader
        if replaced and self._settled(now_s) and self._is_healthy(self._leader):
            self._left = self._leader
        if self._left is not None and newest is not None:
            if newest is not self._left and self._is_healthy(self._left):
                problem = f"{self._left.node} was deposed by {newest.node} though it was healthy"
            self._left = None
        self._note(newest, now_s)
        return problem

    def _note(self, newest: SimNode | None, now_s: float) -> None:
        if newest is None or not self._is_healthy(newest):
            self._leader = self._healthy_from_s = None
        elif newest is not self._leader:
            self._leader, self._healthy_from_s = newest, now_s
        elif self._settled(now_s):
            self.settled_s += now_s - self._looked_s
        self._looked_s = now_s

    def _settled(self, now_s: float) -> bool:
        return self._healthy_from_s is not None and now_s >= self._healthy_from_s + SETTLED_S

    def _newest_leader(self) -> SimNode | None:
        best: tuple[int, SimNode | None] = (0, None)
        for node in self._cluster.nodes.values():
            if node.up and node.replica is not None:
                engine = node.replica.engine
                if engine.role is Role.LEADER and engine.raftCurrentTerm > best[0]:
                    best = engine.raftCurrentTerm, node
        return best[1]

    def _is_healthy(self, leader: SimNode | None) -> bool:
        if leader is None or not leader.answers or leader.disk.full:
            return False
        if leader.replica is None:
            return False
        voters = leader.replica.engine.voters
        others = [self._cluster.nodes[node] for node in voters]
        with_it = sum(1 for other in others if self._joined(leader, other))
        return 2 * (with_it + 1) > len(others) + 1

    def _joined(self, one: SimNode, two: SimNode) -> bool:
        if not two.answers or two.disk.full or one.links is None or two.links is None:
            return False
        linked = one.links.linked(two.node) and two.links.linked(one.node)
        return linked and self._cluster.network.reachable(one.node, two.node)
