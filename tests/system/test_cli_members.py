"""The words that change the members, as an operator types them, with real trackers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from processes import wait_until

from tracker_raft import Cluster, TrackerClient
from tracker_raft.__main__ import main
from tracker_raft.cluster import ports
from tracker_raft.cluster.status import fetch_status

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def joining(directory: Path, tracker: str) -> Iterator[str]:
    """A node of another machine, as it were, that waits to join; its client address."""
    (place,) = ports.places(1)
    command = [sys.executable, "-m", "tracker_raft", "node", "--id", "far", "--join", tracker]
    command += ["--data-dir", str(directory), "--listen", str(place.endpoint)]
    command += ["--raft-listen", str(place.raft)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:

        def answers() -> bool:
            try:
                return bool(fetch_status(place.endpoint)["joining"])
            except OSError:
                return False

        try:
            wait_until(answers, "it waits to join")
            yield str(place.endpoint)
        finally:
            process.terminate()
            process.wait(20)


def test_a_cluster_of_this_machine_moves_word_by_word(p2p: Command, tmp_path: Path) -> None:
    """Broken: an operator cannot add, replace or remove a tracker, or 'up' forgets which."""
    place = tmp_path / "c"
    assert p2p("up", 3, "--detach", "--data-dir", place).returncode == 0
    try:
        added = p2p("add-node", "--json")
        assert json.loads(added.stdout) == {"added": "n4"}, added.stderr
        assert "n4 votes" in added.stderr
        rows = json.loads(p2p("status", "--json").stdout)["nodes"]
        roles = {row["id"]: row["role"] for row in rows}
        assert sorted(roles.values()) == ["follower", "follower", "follower", "leader"]

        removed = p2p("remove-node", "n1")
        assert removed.returncode == 0 and "n1 has stopped" in removed.stdout, removed.stderr
        replaced = p2p("replace-node", "n2")
        assert replaced.returncode == 0 and "n5 votes" in replaced.stdout, replaced.stderr
        assert Cluster.attach(place).nodes == ("n3", "n4", "n5")
        assert "members: n3, n4, n5" in p2p("log", "-n", "5").stdout

        assert p2p("down").returncode == 0
        again = p2p("up", 3, "--detach", "--data-dir", place)
        assert again.returncode == 0, again.stderr
        assert Cluster.attach(place).leader() in ("n3", "n4", "n5")
        refused = p2p("remove-node", "n9")
        assert refused.returncode == 2 and "the nodes are n3, n4, n5" in refused.stderr
        nonsense = p2p("add-node", "../n6")
        assert nonsense.returncode == 2 and "nothing was done" in nonsense.stderr
        assert Cluster.attach(place).nodes == ("n3", "n4", "n5")
    finally:
        p2p("down")


def test_a_word_that_names_no_node_is_wrong_use_everywhere(tmp_path: Path) -> None:
    """Broken: a script cannot tell its own mistake from a change that failed, or a node is added
    in the place of one that there never was."""
    with (
        Cluster.up(1, data_dir=tmp_path / "c") as cluster,
        joining(tmp_path / "far", cluster.endpoints[0]) as far,
    ):
        here = ["--data-dir", str(cluster.data_dir)]
        there = ["--trackers", cluster.endpoints[0]]
        words = [[word, *here] for word in ("kill", "pause", "resume", "restart", "logs")]
        words += [[word, *where] for word in ("remove-node", "snapshot") for where in (here, there)]
        words += [["replace-node", *here], ["replace-node", far, *there]]
        words += [["transfer-leadership", *where, "--to"] for where in (here, there)]
        for node in ("n9", "", "no such", "../n1", "n" * 64):
            for first, *rest in words:
                arguments = [first, *rest, node] if "--to" in rest else [first, node, *rest]
                done = CliRunner().invoke(main, arguments)
                assert done.exit_code == 2, (arguments, done.output)
                assert "Usage: " in done.output and "Traceback" not in done.output
        with TrackerClient(cluster.endpoints) as client:
            assert [one.node for one in client.members()] == ["n1"], "nothing was done"
        assert cluster.nodes == ("n1",) and cluster.pid("n1") is not None


@pytest.mark.parametrize("node", ["", "no such"])
def test_a_word_that_can_be_no_id_is_wrong_use_although_nobody_answers(node: str) -> None:
    """Broken: the mistake is found only once the trackers are back."""
    nowhere = ["--trackers", "127.0.0.1:1"]
    for words in (
        ["remove-node", node],
        ["replace-node", node, "127.0.0.1:2"],
        ["snapshot", node],
        ["transfer-leadership", "--to", node],
    ):
        done = CliRunner().invoke(main, [*words, *nowhere])
        assert done.exit_code == 2, (words, done.output)


def test_a_node_of_another_machine_joins_and_is_removed(p2p: Command, tmp_path: Path) -> None:
    """Broken: trackers on machines of their own cannot be added, or a mistake is not told."""
    with Cluster.up(3) as cluster:
        trackers = ",".join(cluster.endpoints)
        with joining(tmp_path / "far", cluster.endpoints[0]) as endpoint:
            founder = p2p("add-node", cluster.endpoints[0], "--trackers", trackers)
            assert founder.returncode == 0 and "n1 votes" in founder.stdout, founder.stderr
            nowhere = p2p("add-node", "--trackers", trackers)
            assert nowhere.returncode == 2 and "HOST:PORT of the new node" in nowhere.stderr
            nobody = p2p("add-node", "127.0.0.1:1", "--trackers", trackers)
            assert nobody.returncode == 1, nobody.stderr
            assert "no node to be added answers at 127.0.0.1:1" in nobody.stderr
            added = p2p("add-node", endpoint, "--trackers", trackers)
            assert added.returncode == 0 and "far votes" in added.stdout, added.stderr
            with TrackerClient(cluster.endpoints) as client:
                assert [one.node for one in client.members()] == ["far", "n1", "n2", "n3"]
                removed = p2p("remove-node", "far", "--trackers", trackers)
                assert removed.returncode == 0, removed.stderr
                assert [one.node for one in client.members()] == ["n1", "n2", "n3"]
            wait_until((tmp_path / "far" / "removed").exists, "it says that it was removed")
