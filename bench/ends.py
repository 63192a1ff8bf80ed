"""The child processes of ``download``: ``python -m bench.ends ROLE ...``; one JSON line each.

* ``serve PATH``: what ``sendfile`` can do. Says ``{"port": n}``, then sends ranges: a connection
  asks for each with two u64, offset and length.
* ``copy PORT SIZE OUT``: one connection, received and written. The limit of a plain copy.
* ``verified PORT SIZE OUT``: two connections, a thread each, every piece hashed and written in
  place: the shape of a verified download with nothing else around it.
* ``share PATH NAME TRACKERS``: our seeder. Says ``{"peer": id}``.
* ``fetch NAME OUT TRACKERS``: our downloader. Says ``{"port": 0}`` when it is ready, and begins
  at the next line it is sent; says ``{"begun", "ended", "taken"}``, the times on the monotonic
  clock, and serves what it has on and on.

A sending end, and ours that fetches, serve until their standard input ends.

``copy`` and ``verified`` say ``{"seconds", "cpu_s"}``: from before the first connection until the
file stands under its final name. Starting Python is not counted, for anyone.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.harness import set_congestion

RANGE = struct.Struct(">QQ")
PIECE_BYTES = 512 * 1024
HOST = "127.0.0.1"


def say(**values: object) -> None:
    """One line for the parent, at once."""
    print(json.dumps(values), flush=True)


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(work: Callable[[], object]) -> None:
    """Run ``work`` and say how long it took and what it cost this process."""
    cpu, begun = cpu_s(), time.monotonic()
    work()
    say(seconds=time.monotonic() - begun, cpu_s=cpu_s() - cpu)


# -- the limits -----------------------------------------------------------------------------------


def serve(path: str) -> None:
    with socket.create_server((HOST, 0)) as listener:
        say(port=listener.getsockname()[1])
        threading.Thread(target=_accept, args=(listener, path), daemon=True).start()
        sys.stdin.read()


def _accept(listener: socket.socket, path: str) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_send_ranges, args=(connection, path), daemon=True).start()


def _send_ranges(connection: socket.socket, path: str) -> None:
    with connection, Path(path).open("rb") as file:
        set_congestion(connection)
        while len(asked := connection.recv(RANGE.size, socket.MSG_WAITALL)) == RANGE.size:
            offset, length = RANGE.unpack(asked)
            while length:
                sent = os.sendfile(connection.fileno(), file.fileno(), offset, length)
                offset, length = offset + sent, length - sent


def _receive(
    port: int, offset: int, length: int, chunk_bytes: int, use: Callable[[memoryview, int], object]
) -> None:
    """Ask for one range and hand it to ``use(chunk, offset)`` in whole chunks, the last shorter."""
    buffer = memoryview(bytearray(chunk_bytes))
    with socket.create_connection((HOST, port)) as connection:
        set_congestion(connection)
        connection.sendall(RANGE.pack(offset, length))
        end = offset + length
        while offset < end:
            size = min(chunk_bytes, end - offset)
            if connection.recv_into(buffer[:size], size, socket.MSG_WAITALL) != size:
                raise ConnectionError("the sender broke off")
            use(buffer[:size], offset)
            offset += size


def copy(port: int, size: int, out: Path) -> None:
    part = out.with_suffix(".part")
    with part.open("wb", buffering=0) as file:
        _receive(port, 0, size, PIECE_BYTES, lambda chunk, offset: file.write(chunk))
    part.replace(out)


def at_once(work: Callable[[int, int], object], ranges: Iterable[tuple[int, int]]) -> None:
    """Each range in a thread of its own; returns when all have ended."""
    threads = [threading.Thread(target=work, args=one) for one in ranges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def verified(port: int, size: int, out: Path) -> None:
    part = out.with_suffix(".part")
    digests: dict[int, bytes] = {}
    failures: list[BaseException] = []
    half = size // PIECE_BYTES // 2 * PIECE_BYTES
    with part.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))

        def use(chunk: memoryview, offset: int) -> None:
            digests[offset] = hashlib.sha256(chunk).digest()
            os.pwrite(file.fileno(), chunk, offset)

        def fetch_range(offset: int, length: int) -> None:
            try:
                _receive(port, offset, length, PIECE_BYTES, use)
            except OSError as error:
                failures.append(error)

        ranges = [(0, half), (half, size - half)]
        at_once(fetch_range, (one for one in ranges if one[1]))
    if failures:
        raise failures[0]
    part.replace(out)


# -- ours -----------------------------------------------------------------------------------------


def share(path: str, name: str, trackers: str) -> None:
    import peer

    with peer.Peer(trackers.split(",")) as sharing:
        sharing.share(path, name)
        say(peer=sharing.id)
        sys.stdin.read()


def fetch(name: str, out: Path, trackers: str) -> None:
    import peer

    with peer.Peer(trackers.split(",")) as fetching:
        say(port=0)
        sys.stdin.readline()
        begun = time.monotonic()
        fetched = fetching.fetch(name, out, seed=True)
        say(begun=begun, ended=time.monotonic(), taken=dict(fetched.taken))
        sys.stdin.read()


def main(role: str, *rest: str) -> None:
    match role, *rest:
        case "serve", path:
            serve(path)
        case ("copy" | "verified") as limit, port, size, out:
            receive = {"copy": copy, "verified": verified}[limit]
            timed(lambda: receive(int(port), int(size), Path(out)))
        case "share", path, name, trackers:
            share(path, name, trackers)
        case "fetch", name, out, trackers:
            fetch(name, Path(out), trackers)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
