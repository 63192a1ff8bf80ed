"""A history told step by step: acknowledgements of a lost leadership arrive in a later one (S2).

Five trackers; n1 leads. Only n2 gets what n1 logs next, and n2's acknowledgements are held up on
the way. n3 takes over, and n1 and n2 give up those entries; n3 dies and n1 leads again, with
another log. Now the old acknowledgements arrive. If they count, n1 commits what only n1 and n4
have, and those two die.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.cluster import SimCluster
from tests.sim.invariants import Watch
from tests.sim.run import library_globals
from tests.sim.world import World
from tracker_raft.commands import OpenSession
from tracker_raft.entries import pack_operation
from tracker_raft.raft.engine import Role

STEP_S = 5.0
OPEN = pack_operation(0, 0, 0, OpenSession().to_wire())


class Story:
    """One run of it. Raises :class:`Violation` where something that must never happen does."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.cluster = SimCluster(self.world, ["n1", "n2", "n3", "n4", "n5"])
        self.watch = Watch(self.cluster)
        self.world.after_event = self.watch.look
        self.network = self.cluster.network

    def tell(self) -> bool:
        """Play it to its end. False when chance took another way before it got interesting."""
        with library_globals():
            self.cluster.start()
            self._until(lambda: self._leader() is not None and self._all_linked())
            if not self._make_leader("n1"):
                return False
            self._log_what_only_n2_gets()
            if not self._let_another_lead_and_n1_follow():
                return False
            if not self._make_leader("n1"):
                return False
            return self._let_the_old_acknowledgements_arrive()

    def _log_what_only_n2_gets(self) -> None:
        self._cut("n2", "n1")
        for other in ("n3", "n4", "n5"):
            self._cut("n1", other)
            self._cut(other, "n1")
        for _ in range(40):
            self._log_at("n1")
            self.world.run_until(self.world.now_s + 0.002)

    def _let_another_lead_and_n1_follow(self) -> bool:
        rest = ("n3", "n4", "n5")
        if not self._until(lambda: self._leader() in rest):
            return False
        for other in rest:
            self.network.heal(("n1", other))
            self.network.heal((other, "n1"))
        return self._until(lambda: self._log_end("n1") == self._log_end("n2"))

    def _let_the_old_acknowledgements_arrive(self) -> bool:
        for other in ("n2", "n3", "n5"):
            self._cut("n1", other)
        for _ in range(8):
            self._log_at("n1")
            self.world.run_until(self.world.now_s + 0.002)
        self.network.heal(("n2", "n1"))
        self.world.run_until(self.world.now_s + 0.05)
        for node in ("n1", "n4"):
            self.cluster.nodes[node].kill()
        self.cluster.heal_all_but({"n1", "n4"})
        before = max(self.watch.committed)
        return self._until(lambda: max(self.watch.committed) > before)

    # -- small steps -------------------------------------------------------------------------------

    def _make_leader(self, wanted: str) -> bool:
        """Kill whoever else leads until ``wanted`` does; the others start again at once."""
        for _ in range(6):
            leader = self._leader()
            if leader == wanted:
                return True
            if leader is not None:
                self.cluster.nodes[leader].kill()
                self._until(lambda: self._leader() is not None)
                self.cluster.nodes[leader].start()
                self.world.run_until(self.world.now_s + 0.05)
        return self._leader() == wanted

    def _until(self, condition: Callable[[], bool]) -> bool:
        self.world.run_until(self.world.now_s + STEP_S, stop=condition)
        return condition()

    def _leader(self) -> str | None:
        """The leader with the newest term, once it may propose."""
        best = (0, "")
        for node in self.cluster.nodes.values():
            if node.replica is not None and node.replica.engine.role is Role.LEADER:
                best = max(best, (node.replica.engine.raftCurrentTerm, node.node))
        replica = self.cluster.nodes[best[1]].replica if best[1] else None
        return best[1] if replica is not None and replica.engine.leads else None

    def _all_linked(self) -> bool:
        nodes = self.cluster.nodes.values()
        return all(node.links is not None and len(node.links.connected) == 4 for node in nodes)

    def _log_end(self, node: str) -> tuple[int, int | None]:
        replica = self.cluster.nodes[node].replica
        if replica is None:
            return 0, 0
        return replica.journal.last_index, replica.journal.term_at(replica.journal.last_index)

    def _cut(self, sender: str, receiver: str) -> None:
        self.network.cut.add((sender, receiver))

    def _log_at(self, name: str) -> None:
        node = self.cluster.nodes[name]
        if node.process is not None and node.replica is not None:
            deadline_s = node.process.time() + 1.0
            node.process.run(node.replica.submit, OPEN, deadline_s, lambda reply, at: None)
