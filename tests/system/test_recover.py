"""A majority is lost for good: a new cluster from what is left, and the old members kept out."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from tracker_raft import Cluster, TrackerClient
from tracker_raft.client.backup import take_backup
from tracker_raft.cluster.state import Layout
from tracker_raft.cluster.status import fetch_status
from tracker_raft.errors import BadRequest, LocalError, NotFound
from tracker_raft.rescue import Rescue

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
NODE = (sys.executable, "-m", "tracker_raft", "node")


def publish(client: TrackerClient, name: str) -> None:
    content = hashlib.sha256(name.encode()).digest()
    client.publish(name, content=content, size=1, manifest_bytes=100, piece_bytes=524288)


def names(client: TrackerClient) -> list[str]:
    return [record.name for record in client.files()]


def everything(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@contextmanager
def node(layout: Layout, name: str, directory: Path, cluster: str) -> Iterator[Path]:
    """Node ``name`` at its old address, with any directory and cluster; the file with its log."""
    place = next(place for place in layout.nodes if place.node == name)
    command = [*NODE, "--id", name, "--data-dir", str(directory), "--cluster", cluster]
    command += ["--listen", str(place.endpoint), "--raft-listen", str(place.raft)]
    for member in layout.nodes:
        command += ["--member", f"{member.node}={member.raft}"]
    log = directory.with_name(f"{directory.name}.said")
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            yield log
        finally:
            process.kill()
            process.wait()


def test_one_of_three_is_enough_and_the_others_stay_out(p2p: Command, tmp_path: Path) -> None:
    """Broken: the data of the last node is lost, or an old member takes part in the new cluster."""
    data, grave = tmp_path / "c", tmp_path / "grave"
    with Cluster.up(3, data_dir=data) as cluster, TrackerClient(cluster.endpoints) as client:
        old = cluster.layout
        for number in range(20):
            publish(client, f"f{number}")
        wait_until(lambda: len({r["applied"] for r in cluster.status()["nodes"]}) == 1, "all even")
        running = p2p("recover", "--force", data)
        assert (running.returncode, "is running; nothing was done" in running.stderr) == (1, True)
    for lost in ("n1", "n2"):
        shutil.copytree(data / lost, grave / lost)
        shutil.rmtree(data / lost)
    before = everything(data)

    look = p2p("recover", data)
    assert look.returncode == 1
    assert "nothing was done; --force" in look.stderr
    assert f"node n3 of cluster {old.cluster}" in look.stderr
    assert "is lost" in look.stderr and "20 files" in look.stderr
    assert everything(data) == before

    done = p2p("recover", "--force", data, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["evidence"]["node"] == "n3" and told["evidence"]["uncertain"] > 0
    kept = next(Path(path) for path in told["recovered"]["kept"] if "/n3/" in path)
    for name in ("log-000000000001", "members"):
        assert (kept / name).read_bytes() == before[f"n3/{name}"], "nothing is destroyed"
    assert p2p("verify", data).returncode == 0 and p2p("verify", kept).returncode == 0

    new = Layout.load(data)
    assert new is not None and new.cluster == told["recovered"]["cluster"] != old.cluster
    assert new.endpoints == old.endpoints
    refused = p2p("node", "--id", "n1", "--data-dir", grave / "n1", "--cluster", new.cluster)
    assert refused.returncode == 1
    assert f"of cluster '{old.cluster}', expected 'n1' of '{new.cluster}'" in refused.stderr
    # An old member comes back at its old address, in the place of the new n1.
    with node(old, "n1", grave / "n1", old.cluster) as said:
        wait_until(lambda: "serves clients" in said.read_text(), "the old one runs")
        directories = {name: data / name for name in ("n2", "n3")}
        with (
            node(new, "n2", directories["n2"], new.cluster) as second,
            node(new, "n3", directories["n3"], new.cluster),
            TrackerClient(new.endpoints[1:]) as client,
        ):
            assert names(client) == sorted(f"f{number}" for number in range(20))
            publish(client, "later")
            words = f"cluster '{new.cluster}', expected '{old.cluster}'"
            wait_until(
                lambda: words in said.read_text() or "expected" in second.read_text(),
                "somebody says why",
            )
            lonely = fetch_status(new.nodes[0].endpoint)
            assert (lonely["cluster"], lonely["links"], lonely["leader"]) == (old.cluster, (), None)
            assert fetch_status(new.nodes[1].endpoint)["links"] == ("n3",)
    # And in the end all three nodes of the new cluster.
    with Cluster.up(3, data_dir=data) as cluster, TrackerClient(cluster.endpoints) as client:
        assert "later" in names(client)


def test_what_an_old_backup_lacks_the_last_node_has(p2p: Command, tmp_path: Path) -> None:
    """Broken: one node of a real deployment cannot be recovered, or others cannot join it."""
    data = tmp_path / "c"
    with Cluster.up(3, data_dir=data) as cluster, TrackerClient(cluster.endpoints) as client:
        publish(client, "f")
        cluster.wait_ready()
        place = cluster.layout.nodes[0]
        wait_until(lambda: cluster.status()["nodes"][0]["applied"] >= client.seen, "n1 has it")
    alone = tmp_path / "elsewhere" / "n1"
    shutil.copytree(data / "n1", alone)
    done = p2p("recover", "--force", alone, "--cluster", "rescued")
    assert done.returncode == 0, done.stderr
    assert "node --id n1" in done.stdout and "--cluster rescued" in done.stdout
    layout = Layout("rescued", "", (place,))
    with (
        node(layout, "n1", alone, "rescued"),
        TrackerClient([str(place.endpoint)]) as client,
    ):
        assert names(client) == ["f"]
        take_backup(client, tmp_path / "b")
    made = p2p(
        *("restore", tmp_path / "b", "--data-dir", tmp_path / "m2", "--one-node"),
        *("--cluster", "rescued-2"),
    )
    assert made.returncode == 0, made.stderr
    assert "m2: good: made for cluster rescued-2" in p2p("verify", tmp_path / "m2").stdout


def test_the_node_with_the_newest_log_is_chosen(tmp_path: Path) -> None:
    """Broken: recovery takes the node that was behind, and loses what another one still has."""
    data = tmp_path / "c"
    with Cluster.up(3, data_dir=data) as cluster, TrackerClient(cluster.endpoints) as client:
        publish(client, "first")
        behind = next(node for node in cluster.nodes if node != cluster.leader())
        cluster.kill(behind)
        for number in range(5):
            publish(client, f"f{number}")
    with Rescue(data) as rescue:
        assert rescue.evidence.node != behind
        newest = rescue.evidence
        with pytest.raises(LocalError, match="in use by another process"), Rescue(data, behind):
            pass
    with Rescue(data, behind) as rescue:
        assert rescue.evidence.node == behind
        assert rescue.evidence.index < newest.index
        with pytest.raises(BadRequest, match="cannot be called"):
            rescue.recover(newest.cluster)
    with Rescue(data / newest.node) as rescue:
        assert rescue.evidence == newest or rescue.evidence.index == newest.index
    for broken, kind, words in (
        ("n9", BadRequest, "the nodes are n1, n2, n3"),
        ("n2", NotFound, "n2 is not there"),
    ):
        shutil.rmtree(data / "n2", ignore_errors=True)
        with pytest.raises(kind, match=words):
            Rescue(data, broken)


def test_damage_is_not_recovered_from(p2p: Command, tmp_path: Path) -> None:
    """Broken: recovery makes a cluster of damaged data, or destroys what might still be saved."""
    data = tmp_path / "c"
    with Cluster.up(1, data_dir=data) as cluster, TrackerClient(cluster.endpoints) as client:
        for number in range(20):
            publish(client, f"f{number}")
        log = data / "n1" / "log-000000000001"
    spoiled: Any = bytearray(log.read_bytes())
    spoiled[400] ^= 1
    log.write_bytes(spoiled)
    before = everything(data)
    done = p2p("recover", "--force", data / "n1")
    assert done.returncode == 1
    assert "n1: " in done.stderr and "damaged" in done.stderr
    assert everything(data) == before
