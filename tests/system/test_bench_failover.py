"""The failover benchmark as one runs it, one fault of each kind: no figure is judged here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import python, wait_until

from bench import etcd, namespaces
from bench.faults import end_process
from bench.fleets import ProcessFleet
from bench.namespaces import CLIENT, Network, tracker_cluster
from bench.stock import StockFleet

ROOT = Path(__file__).resolve().parent.parent.parent
WHY_UNAVAILABLE = namespaces.why_unavailable()
in_namespaces = pytest.mark.skipif(WHY_UNAVAILABLE is not None, reason=str(WHY_UNAVAILABLE))


def failover(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """What a run printed as JSON."""
    out = ["--json", "--out", str(tmp_path / "kept"), "--keep-logs", str(tmp_path / "logs")]
    run = python("-m", "bench", "failover", "--faults", "1", *arguments, *out, cwd=ROOT)
    printed = json.loads(run)
    assert isinstance(printed, dict)
    return printed


@pytest.mark.system
def test_every_fault_of_a_process_is_measured(tmp_path: Path) -> None:
    """Broken: the failover figures could not be had, or their outliers not be explained."""
    kinds = ["kill", "term", "stop", "roll"]
    arguments = [part for kind in kinds for part in ("--kind", kind)]
    result = failover(tmp_path, *arguments, "--rival", "none")

    assert [sample["contender"] for sample in result["samples"]] == [
        f"tracker-raft {kind}" for kind in kinds
    ]
    for kind in kinds[:3]:
        figure = result["figures"][f"tracker-raft {kind}"]
        assert figure["attached_ms"]["n"] == 1 and figure["follower_ms"]["p50"] > 0
        assert sum(figure["elections"].values()) == 1
    assert result["figures"]["tracker-raft roll"]["calls"] > 0
    assert set(result["absent"].values()) == {"not asked for"}
    told = (tmp_path / "logs" / "faults.jsonl").read_text(encoding="utf-8").splitlines()
    places = [tmp_path / "logs" / json.loads(line)["logs"] for line in told]
    assert len(places) == 4 and all((place / "n1.log").stat().st_size > 0 for place in places)


@pytest.mark.system
@in_namespaces
def test_a_leader_that_nobody_hears_is_measured(tmp_path: Path) -> None:
    """Broken: the silent leader, the slowest of all to be noticed, would go unmeasured."""
    result = failover(tmp_path, "--kind", "drop", "--rival", "none")
    assert result["figures"]["tracker-raft drop"]["attached_ms"]["n"] == 1


@pytest.mark.system
def test_quiet_and_full_load_are_measured(tmp_path: Path) -> None:
    """Broken: needless elections and the cost of doing nothing would not be seen."""
    seconds = ["--idle-seconds", "0.5", "--load-seconds", "0.5", "--rival", "none"]
    result = failover(tmp_path, "--kind", "idle", "--kind", "load", *seconds)
    assert result["figures"]["tracker-raft idle"]["cpu_percent"]["n"] == 1
    assert result["figures"]["tracker-raft load"]["writes_per_s"]["median"] > 0


@pytest.mark.system
@pytest.mark.parametrize("rival", ["etcd", "pysyncobj"])
def test_a_rival_takes_writes_and_comes_back(rival: str, tmp_path: Path) -> None:
    """Broken: ours would stand alone, or beside a rival that was not really running."""
    if rival != "pysyncobj" and etcd.version() is None:
        pytest.skip("no etcd in PATH (Debian: etcd-server)")
    made: dict[str, ProcessFleet] = {
        "etcd": etcd.EtcdFleet(tmp_path / "data", options=etcd.TUNED),  # the quicker one
        "pysyncobj": StockFleet(tmp_path / "data"),
    }
    with made[rival] as fleet:
        leader = fleet.wait_ready()
        term = fleet.term()
        writer = fleet.writer(leader)
        try:
            writer.write("before", 20.0)
            end_process(fleet.pid(leader), signal.SIGKILL)
            writer.write("after", 20.0)
        finally:
            writer.close()
        fleet.start(leader)
        assert fleet.wait_ready() in fleet.nodes
        assert fleet.term() > term


@in_namespaces
def test_a_cut_is_silent_and_heals(tmp_path: Path) -> None:
    """Broken: a test of a lost machine would test a refusal, or nothing at all."""
    with Network(["n1", "n2", "n3"]) as network, tracker_cluster(network, tmp_path) as cluster:
        leader = cluster.wait_ready()
        network.cut(leader, client=True)
        (report,) = (report for report in cluster.reports() if report.node == leader)
        assert report.alive and report.problem == "timed out", "a refusal or a reset is not silent"
        wait_until(lambda: cluster.leader() != leader, "another one leads")
        network.heal()
        assert cluster.wait_ready() in cluster.nodes
        cluster.kill(leader)
        cluster.restart(leader)
        assert {report.condition for report in cluster.reports()} == {"serving"}


@in_namespaces
def test_one_direction_is_cut_and_the_other_is_not() -> None:
    """Broken: a half-connected node, the hardest case of an election, could not be tried."""
    with Network(["n1", "n2"]) as network:
        network.cut("n1", incoming=False)
        assert network.dropped == {("n1", "n2")}
        assert [heard(network, *pair) for pair in (("n1", "n2"), ("n2", "n1"))] == [False, True]
        network.cut("n1", [CLIENT], outgoing=False)
        assert network.dropped == {("n1", "n2"), (CLIENT, "n1")}
        network.heal("n2")
        assert network.dropped == {(CLIENT, "n1")}
        assert heard(network, "n1", "n2")
        network.heal()
        assert network.dropped == frozenset()


def heard(network: Network, sender: str, receiver: str) -> bool:
    """Whether a datagram of ``sender`` arrives at ``receiver``."""
    here = network.address[receiver]
    listen = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f"s.bind(({here!r}, 9000)); print(flush=True); s.settimeout(20); print(s.recv(9))"
    )
    say = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f"s.sendto(sys.argv[1].encode(), ({here!r}, 9000))"
    )
    with subprocess.Popen(
        [*network.enter(receiver), sys.executable, "-c", listen], stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None and listener.stdout.readline() == "\n"
        for where, word in ((sender, "cut?"), (receiver, "end")):  # from itself it always arrives
            command = [*network.enter(where), sys.executable, "-c", say, word]
            subprocess.run(command, check=True, timeout=20)
        return listener.stdout.readline() == "b'cut?'\n"


@in_namespaces
def test_nothing_is_left_of_a_network() -> None:
    """Broken: every run would leave cables and namespaces on the machine."""
    with Network(["n1"]) as network:
        address, inside = network.address[CLIENT], network.enter("n1")
        assert address in run("ip", "-4", "addr")
    assert address not in run("ip", "-4", "addr")
    left = subprocess.run([*inside, "true"], capture_output=True)
    assert left.returncode != 0, "the namespace is still held"
    with pytest.raises(ValueError, match="expected 1 to 9 different names"):
        Network(["n1", "n1"])


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
