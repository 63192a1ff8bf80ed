"""Directories for a new cluster: from a backup, or from what one node of a lost cluster has.

What a new cluster takes over and what not is decided in :mod:`tracker_raft.raft.founding`; here
are the files, and the order in which they come into being.

Rules
-----
* Everything that is read is verified as a whole before anything is written.
* A directory that holds something is never restored into.
* Recovery destroys nothing: what lies in a directory is linked into ``before-recovery-TIME`` inside
  of it before anything takes its place. A crash on the way leaves a directory that either is as it
  was, or refuses to start under the old name and the new one.
* ``cluster.json`` is written last: without it nobody takes a directory for that of a cluster.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tracker_raft.backup_format import HASH_BYTES, HEAD_BYTES_MAX, BackupHead
from tracker_raft.cluster import Cluster, ports
from tracker_raft.cluster.launch import check_nodes
from tracker_raft.cluster.state import LAYOUT_NAME, Layout, require_directory
from tracker_raft.errors import BadRequest, Damaged, LocalError, NotFound, P2PError, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.node import LOCK_NAME, owned
from tracker_raft.raft.founding import LastState, found, last_state, next_era
from tracker_raft.raft.memory import NAME as MEMBERS_NAME
from tracker_raft.raft.segments import PREFIX
from tracker_raft.raft.snapshots import NAME as SNAPSHOT_NAME
from tracker_raft.raft.snapshots import Incoming, Snapshot
from tracker_raft.raft.storage import Directory

CHUNK_BYTES = 1024 * 1024
KEPT_PREFIX = "before-recovery-"


def new_name() -> str:
    """A name that no other cluster has."""
    return f"p2p-{secrets.token_hex(4)}"


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
    name = _other_name(cluster, head.cluster)
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
    name = _other_name(cluster, head.cluster)
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


def _other_name(wanted: str | None, old: str) -> str:
    """The name of the new cluster. Raises :class:`BadRequest` for that of the old one."""
    if wanted is None:
        return new_name()
    if wanted == old:
        raise BadRequest(
            f"the new cluster cannot be called {old!r} as the old one: members of the old one "
            f"would take part in it; nothing was done"
        )
    return wanted


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """The directory, there; removed again when it was not there before and what follows fails."""
    made = not directory.exists()
    require_directory(directory)
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


# -- a majority lost for good ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one node of a lost cluster has, and how much of it is certain."""

    node: str
    cluster: str
    directory: Path
    index: int
    term: int
    """Of the last entry in its log."""
    current_term: int
    snapshot: int
    uncertain: int
    """Entries that are in its log and may never have been acknowledged."""
    files: int
    versions: int
    written: str
    """When its log or snapshot was written last, in ISO 8601 and UTC."""
    age_s: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """The new cluster that was made of it."""

    cluster: str
    nodes: tuple[str, ...]
    index: int
    kept: tuple[Path, ...]
    """Where everything that was there before lies now."""
    evidence: Evidence


class Rescue:
    """One directory of a lost cluster, read and not changed until :meth:`recover` is called.

    A context manager: while it is open no node can be started in the directories concerned.
    """

    def __init__(self, directory: Path, node: str | None = None) -> None:
        """``directory``: that of a node, or of a cluster of ``up``, and then ``node`` is the one
        to recover from, None: the one with the newest log.

        Raises :class:`NotFound` when there is nothing to recover, :class:`LocalError` when a node
        runs, and :class:`Damaged` or :class:`Unsupported` for what was found in the directory.
        """
        directory = directory.absolute()
        if Layout.load(directory) is None and Layout.load(directory.parent) is not None:
            directory, node = directory.parent, node or directory.name
        self._directory = directory
        self._layout = Layout.load(directory)
        self._stack = ExitStack()
        try:
            self._source, self._state = self._choose(node)
        except BaseException:
            self._stack.close()
            raise
        self.evidence = _evidence(self._source, self._state)

    def _choose(self, node: str | None) -> tuple[Path, LastState]:
        if self._layout is None:
            return self._directory, self._read(self._directory)
        running = [n for n in self._layout.ids if Cluster.attach(self._directory).pid(n)]
        if running:
            raise LocalError(f"{', '.join(running)} is running; nothing was done. Stop it first")
        if node is not None and node not in self._layout.ids:
            raise BadRequest(f"no node {node!r}; the nodes are {', '.join(self._layout.ids)}")
        nodes: Sequence[str] = self._layout.ids if node is None else (node,)
        best: tuple[Path, LastState] | None = None
        problems: list[str] = []
        for one in nodes:
            place = self._directory / one
            try:
                state = self._read(place)
            except P2PError as error:
                if node is not None:
                    raise
                problems.append(error.message)
                continue
            if best is None or state.better_than(best[1]):
                best = place, state
        if best is None:
            raise NotFound(f"no node has anything to recover: {'; '.join(problems)}")
        return best

    def _read(self, place: Path) -> LastState:
        if not place.is_dir():
            raise NotFound(f"{place} is not there; nothing was done")
        self._stack.enter_context(owned(place))
        storage = Directory(place)
        try:
            return last_state(storage)
        except OSError as error:
            raise LocalError(f"{place} cannot be read: {error}; nothing was done") from error
        except (Damaged, Unsupported, LocalError) as error:
            raise type(error)(f"{place}: {error.message}") from error
        finally:
            storage.close()

    def recover(self, cluster: str | None = None) -> Recovered:
        """Make the new cluster: of this one node, or of all nodes of a cluster of ``up``.

        ``cluster``: its name, None: a fresh one. Raises :class:`BadRequest` for the name of the
        old one, :class:`LocalError` when something cannot be written.
        """
        name = _other_name(cluster, self.evidence.cluster)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ") + f"-{secrets.token_hex(2)}"
        places = [self._source]
        if self._layout is not None:
            places = [self._directory / node for node in self._layout.ids]
        kept: list[Path] = []
        try:
            kept.extend(_set_aside(place, stamp) for place in places if place.is_dir())
            for place in places:
                self._refound(place, name)
            if self._layout is not None:
                kept.append(_copy_beside(self._directory / LAYOUT_NAME, stamp))
                Layout(name, self._layout.created, self._layout.nodes).save(self._directory)
        except OSError as error:
            raise LocalError(
                f"recovery stopped half-way: {error}. Nothing is lost: what was there is in "
                f"{', '.join(map(str, kept)) or 'its place'}"
            ) from error
        index = next_era(self._state.machine.applied, name)
        nodes = self._layout.ids if self._layout is not None else (self.evidence.node,)
        return Recovered(name, nodes, index, tuple(kept), self.evidence)

    def _refound(self, place: Path, name: str) -> None:
        """The new snapshot first, which neither the old name nor the new one starts with; then
        what belonged to the old cluster goes."""
        place.mkdir(mode=0o700, exist_ok=True)
        storage = Directory(place)
        try:
            found(storage, self._state.machine, name)
            for file in storage.names():
                if file.startswith((PREFIX, MEMBERS_NAME)):
                    storage.delete(file)
            storage.sync_names()
        finally:
            storage.close()

    def __enter__(self) -> Rescue:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


def _evidence(place: Path, state: LastState) -> Evidence:
    files = [p for p in place.iterdir() if p.name.startswith((PREFIX, SNAPSHOT_NAME))]
    written_s = max(path.stat().st_mtime for path in files)
    counts = state.machine.counts()
    return Evidence(
        node=state.identity.node or place.name,
        cluster=state.identity.cluster,
        directory=place,
        index=state.index,
        term=state.term,
        current_term=state.current_term,
        snapshot=state.snapshot,
        uncertain=state.uncertain,
        files=counts["files"],
        versions=counts["versions"],
        written=datetime.fromtimestamp(written_s, UTC).isoformat(timespec="seconds"),
        age_s=max(0.0, time.time() - written_s),
    )


def _set_aside(place: Path, stamp: str) -> Path:
    """Link every file of a node's directory into one inside of it; durable when it returns."""
    aside = place / f"{KEPT_PREFIX}{stamp}"
    aside.mkdir(mode=0o700)
    for path in sorted(place.iterdir()):
        if path.is_file() and path.name != LOCK_NAME:
            _link(path, aside / path.name)
    for directory in (aside, place):
        _sync_directory(directory)
    return aside


def _copy_beside(path: Path, stamp: str) -> Path:
    beside = path.with_name(f"{path.name}.{KEPT_PREFIX}{stamp}")
    _link(path, beside)
    return beside


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:  # a file system without hard links
        shutil.copy2(path, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
