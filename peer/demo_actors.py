"""Who plays in the demonstration: peers as processes of their own, and a client that writes.

The peers are started as a user would start them, by the words ``share`` and ``get``, and end with
this process even when it is killed.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from peer import hash_cache
from tracker_raft.client import TrackerClient
from tracker_raft.cluster.process import child_environment, log_tail
from tracker_raft.errors import LocalError, P2PError

STOP_GRACE_S = 5.0
PIECE_BYTES = 512 * 1024
WRITES = "demo/writes/"
WRITE_PAUSE_S = 0.002
"""Between two writes: often enough to measure by, and it leaves the processors to the transfer."""

# The kernel kills what is run here when the thread that started it ends, which is the main one.
TIED = """
import ctypes, os, signal, sys
tie = getattr(ctypes.CDLL(None), "prctl", None)
if tie is not None:
    tie(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class PeerProcess:
    """One word of the peer, running as a process of its own. A context manager: ends with it."""

    def __init__(self, label: str, words: Sequence[object], directory: Path) -> None:
        self.label = label
        self._said = b""
        self._errors = directory / f"{label}.err"
        command = [sys.executable, "-I", "-S", "-c", TIED, str(os.getpid())]
        command += [sys.executable, "-m", "peer", *map(str, words)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                process_group=0,  # Ctrl-C is for us, who then stop it in order
                env={**child_environment(), hash_cache.ENVIRONMENT: "off"},
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def bytes_written(self) -> int:
        """Bytes it has written into files: a peer writes what it has verified; 0 once it ended."""
        try:
            return int(psutil.Process(self._process.pid).io_counters().write_chars)
        except (psutil.Error, OSError):
            return 0

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The next result that it prints as JSON; lines of progress are passed over.

        Raises :class:`LocalError` when there is none.
        """
        until = time.monotonic() + timeout_s
        while True:
            value = json.loads(self._line(until, timeout_s))
            if not isinstance(value, dict):
                raise LocalError(f"{self.label} printed {value!r}, expected an object")
            if value.get("event") != "progress":
                return value

    def _line(self, until: float, timeout_s: float) -> bytes:
        output = self._process.stdout
        assert output is not None
        while b"\n" not in self._said:
            ready, _, _ = select.select([output], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise LocalError(f"{self.label} said nothing within {timeout_s} s")
            data = os.read(output.fileno(), 65536)
            if not data:
                raise LocalError(self._why_ended())
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line

    def _why_ended(self) -> str:
        said = " | ".join(log_tail(self._errors, 3)) or "it said nothing"
        return f"{self.label} ended with status {self._process.wait()}: {said}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            if self.running:
                self._process.send_signal(signal.SIGTERM)
                self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def __repr__(self) -> str:
        return f"<PeerProcess {self.label} pid={self._process.pid} running={self.running}>"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """One write that a tracker acknowledged."""

    name: str
    at_s: float
    """On the monotonic clock."""
    endpoint: str
    """Who acknowledged it."""


class Writer:
    """A client attached to one tracker that publishes names without pause, in its own thread.

    A context manager: writing goes on until it is left. ``acknowledged`` only grows.
    """

    def __init__(self, endpoint: str) -> None:
        """Attach to the tracker at ``endpoint``. Raises what the tracker answers."""
        # Given one address only: it cannot attach to another, and learns the others from this one.
        self._client = TrackerClient([endpoint])
        self.acknowledged: list[Acknowledged] = []
        self.error: P2PError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="writer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End after the write in hand. Idempotent."""
        self._stop.set()
        self._thread.join()
        self._client.close()

    @property
    def attached_to(self) -> str | None:
        """The tracker in use; None while it looks for one."""
        endpoint = self._client.endpoint
        return None if endpoint is None else str(endpoint)

    def first_after(self, moment_s: float, victim: str) -> Acknowledged | None:
        """The first write acknowledged after ``moment_s`` by another tracker than ``victim``.

        An answer that the victim still sent before it died, and that was under way, is none.
        """
        for write in self.acknowledged:
            if write.at_s > moment_s and write.endpoint != victim:
                return write
        return None

    def _write(self) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            name = f"{WRITES}{secrets.token_hex(4)}-{count:06d}"
            try:
                self._client.publish(
                    name,
                    content=secrets.token_bytes(32),
                    size=1,
                    manifest_bytes=1,
                    piece_bytes=PIECE_BYTES,
                )
            except P2PError as error:
                self.error = error
                return
            by = self.attached_to or "nobody"
            self.acknowledged.append(Acknowledged(name, time.monotonic(), by))
            self._stop.wait(WRITE_PAUSE_S)
