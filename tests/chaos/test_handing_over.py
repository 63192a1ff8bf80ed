"""Leadership moves between real processes: told to, stopped on purpose, or fallen silent."""

from __future__ import annotations

from pathlib import Path

import pytest
from workload import Writers, check_nothing_lost, wait_until

from bench.namespaces import Network, tracker_cluster, why_unavailable
from tracker_raft import Cluster, TrackerClient
from tracker_raft.errors import BadRequest, NoLeader

ROUNDS = 2
WHY_UNAVAILABLE = why_unavailable()


def terms(cluster: Cluster) -> set[int]:
    return {node["term"] for node in cluster.status()["nodes"]}


def test_a_rolling_restart_under_load_fails_no_call() -> None:
    """Broken: restarting trackers one by one, for an upgrade, is seen by their clients."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=4) as writers:
            for node in list(cluster.nodes) * ROUNDS:
                writers.wait_for(20)
                cluster.terminate(node)
                writers.wait_for(20)
                cluster.restart(node)
                wait_until("all follow", lambda: bool(cluster.wait_ready()))
        assert not writers.refused | writers.unknown, writers.refused | writers.unknown
        check_nothing_lost(cluster, writers)


def test_leadership_goes_where_it_is_told_under_load() -> None:
    """Broken: a hand-over loses or refuses operations, or goes to somebody else."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=4) as writers:
            for target in list(cluster.nodes) * ROUNDS:
                writers.wait_for(20)
                assert cluster.transfer_leadership(target) == target
                assert cluster.leader() == target
                writers.wait_for(20)
        assert not writers.refused | writers.unknown, writers.refused | writers.unknown
        assert cluster.transfer_leadership(target) == target, "it is there already"
        assert cluster.transfer_leadership() != target
        with pytest.raises(BadRequest, match="the other members are"):
            cluster.transfer_leadership("n9")
        check_nothing_lost(cluster, writers)


def test_without_a_leader_there_is_nothing_to_hand_over() -> None:
    """Broken: it hangs, or says that it was done."""
    with Cluster.up(3) as cluster, TrackerClient(cluster.endpoints) as client:
        leader = cluster.wait_ready()
        follower = next(node for node in cluster.nodes if node != leader)
        cluster.kill(follower)  # first, so that the one that is left cannot be elected
        cluster.kill(leader)
        with pytest.raises(NoLeader, match="nothing was done"):
            client.transfer_leadership()


@pytest.mark.skipif(WHY_UNAVAILABLE is not None, reason=str(WHY_UNAVAILABLE))
def test_half_a_cut_deposes_nobody_and_a_whole_one_is_survived(tmp_path: Path) -> None:
    """Broken: a follower that cannot reach the leader, but another follower, takes its place; or
    a leader that is cut off goes on leading, or is not replaced."""
    names = ["n1", "n2", "n3"]
    with Network(names) as network, tracker_cluster(network, tmp_path) as cluster:
        leader = cluster.wait_ready()
        (before,) = terms(cluster)
        follower = next(node for node in names if node != leader)
        with Writers(cluster.endpoints, threads=2) as writers:
            network.cut(leader, [follower])
            writers.wait_for(200)
            assert cluster.leader() == leader and before == max(terms(cluster) - {None})
            network.heal()
            wait_until("all follow", lambda: cluster.wait_ready() == leader)
            network.cut(leader)
            wait_until("it is replaced", lambda: cluster.leader() != leader)
            with TrackerClient([cluster.endpoint(leader)]) as client:
                assert client.status(cluster.endpoint(leader))["role"] != "leader"
            writers.wait_for(50)
            network.heal()
            wait_until("it follows", lambda: cluster.wait_ready() != leader)
        assert not writers.refused, writers.refused
        check_nothing_lost(cluster, writers)
