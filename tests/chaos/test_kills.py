"""Trackers killed under load: nothing acknowledged is lost, nothing is run twice."""

from __future__ import annotations

import threading

import pytest
from workload import Writers, check_nothing_lost, check_replicas_equal, wait_until

from tracker_raft import Cluster


def links_up(cluster: Cluster) -> bool:
    """Whether every tracker answers and follows the same leader."""
    status = cluster.status()
    return status["leader"] is not None and all(
        node["reachable"] and node["role"] in ("leader", "follower") for node in status["nodes"]
    )


@pytest.mark.parametrize("kills", [10, pytest.param(40, marks=pytest.mark.slow)])
def test_leader_killed_again_and_again_under_publishing(kills: int) -> None:
    """If this fails, a killed leader takes acknowledged writes with it or stops the cluster."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=4) as writers:
            for _ in range(kills):
                writers.wait_for(20)
                victim = cluster.leader()
                cluster.kill(victim)
                writers.wait_for(20)
                cluster.restart(victim)
                wait_until("all three serve again", lambda: links_up(cluster))
        assert not writers.refused, f"refused although a majority lived: {writers.refused}"
        check_nothing_lost(cluster, writers)


def test_all_trackers_killed_at_once() -> None:
    """If this fails, a write is acknowledged before it is on the disks of a majority."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=4, deadline_s=30) as writers:
            for _ in range(3):
                writers.wait_for(100)
                at_once = [
                    threading.Thread(target=cluster.kill, args=(node,)) for node in cluster.nodes
                ]
                for kill in at_once:
                    kill.start()
                for kill in at_once:
                    kill.join()
                for node in cluster.nodes:
                    cluster.restart(node, wait=False)
                wait_until("all three serve again", lambda: links_up(cluster))
        check_nothing_lost(cluster, writers)


def test_paused_leader_is_replaced_and_comes_back_as_a_follower() -> None:
    """If this fails, a leader that hangs stops the cluster, or two of them go on side by side."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=4) as writers:
            for _ in range(3):
                writers.wait_for(20)
                victim = cluster.leader()
                cluster.pause(victim)
                writers.wait_for(50)
                cluster.resume(victim)
                wait_until("the old leader follows", lambda: links_up(cluster))
            writers.wait_for(20)
        check_nothing_lost(cluster, writers)


def test_a_minority_never_acknowledges() -> None:
    """If this fails, a tracker without a majority acknowledges what the others never saw."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=2, deadline_s=1.5) as writers:
            writers.wait_for(20)
            leader = cluster.leader()
            others = [node for node in cluster.nodes if node != leader]
            for node in others:
                cluster.kill(node)
            before = len(writers.acknowledged)
            wait_until(
                "two calls gave up", lambda: len(writers.refused) + len(writers.unknown) >= 2
            )
            # A call that was already committed when the others died may still be counted.
            assert len(writers.acknowledged) <= before + 2
            for node in others:
                cluster.restart(node, wait=False)
            writers.wait_for(20)
        check_nothing_lost(cluster, writers)
        check_replicas_equal(cluster)
