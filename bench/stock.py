"""Three processes with a dictionary replicated by PySyncObj as it comes: the rival from within.

Its own transport, its default settings, and a journal file, without which it would remember
nothing; it never syncs that file to the disk, so its acknowledgements promise less than ours.
What runs in the processes is :mod:`bench.stock_node`.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import sys
from contextlib import closing

from bench import harness
from bench.fleets import Place, ProcessFleet, RotatingWriter

STATUS_S = 1.0


def version() -> str:
    """Of the installed PySyncObj."""
    return f"pysyncobj {importlib.metadata.version('pysyncobj')}"


class StockFleet(ProcessFleet):
    """Three nodes."""

    def command(self, node: str, again: bool) -> list[str]:
        me = f"{self.peer_place[node][0]}:{self.peer_place[node][1]}"
        others = [
            f"{host}:{port}" for name, (host, port) in self.peer_place.items() if name != node
        ]
        host, port = self.client_place[node]
        script = str(harness.ROOT / "bench" / "stock_node.py")
        journal = str(self.folder / f"{node}.journal")
        return [sys.executable, script, host, str(port), journal, me, *others]

    def ask_status(self, node: str) -> tuple[int, str | None, object]:
        with closing(_connected(self.client_place[node], STATUS_S)) as connection:
            said = json.loads(_exchange(connection, b"status\n"))
        by_address = {f"{host}:{port}": name for name, (host, port) in self.peer_place.items()}
        return int(said["term"]), by_address.get(said["leader"]), said["applied"]

    def writer(self, attached_to: str) -> StockWriter:
        return StockWriter(self.places(attached_to))


class StockWriter(RotatingWriter):
    """One line for a write, one for its answer."""

    attempt_s = 0.5
    retry_s = 0.3
    """An ordinary write of a follower takes 0.2 s: its leader replicates ten times a second."""
    _place: Place
    _timeout_s: float
    _connection: socket.socket | None = None

    def connect(self, place: Place, timeout_s: float) -> None:
        self._place, self._timeout_s = place, timeout_s

    def put(self, key: str, value: bytes) -> None:
        if self._connection is None:
            self._connection = _connected(self._place, self._timeout_s)
        answer = _exchange(self._connection, f"put {key} {value.hex()}\n".encode())
        if answer != b"ok":
            raise OSError(f"PySyncObj refused: {answer!r}")

    def patient(self) -> None:
        assert self._connection is not None
        self._connection.settimeout(self.attempt_s)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connected(place: Place, timeout_s: float) -> socket.socket:
    connection = socket.create_connection(place, timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _exchange(connection: socket.socket, line: bytes) -> bytes:
    connection.sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        data = connection.recv(4096)
        if not data:
            raise ConnectionResetError("PySyncObj's process closed the connection")
        answer += data
    return answer.rstrip(b"\n")
