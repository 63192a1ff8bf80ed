"""Clusters on this machine, with real processes: the words of the command line."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tracker_raft.__main__ import main
from tracker_raft.cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
WORDS = (
    *("up", "status", "down", "kill", "pause", "resume", "restart", "logs", "node"),
    *("transfer-leadership", "log", "snapshot", "backup", "restore", "recover"),
)
STATUS_KEYS = [
    *("id", "role", "pid", "endpoint", "raft", "term", "commit", "applied", "state_hash"),
    *("snapshot", "log_entries", "log_bytes", "leader_silent_ms", "disk_full", "refused"),
    *("cluster_version", "software"),
    *("alive", "paused", "reachable", "lag"),
]


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
    assert (unknown.returncode, "n1, n2, n3" in unknown.stderr) == (2, True)

    killed = p2p("kill", "leader").stdout
    assert killed.split()[1] == leader
    addresses = {row["id"]: row["endpoint"] for row in status["nodes"]}
    asked = p2p("status", "--json", "--trackers", f"{addresses[follower]},{addresses[leader]}")
    rows = json.loads(asked.stdout)
    assert [row["id"] for row in rows["nodes"]] == sorted(set(pids) - {leader}), asked.stderr
    assert [row["pid"] for row in rows["nodes"]] == [pids[row["id"]] for row in rows["nodes"]]
    assert list(rows["silent"]) == [addresses[leader]]
    assert asked.returncode == (rows["leader"] is None), "it may not be replaced yet"
    table = p2p("status", "--trackers", addresses[leader])
    assert (table.returncode, "no tracker answered" in table.stderr) == (1, True)
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
    none = p2p("status")
    assert "leader: none" in none.stdout
    assert (none.returncode, none.stderr) == (
        1,
        "error: no leader is known; n1: down; n2: down; n3: down\n",
    )
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
        assert process.wait(10) == 0


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
