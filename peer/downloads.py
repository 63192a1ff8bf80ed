"""Which downloads run on this host: a small file for each, written by the process that runs it.

::

    STATE_DIR/downloads/<pid>-<number>.json

A process number alone says nothing, because the system gives it to another process after a
while: a file is believed only while a process of that number and that time of birth lives. All
others are removed by whoever looks. A file that cannot be written costs the download nothing.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from peer.progress import Progress

INTERVAL_S = 0.5
"""Between two writes of one file."""
BIRTH_TOLERANCE_S = 1.0

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Running:
    """One download of this host."""

    name: str
    path: str
    state: str
    """``fetching`` or ``seeding``."""
    bytes_done: int
    bytes_total: int
    """0 while the manifest is not here."""
    rate_bytes_s: float
    peers: int
    pid: int
    born_s: float
    """When the process began, in seconds of the wall clock."""


class StatusFile:
    """The file of one download of this process. A context manager: removed when it is left."""

    def __init__(self, directory: Path, name: str, path: str) -> None:
        self._file = directory / f"{os.getpid()}-{next(_numbers)}.json"
        self._name = name
        self._path = path
        self._born_s = psutil.Process().create_time()
        self._written_s = float("-inf")
        self._last = Progress(0, 0, 0, 0.0)

    def __enter__(self) -> Self:
        self.update(self._last)
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            _log.info("%s was not removed: %s", self._file, error)

    def update(self, moment: Progress) -> None:
        """Note how far it is; written twice a second at most."""
        self._last = moment
        now_s = time.monotonic()
        if now_s - self._written_s >= INTERVAL_S:
            self._written_s = now_s
            self._write("fetching")

    def seeding(self) -> None:
        """It is complete, and served from now on."""
        self._write("seeding")

    def _write(self, state: str) -> None:
        last = self._last
        running = Running(
            self._name,
            self._path,
            state,
            last.bytes_done,
            last.bytes_total,
            last.rate_bytes_s,
            last.peers,
            os.getpid(),
            self._born_s,
        )
        beside = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(asdict(running)))
            beside.replace(self._file)
        except OSError as error:
            _log.info("%s was not written: %s", self._file, error)


def running(directory: Path) -> list[Running]:
    """The downloads that run now, the oldest process first; files of others are removed."""
    found = []
    for file in sorted(directory.glob("*.json")):
        status = _read(file)
        if status is not None and _lives(status):
            found.append(status)
        else:
            file.unlink(missing_ok=True)
            file.with_suffix(".new").unlink(missing_ok=True)
    return sorted(found, key=lambda status: (status.born_s, status.pid))


def _read(file: Path) -> Running | None:
    try:
        value: Any = json.loads(file.read_text())
        return Running(**value)
    except (OSError, ValueError, TypeError):
        return None


def _lives(status: Running) -> bool:
    try:
        born_s = psutil.Process(status.pid).create_time()
        return abs(born_s - float(status.born_s)) < BIRTH_TOLERANCE_S
    except (psutil.Error, ValueError, TypeError):
        return False
