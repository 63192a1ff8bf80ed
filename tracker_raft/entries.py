"""One Raft entry: many operations, one stamp of logical time (D2). Pure.

::

    {"v": 1, "t": time_ms, "ops": [[session, seq, low, {"op": word, ...}], ...]}

``session`` is 0 for operations without a request session (``open_session``, ``renew``).
``low`` is the lowest sequence number of that session whose reply the client still waits for.
An entry with no operations only moves time on.

From cluster version 2 on a publish may be an array, ``["publish", name, content, size,
manifest_bytes, piece_bytes]`` and, unless all three are at their default, ``owner, group,
replace``. It is most of what a log holds, and every tracker reads it: as a map it takes four times
as long to decode and two thirds more bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgpack

from tracker_raft import wire
from tracker_raft.commands import Publish, PublishRow
from tracker_raft.errors import BadRequest, Unsupported

ENTRY_VERSION = 1
ROWS_SINCE: Final = 2
"""The cluster version from which on a publish is logged as an array."""
_IN_ENTRY = wire.pack({"ops": []})[:-1]
"""What stands before the array of operations."""
_BELOW = 2**63
_MAPS, _BODIES = frozenset({dict}), frozenset({dict, tuple})

Body = dict[str, Any] | tuple[Any, ...]
"""What an operation says: a map of its fields with its word as ``op``, or an array that begins with
the word."""
LoggedOperation = tuple[int, int, int, Body]
"""One operation as it stands in an entry: session, seq, low, body."""


class Entry(NamedTuple):
    """Not a dataclass: one is made for each entry, and a frozen one takes four times as long."""

    time_ms: int
    operations: tuple[LoggedOperation, ...]


def word_of(body: Body) -> Any:
    """The word of an operation, or whatever else stands in its place."""
    if isinstance(body, dict):
        return body.get("op")
    return body[0] if body else None


def as_map(body: Body) -> dict[str, Any]:
    """An operation in the words of a request, for people."""
    if isinstance(body, dict):
        return body
    return {"op": word_of(body), **dict(zip(Publish.__slots__, body[1:], strict=False))}


def pack_operation(session: int, seq: int, low: int, body: Mapping[str, Any]) -> bytes:
    """One operation encoded by itself, so that a batch is sized and joined without decoding."""
    return wire.pack((session, seq, low, body))


def pack_publish(session: int, seq: int, low: int, row: PublishRow) -> bytes:
    """The same of a publish, as an array: for a cluster at version :data:`ROWS_SINCE` or later."""
    fields = row[:5] if row[5:] == ("", "", False) else row
    return wire.pack((session, seq, low, (Publish.op, *fields)))


def pack_entry(time_ms: int, operations: list[bytes], count: int | None = None) -> bytes:
    """One entry from operations of :func:`pack_operation`; joins, never re-encodes.

    ``count``: how many they are, where several stand in one of ``operations``.
    """
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    packer.pack_map_header(3)
    packer.pack("v")
    packer.pack(ENTRY_VERSION)
    packer.pack("t")
    packer.pack(time_ms)
    packer.pack("ops")
    packer.pack_array_header(len(operations) if count is None else count)
    return bytes(packer.bytes()) + b"".join(operations)


def unpack_entry(data: bytes, *, rows: bool = True) -> Entry:
    """Read an entry. :class:`Unsupported`: of a newer version; :class:`BadRequest`: garbage.

    ``rows``: whether operations may be arrays. Where older software may be reading the same entry
    they are garbage to all.

    The two are told apart because the first must stop a node and the second must not: every
    replica reads garbage as the same nothing.
    """
    message = wire.decode_body(data)
    version = message.get("v")
    if type(version) is int and version > ENTRY_VERSION:
        raise Unsupported(f"log entry of format {version}, this version reads {ENTRY_VERSION}")
    if version != ENTRY_VERSION or type(version) is not int:
        raise BadRequest(f"log entry of format {version!r}")
    time_ms, operations = message.get("t"), message.get("ops")
    if type(time_ms) is not int or not 0 <= time_ms < _BELOW or type(operations) is not tuple:
        raise BadRequest("log entry without time or operations")
    _check(operations, _BODIES if rows else _MAPS)
    return Entry(time_ms, operations)


def unpack_operation(data: bytes) -> LoggedOperation:
    """Read what :func:`pack_operation` made, and nothing else. Raises :class:`BadRequest`."""
    (operation,) = unpack_operations(data, 1)
    return operation


def unpack_operations(data: bytes, count: int) -> tuple[LoggedOperation, ...]:
    """Read so many operations that stand one behind the other. Raises :class:`BadRequest`.

    They are read as deep within others as they would stand in an entry: how deep msgpack goes is
    limited, and what can be read here can be read there.
    """
    header: bytes = msgpack.Packer().pack_array_header(count)
    rows: tuple[LoggedOperation, ...] = wire.decode(_IN_ENTRY + header + data)["ops"]
    _check(rows, _BODIES)
    return rows


def _check(rows: tuple[Any, ...], bodies_are: frozenset[type]) -> None:
    """Raises :class:`BadRequest` unless all are operations. Looked at column by column, so that
    Python's own loops do it: every tracker looks at every operation. One alone is looked at as it
    is: with one client every entry is that."""
    if not rows:
        return
    if len(rows) == 1 and type(rows[0]) is tuple and len(rows[0]) == 4:
        session, seq, low, body = rows[0]
        whole = type(session) is type(seq) is type(low) is int
        right = whole and min(session, seq, low) >= 0 and max(session, seq, low) < _BELOW
        if right and type(body) in bodies_are:
            return
    elif {*map(type, rows)} == {tuple} and {*map(len, rows)} == {4}:
        sessions, seqs, lows, bodies = zip(*rows, strict=True)
        numbers = (*sessions, *seqs, *lows)
        if (
            {*map(type, numbers)} == {int}
            and min(numbers) >= 0
            and max(numbers) < _BELOW
            and bodies_are.issuperset(map(type, bodies))
        ):
            return
    raise BadRequest("log entry with a malformed operation")
