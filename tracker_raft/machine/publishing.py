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
from itertools import compress, repeat
from typing import Any, Final

from tracker_raft.commands import Publish, is_plain, plain_columns
from tracker_raft.entries import LoggedOperation
from tracker_raft.errors import P2PError
from tracker_raft.machine.applied import Outcome
from tracker_raft.machine.names import NewName
from tracker_raft.machine.registry import Registry
from tracker_raft.machine.sessions import SessionTable

FIELDS: Final = 6
"""Of an array that may be run together: with owner, group and replace at their defaults."""


def is_candidate(operation: LoggedOperation) -> bool:
    """Whether it is a publish, as an array, that may be run together with others."""
    body = operation[3]
    return type(body) is tuple and len(body) == FIELDS and body[0] == Publish.op


def are_candidates(operations: Sequence[LoggedOperation]) -> bool:
    """:func:`is_candidate` for all, and there are some."""
    if len(operations) == 1:
        return is_candidate(operations[0])
    bodies: list[Any] = [operation[3] for operation in operations]
    if {*map(type, bodies)} != {tuple} or {*map(len, bodies)} != {FIELDS}:
        return False
    return [body[0] for body in bodies].count(Publish.op) == len(bodies)


def run_together(
    operations: Sequence[LoggedOperation],
    first: int,
    sessions: SessionTable,
    registry: Registry,
    now_ms: int,
) -> list[Outcome] | None:
    """What became of publishes (:func:`is_candidate`) that stand at ``first`` and behind it in the
    entry that runs; None: they must be taken one after the other, and nothing was done."""
    if len(operations) == 1:
        done = _run_alone(operations[0], first, sessions, registry, now_ms)
        return None if done is None else [done]
    numbers, seqs, lows, bodies = zip(*operations, strict=True)
    if len({*zip(numbers, seqs, strict=True)}) < len(operations):
        return None
    _, names, *fields = zip(*bodies, strict=True)
    if not plain_columns(names, *fields) or len({*names}) < len(names):
        return None
    homes = registry.homes(names)
    if homes is None:
        return None
    files: list[NewName] = [*zip(names, *fields, repeat(""), repeat(""))]
    replies = sessions.recall_many(numbers, seqs, lows, now_ms)
    columns: list[Any] = [homes, range(first, first + len(names)), numbers, seqs, files]
    columns += names, *fields
    if any(replies):  # not all of them are new to their sessions
        new = [reply is None for reply in replies]
        columns = [[*compress(column, new)] for column in columns]
    homes, positions, numbers, seqs, bound, *columns = columns
    none = [""] * len(bound)
    registry.bind(homes, [*columns, none, none], positions)
    sessions.record_bound(numbers, seqs, bound)
    return [reply or file for reply, file in zip(replies, files, strict=True)]


def _run_alone(
    operation: LoggedOperation,
    position: int,
    sessions: SessionTable,
    registry: Registry,
    now_ms: int,
) -> Outcome | None:
    """The same of one: with one client every entry is this, and steps for many cost it twice as
    much."""
    number, seq, low, body = operation
    _, name, *fields = body
    if not is_plain((name, *fields, "", "", False)) or not registry.is_free(name):
        return None
    try:
        reply = sessions.recall(number, seq, low, now_ms)
    except P2PError as error:
        return error.to_wire()
    if reply is not None:
        return reply
    file: NewName = (name, *fields, "", "")
    registry.bind_one(file, position)
    sessions.record_bound((number,), (seq,), (file,))
    return file
