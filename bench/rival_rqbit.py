"""rqbit as a rival of ``download``: ``python -m bench.rival_rqbit ROLE TORRENT DIRECTORY SIZE``.

* ``seed``: says ``{"port": n}`` when it seeds, until its standard input ends.
* ``fetch``: says ``{"port": n}``; begins at the next line; says ``{"begun", "ended"}`` on the
  monotonic clock, and serves on until its standard input ends.

Its library (``pip install pyrqbit``) finds peers through a tracker only: :class:`Tracker`.
"""

from __future__ import annotations

import hashlib
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import deque
from pathlib import Path
from typing import Any, Self

from bench.ends import HOST, say

STARTED_S = 60.0
POLL_S = 0.005
WRITTEN_S = 20.0


class Tracker:
    """A BitTorrent tracker of one torrent that names every peer to every other."""

    def __init__(self) -> None:
        ports: dict[int, None] = {}

        class Announce(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = urllib.parse.urlparse(self.path).query
                asked = dict(urllib.parse.parse_qsl(query, encoding="latin1"))
                port = int(asked.get("port", 0))
                others = [other for other in ports if other != port]
                if asked.get("event") == "stopped":
                    ports.pop(port, None)
                elif port:
                    ports[port] = None
                peers = b"".join(socket.inet_aton(HOST) + struct.pack(">H", p) for p in others)
                body = b"d8:intervali1800e5:peers%d:%se" % (len(peers), peers)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.ports = ports
        self._server = http.server.ThreadingHTTPServer((HOST, 0), Announce)
        self.url = f"http://{HOST}:{self._server.server_port}/announce"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def absent() -> str | None:
    """Why it cannot run here; None when it can."""
    code = "import libtorrent; from pyrqbit.pyrqbit import Session"  # the first makes the torrent
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if run.returncode == 0:
        return None
    return f"pip install pyrqbit libtorrent: {run.stderr.strip().splitlines()[-1]}"


def _start(torrent: str, directory: str) -> tuple[Any, Any]:
    from pyrqbit.pyrqbit import Session

    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    session = Session(directory, listen_port=port, disable_dht=True)
    return session, lambda: session.add_torrent(torrent, output_folder=directory, overwrite=True)


def _wait_until_complete(handle: Any, size: int) -> None:
    until_s = time.monotonic() + STARTED_S
    while True:
        found = handle.stats()
        # While it looks at what is there it may say that all is complete.
        live = found["state"] == "Live" and found["total_bytes"] >= size
        if live and found["progress_percent"] >= 100:
            return
        if time.monotonic() > until_s:
            raise TimeoutError(f"rqbit: {found} after {STARTED_S} s")
        time.sleep(POLL_S)


def _wait_until_written(torrent: str, directory: str) -> None:
    """It says that all is here a little before its last write. Not counted: this comes after."""
    import libtorrent as lt

    info = lt.torrent_info(torrent)
    pieces = deque(range(info.num_pieces()))
    until_s = time.monotonic() + WRITTEN_S
    with (Path(directory) / info.name()).open("rb") as file:
        while pieces:
            file.seek(pieces[0] * info.piece_length())
            data = file.read(info.piece_size(pieces[0]))
            if hashlib.sha1(data, usedforsecurity=False).digest() == info.hash_for_piece(pieces[0]):
                pieces.popleft()
            elif time.monotonic() > until_s:
                raise TimeoutError(f"rqbit: {len(pieces)} pieces not written in {WRITTEN_S} s")
            else:
                time.sleep(POLL_S)


def seed(torrent: str, directory: str, size: int) -> None:
    _session, add = _start(torrent, directory)
    _wait_until_complete(add(), size)
    say(port=0)
    sys.stdin.read()


def fetch(torrent: str, directory: str, size: int) -> None:
    _session, add = _start(torrent, directory)
    say(port=0)
    sys.stdin.readline()
    begun = time.monotonic()
    _wait_until_complete(add(), size)
    say(begun=begun, ended=time.monotonic())
    sys.stdin.read()
    _wait_until_written(torrent, directory)


def main(role: str, torrent: str, directory: str, size: str) -> None:
    {"seed": seed, "fetch": fetch}[role](torrent, directory, int(size))
    os._exit(0)  # its runtime's threads do not end by themselves


if __name__ == "__main__":
    main(*sys.argv[1:])
