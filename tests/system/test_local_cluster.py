"""Clusters on this machine, with real processes: the library."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from processes import processes_naming, wait_until

from tracker_raft.cluster import Cluster
from tracker_raft.cluster import ports as cluster_ports
from tracker_raft.cluster.state import NodePlace
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, LocalError, NotFound

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

NOBODY = 65534
"""A user without rights, on every Linux."""


def roles(cluster: Cluster) -> dict[str, str | None]:
    return {row["id"]: row["role"] for row in cluster.status()["nodes"]}


def test_faults_and_their_ends(own_machine: Path) -> None:
    """Broken: a chaos test cannot rely on what kill, pause, resume and restart did."""
    with Cluster.up(3) as cluster:
        assert cluster.nodes == ("n1", "n2", "n3")
        first = cluster.leader()
        assert sorted(map(str, roles(cluster).values())) == ["follower", "follower", "leader"]

        cluster.kill(first)
        assert cluster.pid(first) is None
        second = cluster.leader()
        assert second != first
        cluster.kill(first)  # a node that does not run is left so
        for fault in (cluster.pause, cluster.resume):
            with pytest.raises(LocalError, match=f"{first} is not running"):
                fault(first)

        cluster.restart(first)
        second = cluster.wait_ready(10)  # on a machine that stood still it may have moved
        assert sorted(map(str, roles(cluster).values())) == ["follower", "follower", "leader"]

        cluster.pause(second)
        row = next(row for row in cluster.status()["nodes"] if row["id"] == second)
        assert (row["alive"], row["paused"], row["reachable"]) == (True, True, False)
        third = cluster.leader()
        assert third != second
        cluster.resume(second)
        wait_until(lambda: roles(cluster)[second] == "follower", "the old leader follows")

        old_pid = cluster.pid(third)
        cluster.restart(third)
        assert cluster.pid(third) not in (None, old_pid)
        cluster.terminate(third)
        assert cluster.pid(third) is None

        with pytest.raises(BadRequest, match=r"'n4'.*n1, n2, n3"):
            cluster.kill("n4")
        directory = cluster.data_dir
        assert directory.parent == own_machine / "tmp"
    assert not directory.exists()


def test_no_leader_is_an_error_that_says_what_each_node_says() -> None:
    """Broken: a chaos test that finds no leader does not learn why."""
    with Cluster.up(3) as cluster:
        cluster.kill("n1")
        cluster.pause("n2")
        with pytest.raises(LocalError, match=r"no leader within 0 s: n1: down; n2: paused; n3: "):
            wait_until(lambda: not cluster.leader(0), "the last node gives up")
        with pytest.raises(LocalError, match="not ready within 0 s"):
            cluster.wait_ready(0)


def test_data_and_addresses_survive_down_and_up(tmp_path: Path) -> None:
    """Broken: a cluster that is brought up again is another one to its clients."""
    with Cluster.up(1, data_dir=tmp_path / "c") as cluster:
        endpoints, name = cluster.endpoints, cluster.layout.cluster
    with Cluster.up(1, data_dir=tmp_path / "c") as cluster:
        assert (cluster.endpoints, cluster.layout.cluster) == (endpoints, name)
        term = cluster.status()["nodes"][0]["term"]
        assert term >= 2, "it remembers the term it led before"


PARENT = """
import signal, sys
from tracker_raft.cluster import Cluster
cluster = Cluster.up(3, data_dir=sys.argv[1])
cluster.pause("n2")
print("up", flush=True)
signal.pause()
"""


def test_nodes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Broken: a chaos test that crashes leaves trackers behind, above all a paused one."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "c"],
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"up\n"
        assert len(processes_naming("--parent-pipe")) >= 3
        parent.kill()
    wait_until(lambda: not processes_naming(tmp_path), "the nodes have ended")


def test_a_node_that_does_not_start_is_shown_and_nothing_stays(tmp_path: Path) -> None:
    """Broken: a cluster that fails to start hides the reason, or leaves half of itself."""
    failing = [sys.executable, "-c", "raise SystemExit('the disk is on fire')"]
    with pytest.raises(LocalError, match=r"n\d ended with status 1 .*: the disk is on fire"):
        Cluster.up(3, data_dir=tmp_path / "c", command=failing)
    assert not (tmp_path / "c").exists()
    with pytest.raises(LocalError, match="the disk is on fire"):
        Cluster.up(3, command=failing)


def test_a_node_that_never_serves_is_stopped_in_time(tmp_path: Path) -> None:
    """Broken: ``up`` waits for ever, or leaves processes that do nothing."""
    silent = [sys.executable, "-c", "import signal; signal.pause()"]
    with pytest.raises(LocalError, match="n1 did not come to serve in time: n1: silent"):
        Cluster.up(1, data_dir=tmp_path / "c", command=silent, timeout_s=0.3)
    assert processes_naming(tmp_path) == []


def test_a_port_taken_in_the_last_moment_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: two clusters that start at once on one machine fail now and then."""
    look = cluster_ports.places
    taken: list[int] = []
    with ExitStack() as thieves:

        def places_then_theft(nodes: int, base_port: int | None = None) -> tuple[NodePlace, ...]:
            chosen = look(nodes, base_port)
            if not taken:
                address: Address = chosen[0].endpoint
                taken.append(address.port)
                thieves.enter_context(socket.create_server((address.host, address.port)))
            return chosen

        monkeypatch.setattr(cluster_ports, "places", places_then_theft)
        with Cluster.up(1) as cluster:
            assert cluster.leader() == "n1"
            assert cluster.layout.nodes[0].endpoint.port not in taken


def test_only_one_process_starts_nodes_of_a_directory(tmp_path: Path) -> None:
    """Broken: two ``up`` at once start every node twice over the same data."""
    (tmp_path / "c").mkdir()
    other = os.open(tmp_path / "c", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LocalError, match="another process is starting nodes"):
            Cluster.up(1, data_dir=tmp_path / "c")
    finally:
        os.close(other)


def test_what_makes_no_sense_is_refused_before_anything_happens(tmp_path: Path) -> None:
    """Broken: a typing error makes a directory or starts a process."""
    for nodes, reason in ((0, "from 1 to 9"), (11, "from 1 to 9"), (4, "no more failures than 3")):
        with pytest.raises(BadRequest, match=reason):
            Cluster.up(nodes, data_dir=tmp_path / "c")
    with pytest.raises(BadRequest, match="needs a data directory"):
        Cluster.up(3, detach=True)
    with pytest.raises(NotFound, match=r"no cluster\.json"):
        Cluster.attach(tmp_path / "c")
    assert not (tmp_path / "c").exists()


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who may not write everywhere, which root may."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("above", [0o755, 0o600])
def test_a_directory_that_may_not_be_used_is_named(above: int) -> None:
    """Broken: the user learns that permission is denied and not where."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:  # pytest's own ones are root's alone
        directory = Path(made) / "c"
        directory.mkdir(mode=0o555)
        directory.parent.chmod(above)
        with nobody(), pytest.raises(LocalError, match=r"c cannot be used: Permission denied; no"):
            Cluster.up(1, data_dir=directory)
        directory.parent.chmod(0o755)
