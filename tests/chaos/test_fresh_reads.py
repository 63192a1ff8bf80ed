"""Reads that can be trusted: from leaders that stand still or are cut off, and across failovers."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from raw_client import Raw
from workload import PIECE_BYTES, content_of, wait_until

from bench.namespaces import Network, tracker_cluster, why_unavailable
from tracker_raft import Cluster, TrackerClient
from tracker_raft.commands import Level, Lookup

PAUSES = 3
READERS = 4
NAME = "versions/a"
WHY_UNAVAILABLE = why_unavailable()


def replace(client: TrackerClient, step: int) -> int:
    """The version that the name has from now on."""
    published = client.publish(
        NAME,
        content=content_of(f"{NAME} at {step}"),
        size=1,
        manifest_bytes=100,
        piece_bytes=PIECE_BYTES,
        replace=True,
        deadline_s=30,
    )
    return published.file.version


def version_in(reply: dict[str, Any]) -> int | None:
    """The version a look-up gave, None for an error, which must be a definite one."""
    if "ok" in reply:
        return int(reply["ok"]["files"][0]["version"])
    assert reply["error"] in ("no_leader", "shutting_down", "busy"), reply
    return None


def test_a_leader_that_stood_still_never_gives_an_old_value() -> None:
    """Broken: a paused leader wakes up and answers reads from before it was replaced."""
    fresh = 0
    with Cluster.up(3) as cluster, ExitStack() as stack:
        client = stack.enter_context(TrackerClient(cluster.endpoints))
        version = replace(client, 0)
        for step in range(1, PAUSES + 1):
            leader = cluster.wait_ready()
            readers = [stack.enter_context(Raw(cluster.endpoint(leader))) for _ in range(READERS)]
            cluster.pause(leader)
            before = [(reader, reader.send(Lookup(NAME), deadline_ms=8_000)) for reader in readers]
            newer = replace(client, step)
            after = [(reader, reader.send(Lookup(NAME), deadline_ms=8_000)) for reader in readers]
            cluster.resume(leader)
            after += [(reader, reader.send(Lookup(NAME), deadline_ms=8_000)) for reader in readers]
            old = [version_in(reader.reply(number)) for reader, number in before]
            new = [version_in(reader.reply(number)) for reader, number in after]
            assert set(old) <= {None, version, newer}
            assert set(new) <= {None, newer}, f"read {new} after version {newer} was acknowledged"
            fresh += new.count(newer)
            version = newer
    assert fresh, "not one read was answered, so nothing was shown"


@pytest.mark.skipif(WHY_UNAVAILABLE is not None, reason=str(WHY_UNAVAILABLE))
def test_a_leader_cut_off_from_the_others_answers_no_linearizable_read(tmp_path: Path) -> None:
    """Broken: clients on the wrong side of a cut read what is over."""
    names = ["n1", "n2", "n3"]
    with Network(names) as network, tracker_cluster(network, tmp_path) as cluster:
        leader = cluster.wait_ready()
        others = [cluster.endpoint(node) for node in names if node != leader]
        with TrackerClient(others) as client, Raw(cluster.endpoint(leader)) as reader:
            version = replace(client, 0)
            assert version_in(reader.ask(Lookup(NAME), deadline_ms=8_000)) == version
            network.cut(leader)
            asked = [reader.send(Lookup(NAME), deadline_ms=400) for _ in range(READERS)]
            newer = replace(client, 1)
            asked_later = [reader.send(Lookup(NAME), deadline_ms=400) for _ in range(READERS)]
            assert {version_in(reader.reply(number)) for number in asked} == {None}
            assert {version_in(reader.reply(number)) for number in asked_later} == {None}
            stale = reader.ask(Lookup(NAME), level="local")
            assert version_in(stale) == version, "local: what this one has, however old"
            network.heal()
            seen: list[int | None] = []

            def answered() -> bool:
                seen.append(version_in(reader.ask(Lookup(NAME), deadline_ms=400)))
                return seen[-1] is not None

            wait_until("it answers again", answered)
            assert seen[-1] == newer


def test_a_session_never_sees_its_own_writes_undone() -> None:
    """Broken: after a failover a client is shown less than it wrote or was shown before."""
    with Cluster.up(3) as cluster, TrackerClient(cluster.endpoints) as client:
        for step in range(3):
            version = replace(client, 2 * step)
            cluster.kill(cluster.leader())
            assert client.lookup(NAME, level=Level.SESSION).version >= version
            version = replace(client, 2 * step + 1)
            seen = client.seen
            for node in itertools.islice(itertools.cycle(cluster.nodes), 9):
                if cluster.pid(node) is None:
                    continue
                with Raw(cluster.endpoint(node)) as raw:
                    reply = raw.ask(Lookup(NAME), level="session", seen=seen, deadline_ms=8_000)
                assert version_in(reply) == version
                assert reply["at"][0] >= seen
            for node in cluster.nodes:
                if cluster.pid(node) is None:
                    cluster.restart(node)


def test_an_entry_that_a_tracker_does_not_get_is_not_waited_for_beyond_the_deadline() -> None:
    """Broken: a session read with a position of another cluster hangs, or is answered too old."""
    with Cluster.up(1) as cluster, Raw(cluster.endpoints[0]) as raw:
        reply = raw.ask(Lookup(NAME), level="session", seen=10**9, deadline_ms=200)
        assert reply["error"] == "no_leader"
        assert "entry 1000000000 did not arrive here in time" in reply["message"]
