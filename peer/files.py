"""Descriptors: a bounded number of them kept open, and what is done with one."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker_raft.errors import LocalError


class OpenFiles:
    """A cache of descriptors by key, oldest use out first. Any thread.

    A descriptor in use is never closed: the bound may be passed by as many as are in use.
    """

    def __init__(self, open_files_max: int) -> None:
        self._max = open_files_max
        self._lock = threading.Lock()
        self._idle: OrderedDict[Hashable, int] = OrderedDict()
        self._used: dict[Hashable, tuple[int, int]] = {}
        self._closed = False

    @contextmanager
    def use(self, key: Hashable, opener: Callable[[], int]) -> Iterator[int]:
        """The descriptor of ``key``, made by ``opener`` when there is none; it stays open inside.

        Raises what ``opener`` raises. ``opener`` runs under the lock of the cache, so that one
        file is never opened, and never created, twice.
        """
        with self._lock:
            fd, users = self._used.get(key, (-1, 0))
            if not users:
                fd = self._idle.pop(key, -1)
                if fd < 0:
                    fd = opener()
            self._used[key] = (fd, users + 1)
        try:
            yield fd
        finally:
            with self._lock:
                self._release(key)

    def _release(self, key: Hashable) -> None:
        fd, users = self._used.pop(key)
        if users > 1:
            self._used[key] = (fd, users - 1)
            return
        self._idle[key] = fd
        keep = 0 if self._closed else max(self._max - len(self._used), 0)
        while len(self._idle) > keep:
            os.close(self._idle.popitem(last=False)[1])

    def close(self) -> None:
        """Close what is idle now, and what is in use when its use ends."""
        with self._lock:
            self._closed = True
            while self._idle:
                os.close(self._idle.popitem()[1])

    def __repr__(self) -> str:
        return f"<OpenFiles idle={len(self._idle)} used={len(self._used)} max={self._max}>"


def fill(fd: int, view: memoryview, offset: int) -> None:
    """Read a whole ``view`` from ``offset`` on. Raises :class:`LocalError` when the file ends."""
    filled = os.preadv(fd, [view], offset)
    while filled < len(view):
        size = os.preadv(fd, [view[filled:]], offset + filled)
        if size == 0:
            raise LocalError(f"the file ends at {offset + filled} bytes")
        filled += size


def reserve(fd: int, size: int) -> None:
    """Give an open file its size, with the space for it where the file system can promise that."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(fd, size)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` from ``offset`` on."""
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def sync_path(place: str | Path) -> None:
    """Have a file or a directory on disk before it returns."""
    fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
