"""Takes a backup of a running cluster into a file.

1. A linearizable read says which entry a majority has: everything that was acknowledged before
   the backup was asked for lies at or before it.
2. One tracker takes a snapshot that holds this entry (or has one) and keeps it readable.
3. It is read from that tracker part by part, hashed on the way, into ``FILE.part``.
4. When all of it is there, has the hash that was told, and is synced, it is renamed to ``FILE``.

Whatever goes wrong in between (the tracker dies, the link breaks, the snapshot is let go), it
begins anew with another tracker, until the deadline is over. Then ``FILE.part`` is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from tracker_raft import commands
from tracker_raft.backup_format import HASH_BYTES, BackupHead
from tracker_raft.client.call import Reply
from tracker_raft.client.deadline import Deadline
from tracker_raft.client.requester import Requester
from tracker_raft.client.tracker_client import TrackerClient
from tracker_raft.config import Address
from tracker_raft.durable import sync_directory
from tracker_raft.errors import (
    BadRequest,
    LocalError,
    NotFound,
    P2PError,
    Unavailable,
)

DEADLINE_S = 600.0
SNAPSHOT_S = 110.0
"""For one tracker to take a snapshot; it goes on with it when the time is over, and is asked
again."""
SILENCE_S = 2.0
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is whole."""

    path: Path
    head: BackupHead
    sha256: bytes
    """The last 32 bytes of the file."""


def take_backup(
    client: TrackerClient,
    path: Path | str,
    *,
    overwrite: bool = False,
    deadline_s: float = DEADLINE_S,
) -> Backup:
    """Write the state of the cluster that ``client`` speaks to into the file ``path``.

    It holds all that was acknowledged, to anyone, before this was called. Raises
    :class:`LocalError` when ``path`` exists (unless ``overwrite``) or cannot be written, and what
    a read raises when no majority answers. After an error nothing is left, and what was at
    ``path`` before is there unchanged.
    """
    path = Path(path).absolute()
    deadline = Deadline(deadline_s, client._clock)
    if path.is_dir():
        raise LocalError(f"{path} is a directory, expected the name of a file; nothing was done")
    if not overwrite and path.exists():
        raise LocalError(f"{path} exists already; nothing was done")
    index = client.list(limit=1, deadline_s=min(deadline_s, client.config.deadline_s)).index
    with _part_file(path) as (part, file):
        head, sha256 = _fetch(client._requester, index, file, deadline)
        _put_in_place(part, path, overwrite)
    return Backup(path, head, sha256)


def take_snapshot(
    client: TrackerClient, tracker: Address, *, deadline_s: float = SNAPSHOT_S
) -> dict[str, Any]:
    """Let this one tracker have a snapshot of all it has applied; what it says of it.

    Fields: ``docs/protocol.md``. Raises :class:`Unavailable`, also when it is not finished in time
    (the tracker goes on with it).
    """
    deadline = Deadline(deadline_s, client._clock)
    return client._requester.ask(
        tracker,
        commands.TakeSnapshot(),
        deadline,
        attempt_s=deadline_s,
        silence_s=SILENCE_S,
    ).body


@contextmanager
def _part_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """``FILE.part``, empty and ours alone; gone in the end unless it was renamed."""
    part = path.with_name(path.name + ".part")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.fdopen(os.open(part, flags, 0o600), "ab")
    except OSError as error:
        raise LocalError(f"{part} cannot be written: {error.strerror or error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(
                f"another backup is being written into {part}; nothing was done"
            ) from None
        try:
            yield part, file
        finally:
            with suppress(FileNotFoundError):
                part.unlink()


def _fetch(
    requester: Requester, index: int, file: BinaryIO, deadline: Deadline
) -> tuple[BackupHead, bytes]:
    """Write a whole backup of at least entry ``index`` into ``file``, synced."""
    last: P2PError = Unavailable("no tracker was asked")
    while deadline.left_s() > 0:
        try:
            snapshot = requester.wait(
                commands.TakeSnapshot(index, hold=True),
                deadline,
                attempt_s=SNAPSHOT_S,
                silence_s=SILENCE_S,
            )
            return _copy(requester, snapshot, file, deadline)
        except (Unavailable, NotFound) as error:
            last = error
            requester.pause(min(RETRY_S, max(0.0, deadline.left_s())))
    raise Unavailable(f"no backup was made within {deadline.seconds:g} s: {last.message}") from last


def _copy(
    requester: Requester, snapshot: Reply, file: BinaryIO, deadline: Deadline
) -> tuple[BackupHead, bytes]:
    told, where = snapshot.body, snapshot.endpoint
    try:
        size = commands.check_int("bytes", told.get("bytes"), HASH_BYTES, commands.INTEGER_MAX)
        sha256 = commands.check_content("sha256", told.get("sha256"))
        status = requester.ask(where, commands.Status(), deadline).body
        head = BackupHead(
            cluster=str(status["cluster"]),
            node=str(status["node"]),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            index=int(told["index"]),
            term=int(told["term"]),
            size=size,
        )
    except (BadRequest, KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"{where} did not say what its snapshot is: {error}") from error
    inside, whole = hashlib.sha256(), hashlib.sha256()
    try:
        file.truncate(0)
        file.write(packed := head.pack())
        whole.update(packed)
        offset, tail = 0, b""
        while offset < size:
            part = commands.SnapshotPart(sha256, offset)
            data = requester.ask(where, part, deadline).body.get("data")
            if type(data) is not bytes or not data or offset + len(data) > size:
                raise Unavailable(f"{where} sent no part of its snapshot at byte {offset}")
            body = data[: max(0, size - HASH_BYTES - offset)]
            inside.update(body)
            tail += data[len(body) :]
            file.write(data)
            whole.update(data)
            offset += len(data)
        if not inside.digest() == tail == sha256:
            raise Unavailable(f"what {where} sent does not have the hash that it told")
        file.write(whole.digest())
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise LocalError(f"{file.name} cannot be written: {error.strerror or error}") from error
    return head, whole.digest()


def _put_in_place(part: Path, path: Path, overwrite: bool) -> None:
    """Rename, durably; another file that came there meanwhile stays unless ``overwrite``."""
    try:
        if not overwrite and path.exists():
            raise LocalError(f"{path} has come into being meanwhile; it was left as it is")
        part.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        raise LocalError(f"{path} cannot be written: {error.strerror or error}") from error
