"""Publishes that stand side by side in an entry, run together. Pure.

Most of what a log holds is this: publishes of names that are free, each of a session of its own.
Every tracker runs every one of them, so what such a run costs decides how many operations a second
the cluster does. Each step is taken for all of them at once, where nothing depends on their order:
no operation is there twice, no name is, and all names are free. Anything else is left to the way
that takes one after the other; both ways lead to the same state and the same replies
(``tests/property/test_publishing.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tracker_raft.commands import Publish, plain_columns
from tracker_raft.entries import LoggedOperation
from tracker_raft.errors import P2PError
from tracker_raft.machine.names import NewName, bound
from tracker_raft.machine.registry import Registry
from tracker_raft.machine.sessions import SessionTable

Reply = dict[str, Any]
FIELDS: Final = 6
"""Of an array that may be run together: with owner, group and replace at their defaults."""


def is_candidate(operation: LoggedOperation) -> bool:
    body = operation[3]
    return type(body) is tuple and len(body) == FIELDS and body[0] == Publish.op


def run_together(
    operations: Sequence[LoggedOperation],
    first: int,
    sessions: SessionTable,
    registry: Registry,
    now_ms: int,
) -> list[Reply] | None:
    """The replies to publishes (:func:`is_candidate`) that stand at ``first`` and behind it in the
    entry that runs; None: they must be taken one after the other, and nothing was done."""
    numbers, seqs, lows, bodies = zip(*operations, strict=True)
    if len({*zip(numbers, seqs, strict=True)}) < len(operations):
        return None
    _, names, *fields = zip(*bodies, strict=True)
    if not plain_columns(names, *fields):
        return None
    if len({*names}) < len(names) or not registry.takes(names):
        return None
    rows: list[NewName] = [(*row, "", "") for row in zip(names, *fields, strict=True)]
    replies: list[Reply] = []
    admitted: list[int] = []
    for at, (number, seq, low) in enumerate(zip(numbers, seqs, lows, strict=True)):
        try:
            reply = sessions.recall(number, seq, low, now_ms)
        except P2PError as error:
            reply = error.to_wire()
        if reply is None:
            admitted.append(at)
            reply = {"ok": bound(rows[at])}
        replies.append(reply)
    registry.bind([rows[at] for at in admitted], [first + at for at in admitted])
    for at in admitted:
        sessions.record_bound(numbers[at], seqs[at], rows[at])
    return replies
