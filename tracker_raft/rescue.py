"""A new cluster from what one node of a lost cluster has: when a majority will never come back.

Rules
-----
* Everything that is read is verified as a whole before anything is written.
* Nothing is destroyed: what lies in a directory is linked into ``before-recovery-TIME`` inside of
  it before anything takes its place. A crash on the way leaves a directory that either is as it
  was, or refuses to start under the old name and the new one.
* ``cluster.json`` is written last.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tracker_raft.cluster import Cluster
from tracker_raft.cluster.state import LAYOUT_NAME, Layout
from tracker_raft.durable import sync_directory
from tracker_raft.errors import BadRequest, Damaged, LocalError, NotFound, P2PError, Unsupported
from tracker_raft.node import LOCK_NAME, REMOVED_NAME, owned
from tracker_raft.raft.founding import LastState, found, last_state, next_era
from tracker_raft.raft.memory import NAME as MEMBERS_NAME
from tracker_raft.raft.segments import PREFIX
from tracker_raft.raft.snapshots import NAME as SNAPSHOT_NAME
from tracker_raft.raft.storage import Directory
from tracker_raft.restore import other_name

KEPT_PREFIX = "before-recovery-"


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
        name = other_name(cluster, self.evidence.cluster)
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
                places_now = tuple(replace(one, joined=False) for one in self._layout.nodes)
                Layout(name, self._layout.created, places_now).save(self._directory)
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
                if file.startswith((PREFIX, MEMBERS_NAME)) or file == REMOVED_NAME:
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
        sync_directory(directory)
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
