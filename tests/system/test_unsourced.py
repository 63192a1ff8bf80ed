"""Files that nobody serves, on trackers to which nobody writes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from peer import Peer
from tracker_raft import TrackerClient
from tracker_raft.cluster import Cluster
from tracker_raft.commands import FileRecord

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

WAIT_S = 30.0
"""Limit of each wait; the settings of the test are a tenth of it."""


def shown_unsourced(client: TrackerClient, names: set[str]) -> list[FileRecord]:
    """Wait until all of ``names`` are listed as unsourced, by reads alone."""
    end_s = time.monotonic() + WAIT_S
    while True:
        records = client.list().files
        found = [record for record in records if record.unsourced_ms and record.name in names]
        if len(found) == len(names):
            return found
        assert time.monotonic() < end_s, records


@pytest.mark.parametrize("trackers", [1, 3])
def test_idle_trackers_show_and_remove_what_nobody_serves(own_machine: Path, trackers: int) -> None:
    """Broken: where nobody writes, dead files stay for ever; or one goes that has a tag."""
    with Cluster.up(trackers, data_dir=own_machine / "trackers") as cluster:
        with Peer(cluster.endpoints) as leaves, TrackerClient(cluster.endpoints) as writer:
            for name in ("dead", "released"):
                (own_machine / name).write_text(name)
                leaves.share(own_machine / name, name)
            writer.tag("released", "stable", 1)
            kept = writer.set_retention(unsourced_after_s=1)
            assert (kept.unsourced_after_s, kept.remove_unsourced_after_s) == (1.0, 0.0)
        with TrackerClient(cluster.endpoints) as reader:
            shown = shown_unsourced(reader, {"dead", "released"})
            assert all(record.unsourced_ms >= 1_000 for record in shown)

            with reader.watch(idle_s=WAIT_S) as changes:
                with TrackerClient(cluster.endpoints) as writer:
                    writer.set_retention(remove_unsourced_after_s=3)
                change = next(changes)

            assert (change.kind, change.file.name) == ("removed", "dead")
            (left,) = reader.list().files
            assert (left.name, left.unsourced_ms >= 3_000) == ("released", True)
