"""Directories for a new cluster, made from a backup.

What a new cluster takes over and what not is decided in :mod:`tracker_raft.raft.founding`.

Rules
-----
* A backup is verified as a whole before anything is written.
* A directory that holds something is never restored into.
* ``cluster.json`` is written last: without it nobody takes a directory for that of a cluster.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tracker_raft.backup_format import HASH_BYTES, HEAD_BYTES_MAX, BackupHead
from tracker_raft.cluster import ports
from tracker_raft.cluster.launch import check_nodes, new_name
from tracker_raft.cluster.state import Layout, require_directory
from tracker_raft.errors import BadRequest, Damaged, LocalError, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.node import LOCK_NAME
from tracker_raft.raft.founding import found, next_era
from tracker_raft.raft.snapshots import NAME as SNAPSHOT_NAME
from tracker_raft.raft.snapshots import Incoming, Snapshot
from tracker_raft.raft.storage import Directory

CHUNK_BYTES = 1024 * 1024


def other_name(wanted: str | None, old: str) -> str:
    """The name of the new cluster. Raises :class:`BadRequest` for that of the old one."""
    if wanted is None:
        return new_name()
    if wanted == old:
        raise BadRequest(
            f"the new cluster cannot be called {old!r} as the old one: members of the old one "
            f"would take part in it; nothing was done"
        )
    return wanted


# -- reading a backup -----------------------------------------------------------------------------


def read_backup(path: Path) -> tuple[BackupHead, TrackerMachine]:
    """What a backup says of itself, and the state that is in it, all of it verified.

    Raises :class:`Damaged`, :class:`Unsupported`, or :class:`LocalError` when it cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head, start = BackupHead.read(file.read(HEAD_BYTES_MAX))
            if size != start + head.size + HASH_BYTES or head.size < HASH_BYTES:
                expected = start + head.size + HASH_BYTES
                raise Damaged(f"it has {size} bytes, expected {expected}; nothing was changed")
            file.seek(start + head.size - HASH_BYTES)
            offer = Snapshot(head.index, head.term, head.size, file.read(HASH_BYTES))
            incoming, whole = Incoming(head.cluster, offer), hashlib.sha256()
            file.seek(0)
            whole.update(file.read(start))
            left = head.size
            while left:
                data = file.read(min(CHUNK_BYTES, left))
                if not data:
                    raise Damaged("it has become shorter while it was read; nothing was changed")
                whole.update(data)
                incoming.feed(data)
                left -= len(data)
            if file.read(HASH_BYTES + 1) != whole.digest():
                raise Damaged("it does not have the hash it ends with; nothing was changed")
            return head, incoming.finish()
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror or error}") from error
    except (Damaged, Unsupported, LocalError) as error:
        raise type(error)(f"backup {path}: {error.message}") from error


# -- restoring ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Restored:
    """A new cluster, or one member of it, that begins with the files of a backup."""

    cluster: str
    nodes: tuple[str, ...]
    """Empty for the directory of one node, which is told its id when it is started."""
    directory: Path
    files: int
    index: int
    """The entry that the new cluster begins at."""
    head: BackupHead


def restore_cluster(
    backup: Path,
    directory: Path,
    nodes: int = 3,
    *,
    base_port: int | None = None,
    cluster: str | None = None,
) -> Restored:
    """Make in ``directory`` a new cluster of ``nodes`` trackers, for ``Cluster.up`` to start.

    ``base_port`` as in :meth:`~tracker_raft.cluster.Cluster.up`; ``cluster``: its name, None: a
    fresh one. Raises :class:`BadRequest` when what is asked makes no sense, :class:`LocalError`
    when the directory holds something or cannot be written, and what :func:`read_backup` raises;
    after an error the directory is as it was.
    """
    check_nodes(nodes)
    directory = directory.absolute()
    _require_empty(directory)
    head, machine = read_backup(backup)
    name = other_name(cluster, head.cluster)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    layout = Layout(name, created, ports.places(nodes, base_port))
    with _made(directory), ExitStack() as stack:
        for node in layout.ids:
            place = directory / node
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            place.mkdir(mode=0o700)
            _found(place, machine, name)
        layout.save(directory)
        stack.pop_all()
    return _restored(name, layout.ids, directory, machine, head)


def restore_node(backup: Path, directory: Path, cluster: str) -> Restored:
    """Make ``directory`` that of one member of a new cluster of this name.

    To be done on the machine of each member, with the same backup and the same name. Errors as
    :func:`restore_cluster`.
    """
    directory = directory.absolute()
    _require_empty(directory)
    head, machine = read_backup(backup)
    name = other_name(cluster, head.cluster)
    with _made(directory):
        _found(directory, machine, name)
    return _restored(name, (), directory, machine, head)


def _restored(
    name: str, nodes: tuple[str, ...], directory: Path, machine: TrackerMachine, head: BackupHead
) -> Restored:
    index = next_era(machine.applied, name)
    return Restored(name, nodes, directory, machine.counts()["files"], index, head)


def _require_empty(directory: Path) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise LocalError(f"{directory} is not a directory; nothing was done")
    there = sorted(entry.name for entry in directory.iterdir() if entry.name != LOCK_NAME)
    if there:
        raise LocalError(
            f"{directory} holds {there[0]!r}, expected an empty directory or none: a backup is "
            f"restored into a new cluster, never over one; nothing was done"
        )


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """The directory, there; removed again when it was not there before and what follows fails."""
    made = require_directory(directory)
    try:
        yield
    except BaseException as error:
        if made:
            with suppress(OSError):
                directory.rmdir()
        if isinstance(error, OSError):
            text = f"{directory} cannot be written: {error.strerror or error}; nothing was made"
            raise LocalError(text) from error
        raise


def _found(place: Path, machine: TrackerMachine, cluster: str) -> None:
    storage = Directory(place)
    try:
        found(storage, machine, cluster)
    except BaseException:
        for name in storage.names():
            if name.startswith(SNAPSHOT_NAME):
                storage.delete(name)
        raise
    finally:
        storage.close()
