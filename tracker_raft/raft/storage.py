"""The files of one node's directory, behind a narrow seam: real, or simulated with its failures.

A write is durable after :meth:`sync` of its file and not before; a new, renamed or deleted name
after :meth:`sync_names`. Errors are ``OSError`` and nothing else. Names have no directories.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from tracker_raft.durable import sync_directory
from tracker_raft.raft.trust import DiskTrust

NOT_MEASURED = -1
"""The size of work that says nothing about how fast the disk syncs."""


class Storage(Protocol):
    """One directory. Offsets and sizes in bytes."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def read_part(self, name: str, offset: int, size: int) -> bytes: ...

    def allocate(self, name: str, size: int) -> None:
        """Make a file of ``size`` zero bytes whose space is reserved: a write into it does not
        run out of space. Durable when it returns. Nothing is left when it fails."""

    def write(self, name: str, offset: int, data: bytes) -> None: ...
    def sync(self, name: str) -> None: ...
    def truncate(self, name: str, size: int) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def delete(self, name: str) -> None: ...
    def sync_names(self) -> None: ...
    def close(self) -> None: ...


class Directory:
    """A real directory. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: dict[str, int] = {}

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_file())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        return os.pread(self._file(name), size, offset)

    def allocate(self, name: str, size: int) -> None:
        file = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            os.fsync(file)
            self.sync_names()
        except OSError:
            os.close(file)
            with suppress(OSError):
                (self.path / name).unlink()
            raise
        self._open[name] = file

    def _file(self, name: str) -> int:
        if name not in self._open:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._open[name] = os.open(self.path / name, flags, 0o600)
        return self._open[name]

    def write(self, name: str, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._file(name), view, offset)
            view, offset = view[done:], offset + done

    def sync(self, name: str) -> None:
        os.fdatasync(self._file(name))

    def truncate(self, name: str, size: int) -> None:
        os.ftruncate(self._file(name), size)

    def rename(self, old: str, new: str) -> None:
        self._forget(old)
        self._forget(new)
        (self.path / old).replace(self.path / new)

    def delete(self, name: str) -> None:
        self._forget(name)
        (self.path / name).unlink()

    def sync_names(self) -> None:
        sync_directory(self.path)

    def close(self) -> None:
        for name in list(self._open):
            self._forget(name)

    def _forget(self, name: str) -> None:
        file = self._open.pop(name, None)
        if file is not None:
            os.close(file)

    def __repr__(self) -> str:
        return f"<Directory {self.path}>"


Work = Callable[[], None]
Done = Callable[[OSError | None], None]


class Writer(Protocol):
    """Does work on a storage, one piece at a time, in order."""

    def run(self, work: Work, done: Done) -> None:
        """Do ``work`` beside the loop; then call ``done`` on the loop with the error it raised, or
        None. Never before this returns."""

    def sync(self, work: Work, size: int, done: Done) -> bool:
        """The same for ``work`` that makes ``size`` bytes durable in space that is reserved, but
        for that it may be done at once: then True, ``done`` is not called, and an ``OSError`` of
        ``work`` is raised."""

    def close(self) -> None:
        """Finish what was begun; nothing is reported afterwards."""


class ThreadWriter:
    """One thread, so that a slow disk does not stop heartbeats; and the loop's own as long as the
    disk is fast (:mod:`trust`), because two hand-overs between threads take longer than a sync.

    What the loop does it does while the thread has nothing to do: a storage is used by one thread
    at a time, and in order.
    """

    def __init__(
        self,
        call_threadsafe: Callable[..., object],
        trust: DiskTrust | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``trust`` None: all is done by the thread."""
        self._call_threadsafe = call_threadsafe
        self._trust = trust
        self._now = now
        # Not an executor: every write waits for this, and an executor's futures, with their locks,
        # take as long as everything else on the way.
        self._orders: SimpleQueue[tuple[Work, int, Done] | None] = SimpleQueue()
        self._under_way = 0
        """Orders of the thread that were not reported yet."""
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
        self._thread.start()

    def run(self, work: Work, done: Done) -> None:
        self._order(work, NOT_MEASURED, done)

    def sync(self, work: Work, size: int, done: Done) -> bool:
        trust, begun_s = self._trust, self._now()
        if trust is None or self._under_way or not trust.allows(size, begun_s):
            self._order(work, size, done)
            return False
        work()
        now_s = self._now()
        trust.took(now_s - begun_s, size, now_s)
        return True

    def _order(self, work: Work, size: int, done: Done) -> None:
        self._under_way += 1
        self._orders.put((work, size, done))

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            work, size, done = order
            error: OSError | None = None
            begun_s = self._now()
            try:
                work()
            except OSError as failure:
                error = failure
            except Exception as failure:  # noqa: BLE001 whoever waits for it must be told
                error = OSError(f"defect in the writer: {failure!r}")
            if not self._closed:
                with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                    took_s = self._now() - begun_s
                    self._call_threadsafe(self._report, size, took_s, done, error)

    def _report(self, size: int, took_s: float, done: Done, error: OSError | None) -> None:
        """On the loop: the thread is done with an order."""
        self._under_way -= 1
        if self._trust is not None and size != NOT_MEASURED:
            self._trust.took(took_s, size, self._now())
        done(error)

    def close(self) -> None:
        self._closed = True
        self._orders.put(None)
        self._thread.join()
