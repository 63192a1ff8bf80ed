"""The two ends of a transfer as child processes, and what they cost: the parent's side of it.

:mod:`bench.ends` is what runs in the children.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from bench import harness

RECEIVE_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 30.0


class End:
    """A child process that says one line of JSON when it is ready, and ends with its input."""

    def __init__(self, *arguments: str, module: str = "bench.ends") -> None:
        self._role = arguments[0]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=harness.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.said = self.hear()
        except BaseException:
            self.__exit__()
            raise

    def hear(self) -> dict[str, Any]:
        """Its next line. Raises RuntimeError when it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._role} ended; its words are above")
        value = json.loads(line)
        assert isinstance(value, dict)
        return value

    def speaks_within(self, seconds: float) -> bool:
        """Whether its next line, or its end, comes in time; all before it must have been heard."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def tell(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def cpu_s(self) -> float:
        used = psutil.Process(self._process.pid).cpu_times()
        return float(used.user + used.system)

    def memory_mib(self) -> dict[str, float]:
        """Resident memory: the peak of all of it, and what is its own now (no mapped files)."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        found = dict(line.split(":", 1) for line in status.splitlines())
        names = {"peak": "VmHWM", "own": "RssAnon"}
        return {key: int(found[name].split()[0]) / 1024 for key, name in names.items()}

    def __enter__(self) -> End:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def receive(sender: End, out: Path, size: int, *arguments: str) -> dict[str, float]:
    """Run one limit's receiving end to its end and check the size of what arrived at ``out``."""
    sent_before = sender.cpu_s()
    run = subprocess.run(
        [sys.executable, "-m", "bench.ends", *arguments],
        cwd=harness.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=RECEIVE_TIMEOUT_S,
        check=True,
    )
    said = json.loads(run.stdout)
    arrived = out.stat().st_size
    if arrived != size:
        raise RuntimeError(f"{arguments[0]}: {arrived} bytes arrived, expected {size}")
    gib = size / 1024**3
    return {
        "mb_per_s": size / 1e6 / said["seconds"],
        "sender_cpu_s_per_gib": (sender.cpu_s() - sent_before) / gib,
        "receiver_cpu_s_per_gib": said["cpu_s"] / gib,
    }
