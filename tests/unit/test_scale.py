"""Many files and large ones. If a test here fails, memory or time grow with the content in a way
that nobody sees with small ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer_world import World, world_in

from peer.manifest import FileEntry, Kind, Manifest, decode
from peer.scan import scan
from peer.store import Store

MIB = 1024 * 1024
GIB = 1024 * MIB
RESIDENT_KIB_MAX = 64 * 1024


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as world:
        yield world


def test_ten_thousand_small_files(world: World) -> None:
    """Broken if each small file costs a round trip, or a sync."""
    top = world.directory / "tree"
    for number in range(10_000):
        path = top / f"{number % 100}/{number}"
        if number < 100:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"%d " % number * 20)
    content = world.seed(top, piece_bytes=None)
    started_s = time.monotonic()
    fetched = world.fetch(content)
    seconds = time.monotonic() - started_s
    assert scan(fetched.path).manifest == scan(top).manifest
    print(f"10,000 files in {seconds:.2f} s")
    assert seconds < 60, "a loaded disk takes seconds, round trips and syncs would take minutes"
    assert len(scan(fetched.path).sources) == 10_000


FETCH = """
import sys
from pathlib import Path
from peer import Peer, downloader
from tracker_raft.commands import PeerRecord
content, address = sys.argv[1:]
record = PeerRecord("seeder", address, True)
download = downloader.Download(
    bytes.fromhex(content), Path("copy"), lambda: [record], own_peer="f")
download.run()
status = Path("/proc/self/status").read_text()  # getrusage counts the process before exec too
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize(
    "size", [128 * MIB, pytest.param(GIB, marks=pytest.mark.slow)], ids=["128 MiB", "1 GiB"]
)
def test_a_process_that_fetches_stays_small(world: World, size: int) -> None:
    """Broken if memory grows with the file: a peer holds one piece for each connection."""
    path = world.directory / "source"
    with path.open("wb") as file:
        for _ in range(size // (8 * MIB)):
            file.write(os.urandom(8 * MIB))
    content = world.seed(path, piece_bytes=None)
    done = subprocess.run(
        [sys.executable, "-c", FETCH, content.hex(), str(world.seeders["seeder"].address)],
        cwd=world.directory,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 0, done.stderr
    print(f"{size // MIB} MiB: {int(done.stdout) / 1024:.0f} MiB resident at the peak")
    assert int(done.stdout) < RESIDENT_KIB_MAX
    assert (world.directory / "copy").stat().st_size == size


def test_the_manifest_of_a_hundred_gibibytes_is_small_and_quick() -> None:
    """Broken if a file that fits a disk does not fit the memory that describes it."""
    piece_bytes, size = 4 * MIB, 100 * GIB
    manifest = Manifest(
        Kind.FILE,
        piece_bytes,
        (FileEntry("", size, False, os.urandom(32 * (size // piece_bytes))),),
    )
    started_s = time.monotonic()
    encoded = manifest.encode()
    decoded = decode(encoded)
    last = next(decoded.pieces.spans(decoded.pieces.count - 1, 1))
    assert time.monotonic() - started_s < 0.5
    assert (decoded.size, last.offset + last.length) == (size, size)
    assert len(encoded) < MIB


def test_a_partial_of_a_hundred_gibibytes_is_taken_up_at_once(tmp_path: Path) -> None:
    """Broken if the holes of a large partial are read and hashed before a fetch goes on."""
    piece_bytes, size = 4 * MIB, 100 * GIB
    hashes = bytes(32 * (size // piece_bytes))
    manifest = Manifest(Kind.FILE, piece_bytes, (FileEntry("", size, False, hashes),))
    store = Store(manifest, bytes(32), tmp_path / "copy", free=lambda _: size)
    with store.part.open("r+b") as file:
        file.truncate(size)
        file.seek(77 * GIB)
        file.write(b"one piece that has come, and is wrong")
    store._have.add(0, 1)  # else nothing would be kept
    store.close()
    started_s = time.monotonic()
    again = Store(manifest, bytes(32), tmp_path / "copy", free=lambda _: size)
    seconds = time.monotonic() - started_s
    assert again.verified.count == 0
    again.discard()
    assert seconds < 2


def test_a_sparse_file_is_shared(world: World) -> None:
    """Broken if a file with holes arrives as something else."""
    path = world.directory / "source"
    with path.open("wb") as file:
        file.seek(48 * MIB)
        file.write(b"behind a hole")
        file.truncate(64 * MIB)
    fetched = world.fetch(world.seed(path, piece_bytes=None))
    assert scan(fetched.path).manifest == scan(path).manifest
