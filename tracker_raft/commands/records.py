"""What replies hold: the records of files and peers. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker_raft.errors import BadRequest


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The tracker's record of one version of a file: a few hundred bytes whatever its size."""

    name: str
    version: int
    content: bytes
    size: int
    manifest_bytes: int
    piece_bytes: int
    owner: str = ""
    group: str = ""
    tags: tuple[tuple[str, int], ...] = ()
    """All tags of the name, not only of this version, and the versions that they mean. Told where
    one looks by name or lists."""
    unsourced_ms: int = 0
    """For how long nobody has served this content, as far as it was noticed; 0 for shorter than
    what is set (``unsourced_after_ms``)."""

    def to_wire(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "content": self.content,
            "size": self.size,
            "manifest_bytes": self.manifest_bytes,
            "piece_bytes": self.piece_bytes,
            "owner": self.owner,
            "group": self.group,
        }
        if self.tags:
            message["tags"] = dict(self.tags)
        if self.unsourced_ms:
            message["unsourced_ms"] = self.unsourced_ms
        return message

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> FileRecord:
        try:
            tags = tuple((str(tag), int(at)) for tag, at in message.get("tags", {}).items())
            values = [*(message[field] for field in _FILE_FIELDS), tags]
            values.append(int(message.get("unsourced_ms", 0)))
            return cls(*values)
        except KeyError as error:
            raise BadRequest(f"file record lacks {error}") from None
        except (AttributeError, TypeError, ValueError) as error:
            raise BadRequest(f"file record cannot be read: {error!r}") from None

    @property
    def versioned(self) -> str:
        """``name@vN``: reaches this version as long as it is kept."""
        return f"{self.name}@v{self.version}"


_FILE_FIELDS = tuple(spec.name for spec in dataclasses.fields(FileRecord))[:8]
"""Those that always stand in a record."""


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """One peer in a swarm."""

    peer: str
    address: str
    complete: bool
    zone: str = ""

    def to_wire(self) -> dict[str, Any]:
        return {
            "peer": self.peer,
            "address": self.address,
            "complete": self.complete,
            "zone": self.zone,
        }

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> PeerRecord:
        try:
            return cls(**{spec.name: message[spec.name] for spec in dataclasses.fields(cls)})
        except KeyError as error:
            raise BadRequest(f"peer record lacks {error}") from None
