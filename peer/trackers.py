"""What a peer needs of the trackers. :class:`~tracker_raft.client.TrackerClient` has it.

Each call has one deadline, given by its caller, and raises
:class:`~tracker_raft.errors.P2PError`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol

from tracker_raft.commands import FileRecord, NewFile, PeerRecord

SKIP_MAX = 2**31
"""Far beyond any swarm: the trackers count on from the beginning behind the last peer."""


class Published(Protocol):
    @property
    def file(self) -> FileRecord: ...


class FoundPeers(Protocol):
    @property
    def peers(self) -> Sequence[PeerRecord]: ...
    @property
    def total(self) -> int: ...


class Registry(Protocol):
    """Names and what they are bound to."""

    def publish(
        self,
        name: str,
        *,
        content: bytes,
        size: int,
        manifest_bytes: int,
        piece_bytes: int,
        replace: bool = False,
    ) -> Published: ...

    def publish_many(self, files: Sequence[NewFile]) -> Sequence[Published]: ...

    def lookup(self, name_or_content: str | bytes) -> FileRecord: ...


class Announcing(Protocol):
    """The lease of this peer, and what it serves under it."""

    def join(
        self,
        peer: str,
        address: str,
        content: bytes,
        *,
        complete: bool = False,
        zone: str = "",
        lease_s: float = 60.0,
    ) -> float: ...

    def leave(self, peer: str, content: bytes = b"", *, deadline_s: float | None = None) -> int: ...

    def renew(self, peer: str, *, deadline_s: float | None = None) -> float: ...


class Finding(Protocol):
    """Who serves a content."""

    def peers(
        self,
        content: bytes,
        *,
        limit: int = 50,
        skip: int = 0,
        deadline_s: float | None = None,
    ) -> FoundPeers: ...


class Trackers(Registry, Announcing, Finding, Protocol):
    """All of it."""

    def close(self) -> None: ...


class PeerFinder:
    """Asks for peers of one content; of more than fit an answer, others every time.

    It begins anywhere, by chance: a crowd that all began with the first ones would crowd there.
    """

    PEERS_MAX = 50

    def __init__(
        self,
        trackers: Finding,
        content: bytes,
        deadline_s: float = 5.0,
        random_source: random.Random | None = None,
    ) -> None:
        self._trackers = trackers
        self._content = content
        self._deadline_s = deadline_s
        self._skip = (random_source or random.Random()).randrange(SKIP_MAX)

    def __call__(self) -> Iterable[PeerRecord]:
        found = self._trackers.peers(
            self._content, limit=self.PEERS_MAX, skip=self._skip, deadline_s=self._deadline_s
        )
        self._skip += self.PEERS_MAX  # also where all fit: a moment later they may not
        return found.peers
