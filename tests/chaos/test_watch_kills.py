"""Watches while leaders are killed under publishes: no gap, no repeat, the order of the log."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from itertools import pairwise

from workload import Writers

from tracker_raft import Change, Cluster, FileRecord, TrackerClient

LEADER_KILLS = 6
WATCHERS = 3


class Watcher(threading.Thread):
    """Takes changes until it has seen the name that ends it."""

    def __init__(self, endpoints: list[str], last: str) -> None:
        super().__init__(name="watcher")
        self.client = TrackerClient(endpoints)
        self.watch = self.client.watch(from_index=1, deadline_s=30)
        self.last = last
        self.seen: list[Change] = []
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for change in self.watch:
                self.seen.append(change)
                if change.file.name == self.last:
                    return
        except Exception as error:  # noqa: BLE001 - told in the test's thread
            self.error = error


def test_watchers_see_each_change_once_while_leaders_are_killed() -> None:
    """Broken: a watcher misses or repeats a change when the tracker it talks to dies."""
    with Cluster.up(3) as cluster:
        watchers = [Watcher(cluster.endpoints[n:] + cluster.endpoints, "end") for n in range(3)]
        command = [sys.executable, "-m", "tracker_raft", "watch", "--from", "1", "--json"]
        shown = subprocess.Popen(
            [*command, "--trackers", ",".join(cluster.endpoints)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for watcher in watchers:
            watcher.start()
        try:
            with Writers(cluster.endpoints, threads=3) as writers:
                for _ in range(LEADER_KILLS):
                    writers.wait_for(15)
                    victim = cluster.leader()
                    cluster.kill(victim)
                    writers.wait_for(15)
                    cluster.restart(victim)
            with TrackerClient(cluster.endpoints) as client:
                end = client.publish(
                    "end", content=bytes(32), size=0, manifest_bytes=1, piece_bytes=65536
                )
            for watcher in watchers:
                watcher.join(30)
        finally:
            for watcher in watchers:
                watcher.client.close()
                watcher.watch.close()
                watcher.join(10)
            shown.send_signal(signal.SIGTERM)
        output, errors = shown.communicate(timeout=20)
        with (
            TrackerClient(cluster.endpoints) as client,
            client.watch(from_index=1, idle_s=0.5) as again,
        ):
            whole = list(again)
        every = {record.versioned: record for record in _all_versions(cluster)}

    assert [watcher.error for watcher in watchers] == [None] * WATCHERS
    assert whole[-1].place == end.at
    for watcher in watchers:
        assert watcher.seen == whole
    assert all(one.place < other.place for one, other in pairwise(whole))
    told = {change.file.versioned: change.file for change in whole}
    assert len(told) == len(whole)
    assert writers.acknowledged <= {record.name for record in told.values()}
    assert every.items() <= told.items()
    assert shown.returncode == 0
    assert errors == b""
    lines = output.decode().splitlines()
    assert lines[0] == '{"event": "watching", "index": 1, "position": 0}'
    # It may be stopped before it has told the last ones.
    *shown_places, end_place = [
        (line["index"], line["position"]) for line in map(json.loads, lines[1:])
    ]
    assert json.loads(lines[-1])["event"] == "stopped"
    assert shown_places
    assert shown_places[-1] < end_place
    assert shown_places == [change.place for change in whole[: len(shown_places)]]


def _all_versions(cluster: Cluster) -> list[FileRecord]:
    with TrackerClient(cluster.endpoints) as client:
        return list(client.files())
