"""Snapshots on disk and on their way: made beside the loop, verified before they replace anything.

File (``snapshot``, :data:`FORMAT`)::

    u32 length | msgpack {"format", "cluster", "index", "term"[, "members": [index, {...}]]}
    the snapshot of the machine
    SHA-256 of all before

A snapshot is written under another name, synced, and renamed when it is whole; only then may the
log be cut, and it is acknowledged to a leader only when it is installed (the library's defects
S3 and S6). The machine gives it in slices while it goes on working; the writer's thread does the
rest. A follower that lags behind the log asks its leader for the snapshot part by part, from the
byte it has got to, so that a broken link costs what was in flight.

``members`` are those of the newest entry of members at or before ``index``, with its own index;
left out while there was none.

Conversation::

    snapshot_offer  {"term", "index", "entry_term", "bytes", "sha256"}   leader to follower
    snapshot_get    {"sha256", "offset"}                                 follower to leader
    snapshot_part   {"sha256", "offset", "data"}                         leader to follower
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from tracker_raft.errors import BadRequest, Damaged, LocalError, P2PError, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft.configuration import Configuration
from tracker_raft.raft.membership import Placed
from tracker_raft.raft.storage import Storage

FORMAT = 1
NAME = "snapshot"
NAME_MAKING = "snapshot.making"
NAME_COMING = "snapshot.coming"
HASH_BYTES = 32
_LENGTH = struct.Struct(">I")
HEAD_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One durable snapshot: everything up to ``index``, an entry of ``term``."""

    index: int
    term: int
    size: int
    """Bytes of the file."""
    sha256: bytes
    """Its last 32 bytes: the hash of all before."""
    members: Placed | None = field(default=None, compare=False)
    """None: only the settings say who they are."""


Taken = Callable[[Snapshot | None, P2PError | None], None]
"""Called once: with a durable snapshot, or with why there is none."""


class Wanted:
    """Who waits for a snapshot that holds a certain entry."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Taken]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, index: int, done: Taken) -> None:
        self._waiting.append((index, done))

    def tell(self, durable: Snapshot | None, error: P2PError | None = None) -> None:
        """Answer who has what was asked for, and with ``error`` also the others."""
        waiting, self._waiting = self._waiting, []
        for index, done in waiting:
            if durable is not None and durable.index >= index:
                done(durable, None)
            elif error is not None:
                done(None, error)
            else:
                self._waiting.append((index, done))


def head(cluster: str, index: int, term: int, members: Placed | None = None) -> bytes:
    """How a snapshot file begins."""
    said: dict[str, Any] = {"format": FORMAT, "cluster": cluster, "index": index, "term": term}
    if members is not None:
        said["members"] = [members.index, members.members.to_wire()]
    fields: bytes = msgpack.packb(said)
    return _LENGTH.pack(len(fields)) + fields


def read_head(data: memoryview, cluster: str) -> tuple[int, dict[str, Any]]:
    """(offset behind the head, its fields). Raises :class:`Damaged`, :class:`Unsupported`,
    :class:`LocalError` when it is of another cluster."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        if length > HEAD_BYTES_MAX:
            raise ValueError(f"a head of {length} bytes")
        fields: dict[str, Any] = msgpack.unpackb(data[_LENGTH.size : end])
        if fields["format"] != FORMAT:
            raise Unsupported(f"{NAME}: format {fields['format']!r}, this version reads {FORMAT}")
        found, numbers = fields["cluster"], (fields["index"], fields["term"])
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"index and term {numbers}")
        _members(fields)
    except (struct.error, ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise Damaged(f"{NAME}: does not begin like a snapshot; nothing was changed") from error
    if found != cluster:
        raise LocalError(f"{NAME}: of cluster {found!r}, expected {cluster!r}; nothing was changed")
    return end, fields


def _members(fields: dict[str, Any]) -> Placed | None:
    if "members" not in fields:
        return None
    index, members = fields["members"]
    if type(index) is not int or not 0 < index <= fields["index"]:
        raise ValueError(f"members of entry {index!r}")
    try:
        return Placed(index, Configuration.from_wire(members))
    except Unsupported:
        raise
    except BadRequest as error:
        raise ValueError(error.message) from None


def cluster_of(storage: Storage) -> str:
    """The cluster that the snapshot there names; empty when it does not begin like one."""
    data = storage.read_part(NAME, 0, _LENGTH.size + HEAD_BYTES_MAX)
    try:
        (length,) = _LENGTH.unpack_from(data)
        return str(msgpack.unpackb(data[_LENGTH.size : _LENGTH.size + length])["cluster"])
    except (struct.error, ValueError, TypeError, KeyError, msgpack.UnpackException):
        return ""


def write(storage: Storage, machine: TrackerMachine, cluster: str, term: int) -> Snapshot:
    """Write the snapshot of a machine that stands still; durable when this returns.

    Raises ``OSError``.
    """
    digest, offset = hashlib.sha256(), 0
    if NAME_MAKING in storage.names():
        storage.delete(NAME_MAKING)
    for block in (head(cluster, machine.applied, term), *machine.snapshot()):
        storage.write(NAME_MAKING, offset, block)
        digest.update(block)
        offset += len(block)
    storage.write(NAME_MAKING, offset, digest.digest())
    storage.sync(NAME_MAKING)
    storage.rename(NAME_MAKING, NAME)
    storage.sync_names()
    return Snapshot(machine.applied, term, offset + HASH_BYTES, digest.digest())


def load(storage: Storage, cluster: str) -> tuple[Snapshot, TrackerMachine] | None:
    """The durable snapshot and the machine it holds; None when there is none.

    Verified by length and hash as a whole and by the machine's own seals. Raises
    :class:`Damaged`, :class:`Unsupported`, :class:`LocalError`.
    """
    if NAME not in storage.names():
        return None
    data = memoryview(storage.read(NAME))
    sha256 = bytes(data[-HASH_BYTES:])
    if len(data) <= HASH_BYTES or hashlib.sha256(data[:-HASH_BYTES]).digest() != sha256:
        raise Damaged(
            f"{NAME}: {len(data)} bytes that do not have the hash they end with; the node must "
            f"neither vote nor lead without it. Nothing was changed"
        )
    start, fields = read_head(data, cluster)
    machine = TrackerMachine.restore([bytes(data[start:-HASH_BYTES])])
    if machine.applied != fields["index"]:
        raise Damaged(
            f"{NAME}: says index {fields['index']}, holds {machine.applied}; nothing was changed"
        )
    members = _members(fields)
    return Snapshot(fields["index"], fields["term"], len(data), sha256, members), machine


class Incoming:
    """A snapshot that is being received. After an error it must be thrown away."""

    def __init__(self, cluster: str, offer: Snapshot) -> None:
        self.offer = offer
        self.offset = 0
        """Bytes received: the next part begins here."""
        self._cluster = cluster
        self._hash = hashlib.sha256()
        self._restoring = TrackerMachine.restoring()
        self._head = bytearray()
        self._tail = bytearray()
        self._in_body = False

    def feed(self, data: bytes) -> None:
        """Take the next part. Raises :class:`Damaged`, :class:`Unsupported`, :class:`LocalError`
        (of another cluster)."""
        if self.offset + len(data) > self.offer.size:
            raise Damaged(f"the snapshot offered with {self.offer.size} bytes goes on behind them")
        inside = data[: max(0, self.offer.size - HASH_BYTES - self.offset)]
        self._tail += data[len(inside) :]
        self._hash.update(inside)
        self.offset += len(data)
        if not self._in_body:
            self._head += inside
            inside = self._try_head()
        if inside:
            self._restoring.feed(inside)

    def _try_head(self) -> bytes:
        if len(self._head) < _LENGTH.size:
            return b""
        (length,) = _LENGTH.unpack_from(self._head)
        if length <= HEAD_BYTES_MAX and len(self._head) < _LENGTH.size + length:
            return b""
        end, fields = read_head(memoryview(bytes(self._head)), self._cluster)
        if (fields["index"], fields["term"]) != (self.offer.index, self.offer.term):
            raise Damaged("the snapshot that came is not the one that was offered")
        self.offer = replace(self.offer, members=_members(fields))
        self._in_body = True
        return bytes(self._head[end:])

    @property
    def complete(self) -> bool:
        return self.offset == self.offer.size

    def finish(self) -> TrackerMachine:
        """The machine, once :attr:`complete`. Raises :class:`Damaged` unless all of it is right."""
        if not self._hash.digest() == self._tail == self.offer.sha256:
            raise Damaged("the snapshot that came does not have the hash that was offered")
        machine = self._restoring.finish()
        if machine.applied != self.offer.index:
            raise Damaged(f"the snapshot offered for {self.offer.index} holds {machine.applied}")
        return machine


def parse_offer(message: dict[str, Any]) -> Snapshot:
    """Read a ``snapshot_offer``. Raises ``KeyError``, ``TypeError``, ``ValueError``."""
    sha256 = message["sha256"]
    if type(sha256) is not bytes or len(sha256) != HASH_BYTES:
        raise ValueError("sha256")
    numbers = [message["index"], message["entry_term"], message["bytes"]]
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError("index, entry_term or bytes")
    return Snapshot(numbers[0], numbers[1], numbers[2], sha256)
