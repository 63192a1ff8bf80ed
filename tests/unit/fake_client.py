"""The trackers as a peer sees them, in memory: a small real registry and swarm table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tracker_raft.commands import FileRecord, Level, NewFile, PeerRecord
from tracker_raft.errors import Conflict, NotFound, NoTracker


@dataclass(frozen=True)
class Published:
    file: FileRecord
    created: bool


@dataclass(frozen=True)
class Swarm:
    peers: tuple[PeerRecord, ...]
    total: int


class FakeClient:
    """Any thread. ``away`` makes every call fail as if no tracker answered."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records: dict[str, list[FileRecord]] = {}
        self.swarms: dict[bytes, dict[str, PeerRecord]] = {}
        self.leases: set[str] = set()
        self.away = False
        self.renewals = 0
        self.levels: list[Level] = []
        """Of each read, in order."""
        self.grant_s = 60.0
        self.on_peers: Callable[[], object] = lambda: None

    def _here(self) -> None:
        if self.away:
            raise NoTracker("no tracker answered")

    def publish(
        self,
        name: str,
        *,
        content: bytes,
        size: int,
        manifest_bytes: int,
        piece_bytes: int,
        replace: bool = False,
    ) -> Published:
        self._here()
        with self._lock:
            versions = self.records.setdefault(name, [])
            if versions and versions[-1].content == content:
                return Published(versions[-1], False)
            if versions and not replace:
                raise Conflict(f"name {name!r} is bound to other content")
            record = FileRecord(name, len(versions) + 1, content, size, manifest_bytes, piece_bytes)
            versions.append(record)
            return Published(record, True)

    def publish_many(self, files: Sequence[NewFile]) -> tuple[Published, ...]:
        with self._lock:
            before = {name: list(versions) for name, versions in self.records.items()}
        try:
            return tuple(
                self.publish(
                    file.name,
                    content=file.content,
                    size=file.size,
                    manifest_bytes=file.manifest_bytes,
                    piece_bytes=file.piece_bytes,
                    replace=file.replace,
                )
                for file in files
            )
        except Conflict:
            self.records = before
            raise

    def lookup(
        self, name_or_content: str | bytes, *, level: Level = Level.LINEARIZABLE
    ) -> FileRecord:
        self._here()
        self.levels.append(level)
        with self._lock:
            if isinstance(name_or_content, bytes):
                for versions in self.records.values():
                    for record in versions:
                        if record.content == name_or_content:
                            return record
            elif versions := self.records.get(name_or_content, []):
                return versions[-1]
        raise NotFound(f"no file {name_or_content!r}")

    def files(self, prefix: str = "", *, level: Level = Level.LINEARIZABLE) -> Iterator[FileRecord]:
        self._here()
        self.levels.append(level)
        with self._lock:
            names = [name for name in sorted(self.records) if name.startswith(prefix)]
            return iter([self.records[name][-1] for name in names])

    def remove(self, name: str) -> tuple[FileRecord, ...]:
        self._here()
        with self._lock:
            if name not in self.records:
                raise NotFound(f"no file {name!r}")
            return tuple(self.records.pop(name))

    def join(
        self,
        peer: str,
        address: str,
        content: bytes,
        *,
        complete: bool = False,
        zone: str = "",
        lease_s: float = 60.0,
    ) -> float:
        self._here()
        with self._lock:
            self.leases.add(peer)
            swarm = self.swarms.setdefault(content, {})
            swarm[peer] = PeerRecord(peer, address, complete, zone)
        return lease_s

    def leave(self, peer: str, content: bytes = b"", *, deadline_s: float | None = None) -> int:
        self._here()
        with self._lock:
            swarms = [self.swarms.get(content, {})] if content else list(self.swarms.values())
            return sum(swarm.pop(peer, None) is not None for swarm in swarms)

    def renew(self, peer: str, *, deadline_s: float | None = None) -> float:
        self._here()
        with self._lock:
            if peer not in self.leases:
                raise NotFound("no lease")
            self.renewals += 1
        return self.grant_s

    def forget_leases(self) -> None:
        """What a tracker does when leases expire."""
        with self._lock:
            self.leases.clear()
            self.swarms.clear()

    def peers(
        self,
        content: bytes,
        *,
        limit: int = 50,
        skip: int = 0,
        level: Level = Level.LOCAL,
        deadline_s: float | None = None,
    ) -> Swarm:
        self._here()
        self.levels.append(level)
        self.on_peers()
        with self._lock:
            found = [record for _, record in sorted(self.swarms.get(content, {}).items())]
        first = skip % len(found) if found else 0
        return Swarm(tuple(found[first:] + found[:first])[:limit], len(found))

    def close(self) -> None:
        pass
