"""Memory kept warm for a run: :class:`WarmMemory`.

A virtual machine may give memory that was free for some two seconds back to its host. The next
touch of it then costs seconds for each GiB, and a benchmark that writes new files measures the
host. Here a store of touched memory is held and handed back to the system while a run goes on,
always a little ahead of what the run takes, so that every contender finds warm pages, the slow
ones too.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psutil

BLOCK_BYTES = 2 * 1024 * 1024
AHEAD_BYTES = 768 * 1024 * 1024
"""Kept free beyond what was free when the run began: what the fastest writes in some ticks."""
TICK_S = 0.02
SHARE_MAX = 0.5
"""Of the memory that is available; the rest is for the run."""
PAGE_BYTES = mmap.PAGESIZE


class WarmMemory:
    """Holds ``size`` bytes touched until it is closed; :meth:`lend` lends them to a run."""

    def __init__(self, size: int) -> None:
        available = psutil.virtual_memory().available
        blocks = min(size, int(available * SHARE_MAX)) // BLOCK_BYTES
        self._size = max(blocks, 1) * BLOCK_BYTES
        self._map = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages takes more steps
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._touch(0)
        self.held = self._size

    @contextlib.contextmanager
    def lend(self) -> Iterator[None]:
        """Give it away bit by bit inside the block, and take it back after."""
        ended = threading.Event()
        floor = _free_bytes() + AHEAD_BYTES
        self._give(floor)
        giver = threading.Thread(target=self._give_until, args=(floor, ended), name="warm-memory")
        giver.start()
        try:
            yield
        finally:
            ended.set()
            giver.join()
            self._touch(self.held)
            self.held = self._size

    def _give_until(self, floor: int, ended: threading.Event) -> None:
        while self.held and not ended.wait(TICK_S):
            self._give(floor)

    def _give(self, floor: int) -> None:
        lacking = floor - _free_bytes()
        size = min(self.held, -(-lacking // BLOCK_BYTES) * BLOCK_BYTES)
        if size > 0:
            self.held -= size
            self._map.madvise(mmap.MADV_DONTNEED, self.held, size)

    def _touch(self, start: int) -> None:
        count = (self._size - start) // PAGE_BYTES
        self._map[start::PAGE_BYTES] = bytes(count)

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "MemFree":
            return int(value.split()[0]) * 1024
    raise OSError("/proc/meminfo has no MemFree")
