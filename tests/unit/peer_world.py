"""A small world for tests of transfers: trackers in memory, real seeders, real sockets."""

from __future__ import annotations

import dataclasses
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fake_client import FakeClient

from peer.downloader import Download
from peer.files import OpenFiles
from peer.limits import PeerLimits
from peer.progress import Fetched
from peer.scan import scan
from peer.seeder import Seeder
from peer.shared import Content, SharedFiles
from peer.trackers import PeerFinder
from tracker_raft.config import Address

PIECE = 16 * 1024
LOOPBACK = Address("127.0.0.1", 0)

QUICK = dataclasses.replace(
    PeerLimits(),
    run_bytes_target=4 * PIECE,
    ask_interval_s=0.05,
    retry_min_s=0.01,
    retry_max_s=0.05,
    progress_timeout_s=0.3,
    patience_s=3.0,
)


def wait_until(condition: Callable[[], object], what: str, limit_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {limit_s} s: {what}"
        time.sleep(0.005)


class World:
    """Trackers and everything that was started; :meth:`close` ends it all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trackers = FakeClient()
        self.seeders: dict[str, Seeder] = {}
        self.partials_left = 0
        """How many a test means to leave for a later fetch."""
        self._ends = ExitStack()

    def random_file(self, pieces: float, name: str = "source") -> Path:
        path = self.directory / name
        path.write_bytes(os.urandom(int(pieces * PIECE)))
        return path

    def seed(
        self,
        path: Path,
        peer: str = "seeder",
        *,
        limits: PeerLimits = QUICK,
        wrap: Callable[[SharedFiles], Content] = lambda content: content,
        complete: bool = True,
        piece_bytes: int | None = PIECE,
    ) -> bytes:
        """Serve ``path`` as ``peer``; the content id."""
        files = OpenFiles(8)
        self._ends.callback(files.close)
        content = wrap(SharedFiles(scan(path, piece_bytes=piece_bytes), files))
        seeder = Seeder(peer, {content.id: content}, LOOPBACK, limits=limits)
        self._ends.callback(seeder.close)
        self.seeders[peer] = seeder
        self.announce(peer, seeder.address, content.id, complete=complete)
        return content.id

    def announce(
        self, peer: str, address: Address, content: bytes, *, complete: bool = True
    ) -> None:
        self.trackers.join(peer, str(address), content, complete=complete)

    def listen(self, peer: str, content: bytes, serve: Callable[[socket.socket], None]) -> None:
        """A peer made by the test: ``serve`` runs in a thread for each connection."""
        listener = socket.create_server(("127.0.0.1", 0))
        threads: list[threading.Thread] = []
        connections: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                thread = threading.Thread(target=guarded, args=(connection,))
                threads.append(thread)
                thread.start()

        def guarded(connection: socket.socket) -> None:
            with connection:
                try:
                    serve(connection)
                except OSError:
                    return  # the other side has gone, or the test is over

        acceptor = threading.Thread(target=accept)
        acceptor.start()

        def end() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            acceptor.join()
            for connection in connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # closed already
            for thread in threads:
                thread.join()

        self._ends.callback(end)
        self.announce(peer, Address("127.0.0.1", listener.getsockname()[1]), content)

    def download(self, content: bytes, name: str = "copy", **options: Any) -> Download:
        options.setdefault("limits", QUICK)
        options.setdefault("own_peer", "fetcher")
        return Download(
            content,
            self.directory / name,
            PeerFinder(self.trackers, content),
            random_source=random.Random(1),
            **options,
        )

    def fetch(self, content: bytes, name: str = "copy", **options: Any) -> Fetched:
        return self.download(content, name, **options).run()

    def close(self) -> None:
        self._ends.close()


@contextmanager
def world_in(directory: Path) -> Iterator[World]:
    """A world whose end is checked: no thread is left, and no partial that was not meant to be."""
    world = World(directory)
    before = set(threading.enumerate())
    try:
        yield world
    finally:
        world.close()
    wait_until(lambda: set(threading.enumerate()) <= before, "all threads have ended")
    assert len(list(directory.rglob(".*.part"))) == world.partials_left
