"""A backup: one file that holds the snapshot of a tracker, and says of what and when. Pure.

::

    "P2PBACK1"
    u32 length | msgpack {"cluster", "node", "made", "index", "term", "size"}
    the snapshot file (``size`` bytes), which ends with the SHA-256 of itself
    SHA-256 of all before

Whoever reads one checks both hashes, and the seals and the state hash inside of the snapshot,
before anything is made of it.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass

import msgpack

from tracker_raft.errors import Damaged, Unsupported

MAGIC = b"P2PBACK1"
HASH_BYTES = 32
HEAD_BYTES_MAX = 4096
_LENGTH = struct.Struct(">I")
_TYPES = {"cluster": str, "node": str, "made": str, "index": int, "term": int, "size": int}


@dataclass(frozen=True, slots=True)
class BackupHead:
    """What a backup says of itself."""

    cluster: str
    node: str
    """Whose snapshot it is."""
    made: str
    """When, in ISO 8601 and UTC, by the clock of who asked for it; for people."""
    index: int
    """The last entry that is in it."""
    term: int
    size: int
    """Bytes of the snapshot file."""

    def pack(self) -> bytes:
        fields: bytes = msgpack.packb(asdict(self))
        return MAGIC + _LENGTH.pack(len(fields)) + fields

    @classmethod
    def read(cls, data: bytes) -> tuple[BackupHead, int]:
        """(head, offset behind it) of the first bytes of a file: all of it, or at least
        :data:`HEAD_BYTES_MAX`. Raises :class:`Damaged`, :class:`Unsupported`."""
        if data[:7] == MAGIC[:7] and data[7:8] != MAGIC[7:]:
            raise Unsupported(f"a backup of format {data[7:8]!a}, this version reads {MAGIC[7:]!a}")
        start = len(MAGIC) + _LENGTH.size
        try:
            (length,) = _LENGTH.unpack_from(data, len(MAGIC))
            if data[: len(MAGIC)] != MAGIC or start + length > HEAD_BYTES_MAX:
                raise ValueError("no backup")
            found = msgpack.unpackb(data[start : start + length])
            values = {name: found[name] for name in _TYPES}
            if any(type(values[name]) is not kind for name, kind in _TYPES.items()):
                raise ValueError("a field of another type")
        except (struct.error, ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise Damaged("it does not begin like a backup; nothing was changed") from error
        return cls(**values), start + length
