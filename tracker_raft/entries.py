"""One Raft entry: many operations, one stamp of logical time (D2). Pure.

::

    {"v": 1, "t": time_ms, "ops": [[session, seq, low, {"op": word, ...}], ...]}

``session`` is 0 for operations without a request session (``open_session``, ``renew``).
``low`` is the lowest sequence number of that session whose reply the client still waits for.
An entry with no operations only moves time on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack

from tracker_raft import wire
from tracker_raft.errors import BadRequest, Unsupported

ENTRY_VERSION = 1
_IN_ENTRY = wire.pack({"ops": [None]})[:-1]


class LoggedOperation(NamedTuple):
    """One operation as it stands in an entry."""

    session: int
    seq: int
    low: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    time_ms: int
    operations: tuple[LoggedOperation, ...]


def pack_operation(session: int, seq: int, low: int, body: dict[str, Any]) -> bytes:
    """One operation encoded by itself, so that a batch is sized and joined without decoding."""
    return wire.pack((session, seq, low, body))


def pack_entry(time_ms: int, operations: list[bytes]) -> bytes:
    """One entry from operations of :func:`pack_operation`; joins, never re-encodes."""
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    packer.pack_map_header(3)
    packer.pack("v")
    packer.pack(ENTRY_VERSION)
    packer.pack("t")
    packer.pack(time_ms)
    packer.pack("ops")
    packer.pack_array_header(len(operations))
    return bytes(packer.bytes()) + b"".join(operations)


def unpack_entry(data: bytes) -> Entry:
    """Read an entry. :class:`Unsupported`: of a newer version; :class:`BadRequest`: garbage.

    The two are told apart because the first must stop a node and the second must not: every
    replica reads garbage as the same nothing.
    """
    message = wire.decode_body(data)
    version = message.get("v")
    if type(version) is int and version > ENTRY_VERSION:
        raise Unsupported(f"log entry of format {version}, this version reads {ENTRY_VERSION}")
    if version != ENTRY_VERSION or type(version) is not int:
        raise BadRequest(f"log entry of format {version!r}")
    time_ms, rows = message.get("t"), message.get("ops")
    if type(time_ms) is not int or not 0 <= time_ms < 2**63 or type(rows) is not tuple:
        raise BadRequest("log entry without time or operations")
    return Entry(time_ms, tuple(map(_operation, rows)))


def unpack_operation(data: bytes) -> LoggedOperation:
    """Read what :func:`pack_operation` made, and nothing else. Raises :class:`BadRequest`.

    It is read as deep within others as it would stand in an entry: how deep msgpack goes is
    limited, and what can be read here can be read there.
    """
    try:
        (row,) = wire.decode(_IN_ENTRY + data)["ops"]
    except ValueError:
        raise BadRequest("not one operation") from None
    return _operation(row)


def _operation(row: Any) -> LoggedOperation:
    if type(row) is tuple and len(row) == 4:
        session, seq, low, body = row
        if (
            type(session) is type(seq) is type(low) is int
            and type(body) is dict
            and 0 <= session < 2**63
            and 0 <= seq < 2**63
            and 0 <= low < 2**63
        ):
            return LoggedOperation(session, seq, low, body)
    raise BadRequest("log entry with a malformed operation")
