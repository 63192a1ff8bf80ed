"""The two ends of a transfer as child processes, and what they cost: the parent's side of it.

:mod:`bench.ends` is what runs in the children.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from bench import harness

RECEIVE_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 30.0


class Sender:
    """A child process that serves until it is left; its CPU time can be read while it lives."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.ends", *arguments],
            cwd=harness.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{arguments[0]} ended before it served; its words are above")
        self.said: dict[str, Any] = json.loads(line)

    def cpu_s(self) -> float:
        used = psutil.Process(self._process.pid).cpu_times()
        return float(used.user + used.system)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def receive(sender: Sender, out: Path, size: int, *arguments: str) -> dict[str, float]:
    """Run one receiving end to its end and check the size of what arrived at ``out``."""
    harness.warm(out, size)
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
