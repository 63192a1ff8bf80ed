"""The end of a log in words, for people who look into it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgpack

from tracker_raft.entries import as_map, unpack_entry
from tracker_raft.errors import P2PError

LogEntry = tuple[bytes, int, int]
"""Command, index, term. The first byte of a command is 0 for an entry of the tracker."""

MEMBERS: Final = b"\x10"
"""First byte of an entry that says who the members are."""
REPLY_BYTES_MAX: Final = 512 * 1024
"""Of the entries in one answer, so that it fits a frame; the newest one is always there."""


def tail(log: Sequence[LogEntry], limit: int, commit: int) -> dict[str, Any]:
    """The reply to ``log``: entries with the last ``limit`` operations, oldest first.

    An entry without operations counts as one. Nothing is left out in the middle, and no entry is
    cut: the first one may have more operations than were asked for.
    """
    rows: list[dict[str, Any]] = []
    size = count = 0
    for command, index, term in reversed(log):
        size += len(command)
        if rows and (count >= limit or size > REPLY_BYTES_MAX):
            break
        row = {"index": index, "term": term, "committed": index <= commit, **_described(command)}
        count += max(1, len(row.get("operations", ())))
        rows.append(row)
    return {"entries": rows[::-1], "first": log[0][1] if len(log) else 0}


def _members(packed: bytes) -> dict[str, Any]:
    try:
        rows = msgpack.unpackb(packed)["members"]
        names = [row["node"] if row["votes"] else f"{row['node']} (learns)" for row in rows]
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        return {"note": "members that cannot be read"}
    return {"note": f"members: {', '.join(names)}"}


def _described(command: bytes) -> dict[str, Any]:
    """``time_ms`` and ``operations`` of an entry of a tracker; ``note`` for any other."""
    if command[:1] == MEMBERS:
        return _members(command[1:])
    if command[:1] != b"\x00":
        return {"note": "a leader's first entry"}
    try:
        entry = unpack_entry(command[1:])
    except P2PError as error:
        return {"note": error.message}
    operations = [
        {"session": session, "seq": seq, **as_map(body)}
        for session, seq, _, body in entry.operations
    ]
    return {"time_ms": entry.time_ms, "operations": operations}
