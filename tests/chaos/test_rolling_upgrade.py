"""Trackers of the release before and of this one in one cluster, while clients write.

The release before is a wheel in ``tests/interop/releases``. Its trackers are real processes.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from workload import Writers, check_nothing_lost, content_of, wait_until

from tracker_raft import Cluster, TrackerClient
from tracker_raft.commands import NewFile
from tracker_raft.errors import UnknownOperation, Unsupported
from tracker_raft.versions import NEWEST, SOFTWARE

HERE = Path(__file__).parent
WHEEL = HERE.parent / "interop" / "releases" / "tracker_raft-0.1.0-py3-none-any.whl"


BATCH = [NewFile(f"batch/{name}", content_of(name), 1, 100, 512 * 1024) for name in "ab"]


TOO_EARLY = "at version 1, 'publish_many' needs 2|'publish_many' is not known"
"""What a tracker of this release says to it, or one of the release before."""


class Machines:
    """Three machines, each with a release installed: the old one at first."""

    def __init__(self, cluster: Cluster, releases: Path, folder: Path) -> None:
        self.cluster = cluster
        self._releases = releases
        self._folder = str(folder)

    def install(self, node: str, *, old: bool) -> None:
        folders = json.loads(self._releases.read_text(encoding="utf-8"))
        folders.pop(node, None)
        if old:
            folders[node] = self._folder
        self._releases.write_text(json.dumps(folders), encoding="utf-8")

    def restart(self, node: str, *, old: bool = False) -> None:
        """With another release; the node must not run."""
        self.install(node, old=old)
        self.cluster.restart(node)
        wait_until("all follow", lambda: bool(self.cluster.wait_ready()))

    def said(self, key: str) -> list[Any]:
        return [node[key] for node in self.cluster.status()["nodes"]]


@contextmanager
def machines(tmp_path: Path) -> Iterator[Machines]:
    folder, releases = tmp_path / "old", tmp_path / "releases.json"
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(folder)
    releases.write_text(json.dumps(dict.fromkeys(("n1", "n2", "n3"), str(folder))))
    command = (sys.executable, str(HERE / "release_node.py"), str(releases), "node")
    with Cluster.up(3, data_dir=tmp_path / "data", command=command) as cluster:
        yield Machines(cluster, releases, folder)


def test_a_rolling_upgrade_under_load_fails_no_call(tmp_path: Path) -> None:
    """Broken: going from the release before to this one costs a failed call, a lost write, or a
    tracker that met something in the log that it does not know."""
    with machines(tmp_path) as there:
        cluster = there.cluster
        assert there.said("software") == [None] * 3, "the old release does not say what it is"
        with Writers(cluster.endpoints, threads=3) as writers:
            writers.wait_for(20)
            cluster.terminate("n1")
            there.restart("n1")
            writers.wait_for(20)
            cluster.terminate("n1")
            there.restart("n1", old=True)  # a step back, as long as the others are not there
            writers.wait_for(20)
            cluster.terminate("n1")
            there.restart("n1")
            cluster.kill("n2")
            there.restart("n2")
            assert cluster.transfer_leadership("n1") == "n1", "the new one leads an old one"
            writers.wait_for(20)
            assert there.said("software") == [SOFTWARE, SOFTWARE, None]
            assert there.said("cluster_version") == [1, 1, None]
            refused = pytest.raises((Unsupported, UnknownOperation), match=TOO_EARLY)
            with TrackerClient(cluster.endpoints) as client, refused:
                client.publish_many(BATCH)
            cluster.terminate("n3")
            there.restart("n3")
            wait_until("it rises", lambda: there.said("cluster_version") == [NEWEST] * 3)
            writers.wait_for(20)
            with TrackerClient(cluster.endpoints) as client:
                made = client.publish_many(BATCH)
                assert [one.file.versioned for one in made] == ["batch/a@v1", "batch/b@v1"]
                assert [one.file for one in made] == [*client.files("batch/")]
        assert not writers.refused | writers.unknown, writers.refused | writers.unknown
        check_nothing_lost(cluster, writers)


def test_the_release_before_stops_in_a_cluster_that_has_gone_on(tmp_path: Path) -> None:
    """Broken: a tracker taken back too late passes over what it does not know, and diverges."""
    with machines(tmp_path) as there:
        cluster = there.cluster
        for node in cluster.nodes:
            cluster.terminate(node)
            there.restart(node)
        wait_until("it rises", lambda: there.said("cluster_version") == [NEWEST] * 3)
        cluster.terminate("n1")
        there.install("n1", old=True)
        cluster.restart("n1", wait=False)
        wait_until("it stops", lambda: cluster.pid("n1") is None)
        said = cluster.log_path("n1").read_text(encoding="utf-8")
        assert "'raise_version' is not known to this version" in said
        there.restart("n1")
        with TrackerClient(cluster.endpoints) as client:
            assert client.list().files == ()
