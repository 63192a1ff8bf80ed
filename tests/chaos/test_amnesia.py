"""Directories emptied, damaged, shared and mixed up: who may not take part, and who says why."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from workload import Writers, check_nothing_lost, wait_until

from tracker_raft import Cluster, OutcomeUnknown, TrackerClient, Unavailable

NODE = (sys.executable, "-m", "tracker_raft", "node")


def said(cluster: Cluster, node: str) -> dict[str, Any]:
    """The node's own status; empty while it does not answer."""
    with TrackerClient(cluster.endpoints) as client:
        try:
            return client.status(cluster.endpoint(node), deadline_s=2)
        except Unavailable:
            return {}


def refusal(cluster: Cluster, node: str, of: str) -> str:
    """Why ``node`` has no link with ``of``, in its own status."""
    return str(said(cluster, node).get("refused", {}).get(of, ""))


def options(of: Cluster, node: str, **other: str) -> list[str]:
    """The command line of ``node`` of this cluster, with other values for some options."""
    places = {place.node: place for place in of.layout.nodes}
    values = {
        "id": node,
        "data-dir": str(of.data_dir / node),
        "listen": str(places[node].endpoint),
        "raft-listen": str(places[node].raft),
        "cluster": of.layout.cluster,
        "members": " ".join(f"{place.node}={place.raft}" for place in of.layout.nodes),
        **{name.replace("_", "-"): value for name, value in other.items()},
    }
    members = values.pop("members").split()
    rest = [word for member in members for word in ("--member", member)]
    return [*NODE, *(word for name in values for word in (f"--{name}", values[name])), *rest]


def refused_to_start(command: list[str]) -> str:
    """Run a node that must not start; what it said. It ends by itself, with exit status 1."""
    run = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One for the tests that leave it as they found it."""
    with Cluster.up(3) as cluster:
        yield cluster


def flip_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("which", ["leader", "follower"])
def test_a_member_that_lost_its_memory_takes_no_part(which: str) -> None:
    """If this fails, a tracker whose disk was emptied helps to lose acknowledged writes."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=2) as writers:
            writers.wait_for(20)
            leader = cluster.leader()
            victim = next(n for n in cluster.nodes if (n == leader) == (which == "leader"))
            others = [node for node in cluster.nodes if node != victim]
            cluster.kill(victim)
            shutil.rmtree(cluster.data_dir / victim)
            cluster.restart(victim, wait=False)
            for node in others:
                wait_until(
                    f"{node} refuses {victim}",
                    lambda node=node: "lost its memory" in refusal(cluster, node, victim),  # type: ignore[misc]
                )
                wait_until(
                    f"{victim} knows why",
                    lambda node=node: "refuses this node" in refusal(cluster, victim, node),  # type: ignore[misc]
                )
            writers.wait_for(50)
            assert said(cluster, victim)["applied"] == 1, "nothing but the first entry of any log"
            assert cluster.leader() in others
        assert not writers.refused, f"refused although a majority lived: {writers.refused}"
        cluster.kill(others[0])
        with (
            TrackerClient([cluster.endpoint(victim), cluster.endpoint(others[1])]) as client,
            pytest.raises((Unavailable, OutcomeUnknown)),
        ):
            client.publish("with whom?", **Writers._binding("x"), deadline_s=2)
        cluster.restart(others[0], wait=False)
        wait_until("the two serve again", lambda: cluster.status()["leader"] in others)
        check_nothing_lost(cluster, writers, among=others)


def test_a_damaged_journal_keeps_its_node_out_and_the_others_go_on() -> None:
    """If this fails, a flipped bit becomes another history, or takes the cluster down."""
    with Cluster.up(3) as cluster:
        with Writers(cluster.endpoints, threads=2) as writers:
            writers.wait_for(30)
            victim = next(node for node in cluster.nodes if node != cluster.leader())
            cluster.kill(victim)
            journal = cluster.data_dir / victim / "log-000000000001"
            before = journal.read_bytes()
            flip_bit(journal, 300)
            spoilt = journal.read_bytes()
            words = refused_to_start(options(cluster, victim))
            assert "log-000000000001: the record at byte" in words
            assert "is damaged and later ones are intact" in words
            assert "neither vote nor lead" in words
            assert journal.read_bytes() == spoilt, "nothing was changed"
            writers.wait_for(30)
            journal.write_bytes(before)
            cluster.restart(victim)
        check_nothing_lost(cluster, writers)


def test_two_processes_in_one_directory_are_refused(cluster: Cluster) -> None:
    """If this fails, two processes write one log and both vote."""
    words = refused_to_start(
        options(cluster, "n1", listen="127.0.0.1:1", raft_listen="127.0.0.1:1")
    )
    assert "is in use by another process; nothing was started" in words
    assert cluster.wait_ready() in cluster.nodes


def test_a_directory_of_another_node_or_cluster_is_refused(cluster: Cluster) -> None:
    """If this fails, a mixed up mount makes one tracker vote with the memory of another."""
    cluster.kill("n3")
    place = str(cluster.data_dir / "n3")
    foreign = refused_to_start(options(cluster, "n3", cluster="another"))
    assert "belongs to node 'n3' of cluster 'p2p" in foreign
    assert "expected 'n3' of 'another'" in foreign
    cluster.kill("n2")
    wrong = refused_to_start(options(cluster, "n2", data_dir=place))
    assert "belongs to node 'n3'" in wrong
    assert "expected 'n2'" in wrong
    for node in ("n2", "n3"):
        cluster.restart(node, wait=False)
    cluster.wait_ready()


def test_who_was_started_with_other_members_is_not_linked(cluster: Cluster) -> None:
    """If this fails, two majorities of different lists decide two different things."""
    cluster.kill("n3")
    (cluster.data_dir / "n3" / "members").unlink()  # as if it had met nobody yet
    raft = {place.node: place.raft for place in cluster.layout.nodes}
    members = f"n1={raft['n1']} n2={raft['n2']} n3={raft['n3']} n4=127.0.0.1:1 n5=127.0.0.1:1"
    with running(options(cluster, "n3", members=members)):
        for node in ("n1", "n2"):
            wait_until(
                f"{node} says why",
                lambda node=node: "n1, n2, n3, n4, n5" in refusal(cluster, node, "n3"),  # type: ignore[misc]
            )
            wait_until(
                "n3 says why",
                lambda node=node: "was started with members" in refusal(cluster, "n3", node),  # type: ignore[misc]
            )
        assert said(cluster, "n3")["log_entries"] > 1, "what it has it keeps"
        assert said(cluster, "n3")["leader"] is None
        assert cluster.leader() in ("n1", "n2")
    cluster.restart("n3")
    wait_until("the refusal is over", lambda: not refusal(cluster, "n1", "n3"))


def test_a_list_of_members_that_is_changed_later_changes_nothing(cluster: Cluster) -> None:
    """If this fails, an edited start script makes the node count another majority."""
    cluster.kill("n3")
    raft = {place.node: place.raft for place in cluster.layout.nodes}
    members = f"n3={raft['n3']} n4=127.0.0.1:1 n5=127.0.0.1:1 n1={raft['n1']}"
    with running(options(cluster, "n3", members=members)):
        wait_until("it follows", lambda: said(cluster, "n3").get("leader") in ("n1", "n2"))
        seen = [member["node"] for member in said(cluster, "n3")["members"]]
        assert seen == ["n1", "n2", "n3"]
    cluster.restart("n3")
