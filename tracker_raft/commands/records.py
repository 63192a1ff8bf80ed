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

    def to_wire(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "content": self.content,
            "size": self.size,
            "manifest_bytes": self.manifest_bytes,
            "piece_bytes": self.piece_bytes,
            "owner": self.owner,
            "group": self.group,
        }

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> FileRecord:
        try:
            return cls(**{spec.name: message[spec.name] for spec in dataclasses.fields(cls)})
        except KeyError as error:
            raise BadRequest(f"file record lacks {error}") from None

    @property
    def versioned(self) -> str:
        """``name@vN``: reaches this version as long as it is kept."""
        return f"{self.name}@v{self.version}"


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
