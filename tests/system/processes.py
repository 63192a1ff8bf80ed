"""Processes in a test: running one, who runs, and waiting until something is so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def processes_naming(text: object) -> list[psutil.Process]:
    """Processes, this one excepted, with ``text`` in their command line; zombies have none."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(text) in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def wait_until(met: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
    """Look again and again; fails naming ``what`` when it is not so within ``timeout_s``."""
    until = time.monotonic() + timeout_s
    pause = threading.Event()
    while not met():
        assert time.monotonic() < until, f"not within {timeout_s} s: {what}"
        pause.wait(0.01)


def python(*arguments: str, cwd: Path) -> str:
    """What a program said on stdout; fails with what it said on stderr unless its status is 0."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
