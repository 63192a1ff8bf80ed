"""The word ``verify``: what it says of directories that are good, torn, damaged or none at all."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tracker_raft import Cluster, TrackerClient
from tracker_raft.cli_verify import verify_word
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft import snapshots
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.memory import KnownMembers
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory

Command = Callable[..., "subprocess.CompletedProcess[str]"]
ENTRY = b"\x00" + b"entry" * 10


def log(directory: Path) -> Path:
    return directory / "log-000000000001"


def everything(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The directory of a node that has 20 entries, each synced by itself, and met another."""
    directory = tmp_path / "trackers" / "n1"
    directory.mkdir(parents=True)
    storage = Directory(directory)
    journal = SegmentJournal(storage, Identity("c", "n1", "b"), segment_bytes=64 * 1024)
    for index in range(1, 21):
        journal.add(ENTRY, index, 1)
        journal.sync()
    journal.setCurrentTerm(4, None)
    journal.sync()
    KnownMembers(storage).check("n2", "birth")
    storage.close()
    return directory


def place_of(directory: Path, number: int) -> int:
    """Where the command of entry ``number`` begins in the log."""
    data, place = log(directory).read_bytes(), -1
    for _ in range(number):
        place = data.index(ENTRY, place + 1)
    return place


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_a_cluster_that_served_is_good_node_by_node(p2p: Command, tmp_path: Path) -> None:
    """Broken: good data is called bad, or only some of a cluster is looked at."""
    directory = tmp_path / "trackers"
    with Cluster.up(3, data_dir=directory) as cluster:
        name = cluster.layout.cluster
        with TrackerClient(cluster.endpoints) as client:
            fields: dict[str, Any] = {"size": 1, "manifest_bytes": 100, "piece_bytes": 524288}
            for number in range(5):
                content = sha256(str(number).encode()).digest()
                client.publish(f"f{number}", content=content, **fields)
        cluster.wait_ready()
    before = everything(directory)
    told = p2p("verify", directory)
    assert told.returncode == 0, told.stdout + told.stderr
    lines = told.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["n1", "n2", "n3"]
    for number, line in enumerate(lines, 1):
        assert f"good: node n{number} of cluster {name}, entries 1 to " in line
    one = json.loads(p2p("verify", directory / "n1", "--json").stdout)["nodes"]["n1"]
    assert (one["cluster"], one["node"], one["problem"]) == (name, "n1", None)
    assert (one["first_index"], one["snapshot"]) == (1, 0)
    assert one["last_index"] >= 6
    assert one["term"] >= 1
    assert everything(directory) == before, "it changes nothing"


def test_a_torn_tail_is_told_and_is_no_damage(p2p: Command, node: Path) -> None:
    """Broken: a node that lost its power is called damaged, or verify repairs what it checks."""
    torn = place_of(node, 20)
    whole = log(node).read_bytes()
    log(node).write_bytes(whole[: torn + 10] + bytes(len(whole) - torn - 10))
    before = everything(node)
    told = p2p("verify", node)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "entries 1 to 19 in 1 segments" in told.stdout
    assert "bytes of a write that was never acknowledged" in told.stdout
    found = json.loads(p2p("verify", node, "--json").stdout)["nodes"]["n1"]
    assert found["bytes_torn"] > 0
    assert found["last_index"] == 19
    assert everything(node) == before


def test_a_flipped_bit_is_named_by_file_and_byte(p2p: Command, node: Path) -> None:
    """Broken: a disk that lies is not found before it is needed."""
    place = place_of(node, 7)
    flip(log(node), place + 3)
    before = everything(node)
    told = p2p("verify", node)
    assert told.returncode == 1
    assert told.stdout.startswith("n1: BAD: log-000000000001: the record at byte ")
    at = int(told.stdout.split("at byte ")[1].split()[0])
    assert place - 64 < at < place, "the record that the byte is in"
    assert "is damaged and later ones are intact" in told.stdout
    found = json.loads(p2p("verify", node, "--json").stdout)["nodes"]["n1"]
    assert f"at byte {at} " in found["problem"]
    assert everything(node) == before


def test_a_snapshot_is_checked_too(p2p: Command, node: Path) -> None:
    """Broken: verify calls a node good that will not start."""
    machine = TrackerMachine()
    for index in range(1, 6):
        machine.skip(index)
    data = snapshots.head("c", 5, 1) + b"".join(machine.snapshot())
    (node / "snapshot").write_bytes(data + sha256(data).digest())
    told = p2p("verify", node)
    assert told.returncode == 0, told.stdout
    assert "snapshot up to 5" in told.stdout
    flip(node / "snapshot", len(data) // 2)
    told = p2p("verify", node)
    assert told.returncode == 1
    assert "n1: BAD: snapshot: " in told.stdout
    assert "do not have the hash they end with" in told.stdout


def test_what_is_known_of_the_members_is_checked_too(p2p: Command, node: Path) -> None:
    """Broken: verify calls a node good that will not start."""
    flip(node / "members", 9)
    told = p2p("verify", node)
    assert told.returncode == 1
    assert "BAD: members: " in told.stdout


def test_one_bad_node_of_a_cluster_does_not_hide_the_good_ones(p2p: Command, node: Path) -> None:
    """Broken: nobody can see which tracker is to be replaced."""
    (node.parent / "cluster.json").write_text("{}")
    (node.parent / "n2").mkdir()
    told = p2p("verify", node.parent)
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    assert lines[0].startswith("n1: good")
    assert lines[1].startswith("n2: BAD: no journal: this is not the directory of a node")


def test_a_directory_that_is_no_nodes_is_said_so(p2p: Command, tmp_path: Path) -> None:
    """Broken: a mistyped path is reported as good data."""
    (tmp_path / "elsewhere").mkdir()
    told = p2p("verify", tmp_path / "elsewhere")
    assert told.returncode == 1
    assert "no journal: this is not the directory of a node that ever ran" in told.stdout
    told = p2p("verify", tmp_path / "nowhere")
    assert told.returncode == 2
    assert "does not exist" in told.stderr
    (tmp_path / "elsewhere" / "cluster.json").write_text("{}")
    told = p2p("verify", tmp_path / "elsewhere")
    assert told.returncode == 2
    assert "none of whose nodes ever ran" in told.stderr


def test_a_node_that_stopped_before_its_first_write_is_good(p2p: Command, tmp_path: Path) -> None:
    """Broken: verify calls a directory bad with which a start begins anew."""
    place = tmp_path / "n1"
    place.mkdir()
    log(place).write_bytes(bytes(4096))
    told = p2p("verify", place)
    assert told.returncode == 0, told.stdout
    assert "good: nothing was ever written whole" in told.stdout
    log(place).write_bytes(b"something else" * 40)
    told = p2p("verify", place)
    assert told.returncode == 1
    assert "does not begin like a journal" in told.stdout


@pytest.mark.parametrize("broken", ["names", "read"])
def test_a_directory_that_cannot_be_read_is_said_so(
    node: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Broken: verify ends in a trace, or calls good what it has not seen."""

    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Directory, broken, fails)
    told = CliRunner().invoke(verify_word, [str(node)])
    assert told.exit_code == 1
    assert told.output == "n1: BAD: cannot be read: [Errno 13] Permission denied\n"
