"""Looking at processes in a test: who runs, and waiting until something is so."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

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
