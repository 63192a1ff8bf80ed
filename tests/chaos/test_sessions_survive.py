"""A write sent again, word for word, after everything that can happen to the trackers."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from raw_client import Raw
from workload import PIECE_BYTES, content_of, wait_until

from tracker_raft import Cluster, TrackerClient
from tracker_raft.commands import Lookup, OpenSession, Operation, Publish

SMALL_NODE = Path(__file__).with_name("small_node.py")
DEADLINE_MS = 15_000


def small(**limits: int) -> tuple[str, ...]:
    """The command of a tracker with these limits."""
    return (sys.executable, str(SMALL_NODE), json.dumps(limits), "node")


def replacement(text: str, name: str = "a") -> Publish:
    """Each run of it makes a version: a second run would show."""
    return Publish(name, content_of(text), 1, 100, PIECE_BYTES, replace=True)


class Writer:
    """A client that can send the same write as often as it likes, wherever it likes."""

    def __init__(self, endpoint: str) -> None:
        self.session = 0
        self.session = self.at(endpoint, OpenSession())["ok"]["session"]

    def at(self, endpoint: str, operation: Operation, seq: int = 0, low: int = 1) -> dict[str, Any]:
        """The reply, without its id and position; asked again while it says "not now"."""
        envelope = {"session": self.session, "seq": seq, "low": low} if self.session else {}
        reply: dict[str, Any] = {}

        def settled() -> bool:
            try:
                with Raw(endpoint) as raw:
                    answer = raw.ask(operation, deadline_ms=DEADLINE_MS, **envelope)
            except ConnectionError:
                return False
            reply.update(answer)
            return answer.get("error") not in ("no_leader", "busy", "shutting_down")

        wait_until(f"{operation.op} is settled", settled)
        return {key: reply[key] for key in ("ok", "error", "message") if key in reply}


def version(cluster: Cluster, name: str = "a") -> int:
    with TrackerClient(cluster.endpoints) as client:
        return client.lookup(name).version


def restart_all(cluster: Cluster) -> None:
    """Kill them all, then start them all."""
    for node in cluster.nodes:
        cluster.kill(node)
    for node in cluster.nodes:
        cluster.restart(node, wait=False)
    cluster.wait_ready()


def test_a_repeated_write_is_answered_and_not_run_after_kills_and_restarts() -> None:
    """Broken: a client whose tracker died does a thing twice, or never hears what became of it."""
    with Cluster.up(3) as cluster:
        leader = cluster.leader()
        writer = Writer(cluster.endpoint(leader))
        first = writer.at(cluster.endpoint(leader), replacement("one"), 1)
        refused = writer.at(
            cluster.endpoint(leader), Publish("a", content_of("x"), 1, 100, PIECE_BYTES), 2
        )
        assert first["ok"]["created"] and refused["error"] == "conflict"

        cluster.kill(leader)
        for node in cluster.nodes:
            if node != leader:
                assert writer.at(cluster.endpoint(node), replacement("one"), 1) == first
                again = writer.at(
                    cluster.endpoint(node), Publish("b", content_of("x"), 1, 100, PIECE_BYTES), 2
                )
                assert again == refused, "the number decides, not what is sent with it"
        restart_all(cluster)
        for endpoint in cluster.endpoints:
            assert writer.at(endpoint, replacement("one"), 1) == first
        assert version(cluster) == 1

        third = writer.at(cluster.endpoints[0], replacement("three"), 3, low=3)
        assert third["ok"]["file"]["version"] == 2
        for endpoint in cluster.endpoints:
            forgotten = writer.at(endpoint, replacement("one"), 1)
            assert forgotten["error"] == "outcome_unknown", "its reply is not kept any more"
        assert version(cluster) == 2


def test_the_replies_are_in_the_snapshot() -> None:
    """Broken: a tracker that starts from a snapshot runs again what was answered before it."""
    with Cluster.up(3, command=small(log_bytes_min=64 * 1024, entries_kept=4)) as cluster:
        writer = Writer(cluster.endpoints[0])
        first = writer.at(cluster.endpoints[0], replacement("one"), 1)
        at = cluster.status()["nodes"][0]["applied"]
        with TrackerClient(cluster.endpoints) as client:
            numbers = itertools.count()

            def covered() -> bool:
                for number in itertools.islice(numbers, 50):
                    text = f"fill/{number}"
                    client.publish(
                        text,
                        content=content_of(text),
                        size=1,
                        manifest_bytes=100,
                        piece_bytes=PIECE_BYTES,
                    )
                said = [client.status(endpoint) for endpoint in cluster.endpoints]
                return all(
                    each["snapshot"] > at and each["log_entries"] < each["applied"] - at
                    for each in said
                )

            wait_until("the log no longer has the write", covered)
        restart_all(cluster)
        for endpoint in cluster.endpoints:
            assert writer.at(endpoint, replacement("one"), 1) == first
        assert version(cluster) == 1


def test_windows_and_tables_are_bounded_and_sessions_end() -> None:
    """Broken: clients fill the trackers' memory with replies, or a client idle for long fails."""
    limits = small(sessions_max=3, session_ttl_ms=3_000)
    with Cluster.up(1, command=limits) as cluster:
        (endpoint,) = cluster.endpoints
        with TrackerClient(cluster.endpoints) as client:
            for text in ("one", "two"):
                if text == "two":
                    wait_until("the session is forgotten", lambda: client.status()["sessions"] == 0)
                client.publish(
                    text, content=content_of(text), size=1, manifest_bytes=1, piece_bytes=1 << 16
                )
            writers = [Writer(endpoint), Writer(endpoint)]
            refused = Raw(endpoint)
            with refused:
                answer = refused.ask(OpenSession())
            assert answer["error"] == "limit_reached" and "limit 3" in answer["message"]
            beyond = writers[0].at(endpoint, replacement("far"), 257)
            assert beyond["error"] == "limit_reached" and "at most 256" in beyond["message"]
            first = writers[1].at(endpoint, replacement("one"), 1)
            assert first["ok"]["created"], "a full table does not push out who is in it"
            wait_until("all are forgotten", lambda: client.status()["sessions"] == 0)
            late = writers[1].at(endpoint, replacement("one"), 1)
            assert late["error"] == "session_expired"
            with Raw(endpoint) as raw:
                record = raw.ask(Lookup("a"))["ok"]["files"][0]
            assert record["version"] == 1, "and it was not run again"
