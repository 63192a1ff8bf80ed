"""A disk that loses what was not synced: :class:`tracker_raft.raft.storage.Storage`, simulated.

What a crash may do to writes that were under way is drawn from the world's chance: all kept, all
lost, a prefix kept, or the last one kept torn at a sector. Names behave alike: what was not
synced may be kept or lost, in order.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.world import MachineStops, Process, World
from tracker_raft.raft.trust import DiskTrust

SECTOR_BYTES = 512


@dataclass(slots=True)
class _File:
    content: bytearray
    """As the running system sees it."""
    kept: bytearray
    """As it is on the platter."""
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes in order."""
    settled: int = 0
    """How many writes before those were synced."""


class SimDisk:
    """One node's directory. Outlives the node's processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._names: dict[str, _File] = {}
        self._kept_names: dict[str, _File] = {}
        self.full = False
        self.broken = False
        """Every sync fails, for good."""
        self.latency_s = (0.0001, 0.0004)
        self.held_s: list[float] = []
        """How long each sync took that the loop waited for."""
        self.deferring = False
        self._deferred: list[tuple[_File, int]] = []
        self.written: list[tuple[str, int, int]] = []
        """(name, offset, size) of synced writes: where a flipped bit does harm."""

    # -- Storage -----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        return sorted(self._names)

    def read(self, name: str) -> bytes:
        return bytes(self._names[name].content)

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        return bytes(self._names[name].content[offset : offset + size])

    def allocate(self, name: str, size: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        self._names[name] = _File(bytearray(size), bytearray(size))
        self._kept_names[name] = self._names[name]

    def write(self, name: str, offset: int, data: bytes) -> None:
        if name not in self._names:
            self._names[name] = _File(bytearray(), bytearray())
        file = self._names[name]
        if self.full and offset + len(data) > len(file.content):
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        _put(file.content, offset, data)
        file.unsynced.append((offset, bytes(data)))
        self.written.append((name, offset, len(data)))

    def sync(self, name: str) -> None:
        if self.broken:
            raise OSError(errno.EIO, "the simulated disk failed")
        file = self._names[name]
        if self.deferring:
            self._deferred.append((file, file.settled + len(file.unsynced)))
        else:
            _settle(file, file.settled + len(file.unsynced))

    def truncate(self, name: str, size: int) -> None:
        file = self._names[name]
        del file.content[size:]
        del file.kept[size:]

    def rename(self, old: str, new: str) -> None:
        self._names[new] = self._names.pop(old)

    def delete(self, name: str) -> None:
        del self._names[name]

    def sync_names(self) -> None:
        self._kept_names = dict(self._names)

    def close(self) -> None:
        return None

    # -- what the writer needs: a sync takes time -----------------------------------------------

    def begin(self, work: Callable[[], None]) -> list[tuple[_File, int]]:
        """Do ``work`` now but for its syncs, which :meth:`complete` does. Raises ``OSError``."""
        self.deferring, self._deferred = True, []
        try:
            work()
        finally:
            self.deferring = False
        return self._deferred

    def complete(self, deferred: list[tuple[_File, int]]) -> None:
        for file, count in deferred:
            _settle(file, count)

    # -- faults ------------------------------------------------------------------------------------

    def crash(self) -> None:
        """The machine stops: what was not synced meets its fate."""
        random = self._world.random
        names = dict(self._kept_names if random.random() < 0.5 else self._names)
        self._names = names
        self._kept_names = dict(names)
        for name in sorted(names):
            self._settle_by_chance(names[name])

    def _settle_by_chance(self, file: _File) -> None:
        random = self._world.random
        match random.choice(("all", "none", "prefix", "torn")):
            case "all":
                keep = len(file.unsynced)
            case "none":
                keep = 0
            case _:
                keep = random.randint(0, len(file.unsynced))
        torn = random.random() < 0.5 and keep < len(file.unsynced)
        rest = file.unsynced[keep:]
        _settle(file, file.settled + keep)
        if torn:
            offset, data = rest[0]
            sectors = random.randint(0, len(data) // SECTOR_BYTES)
            _put(
                file.kept,
                offset,
                data[: sectors * SECTOR_BYTES + SECTOR_BYTES - offset % SECTOR_BYTES],
            )
        file.settled += len(file.unsynced)
        file.unsynced.clear()
        file.content = bytearray(file.kept)

    def flip_bit(self) -> str | None:
        """Flip one bit of what was written and synced. Returns where, None: nothing is there."""
        candidates = [row for row in self.written if row[0] in self._kept_names and row[2]]
        if not candidates:
            return None
        name, offset, size = self._world.random.choice(candidates)
        file = self._kept_names[name]
        place = offset + self._world.random.randrange(size)
        if place >= len(file.kept):
            return None
        bit = 1 << self._world.random.randrange(8)
        file.kept[place] ^= bit
        file.content[place] ^= bit
        return f"{name} byte {place}"


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


def _settle(file: _File, upto: int) -> None:
    """The writes before number ``upto`` are on the platter."""
    count = max(0, upto - file.settled)
    for offset, data in file.unsynced[:count]:
        _put(file.kept, offset, data)
    del file.unsynced[:count]
    file.settled += count


STOPS_AT_ONCE = 1 / 600
"""So often the machine stops in the middle of a sync that the loop waits for."""


class SimWriter:
    """Work on a disk: beside the loop it takes the disk's time, and a crash interrupts it.

    ``at_once`` is the share of syncs that the loop itself waits for, while the disk is fast: then
    the process does nothing else meanwhile, and now and then its machine stops there.
    """

    def __init__(self, world: World, process: Process, disk: SimDisk, at_once: float = 0.0) -> None:
        self._world = world
        self._process = process
        self._disk = disk
        self._at_once = at_once
        self._trust = DiskTrust()
        self._under_way = 0
        self._free_at_s = 0.0

    def run(self, work: Callable[[], None], done: Callable[[OSError | None], None]) -> None:
        self._beside(work, self._world.random.uniform(*self._disk.latency_s), done)

    def sync(
        self, work: Callable[[], None], size: int, done: Callable[[OSError | None], None]
    ) -> bool:
        if not self._at_once:
            self.run(work, done)
            return False
        world = self._world
        latency_s = world.random.uniform(*self._disk.latency_s)
        trusted = self._trust.allows(size, world.now_s) and not self._under_way
        self._trust.took(latency_s, size, world.now_s)
        if not trusted or world.random.random() >= self._at_once:
            self._beside(work, latency_s, done)
            return False
        deferred = self._disk.begin(work)
        stops = world.random.random() < STOPS_AT_ONCE
        if not (stops and world.random.random() < 0.5):
            self._disk.complete(deferred)
        if stops:
            raise MachineStops
        self._disk.held_s.append(latency_s)
        self._process.busy_until_s = world.now_s + latency_s
        return True

    def _beside(
        self, work: Callable[[], None], latency_s: float, done: Callable[[OSError | None], None]
    ) -> None:
        error: OSError | None = None
        deferred: list[tuple[_File, int]] = []
        try:
            deferred = self._disk.begin(work)
        except OSError as caught:
            error = caught
        self._under_way += 1
        self._free_at_s = max(self._free_at_s, self._world.now_s) + latency_s
        self._world.at(self._free_at_s, self._process, self._done, deferred, done, error)

    def _done(
        self,
        deferred: list[tuple[_File, int]],
        done: Callable[[OSError | None], None],
        error: OSError | None,
    ) -> None:
        self._under_way -= 1
        self._disk.complete(deferred)
        done(error)

    def close(self) -> None:
        return None
