"""Real files over real sockets. If a test here fails, a copy is not what was shared."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from peer_world import PIECE, QUICK, World, wait_until, world_in

from peer.downloader import Cancelled, Download, NoSource
from peer.manifest import Manifest
from peer.pieces import Span
from peer.progress import Progress
from peer.ranges import Ranges
from peer.scan import scan
from peer.shared import SharedFiles
from tracker_raft.errors import LocalError


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as world:
        yield world


class Hooked:
    """A content that tells of each file it opens, and may hold only some pieces."""

    def __init__(self, content: SharedFiles) -> None:
        self.id, self.manifest, self.encoded = content.id, content.manifest, content.encoded
        self.manifest: Manifest
        self._content = content
        self.opened = 0
        self.on_open = lambda: None
        self.pieces: Ranges | None = None

    @property
    def complete(self) -> bool:
        return self.pieces is None

    def has(self, first: int, count: int) -> bool:
        return self.pieces is None or self.pieces.covers(first, first + count)

    def check(self, file: int) -> None:
        self._content.check(file)

    def open(self, file: int) -> AbstractContextManager[int]:
        self.opened += 1
        self.on_open()
        return self._content.open(file)

    def read(self, span: Span, view: memoryview) -> None:
        self.opened += 1
        self.on_open()
        self._content.read(span, view)


@pytest.mark.parametrize(
    "size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 64 * PIECE + 7, 300_000], ids=str
)
def test_a_file_of_any_size_arrives(world: World, size: int) -> None:
    """Broken if the first, last or only piece of a file is lost."""
    path = world.directory / "source"
    path.write_bytes(os.urandom(size))
    fetched = world.fetch(world.seed(path))
    assert fetched.path.read_bytes() == path.read_bytes()
    assert fetched.bytes == size
    assert fetched.peers == (1 if size else 0)


def test_a_file_of_large_pieces_arrives(world: World) -> None:
    """Broken if pieces larger than the buffer for small ones do not fit."""
    path = world.directory / "source"
    path.write_bytes(os.urandom(5_000_001))
    content = world.seed(path, piece_bytes=None)
    assert world.fetch(content).path.read_bytes() == path.read_bytes()


def test_a_tree_arrives_as_it_is(world: World) -> None:
    """Broken if names, empty directories, links or the executable bit are lost."""
    top = world.directory / "tree"
    (top / "with space/ünï→©").mkdir(parents=True)
    (top / "empty/nested/deeper").mkdir(parents=True)
    (top / "with space/ünï→©/new\nline").write_bytes(b"1")
    (top / "-rf").write_bytes(os.urandom(3 * PIECE))
    (top / "run").write_bytes(b"#!/bin/sh\n")
    (top / "run").chmod(0o755)
    (top / "zero").touch()
    (top / "up").symlink_to("with space")
    (top / "with space/back").symlink_to("../run")
    (top / "broken").symlink_to("nowhere/at all")
    fetched = world.fetch(world.seed(top))
    assert scan(fetched.path).manifest == scan(top).manifest
    assert len(scan(fetched.path).manifest.links) == 3
    assert (fetched.path / "empty/nested/deeper").is_dir()
    assert os.access(fetched.path / "run", os.X_OK)


def test_a_tree_of_a_thousand_small_files_arrives(world: World) -> None:
    """Broken if small files are mixed up in the runs they share."""
    top = world.directory / "tree"
    for number in range(1000):
        path = top / f"{number % 10}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * (number % 97))
    fetched = world.fetch(world.seed(top))
    assert scan(fetched.path).manifest == scan(top).manifest
    assert fetched.seconds < 10


def test_files_around_the_size_of_the_gather_buffer_arrive(world: World) -> None:
    """Broken if the seeder's buffer loses what does not fit, or the receiver's does."""
    top = world.directory / "tree"
    top.mkdir()
    for number in range(70):
        (top / f"{number:03}").write_bytes(os.urandom(PIECE - number % 3))
    assert scan(world.fetch(world.seed(top)).path).manifest == scan(top).manifest


def test_two_and_three_seeders_share_the_work(world: World) -> None:
    """Broken if further seeders are of no use."""
    path = world.random_file(400)
    hooks: list[Hooked] = []

    def hook(content: SharedFiles) -> Hooked:
        hooks.append(Hooked(content))
        return hooks[-1]

    for peer in ("a", "b", "c"):
        content = world.seed(path, peer, wrap=hook)
    barrier = threading.Barrier(3, timeout=10)
    for hooked in hooks:  # nobody goes on before all three have been asked for a piece
        met = threading.Event()

        def meet(met: threading.Event = met) -> None:
            if not met.is_set():
                met.set()
                barrier.wait()

        hooked.on_open = meet
    fetched = world.fetch(content)
    assert fetched.path.read_bytes() == path.read_bytes()
    assert fetched.peers == 3
    assert sum(hooked.opened for hooked in hooks) == 400


def test_a_seeder_that_dies_is_replaced(world: World) -> None:
    """Broken if a download ends with the seeder it began with."""
    path = world.random_file(2000)
    dying: list[Hooked] = []

    def hook(content: SharedFiles) -> Hooked:
        dying.append(Hooked(content))
        return dying[-1]

    content = world.seed(path, "dying", wrap=hook)
    world.seed(path, "surviving")

    def die() -> None:
        if dying[0].opened == 20:
            raise OSError("gone in the middle of a run")

    dying[0].on_open = die
    closer = threading.Thread(
        target=lambda: (
            wait_until(lambda: dying[0].opened >= 20, "the first seeder was asked"),
            world.seeders["dying"].close(),
        )
    )
    closer.start()
    fetched = world.fetch(content)
    closer.join()
    assert fetched.path.read_bytes() == path.read_bytes()
    assert not fetched.banned


def test_a_seeder_that_comes_later_is_used(world: World) -> None:
    """Broken if a download asks the trackers once only."""
    path = world.random_file(10)
    content = world.seed(path)
    swarm = world.trackers.swarms.pop(content)
    questions = []

    def come_at_the_third_question() -> None:
        questions.append(1)
        if len(questions) == 3:
            world.trackers.swarms[content] = swarm

    world.trackers.on_peers = come_at_the_third_question
    assert world.fetch(content).path.read_bytes() == path.read_bytes()


def test_trackers_that_go_away_do_not_stop_a_download(world: World) -> None:
    """Broken if losing all trackers loses a running download."""
    path = world.random_file(200)
    hooks: list[Hooked] = []

    def hook(content: SharedFiles) -> Hooked:
        hooks.append(Hooked(content))
        return hooks[-1]

    content = world.seed(path, wrap=hook)

    def lose_trackers() -> None:
        world.trackers.away = True

    hooks[0].on_open = lose_trackers
    assert world.fetch(content).path.read_bytes() == path.read_bytes()


def test_a_partial_peer_is_asked_for_what_it_has(world: World) -> None:
    """Broken if a peer that has a part is of no use, or is asked for what it lacks."""
    path = world.random_file(50)
    hooks: list[Hooked] = []

    def part_of(*ranges: tuple[int, int]):  # type: ignore[no-untyped-def]  # used here only
        def hook(content: SharedFiles) -> Hooked:
            hooks.append(Hooked(content))
            hooks[-1].pieces = Ranges(*ranges)
            return hooks[-1]

        return hook

    content = world.seed(path, "front", wrap=part_of((0, 20), (49, 50)), complete=False)
    world.seed(path, "back", wrap=part_of((20, 49)), complete=False)
    fetched = world.fetch(content)
    assert fetched.path.read_bytes() == path.read_bytes()
    assert [hooked.opened for hooked in hooks] == [21, 29]


def test_no_source_says_what_is_missing(world: World) -> None:
    """Broken if a download without a source hangs, or its error helps nobody."""
    path = world.random_file(50)
    hooks: list[Hooked] = []

    def hook(content: SharedFiles) -> Hooked:
        hooks.append(Hooked(content))
        hooks[-1].pieces = Ranges((0, 40))
        return hooks[-1]

    content = world.seed(path, "part", wrap=hook, complete=False)
    limits = dataclasses.replace(QUICK, patience_s=0.3)
    with pytest.raises(NoSource) as caught:
        world.fetch(content, limits=limits)
    text = str(caught.value)
    assert "10 of 50 pieces are missing (numbers 40-49)" in text
    kept = r"copy was not made; 40 verified pieces are kept in \.copy\.[0-9a-f]{8}\.part"
    assert re.search(kept, text)
    world.partials_left = 1
    assert "part at 127.0.0.1" in text
    with pytest.raises(NoSource, match="the trackers know no peer that has it"):
        world.fetch(bytes(32), limits=limits)
    world.trackers.away = True
    with pytest.raises(NoSource, match="trackers: no tracker answered"):
        world.fetch(content, limits=limits)


def test_progress_goes_from_nothing_to_all(world: World) -> None:
    """Broken if a bar jumps back, or never fills."""
    content = world.seed(world.random_file(100))
    seen: list[Progress] = []
    world.fetch(content, progress=seen.append)
    done = [moment.bytes_done for moment in seen]
    assert done == sorted(done)
    assert seen[-1].bytes_done == seen[-1].bytes_total == 100 * PIECE
    assert seen[-1].rate_bytes_s > 0


def test_a_download_can_be_cancelled(world: World) -> None:
    """Broken if Ctrl-C leaves threads, sockets or a destination behind."""
    hooks: list[Hooked] = []

    def hook(content: SharedFiles) -> Hooked:
        hooks.append(Hooked(content))
        return hooks[-1]

    content = world.seed(world.random_file(400), wrap=hook)
    download: Download = world.download(content)
    hooks[0].on_open = download.cancel
    with pytest.raises(Cancelled, match="copy was not made"):
        download.run()
    assert not (world.directory / "copy").exists()
    # A piece may have been under way; if so it is kept.
    world.partials_left = len(list(world.directory.glob(".copy.*.part")))


def test_an_interrupt_in_the_callers_thread_ends_it_all(world: World) -> None:
    """Broken if Ctrl-C throws away what came, or is swallowed."""
    content = world.seed(world.random_file(400))

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.fetch(content, progress=interrupt)
    (left,) = world.directory.glob(".copy.*.part")
    assert world.fetch(content).bytes == 400 * PIECE
    assert not left.exists()


def test_what_the_machine_refuses_ends_a_download_at_once(world: World) -> None:
    """Broken if a full disk is waited for like a lost peer."""
    content = world.seed(world.random_file(50))
    with pytest.raises(LocalError, match=r"no space for .*copy: it has 819200 bytes, 5 are free"):
        world.fetch(content, free=lambda _: 5)
    (world.directory / "copy").touch()
    with pytest.raises(LocalError, match="copy exists; nothing was fetched"):
        world.fetch(content)


def test_a_fetch_in_another_process_needs_little_memory(world: World) -> None:
    """Broken if memory grows with the file: a peer holds one piece for each connection."""
    path = world.directory / "source"
    with path.open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    content = world.seed(path)
    address = world.seeders["seeder"].address
    code = f"""
from pathlib import Path
from peer.downloader import Download
from tracker_raft.commands import PeerRecord
record = PeerRecord("seeder", "{address}", True)
Download(bytes.fromhex("{content.hex()}"), Path("copy"), lambda: [record], own_peer="f").run()
status = Path("/proc/self/status").read_text()  # getrusage counts the process before exec too
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=world.directory,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert int(done.stdout) < 64 * 1024
    assert (world.directory / "copy").stat().st_size == 200 * 1024 * 1024
