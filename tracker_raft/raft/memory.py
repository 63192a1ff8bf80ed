"""Which members this node has met, so that one that lost its memory is recognised (amnesia).

A node's directory is given a random *birth* when it is made. Members tell it in their hello, and
each remembers what the others said, on disk, from the first time on. A member that comes back
with another birth has lost its log and its vote: it could vote twice in a term, or help elect a
leader that lacks what it once acknowledged. It is not linked, and told why; its place must be
taken by a new member. A directory restored to an older state keeps its birth and is not
recognised by this.

File (``members``, :data:`FORMAT`)::

    u32 CRC-32 of all behind it | msgpack {"format", "births": {node: birth}[, "founding": [...]]}

``founding`` are the members, ``id=host:port``, that this node was first linked with: a list in the
settings that is changed later does not make it the member of another cluster. Members added by the
log have their births there, and those count (:mod:`membership`).

It replaces the one before by a rename. One that is damaged refuses to start: a birth read wrong
would shut out a healthy member.
"""

from __future__ import annotations

import struct
import zlib

import msgpack

from tracker_raft.errors import BadRequest, Damaged, LocalError, Unsupported
from tracker_raft.raft.storage import Storage

FORMAT = 1
NAME = "members"
NAME_NEW = "members.new"
_CRC = struct.Struct(">I")


class KnownMembers:
    """The births of the other members, as far as they were ever met."""

    founding: tuple[str, ...]
    """``id=host:port`` of each; empty for one that met nobody yet. Kept with the next birth."""

    def __init__(self, storage: Storage) -> None:
        """Raises :class:`Damaged` when the file is not what was written there,
        :class:`Unsupported` when a newer version wrote it, :class:`LocalError` when it cannot be
        read."""
        self._storage = storage
        try:
            self.births, self.founding = (
                _read(storage.read(NAME)) if NAME in storage.names() else ({}, ())
            )
        except OSError as error:
            raise LocalError(f"{NAME} cannot be read: {error}") from error

    def check(self, node: str, birth: str) -> None:
        """Remember ``birth`` of ``node``, durably, if it was not met before.

        Raises :class:`BadRequest` when it was, with another one; ``OSError`` when it cannot be
        remembered.
        """
        known = self.births.get(node)
        if known is None:
            self._keep({**self.births, node: birth})
        elif known != birth:
            raise BadRequest(
                f"node {node!r} has lost its memory: its directory was made anew (birth {birth}, "
                f"known here with {known}). It must not vote; remove it and add a new member"
            )

    def _keep(self, births: dict[str, str]) -> None:
        if NAME_NEW in self._storage.names():
            self._storage.delete(NAME_NEW)
        fields: dict[str, object] = {"format": FORMAT, "births": dict(sorted(births.items()))}
        if self.founding:
            fields["founding"] = self.founding
        body = msgpack.packb(fields)
        self._storage.write(NAME_NEW, 0, _CRC.pack(zlib.crc32(body)) + body)
        self._storage.sync(NAME_NEW)
        self._storage.rename(NAME_NEW, NAME)
        self._storage.sync_names()
        self.births = births


def _read(data: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    body = data[_CRC.size :]
    if len(data) < _CRC.size or _CRC.unpack_from(data) != (zlib.crc32(body),):
        raise Damaged(f"{NAME}: {len(data)} bytes that do not have their CRC; nothing was changed")
    try:
        fields = msgpack.unpackb(body)
        if fields["format"] != FORMAT:
            raise Unsupported(
                f"{NAME}: format {fields['format']!r}, this version reads {FORMAT}; "
                f"nothing was changed"
            )
        births = {str(node): str(birth) for node, birth in fields["births"].items()}
        return births, tuple(str(member) for member in fields.get("founding", ()))
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise Damaged(f"{NAME}: is not a list of members; nothing was changed") from error
