"""Disks that stall under nodes whose loop waits for them: once, and nobody is deposed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim.cluster import SimCluster, SimNode
from tests.sim.invariants import Watch
from tests.sim.run import library_globals
from tests.sim.workload import SimClient
from tests.sim.world import World
from tracker_raft.raft.trust import STALL_S

SEEDS = range(4)
SLOW_S = (0.03, 0.12)
"""Longer than a sign of life may be late, shorter than an election time-out."""


def until(world: World, condition: Callable[[], bool]) -> None:
    world.run_until(world.now_s + 10.0, stop=condition)
    assert condition()


def leading(cluster: SimCluster) -> list[SimNode]:
    nodes = [node for node in cluster.nodes.values() if node.replica is not None]
    return [node for node in nodes if node.replica is not None and node.replica.engine.leads]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("which", ["leader", "all"])
def test_a_disk_that_becomes_slow_holds_the_loop_once(seed: int, which: str) -> None:
    """Broken: a leader with a slow disk is silent during each sync, and deposed again and again."""
    with library_globals():
        world = World(seed)
        cluster = SimCluster(world, ["n1", "n2", "n3"], at_once=1.0)
        watch = Watch(cluster)
        world.after_event = watch.look
        cluster.start()
        until(world, lambda: bool(leading(cluster)))
        for number in range(3):
            SimClient(cluster, watch, f"c{number}", 1e9)
        world.run_until(world.now_s + 3.0)
        nodes = list(cluster.nodes.values())
        assert all(len(node.disk.held_s) > 100 for node in nodes), "the loops wait for fast disks"
        (leader,) = leading(cluster)
        elections, slow = watch.elections, nodes if which == "all" else [leader]
        for node in slow:
            node.disk.held_s.clear()
            node.disk.latency_s = SLOW_S
        acknowledged = len(watch.acknowledged)
        world.run_until(world.now_s + 10.0)
        assert len(watch.acknowledged) > acknowledged + 50
        assert (leading(cluster), watch.elections) == ([leader], elections)
        stalls = [sum(took >= STALL_S for took in node.disk.held_s) for node in slow]
        assert max(stalls) == 1, "only the first one cannot be foreseen"
        for node in slow:
            node.disk.latency_s = (0.0001, 0.0004)
            node.disk.held_s.clear()
        world.run_until(world.now_s + 10.0)
        assert all(node.disk.held_s for node in slow), "it is trusted again"
