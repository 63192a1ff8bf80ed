"""One change of the files, as a watch tells it. Pure.

An operation makes one change or none, so ``(index, position)`` of its place in the log names the
change, on every tracker and for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker_raft.commands import FileRecord
from tracker_raft.errors import BadRequest

PUBLISHED = "published"
REPLACED = "replaced"
VERSION_REMOVED = "version_removed"
REMOVED = "removed"
TAGGED = "tagged"
UNTAGGED = "untagged"
KINDS = (PUBLISHED, REPLACED, VERSION_REMOVED, REMOVED, TAGGED, UNTAGGED)

Place = tuple[int, int]
"""Log index, and position of the operation in that entry. A watch *from* a place includes it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What one operation did to one name."""

    index: int
    position: int
    kind: str
    """``published``: a name that was free has version 1. ``replaced``: it has one version more.
    ``version_removed``: it has one version less, and others. ``removed``: it is gone. Tags of
    what went are gone with it. ``tagged``: :attr:`tag` means this version now. ``untagged``: it
    means nothing any more."""
    file: FileRecord
    """The version that came; of what was removed the version that went, the newest one if all
    versions went together. The version that a tag means now, or meant."""
    newest: int
    """The number of the version that the bare name now means; 0 when the name is gone."""
    dropped: int
    """The number of the version that fell off because too many are kept; 0 when none did. The
    newest one of several."""
    tag: str = ""
    """Of ``tagged`` and ``untagged``."""
    also_dropped: tuple[int, ...] = ()
    """The others that fell off, oldest first: so it is when fewer are to be kept than before."""

    @property
    def place(self) -> Place:
        return self.index, self.position

    @property
    def next(self) -> Place:
        """Where a watch goes on that has been told this change."""
        return self.index, self.position + 1

    def to_wire(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "at": (self.index, self.position),
            "kind": self.kind,
            "file": self.file.to_wire(),
            "newest": self.newest,
            "dropped": self.dropped,
        }
        if self.tag:
            message["tag"] = self.tag
        if self.also_dropped:
            message["also_dropped"] = self.also_dropped
        return message

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> Change:
        """Raises :class:`BadRequest`. An unknown kind is kept: newer trackers have more."""
        try:
            index, position = message["at"]
            return cls(
                int(index),
                int(position),
                str(message["kind"]),
                FileRecord.from_wire(message["file"]),
                int(message["newest"]),
                int(message["dropped"]),
                str(message.get("tag", "")),
                tuple(int(version) for version in message.get("also_dropped", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"change cannot be read: {error!r}") from None
