"""The cluster version: who may propose what, who stops, and what is written for older trackers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from machine_driver import Driver, publish
from replica_driver import Node, cluster, leader_of, story, until

from tracker_raft import versions
from tracker_raft.config import MachineLimits
from tracker_raft.entries import pack_operation
from tracker_raft.errors import BadRequest, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft.hello import Hello
from tracker_raft.raft.intake import Intake, Position, Reply

HELLO = Hello("n1", "boot", "127.0.0.1:1", "birth", ("n1", "n2"))


def raised(version: int) -> dict[str, object]:
    return {"op": versions.RAISE_VERSION, "version": version}


def test_the_release_is_the_one_that_is_packaged() -> None:
    """Broken: trackers tell each other and their operator a release that was never published."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == versions.SOFTWARE
    assert sorted(versions.SOFTWARE_SINCE) == list(range(versions.OLDEST, versions.NEWEST + 1))


def test_the_version_rises_and_never_falls() -> None:
    """Broken: an operation is proposed that was allowed once and is not any more."""
    driver = Driver()
    before = driver.machine.state_hash
    assert driver.machine.version == 1
    assert driver.run(raised(2)) == {"ok": {"version": 2}}
    assert driver.machine.state_hash != before
    after = driver.machine.state_hash
    assert driver.run(raised(1)) == {"ok": {"version": 2}}
    assert driver.machine.state_hash == after
    for nonsense in (0, "2", None):
        assert driver.run(raised(nonsense))["error"] == "bad_request"


def test_a_version_above_ours_stops_the_node_before_anything_is_applied() -> None:
    """Broken: a node that is too old goes on, and diverges at the first new operation."""
    driver = Driver()
    before = driver.machine.state_hash
    name = driver.session, 1, 1, publish("a", "x")
    applied = driver.entry(name, (0, 0, 0, raised(versions.NEWEST + 1)), at_ms=5)
    assert applied.stop is not None
    assert f"supports 1 to {versions.NEWEST}; start a newer release" in applied.stop
    assert driver.machine.state_hash == before


def test_a_snapshot_knows_the_version_and_at_version_one_is_that_of_the_release_before() -> None:
    """Broken: a tracker not upgraded yet cannot take the snapshot of a leader that is, or a
    restarted one forgets what the cluster may log."""
    driver = Driver()
    driver.ok(publish("a", "x"))
    assert b"cluster_version" not in b"".join(driver.machine.snapshot())
    driver.ok(raised(2))
    blocks = list(driver.machine.snapshot())
    assert b"\xa6format\x03" in blocks[0]
    restored = TrackerMachine.restore(blocks)
    assert (restored.version, restored.state_hash) == (2, driver.machine.state_hash)
    assert driver.machine.refounded(1 << 40).version == 2


def test_a_snapshot_of_a_newer_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a tracker of an older release starts in a cluster that has gone on without it."""
    driver = Driver()
    driver.ok(raised(2))
    blocks = list(driver.machine.snapshot())
    monkeypatch.setattr("tracker_raft.machine.snapshot_format.NEWEST", 1)
    with pytest.raises(Unsupported, match="the cluster is at version 2, this software"):
        TrackerMachine.restore(blocks, MachineLimits())


def test_a_hello_without_versions_is_that_of_the_release_before() -> None:
    """Broken: trackers of two releases do not link, or the cluster rises above the older one."""
    wire = HELLO.to_wire("c")
    told = Hello.from_wire(wire, "c")
    assert (told.software, told.newest) == (versions.SOFTWARE, versions.NEWEST)
    old = {key: value for key, value in wire.items() if key not in ("software", "versions")}
    told = Hello.from_wire(old, "c")
    assert (told.software, told.newest) == ("", 1)
    for nonsense in ((2, 1), (0, 1), 2, ("1", "2"), (1,)):
        with pytest.raises(BadRequest, match="cluster versions"):
            Hello.from_wire({**wire, "versions": nonsense}, "c")


def test_what_the_version_does_not_allow_is_refused_when_it_would_be_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: a tracker of the release before is given an operation that stops it."""
    monkeypatch.setitem(versions.SINCE, "fly", 2)
    intake = Intake(pending_max=10, operation_bytes_max=1000)
    answers: dict[str, tuple[Reply, Position]] = {}
    for word in ("publish", "fly"):
        packed = pack_operation(1, 1, 1, {"op": word})
        intake.add(
            packed, 1.0, lambda *answer, word=word: answers.update({word: answer}), word=word
        )
    assert [one.word for one in intake.take(1000, 1)] == ["publish"]
    reply, at = answers["fly"]
    assert (reply["error"], at) == ("unsupported", (0, 0))
    assert "the cluster is at version 1, 'fly' needs 2" in reply["message"]
    assert "0.2.0 or later. Nothing was done" in reply["message"]
    intake.add(packed, 1.0, lambda *answer: None, word="fly")
    assert [one.word for one in intake.take(1000, 2)] == ["fly"]


@story
async def test_the_version_rises_once_all_members_are_there(tmp_path: Path) -> None:
    """Broken: a cluster stays at the old version, or rises while a member may still be old."""
    async with cluster(tmp_path, 3) as nodes:
        await until(lambda: [n.machine.version for n in nodes] == [versions.NEWEST] * 3)


@story
async def test_the_version_stays_while_one_member_is_old(tmp_path: Path) -> None:
    """Broken: a member of the release before is stopped by an upgrade that is not done yet."""
    async with cluster(tmp_path, 3) as nodes:
        for node in nodes:
            of = node.links.newest_version
            node.links.newest_version = lambda name, of=of: 1 if name == "n3" else of(name)
        old = next(node for node in nodes if node.name == "n3")
        old.links.newest_version = lambda name: 1
        leader: Node = await leader_of(nodes)
        for _ in range(5):
            await leader.write()
        assert [node.machine.version for node in nodes] == [1, 1, 1]
