"""Keeps the log short and the laggards fed: makes snapshots, serves them, receives them.

The shell around :mod:`snapshots`. When one is due: enough was logged since the last one, in
proportion to its size, so that the work of making them is a constant share of the work of
logging. The machine is read in slices with pauses between them, so that the loop is never held
for long whatever the number of files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tracker_raft.config import SnapshotPolicy
from tracker_raft.errors import LocalError, P2PError
from tracker_raft.machine import TrackerMachine
from tracker_raft.machine.snapshot_cursor import SnapshotCursor
from tracker_raft.raft import snapshots
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.seams import Lines, Message, Scheduler
from tracker_raft.raft.snapshots import HASH_BYTES, NAME, NAME_COMING, NAME_MAKING, Snapshot
from tracker_raft.raft.storage import Storage, Writer

log = logging.getLogger("tracker_raft.snapshots")


class Host(Protocol):
    """What the keeper needs of its replica."""

    @property
    def machine(self) -> TrackerMachine: ...
    @property
    def term(self) -> int: ...

    def install(self, snapshot: Snapshot, machine: TrackerMachine, leader: str) -> None:
        """Replace log and state by a snapshot that is durable here."""

    def fail(self, failure: LocalError) -> None:
        """The disk failed: the node cannot go on."""


class _Making:
    """A snapshot that is being written."""

    def __init__(self, cursor: SnapshotCursor, term: int) -> None:
        self.cursor = cursor
        self.term = term
        self.offset = 0
        self.sha256 = hashlib.sha256()


class SnapshotKeeper:
    """All snapshot work of one node. ``durable`` is the newest one on disk, or None."""

    def __init__(
        self,
        *,
        cluster: str,
        policy: SnapshotPolicy,
        host: Host,
        storage: Storage,
        writer: Writer,
        journal: SegmentJournal,
        lines: Lines,
        scheduler: Scheduler,
        durable: Snapshot | None,
    ) -> None:
        self.durable = durable
        self.made = 0
        self.installs = 0
        self._cluster = cluster
        self._policy = policy
        self._host = host
        self._storage = storage
        self._writer = writer
        self._journal = journal
        self._lines = lines
        self._scheduler = scheduler
        self._bytes_at_last = journal.bytes_added
        self._making: _Making | None = None
        self._coming: snapshots.Incoming | None = None
        self._installing = False
        self._offered_s: dict[str, float] = {}
        self._closed = False
        self._handlers: dict[str, Callable[[str, Message], None]] = {
            "snapshot_offer": self._on_offer,
            "snapshot_get": self._on_get,
            "snapshot_part": self._on_part,
        }

    def close(self) -> None:
        self._closed = True
        if self._making is not None:
            self._making.cursor.close()
            self._making = None

    # -- making ----------------------------------------------------------------------------------

    def consider(self, *, force: bool = False) -> None:
        """Begin a snapshot if one is due (or ``force``) and none is being made."""
        logged = self._journal.bytes_added - self._bytes_at_last
        last = 0 if self.durable is None else self.durable.size
        due = logged >= max(self._policy.log_bytes_min, last)
        machine = self._host.machine
        if self._making is not None or self._installing or not (due or force):
            return
        if self.durable is not None and machine.applied <= self.durable.index:
            return
        term = self._journal.term_at(machine.applied)
        if term is None:
            return
        self._bytes_at_last = self._journal.bytes_added
        self._making = _Making(machine.begin_snapshot(), term)
        begin = snapshots.head(self._cluster, machine.applied, term)
        self._writer.run(self._clear_making, self._written)
        self._write(self._making, begin)
        self._scheduler.call_soon(self._slice, self._making)

    def _clear_making(self) -> None:
        if NAME_MAKING in self._storage.names():
            self._storage.delete(NAME_MAKING)

    def _write(self, making: _Making, data: bytes) -> None:
        offset, making.offset = making.offset, making.offset + len(data)
        making.sha256.update(data)
        self._writer.run(partial(self._storage.write, NAME_MAKING, offset, data), self._written)

    def _slice(self, making: _Making) -> None:
        if self._closed or making is not self._making:
            return
        block = making.cursor.next(self._policy.slice_rows)
        if block is not None:
            if block:
                self._write(making, block)
            pause_s = self._scheduler.time() + self._policy.slice_pause_s
            self._scheduler.call_at(pause_s, self._slice, making)
            return
        digest = making.sha256.digest()
        offset = making.offset
        snapshot = Snapshot(making.cursor.applied, making.term, offset + HASH_BYTES, digest)

        def settle() -> None:
            self._storage.write(NAME_MAKING, offset, digest)
            self._storage.sync(NAME_MAKING)
            self._storage.rename(NAME_MAKING, NAME)
            self._storage.sync_names()

        self._writer.run(settle, partial(self._settled, making, snapshot))

    def _written(self, error: OSError | None) -> None:
        if error is not None and self._making is not None:
            log.warning("no snapshot was made: %s", error)
            self._making.cursor.close()
            self._making = None

    def _settled(self, making: _Making, snapshot: Snapshot, error: OSError | None) -> None:
        if making is not self._making:
            return  # given up because a write before failed: the file was never renamed whole
        self._making = None
        if error is not None:
            log.warning("no snapshot was made: %s", error)
            return
        if self.durable is None or self.durable.index < snapshot.index:
            self.durable = snapshot
            self.made += 1
            log.info("snapshot of %d bytes up to entry %d", snapshot.size, snapshot.index)
            self.compact()

    def compact(self) -> None:
        """Forget the log before the durable snapshot, but for some entries kept for laggards."""
        if self.durable is not None:
            keep_from = self.durable.index - self._policy.entries_kept
            names = self._journal.forget_before(keep_from)
            if names:
                self._writer.run(partial(self._delete, names), lambda error: None)

    def _delete(self, names: list[str]) -> None:
        for name in names:
            self._storage.delete(name)
        self._storage.sync_names()

    # -- serving ---------------------------------------------------------------------------------

    def lags(self, node: str) -> None:
        """The engine has no log left for ``node``: offer it the snapshot, once in a while."""
        now_s = self._scheduler.time()
        durable = self.durable
        if durable is None or now_s < self._offered_s.get(node, 0.0):
            return
        self._offered_s[node] = now_s + self._policy.offer_period_s
        offer = {
            "type": "snapshot_offer",
            "term": self._host.term,
            "index": durable.index,
            "entry_term": durable.term,
            "bytes": durable.size,
            "sha256": durable.sha256,
        }
        self._lines.send(node, offer)
        self._lines.flush()

    def _on_get(self, node: str, message: Message) -> None:
        durable, offset = self.durable, int(message["offset"])
        if durable is None or message["sha256"] != durable.sha256 or offset < 0:
            return  # another one by now: the next offer says which
        data = self._storage.read_part(NAME, offset, self._policy.part_bytes)
        if data:
            part = {"type": "snapshot_part", "sha256": durable.sha256, "offset": offset}
            self._lines.send(node, {**part, "data": data})

    # -- receiving -------------------------------------------------------------------------------

    def received(self, node: str, message: Message) -> bool:
        """Handle one of this room's messages; False when it is none of them."""
        kind = message.get("type")
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        if handler is not None:
            handler(node, message)
        return handler is not None

    def _on_offer(self, node: str, message: Message) -> None:
        offer = snapshots.parse_offer(message)
        stale = int(message["term"]) < self._host.term
        if stale or self._installing or offer.index <= self._host.machine.applied:
            return
        if self._coming is None or self._coming.offer != offer:
            self._coming = snapshots.Incoming(self._cluster, offer)
            self._writer.run(self._clear_coming, lambda error: None)
            log.info("receives a snapshot of %d bytes from %s", offer.size, node)
        self._ask(node)

    def _clear_coming(self) -> None:
        if NAME_COMING in self._storage.names():
            self._storage.delete(NAME_COMING)

    def _ask(self, node: str) -> None:
        if (coming := self._coming) is not None:
            get = {"type": "snapshot_get", "sha256": coming.offer.sha256, "offset": coming.offset}
            self._lines.send(node, get)
            self._lines.flush()

    def _on_part(self, node: str, message: Message) -> None:
        coming, data = self._coming, message["data"]
        if coming is None or message["sha256"] != coming.offer.sha256 or type(data) is not bytes:
            return
        if message["offset"] != coming.offset or not data:
            return  # asked for twice
        offset = coming.offset
        try:
            coming.feed(data)
            machine = coming.finish() if coming.complete else None
        except P2PError as error:
            log.warning("the snapshot from %s is thrown away: %s", node, error)
            self._coming = None
            return
        self._writer.run(partial(self._storage.write, NAME_COMING, offset, data), self._part_kept)
        if machine is None:
            self._ask(node)
            return
        self._installing = True
        self._coming = None
        done = partial(self._came, coming.offer, machine, node)
        self._writer.run(self._settle_coming, done)

    def _part_kept(self, error: OSError | None) -> None:
        if error is not None:
            log.warning("the snapshot that comes cannot be kept: %s", error)
            self._coming = None

    def _settle_coming(self) -> None:
        self._storage.sync(NAME_COMING)
        self._storage.rename(NAME_COMING, NAME)
        self._storage.sync_names()

    def _came(
        self, snapshot: Snapshot, machine: TrackerMachine, leader: str, error: OSError | None
    ) -> None:
        self._installing = False
        if self._closed:
            return
        if error is not None:
            self._host.fail(LocalError(f"the snapshot that came cannot be kept: {error}"))
            return
        if self._making is not None:  # older than what came
            self._making.cursor.close()
            self._making = None
        self.durable = snapshot
        self.installs += 1
        self._bytes_at_last = self._journal.bytes_added
        self._host.install(snapshot, machine, leader)
        self.compact()
