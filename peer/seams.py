"""What a download needs of others, as it sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from peer.ranges import Ranges
from peer.shared import Content
from tracker_raft.commands import PeerRecord

FindPeers = Callable[[], Iterable[PeerRecord]]
"""Asks the trackers. May raise :class:`~tracker_raft.errors.P2PError`; it is asked again."""


class Serving(Protocol):
    """What serves the pieces of a download to others. :class:`~peer.seeder.Seeder` does."""

    def expect(self, content: bytes, met: Callable[[PeerRecord], object]) -> None: ...
    def add(
        self, content: Content, here: Ranges | None, knows: Callable[[str], Ranges] | None = None
    ) -> None: ...
    def gained(self, content: bytes, first: int, count: int) -> None: ...
    def remove(self, content: bytes) -> None: ...


class Announcing(Protocol):
    """Tells others that this peer serves. :class:`~peer.lease.Lease` does."""

    def join(self, content: bytes, *, complete: bool) -> None: ...
    def leave(self, content: bytes) -> None: ...
