"""A download as each of its connections sees it (:mod:`peer.source`)."""

from __future__ import annotations

import threading
from typing import Protocol

from peer.store import Store
from peer.swarm import Swarm
from peer.throttle import Throttle


class Waiting(Protocol):
    """A connection that has nothing to ask for now."""

    @property
    def peer(self) -> str: ...
    def wake(self) -> None:
        """Let it look what to do. Under the lock of the download."""


class Task(Protocol):
    """What a connection needs of its download. ``changed`` guards ``swarm``, ``stopped`` and
    ``waiting``."""

    @property
    def changed(self) -> threading.Condition: ...
    @property
    def swarm(self) -> Swarm: ...
    @property
    def content(self) -> bytes: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def waiting(self) -> set[Waiting]:
        """Connections to wake at the next fact."""

    @property
    def down(self) -> Throttle: ...
    @property
    def served_at(self) -> tuple[str, str]:
        """Where others are served what is here, and the zone of that; empty: nowhere."""

    @property
    def store(self) -> Store | None:
        """Set before the swarm is told of the manifest."""

    def wake(self) -> None:
        """Let everybody look again. Under ``changed``."""

    def gained(self, first: int, count: int) -> None:
        """These pieces are verified and on disk. Without any lock."""

    def pause(self, seconds: float) -> None:
        """Wait, unless the download stops meanwhile."""

    def manifest_size(self, announced: object) -> int:
        """The size of the manifest that a peer announces. Raises :class:`BadRequest`."""

    def describe(self, encoded: bytearray) -> None:
        """Take the manifest. Raises :class:`BadRequest` when it is not that of the content."""
