"""``follow`` as a process: each new version arrives, whole, whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from peer import Peer
from tracker_raft import TrackerClient
from tracker_raft.cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]


@contextmanager
def following(trackers: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "peer", "follow", *map(str, arguments), "--json"]
    with subprocess.Popen(
        [*command, "--trackers", trackers],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The next line of that kind; those of progress may come before it."""
    assert process.stdout is not None
    while True:
        value = json.loads(process.stdout.readline())
        if value["event"] == event:
            assert isinstance(value, dict)
            return value
        assert value["event"] in ("progress", "done", "version"), value


def test_each_new_version_arrives_also_when_the_leader_is_killed(own_machine: Path) -> None:
    """Broken: machines that follow a model stay behind, or have half a version."""
    copy = own_machine / "copy"
    with Cluster.up(3, data_dir=own_machine / "trackers") as cluster:
        trackers = ",".join(cluster.endpoints)
        with following(trackers, "models/a", "-o", copy) as follow, Peer(cluster.endpoints) as peer:
            for version in (1, 2, 3):
                if version == 3:
                    cluster.kill(cluster.leader())
                source = own_machine / f"source-{version}"
                source.write_bytes(os.urandom(300_000))
                peer.share(source, "models/ab", replace=True)  # concerns nobody
                peer.share(source, "models/a", replace=True)
                assert told(follow, "version")["version"] == version
                assert told(follow, "done")["path"] == str(copy)
                assert copy.read_bytes() == source.read_bytes()
            with TrackerClient(cluster.endpoints) as client:
                client.remove("models/a")
            peer.share(own_machine / "source-1", "models/a")
            assert told(follow, "version")["version"] == 1
            told(follow, "done")
            assert copy.read_bytes() == (own_machine / "source-1").read_bytes()
            follow.send_signal(signal.SIGTERM)
            rest, errors = follow.communicate(timeout=20)
    assert (follow.returncode, rest, errors) == (0, "", "")


def test_a_version_that_nobody_serves_is_tried_again(own_machine: Path) -> None:
    """Broken: one fetch that fails ends a follower, or leaves it behind until the next version."""
    copy, source = own_machine / "copy", own_machine / "source"
    source.write_bytes(os.urandom(300_000))
    with Cluster.up(1, data_dir=own_machine / "trackers") as cluster:
        trackers = ",".join(cluster.endpoints)
        with Peer(cluster.endpoints) as peer:
            peer.share(source, "n")
        with following(trackers, "n", "-o", copy, "--timeout", "0.3") as follow:
            assert told(follow, "failed")["name"] == "n@v1"
            with Peer(cluster.endpoints) as peer:
                peer.share(source, "n")
                line = json.loads(follow.stdout.readline() if follow.stdout else "")
                while line["event"] != "done":
                    assert line["event"] in ("failed", "progress", "version")
                    line = json.loads(follow.stdout.readline() if follow.stdout else "")
            assert copy.read_bytes() == source.read_bytes()
