"""Clusters on this machine, with real processes: the library and the words of the command line."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import processes_naming, wait_until

from tracker_raft.__main__ import main
from tracker_raft.cluster import Cluster
from tracker_raft.cluster import ports as cluster_ports
from tracker_raft.cluster.state import NodePlace
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, LocalError, NotFound

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = (
    *("up", "status", "down", "kill", "pause", "resume", "restart", "logs", "node"),
    *("transfer-leadership", "log", "snapshot", "backup", "restore", "recover"),
)
STATUS_KEYS = [
    *("id", "role", "pid", "endpoint", "raft", "term", "commit", "applied", "state_hash"),
    *("snapshot", "log_entries", "log_bytes", "leader_silent_ms", "refused"),
    *("alive", "paused", "reachable", "lag"),
]


def roles(cluster: Cluster) -> dict[str, str | None]:
    return {row["id"]: row["role"] for row in cluster.status()["nodes"]}


# -- the library ----------------------------------------------------------------------------------


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


# -- the command line -----------------------------------------------------------------------------


@pytest.fixture
def detached(p2p: Command, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What ``up 3 --detach --json`` printed; brought down in the end."""
    done = p2p("up", 3, "--detach", "--json", "--data-dir", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    try:
        yield json.loads(done.stdout)
    finally:
        assert p2p("down", "--data-dir", tmp_path / "c").returncode == 0


def test_the_life_of_a_detached_cluster(p2p: Command, detached: dict[str, Any]) -> None:
    """Broken: one of the words does not do what it says, or a script cannot read ``status``."""
    leader = detached["leader"]
    status = json.loads(p2p("status", "--json").stdout)
    assert list(status) == ["leader", "election", "cluster_version", "nodes"]
    assert status["leader"] == leader
    assert [list(row) for row in status["nodes"]] == [STATUS_KEYS] * 3
    assert status["election"]["leader"] == leader
    assert {row["lag"] for row in status["nodes"]} == {0}
    pids = {row["id"]: row["pid"] for row in status["nodes"]}
    follower = next(node for node in pids if node != leader)

    table = p2p("status").stdout
    assert f"leader: {leader}" in table
    assert all(str(pid) in table for pid in pids.values())

    assert p2p("pause", follower).stdout == f"paused {follower} (pid {pids[follower]})\n"
    assert "paused" in p2p("status").stdout
    alone = p2p("transfer-leadership", "--to", follower)
    assert alone.returncode == 1 and f"not handed over to {follower}" in alone.stderr
    assert p2p("resume", follower).stdout == f"resumed {follower} (pid {pids[follower]})\n"

    assert p2p("transfer-leadership", "--to", follower).stdout == f"{follower} leads\n"
    assert f"leader: {follower}, elected " in (table := p2p("status").stdout)
    assert f": told to stand by {leader}" in table
    assert json.loads(p2p("transfer-leadership", "--to", leader, "--json").stdout) == {
        "leader": leader
    }
    usage = p2p("transfer-leadership", "--to", "n9")
    assert usage.returncode == 2 and "the other members are" in usage.stderr

    looked = p2p("log", "--json", "-n", 3)
    rows = [json.loads(line) for line in looked.stdout.splitlines()]
    assert rows[-1]["note"] == "a leader's first entry", looked.stderr
    assert f"{rows[-1]['index']}.0" in p2p("log").stdout
    taken = [json.loads(line) for line in p2p("snapshot", "--json").stdout.splitlines()]
    assert [row["node"] for row in taken] == ["n1", "n2", "n3"]
    assert p2p("snapshot", "n2").stdout.startswith("n2: ")
    unknown = p2p("snapshot", "n9")
    assert (unknown.returncode, "n1, n2, n3" in unknown.stderr) == (1, True)

    killed = p2p("kill", "leader").stdout
    assert killed.split()[1] == leader
    assert killed == f"killed {leader} (pid {pids[leader]})\n"
    up_of_two = p2p("up", 3, "--data-dir", detached["data_dir"])
    assert up_of_two.returncode == 1
    assert f"nothing was done; restart {leader} to mend it" in up_of_two.stderr
    again = p2p("kill", leader)
    assert (again.returncode, again.stderr) == (
        1,
        f"error: {leader} is not running; nothing was done\n",
    )
    assert p2p("restart", leader).stdout.startswith(f"restarted {leader} (pid ")
    assert f"of {leader}" not in p2p("logs", leader, "-n", 1).stderr
    assert len(p2p("logs", leader, "-n", 2).stdout.splitlines()) == 2

    second_up = p2p("up", 3, "--data-dir", detached["data_dir"])
    assert second_up.returncode == 1
    assert "is up already (n1, n2, n3 running)" in second_up.stderr

    down = p2p("down")
    assert (down.stdout, down.returncode) == ("stopped n1, n2, n3\n", 0)
    assert p2p("down").stdout == "no node was running\n"
    assert "leader: none" in p2p("status").stdout
    nobody = p2p("kill", "leader")
    assert (nobody.returncode, nobody.stderr) == (
        1,
        "error: no leader: n1: down; n2: down; n3: down\n",
    )

    other_size = p2p("up", 5, "--data-dir", detached["data_dir"])
    assert other_size.returncode == 2
    assert "found 3 nodes" in other_size.stderr and "asked for 5; a new" in other_size.stderr
    back = p2p("up", 3, "--detach", "--json", "--data-dir", detached["data_dir"])
    endpoints = [row["endpoint"] for row in json.loads(back.stdout)["nodes"]]
    assert endpoints == [row["endpoint"] for row in detached["nodes"]]


@contextmanager
def foreground(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """``up`` in the foreground; killed in the end if the test failed before it stopped."""
    command = [sys.executable, "-m", "tracker_raft", "up", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line that has ``text`` in it; the output must not end before."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the output ended without {text!r}")


def test_the_foreground_tells_what_happens_and_stops_cleanly(p2p: Command) -> None:
    """Broken: ``up`` hides a lost leader, or Ctrl-C leaves trackers behind."""
    with foreground(3) as process:
        head = line_with(process, "node").split()
        assert head == ["node", "address", "role", "pid"]
        line_with(process, "Ctrl-C stops all")
        killed = p2p("kill", "leader").stdout.split()[1]
        line_with(process, f"{killed} is gone")
        assert f"  {killed} leads" not in line_with(process, " leads (term ")
        p2p("restart", killed)
        line_with(process, f"{killed} is back")
        p2p("pause", killed)
        line_with(process, f"{killed} is paused")
        process.send_signal(signal.SIGINT)
        line_with(process, "all nodes have stopped")
        assert process.wait(10) == 0


def test_sigterm_stops_the_foreground_cleanly() -> None:
    """Broken: ``up`` as a service leaves its trackers behind when it is stopped."""
    with foreground(1) as process:
        line_with(process, "Ctrl-C stops all")
        process.send_signal(signal.SIGTERM)
        line_with(process, "all nodes have stopped")
        assert process.wait(10) == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_writable_is_named(tmp_path: Path) -> None:
    """Broken: the user learns that permission is denied and not where."""
    (tmp_path / "c").mkdir(mode=0o500)
    with pytest.raises(LocalError, match=r"c cannot be used: Permission denied; nothing"):
        Cluster.up(1, data_dir=tmp_path / "c")


def test_the_foreground_ends_when_another_brings_the_cluster_down(p2p: Command) -> None:
    """Broken: ``up`` watches an empty directory for ever."""
    with foreground(1, "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["leader"] == "n1"
        assert p2p("down").returncode == 0
        last = [json.loads(line)["event"] for line in process.stdout][-1]
        assert (last, process.wait(10)) == ("stopped", 0)


def test_logs_are_followed(p2p: Command, detached: dict[str, Any]) -> None:
    """Broken: somebody who watches a node misses what it says from now on."""
    command = [sys.executable, "-m", "tracker_raft", "logs", "n1", "-n", "1", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with (Path(detached["data_dir"]) / "n1.log").open("a") as log:
            log.write("something new\n")
        line_with(process, "something new")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["up", "4"], "odd number"),
        (["up", "0"], "odd number"),
        (["up", "many"], "not a valid integer"),
        (["up", "3", "--base-port", "65534"], "base port 65534"),
        (["backup", "b"], "no trackers are known"),
        (["backup", "b", "--trackers", "here"], "expected host:port"),
        (["backup", "b", "--data-dir", "nowhere"], "no cluster in"),
        (["log", "-n", "0"], "1<=x<=1000"),
        (["restore", "b", "--data-dir", "d"], "does not exist"),
        (["restore", ".", "--data-dir", "d"], "is a directory"),
        (["recover", "nowhere"], "does not exist"),
        (["status"], "no cluster was brought up on this machine yet"),
        (["kill", "n1", "--data-dir", "nowhere"], "no cluster in"),
        (["node"], "--data-dir"),
        (["node", "--data-dir", "d", "--listen", "0.0.0.0:7000"], "--advertise"),
        (["node", "--data-dir", "d", "--listen", "10.0.0.1:7000"], "--insecure"),
        (["node", "--data-dir", "d", "--member", "n2=127.0.0.1:1"], "not among them"),
        (["node", "--data-dir", "d", "--id", "a/b"], "node id"),
        (["node", "--data-dir", "d", "--listen", "here"], "expected host:port"),
    ],
)
def test_wrong_use_is_status_2_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    """Broken: a mistake on the command line starts something, or is answered by a traceback."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert reason in " ".join(done.stderr.split())
    assert not (tmp_path / "d").exists()


def test_an_unknown_node_is_answered_with_the_known_ones(p2p: Command, tmp_path: Path) -> None:
    """Broken: a typing error in ``kill`` is not noticed, or hits another node."""
    with Cluster.up(1, data_dir=tmp_path / "c") as cluster:
        for word in ("kill", "pause", "resume", "restart", "logs"):
            done = p2p(word, "n7", "--data-dir", tmp_path / "c")
            assert done.returncode == 2, word
            assert "no node 'n7'; the nodes are n1" in done.stderr
        assert cluster.leader() == "n1"


def test_obstacles_are_status_1_and_leave_nothing(p2p: Command, tmp_path: Path) -> None:
    """Broken: a port or directory in the way ends in a traceback or in half a cluster."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = p2p("up", 3, "--base-port", port, "--data-dir", tmp_path / "c")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: port {port} on 127.0.0.1 cannot be used")
        assert not (tmp_path / "c").exists()

        done = p2p("node", "--data-dir", tmp_path / "n", "--listen", f"127.0.0.1:{port}")
        assert done.returncode == 1
        assert str(port) in done.stderr and "Traceback" not in done.stderr

    (tmp_path / "file").touch()
    done = p2p("up", 3, "--data-dir", tmp_path / "file" / "c")
    assert (done.returncode, "Not a directory" in done.stderr) == (1, True)
    done = p2p("up", 3, "--data-dir", tmp_path / "file")
    assert (done.returncode, "file cannot be used: it is not a directory" in done.stderr) == (1, 1)

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    done = p2p("up", 3, "--data-dir", tmp_path / "full")
    assert done.returncode == 1
    assert "holds 'thesis.tex' and no cluster.json" in done.stderr
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("word", WORDS)
def test_every_word_shows_an_example(word: str) -> None:
    """Broken: somebody new must guess how a word is used."""
    done = CliRunner().invoke(main, [word, "--help"])
    assert done.exit_code == 0
    assert f"  p2p-cluster {word}" in done.stdout
