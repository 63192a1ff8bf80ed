"""What the methods of a client return. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_raft.commands import FileRecord, PeerRecord


@dataclass(frozen=True, slots=True)
class Published:
    """``created`` is False when the name was already bound to this content."""

    file: FileRecord
    created: bool
    at: tuple[int, int]
    """Log index and position of the entry that the record reflects."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """``file`` is the version that the tag means now."""

    file: FileRecord
    before: int
    """The number of the version that it meant before; 0: there was no such tag."""
    changed: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """What the cluster is set to keep."""

    versions_kept: int
    """The newest so many of each name, and those with a tag; 0: as many as fit."""
    unsourced_after_s: float = 0.0
    """What nobody has served for so long is shown so; 0: never."""
    remove_unsourced_after_s: float = 0.0
    """And removed after so long, if it has no tag; 0: never."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some files in name order; ``more`` says that others follow."""

    files: tuple[FileRecord, ...]
    more: bool
    index: int = 0
    """The log entry that it reflects. A watch from the next one tells what changes after it."""


@dataclass(frozen=True, slots=True)
class Swarm:
    """Some of the ``total`` peers of a content."""

    peers: tuple[PeerRecord, ...]
    total: int
