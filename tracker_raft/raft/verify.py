"""Checks a node's directory offline: what would a start say? Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from tracker_raft.errors import P2PError
from tracker_raft.raft import records, snapshots
from tracker_raft.raft.memory import KnownMembers
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.segments import PREFIX, Identity
from tracker_raft.raft.storage import Storage


@dataclass(frozen=True, slots=True)
class Findings:
    """What a directory holds. ``problem``: why a node would not start with it, or None."""

    cluster: str = ""
    node: str = ""
    segments: int = 0
    first_index: int = 0
    last_index: int = 0
    term: int = 0
    snapshot: int = 0
    """Index of the snapshot, 0 for none."""
    bytes_torn: int = 0
    """Written when the machine stopped and never acknowledged: a start cuts them off."""
    problem: str | None = None


class ReadOnly:
    """A storage whose contents stay as they are."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def names(self) -> list[str]:
        return self._storage.names()

    def read(self, name: str) -> bytes:
        return self._storage.read(name)

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        return self._storage.read_part(name, offset, size)

    def allocate(self, name: str, size: int) -> None: ...
    def write(self, name: str, offset: int, data: bytes) -> None: ...
    def sync(self, name: str) -> None: ...
    def truncate(self, name: str, size: int) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def delete(self, name: str) -> None: ...
    def sync_names(self) -> None: ...
    def close(self) -> None: ...


def verify(storage: Storage) -> Findings:
    """Everything a start would check. Raises ``OSError`` when it cannot be read."""
    names = [name for name in storage.names() if name.startswith(PREFIX)]
    identity = identity_of(storage)
    if identity is None:
        return Findings(problem="no journal: this is not the directory of a node that ever ran")
    try:
        found = recover(ReadOnly(storage), identity)
        KnownMembers(ReadOnly(storage))
    except P2PError as error:
        return Findings(identity.cluster, identity.node, len(names), problem=str(error))
    journal, snapshot = found.journal, found.snapshot
    return Findings(
        cluster=identity.cluster,
        node=identity.node,
        segments=len(names),
        first_index=journal.first_index,
        last_index=journal.last_index,
        term=journal.getCurrentTerm(),
        snapshot=0 if snapshot is None else snapshot.index,
        bytes_torn=journal.bytes_cut,
    )


def identity_of(storage: Storage) -> Identity | None:
    """Whose directory it is, as far as that is written there; None when no node ever ran in it.

    A directory that was made from a backup and not started yet knows its cluster only. Without a
    whole first batch a start says what is wrong.
    """
    names = [name for name in storage.names() if name.startswith(PREFIX)]
    if names:
        return _read_identity(storage, names[0]) or Identity("", "", "")
    if snapshots.NAME in storage.names():
        return Identity(snapshots.cluster_of(storage), "", "")
    return None


def _read_identity(storage: Storage, name: str) -> Identity | None:
    scan = records.scan(memoryview(storage.read(name)), batch=0)
    if not scan.records:
        return None
    try:
        fields = records.read_header(scan.records[0][1].body)
        return Identity(str(fields["cluster"]), str(fields["node"]), str(fields["birth"]))
    except (ValueError, KeyError):
        return None
