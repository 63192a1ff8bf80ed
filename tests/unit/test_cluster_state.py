"""What a cluster leaves on disk, which ports it takes, and what follows from what nodes say."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tracker_raft.cluster import ports as cluster_ports
from tracker_raft.cluster.ports import KERNEL_RANGE, places, require_free
from tracker_raft.cluster.process import Processes, log_tail
from tracker_raft.cluster.state import Layout, NodePlace, ProcessMark
from tracker_raft.cluster.status import NodeReport, events, leader_of, to_json
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, Damaged, LocalError

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


def place(number: int) -> NodePlace:
    base = 7000 + 10 * number
    return NodePlace(f"n{number}", Address("127.0.0.1", base), Address("127.0.0.1", base + 1))


# -- the description ------------------------------------------------------------------------------


def test_a_description_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Broken: a cluster comes back under other addresses than its clients know."""
    layout = Layout("p2p-1", "2020-01-01T00:00:00+00:00", (place(1), place(2), place(3)))
    layout.save(tmp_path)
    assert Layout.load(tmp_path) == layout
    assert layout.endpoints == ["127.0.0.1:7010", "127.0.0.1:7020", "127.0.0.1:7030"]
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]


def test_no_description_is_no_cluster(tmp_path: Path) -> None:
    """Broken: an empty or missing directory is an error where it only means: none yet."""
    assert Layout.load(tmp_path) is None
    assert Layout.load(tmp_path / "missing") is None
    (tmp_path / "file").touch()
    assert Layout.load(tmp_path / "file") is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"nodes": []},
        {"nodes": 3},
        {"nodes": [{"id": "n1"}]},
        {"nodes": [{"id": "../n1", "endpoint": "127.0.0.1:1", "raft": "127.0.0.1:2"}]},
        {"nodes": [{"id": "n1", "endpoint": "nowhere", "raft": "127.0.0.1:2"}]},
    ],
)
def test_a_description_that_makes_no_sense_is_damage(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Broken: a damaged file becomes a cluster with other nodes, or files outside its directory."""
    Layout("c", "", (place(1),)).save(tmp_path)
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Damaged, match=r"cluster\.json"):
        Layout.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_description_that_is_torn_is_damage(tmp_path: Path, text: str) -> None:
    """Broken: a torn file is taken for no cluster, and ``up`` makes a new one over the data."""
    (tmp_path / "cluster.json").write_text(text)
    with pytest.raises(Damaged, match=r"cluster\.json"):
        Layout.load(tmp_path)


# -- which process --------------------------------------------------------------------------------


def test_a_mark_finds_its_process_and_no_other(tmp_path: Path) -> None:
    """Broken: a signal meant for a tracker hits whoever has its number today."""
    mark = ProcessMark.of(os.getpid())
    assert mark is not None
    mark.save(tmp_path / "n1.pid")
    assert ProcessMark.load(tmp_path / "n1.pid") == mark
    found = mark.process()
    assert found is not None and found.pid == os.getpid()
    assert ProcessMark(mark.pid, mark.born + "1").process() is None


def test_a_process_that_ended_is_gone_even_before_it_is_reaped(tmp_path: Path) -> None:
    """Broken: a killed node counts as running as long as its parent does not look."""
    with subprocess.Popen(SLEEPS) as process:
        mark = ProcessMark.of(process.pid)
        assert mark is not None and mark.process() is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert mark.process() is None
    assert mark.process() is None
    assert ProcessMark.of(process.pid) is None


@pytest.mark.parametrize(
    "text", ["", "17", "{}", '{"pid": 1, "born": "x"}', '{"pid": -5, "born": "x"}', '{"pid": 9}']
)
def test_a_mark_that_is_none_signals_nobody(tmp_path: Path, text: str) -> None:
    """Broken: a torn file sends SIGKILL to process 1, or to a whole group of processes."""
    (tmp_path / "n1.pid").write_text(text)
    assert ProcessMark.load(tmp_path / "n1.pid") is None
    assert Processes(tmp_path, tied=False).find("n1") is None


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    """Broken: ``down`` hangs, or leaves a node that does not want to stop."""
    stubborn = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); input()"
    processes = Processes(tmp_path, tied=False)
    # A pipe for stdin would be the end of it; a sleeping interpreter stays.
    processes.spawn("n1", [sys.executable, "-c", stubborn.replace("input()", "signal.pause()")])
    while not processes.log_path("n1").read_text():
        assert processes.find("n1") is not None
    processes.terminate(["n1"], 0.1)
    assert processes.find("n1") is None
    assert processes.exit_status("n1") == -9
    processes.close()


def test_a_command_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    """Broken: a missing program ends in a traceback, or in a node that counts as started."""
    processes = Processes(tmp_path, tied=False)
    with pytest.raises(LocalError, match=r"n1 could not be started.*no-such-program"):
        processes.spawn("n1", ["/no-such-program"])
    assert processes.find("n1") is None


def test_the_end_of_a_log_is_bounded(tmp_path: Path) -> None:
    """Broken: showing a log of gigabytes reads all of it."""
    path = tmp_path / "n1.log"
    assert log_tail(path, 5) == []
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(1000)) + b"\xff last")
    assert log_tail(path, 2) == ["line 999", "\ufffd last"]
    assert log_tail(path, 0) == []
    assert sum(map(len, log_tail(path, 1000, bytes_max=100))) <= 100


# -- ports ----------------------------------------------------------------------------------------


def test_chosen_ports_are_free_and_below_those_the_kernel_lends() -> None:
    """Broken: a client's outgoing connection takes a port while its node is down."""
    lowest_lent = int(KERNEL_RANGE.read_text().split()[0])
    nodes = places(5)
    ports = [address.port for node in nodes for address in (node.endpoint, node.raft)]
    assert len(set(ports)) == 10
    assert all(10_000 <= port < lowest_lent for port in ports)
    require_free(nodes)


def test_where_the_kernel_lends_nearly_everything_any_port_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: on a machine with a wide range for clients no cluster can be brought up."""
    wide = tmp_path / "range"
    wide.write_text("1024\t65535\n")
    monkeypatch.setattr(cluster_ports, "KERNEL_RANGE", wide)
    assert len(places(3)) == 3


def test_given_ports_are_in_a_row() -> None:
    """Broken: a firewall opened for ``--base-port`` does not fit the nodes."""
    base = places(1)[0].endpoint.port
    (node,) = places(1, base)
    assert (node.endpoint.port, node.raft.port) == (base, base + 1)
    for wrong in (0, -1, 65531, 70000):
        with pytest.raises(BadRequest, match=f"base port {wrong}"):
            places(3, wrong)


def test_a_port_in_use_is_named() -> None:
    """Broken: the user learns that something is in use and not what."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LocalError, match=rf"port {port} on 127\.0\.0\.1 .*in use.*nothing"):
            places(1, port)


# -- what nodes say -------------------------------------------------------------------------------


def report(
    number: int,
    role: str | None = None,
    leader: str | None = None,
    term: int = 1,
    pid: int | None = 100,
    paused: bool = False,
) -> NodeReport:
    said = None if role is None else {"role": role, "leader": leader, "term": term}
    return NodeReport(place(number), pid, paused, said)


DEAD = [report(1, pid=None), report(2, pid=None), report(3, pid=None)]
HEALTHY = [report(1, "leader", "n1"), report(2, "follower", "n1"), report(3, "follower", "n1")]


def test_the_leader_is_who_a_majority_follows() -> None:
    """Broken: ``kill leader`` hits a node that only believes it leads."""
    assert leader_of(HEALTHY) == "n1"
    assert leader_of(DEAD) is None
    stale = report(1, "leader", "n1", term=1)
    new = [report(2, "leader", "n2", term=2), report(3, "follower", "n2", term=2)]
    assert leader_of([stale, *new]) == "n2"
    alone = {"role": "leader", "leader": "n1", "term": 1, "behind": {"n2": 0, "n3": 9}}
    assert leader_of([NodeReport(place(1), 100, said=alone)]) is None, "two more were not asked"
    assert leader_of([stale, report(2, pid=None), report(3, pid=None)]) is None
    assert leader_of([report(1, pid=None), *HEALTHY[1:]]) is None, "both still follow the dead one"
    assert leader_of([stale, report(2, "follower", "n1", term=2), report(3, "candidate")]) is None


def test_status_says_null_for_what_only_a_silent_node_knows() -> None:
    """Broken: a script reads a dead node's role as if it had one."""
    value = to_json([*HEALTHY[:2], report(3, pid=None)])
    assert value["leader"] == "n1"
    assert value["nodes"][2] == {
        "id": "n3",
        "role": None,
        "pid": None,
        "endpoint": "127.0.0.1:7030",
        "raft": "127.0.0.1:7031",
        "term": None,
        "commit": None,
        "applied": None,
        "state_hash": None,
        "snapshot": None,
        "log_entries": None,
        "log_bytes": None,
        "leader_silent_ms": None,
        "disk_full": None,
        "refused": None,
        "cluster_version": None,
        "software": None,
        "alive": False,
        "paused": False,
        "reachable": False,
        "lag": None,
    }


def test_a_state_hash_is_shown_as_hex() -> None:
    """Broken: ``status --json`` fails on bytes, or differs between trackers by its type."""
    said = {"role": "leader", "state_hash": b"\xab\xcd"}
    assert NodeReport(place(1), 1, False, said).to_json()["state_hash"] == "abcd"


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (HEALTHY, HEALTHY, []),
        (DEAD, HEALTHY, ["node_back"] * 3 + ["leader_elected"]),
        (HEALTHY, DEAD, ["node_lost"] * 3 + ["leader_lost"]),
        (HEALTHY, [report(1, pid=None), *HEALTHY[1:]], ["node_lost", "leader_lost"]),
        (
            HEALTHY,
            [report(1, pid=None), report(2, "leader", "n2", 2), report(3, "follower", "n2", 2)],
            ["node_lost", "leader_elected"],
        ),
        (HEALTHY, [*HEALTHY[:2], report(3, paused=True)], ["node_paused"]),
        (HEALTHY, [*HEALTHY[:2], report(3)], ["node_silent"]),
        ([*HEALTHY[:2], report(3, paused=True)], HEALTHY, ["node_back"]),
        ([*HEALTHY[:2], report(3, paused=True)], [*HEALTHY[:2], report(3)], []),
        ([*HEALTHY[:2], report(3, pid=None)], [*HEALTHY[:2], report(3)], []),
        ([*HEALTHY[:2], report(3, pid=101)], HEALTHY, ["node_lost", "node_back"]),
    ],
)
def test_events_tell_what_happened_between_two_looks(
    before: list[NodeReport], after: list[NodeReport], kinds: list[str]
) -> None:
    """Broken: ``up`` in the foreground keeps silent about a loss, or tells what did not happen."""
    assert [event.kind for event in events(before, after)] == kinds
