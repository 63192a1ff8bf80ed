"""A fetch killed with SIGKILL at every stage. If a test here fails, bytes that were verified are
fetched again, or a destination is seen that is neither the old content nor the new one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peer_world import PIECE, World, world_in

from peer import failpoints
from peer.manifest import Manifest
from peer.scan import scan
from peer.store import part_path

pytestmark = pytest.mark.chaos

FETCH = """
import json, sys
from pathlib import Path
from peer.downloader import Download
from tracker_raft.commands import PeerRecord
content, destination, address = sys.argv[1:]
record = PeerRecord("seeder", address, True)
fetched = Download(
    bytes.fromhex(content), Path(destination), lambda: [record], own_peer="f",
    update=True, durable=True,
).run()
print(json.dumps({"kept": fetched.kept, "taken": sum(count for _, count in fetched.taken)}))
"""
OLD_PIECES = 5


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as world:
        yield world


def make_tree(top: Path) -> None:
    (top / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "deep/large").write_bytes(os.urandom(40 * PIECE + 5))
    for number in range(20):
        (top / f"deep/{number}").write_bytes(os.urandom(PIECE // 2 + number))
    (top / "nothing").touch()
    (top / "run").write_bytes(b"#!/bin/sh\n")
    (top / "run").chmod(0o755)
    (top / "link").symlink_to("deep/large")


def make_old(top: Path, source: Path) -> None:
    """Another content, which shares some pieces with the new one, under another name too."""
    top.mkdir()
    large = (source / "deep/large").read_bytes()
    (top / "renamed").write_bytes(large[: OLD_PIECES * PIECE])
    (top / "gone").write_bytes(b"gone")
    (top / "run").mkdir()


def fetch(world: World, content: bytes, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    address = str(world.seeders["seeder"].address)
    return subprocess.run(
        [sys.executable, "-c", FETCH, content.hex(), str(world.directory / "copy"), address],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": root, failpoints.ENVIRONMENT: failpoint},
    )


def verified_on_disk(manifest: Manifest, top: Path) -> int:
    """Bytes of the pieces below ``top`` that are right, counted without the code under test."""
    total = 0
    for span in manifest.pieces.spans(0, manifest.pieces.count):
        path = top / manifest.files[span.file].path
        if path.is_file():
            with path.open("rb") as file:
                file.seek(span.offset)
                data = file.read(span.length)
            if hashlib.sha256(data).digest() == manifest.hash_of(span.file, span.piece_of_file):
                total += len(data)
    return total


STAGES = [name for name in failpoints.NAMES if not name.startswith(("piece", "file"))]
STAGES += [f"{name}:{time}" for name in failpoints.NAMES if name[:5] == "piece" for time in (1, 9)]
STAGES += ["file.made:1", "file.made:12", "piece.told:50"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_fetch_is_gone_on_with(world: World, stage: str) -> None:
    """Broken if verified pieces are fetched again, or a kill leaves a wrong destination."""
    source, copy = world.directory / "source", world.directory / "copy"
    make_tree(source)
    make_old(copy, source)
    old, manifest = scan(copy).manifest, scan(source, piece_bytes=PIECE).manifest
    content = world.seed(source)

    killed = fetch(world, content, stage)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    moved = stage in ("finish.moved", "finish.cleared")
    assert scan(copy, piece_bytes=PIECE if moved else None).manifest == (manifest if moved else old)
    part = part_path(copy, content)
    on_disk = verified_on_disk(manifest, copy if moved else part)
    name, _, times = stage.partition(":")
    if name in ("piece.written", "piece.told"):
        assert on_disk >= int(times) * 10, "each kill comes after so many pieces"

    resumed = fetch(world, content)
    assert resumed.returncode == 0, resumed.stderr
    told: dict[str, Any] = json.loads(resumed.stdout)
    from_old = 0 if moved else OLD_PIECES * PIECE
    assert on_disk <= told["kept"] <= on_disk + from_old
    assert told["kept"] + told["taken"] == manifest.size, "nothing that was here is fetched again"
    assert scan(copy, piece_bytes=PIECE).manifest == manifest
    assert sorted(path.name for path in world.directory.iterdir()) == ["copy", "source"]


def test_every_failpoint_is_reached_by_a_test_and_stands_in_the_code() -> None:
    """Broken if a stage is renamed in the code, and its test kills nothing any more."""
    assert {stage.partition(":")[0] for stage in STAGES} == set(failpoints.NAMES)
    code = "".join(path.read_text() for path in Path(failpoints.__file__).parent.glob("*.py"))
    for name in failpoints.NAMES:
        assert f'reach("{name}")' in code or f'due("{name}")' in code, name


def test_a_mistyped_failpoint_is_refused(world: World) -> None:
    """Broken if a test that kills nowhere passes for one that survived the kill."""
    source = world.random_file(1)
    done = fetch(world, world.seed(source), "no.such.place")
    assert done.returncode == 1
    assert "P2P_FAILPOINT=no.such.place: expected one of partial.made" in done.stderr


def test_a_file_is_gone_on_with_after_many_kills(world: World) -> None:
    """Broken if a fetch that is killed again and again does not come to its end."""
    path = world.random_file(60)
    content = world.seed(path)
    manifest = scan(path, piece_bytes=PIECE).manifest
    part = part_path(world.directory / "copy", content)
    before = 0
    for _ in range(4):
        assert fetch(world, content, "piece.told:10").returncode == -signal.SIGKILL
        on_disk = sum(
            hashlib.sha256(part.read_bytes()[span.offset : span.offset + span.length]).digest()
            == manifest.hash_of(0, span.piece_of_file)
            for span in manifest.pieces.spans(0, 60)
        )
        assert on_disk >= before + 10
        before = on_disk
    told = json.loads(fetch(world, content).stdout)
    assert told["kept"] == before * PIECE
    assert told["taken"] == (60 - before) * PIECE
    assert (world.directory / "copy").read_bytes() == path.read_bytes()


def test_what_is_in_a_partial_is_believed_by_its_hash_alone(world: World) -> None:
    """Broken if a damaged partial, or a foreign file in it, gets into the destination."""
    source, copy = world.directory / "source", world.directory / "copy"
    make_tree(source)
    content = world.seed(source)
    assert fetch(world, content, "finish.links").returncode == -signal.SIGKILL
    part = part_path(copy, content)
    with (part / "deep/large").open("r+b") as file:
        file.seek(3 * PIECE)
        file.write(b"wrong")
    (part / "deep/7").write_bytes(os.urandom(PIECE * 3))
    (part / "deep/8").unlink()
    (part / "deep/8").symlink_to(source / "deep/8")
    (part / "deep/9").unlink()
    (part / "deep/9").mkdir()
    (part / "foreign").write_bytes(b"x")
    (part / "run").chmod(0o644)
    shutil.rmtree(part / "empty")
    (part / "empty").symlink_to(source)
    told = json.loads(fetch(world, content).stdout)
    manifest = scan(source, piece_bytes=PIECE).manifest
    assert scan(copy, piece_bytes=PIECE).manifest == manifest
    expected = PIECE + sum((source / f"deep/{n}").stat().st_size for n in (7, 8, 9))
    assert told["taken"] == expected
    assert (source / "deep/8").is_file()
