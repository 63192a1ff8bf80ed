"""Keeps the log short and the laggards fed: makes snapshots, serves them, receives them.

The shell around :mod:`snapshots`. When one is due: enough was logged since the last one, in
proportion to its size, so that making them is a constant share of the work of logging. The machine
is read in slices with pauses between them, so that the loop is never held for long.

Rules
-----
* All work on files is done by the writer, in the order in which it was asked for: what is read
  to be served is what stands there at that moment, and a rename comes after what is renamed.
* The next slice, or the next part, is asked for when the one before is synced. So nothing is
  renamed of which a part is missing, little waits in memory for a slow disk, and a sync of the
  log never waits for more than one part.
* While a snapshot that came is put in its place none is made: the older one would be renamed
  over the newer one, behind which the log begins by then.
* The log is cut, and the leader told, only after the rename is durable.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from tracker_raft.config import SnapshotPolicy
from tracker_raft.errors import LocalError, P2PError, ShuttingDown, Unavailable, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.machine.snapshot_cursor import SnapshotCursor
from tracker_raft.raft import snapshots
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.membership import Placed
from tracker_raft.raft.seams import Lines, Message, Scheduler
from tracker_raft.raft.snapshots import HASH_BYTES, NAME, NAME_COMING, NAME_MAKING, Snapshot
from tracker_raft.raft.storage import Done, Storage, Writer

log = logging.getLogger("tracker_raft.snapshots")


class Host(Protocol):
    """What the keeper needs of its replica."""

    @property
    def machine(self) -> TrackerMachine: ...
    @property
    def term(self) -> int: ...
    def members_at(self, index: int) -> Placed | None: ...

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
        start = 0 if durable is None else durable.index
        found = sum(len(command) for command, index, _ in journal[:] if index > start)
        self._bytes_at_last = journal.bytes_added - found
        self._replayed_from = journal.last_index
        """What was found in the log is applied once the machine is here; none is due before."""
        self._making: _Making | None = None
        self._coming: snapshots.Incoming | None = None
        self._unsupported: Snapshot | None = None
        self._installing = False
        self._offered_s: dict[str, float] = {}
        self._given_up: list[str] = []
        """Log files that hold nothing that is needed, and could not be deleted yet."""
        self._wanted = snapshots.Wanted()
        self._closed = False
        self._handlers: dict[str, Callable[[str, Message], None]] = {
            "snapshot_offer": self._on_offer,
            "snapshot_get": self._on_get,
            "snapshot_part": self._on_part,
        }
        for name in (NAME_MAKING, NAME_COMING):  # what a run before this one left unfinished
            self._clear(name)

    def close(self) -> None:
        """Begin nothing more. What the writer has in hand it finishes."""
        self._closed = True
        if self._making is not None:
            self._making.cursor.close()
            self._making = None
        self._wanted.tell(None, ShuttingDown("this tracker is stopping; no snapshot was taken"))

    # -- files -----------------------------------------------------------------------------------

    def _clear(self, name: str) -> None:
        def work() -> None:
            if name in self._storage.names():
                self._storage.delete(name)

        self._writer.run(work, lambda error: None)

    def _keep(self, name: str, offset: int, data: bytes, done: Done) -> None:
        def work() -> None:
            self._storage.write(name, offset, data)
            self._storage.sync(name)

        self._writer.run(work, done)

    def _put_in_place(self, name: str, done: Callable[[], None]) -> None:
        """Make the whole file ``name`` the snapshot; ``done`` is called when that is durable."""

        def work() -> None:
            self._storage.rename(name, NAME)
            self._storage.sync_names()

        def settled(error: OSError | None) -> None:
            if error is not None:  # which of the two is there now is not known
                self._host.fail(LocalError(f"{name} cannot be put in its place: {error}"))
            elif not self._closed:
                done()

        self._writer.run(work, settled)

    # -- making ----------------------------------------------------------------------------------

    def take(self, index: int, done: snapshots.Taken) -> None:
        """See that a durable snapshot holds entry ``index``, which is applied; then ``done``."""
        self._wanted.add(index, done)
        self._wanted.tell(self.durable)
        self.consider()

    def consider(self, *, force: bool = False) -> None:
        """Begin a snapshot if one is due (or ``force``) and none is being made."""
        machine = self._host.machine
        if self._making is not None or self._installing or self._closed:
            return
        if not (force or self._due(machine)):
            return
        if self.durable is not None and machine.applied <= self.durable.index:
            return
        term = self._journal.term_at(machine.applied)
        if term is None:
            return
        self._bytes_at_last = self._journal.bytes_added
        self._making = making = _Making(machine.begin_snapshot(), term)
        self._clear(NAME_MAKING)
        members = self._host.members_at(machine.applied)
        self._write(making, snapshots.head(self._cluster, machine.applied, term, members))

    def _due(self, machine: TrackerMachine) -> bool:
        if self._wanted:
            return True
        logged = self._journal.bytes_added - self._bytes_at_last
        last = 0 if self.durable is None else self.durable.size
        enough = max(self._policy.log_bytes_min, last)
        return logged >= enough and machine.applied >= self._replayed_from

    def _write(self, making: _Making, data: bytes) -> None:
        offset, making.offset = making.offset, making.offset + len(data)
        making.sha256.update(data)
        self._keep(NAME_MAKING, offset, data, partial(self._written, making))

    def _written(self, making: _Making, error: OSError | None) -> None:
        if making is self._making:
            if error is None:
                self._pause(making)
            else:
                self._could_not_make(error)

    def _pause(self, making: _Making) -> None:
        until_s = self._scheduler.time() + self._policy.slice_pause_s
        self._scheduler.call_at(until_s, self._slice, making)

    def _slice(self, making: _Making) -> None:
        if making is not self._making:
            return
        block = making.cursor.next(self._policy.slice_rows)
        if block:
            self._write(making, block)
        elif block is not None:
            self._pause(making)
        else:
            digest, size = making.sha256.digest(), making.offset + HASH_BYTES
            snapshot = Snapshot(making.cursor.applied, making.term, size, digest)
            done = partial(self._sealed, making, snapshot)
            self._keep(NAME_MAKING, making.offset, digest, done)

    def _sealed(self, making: _Making, snapshot: Snapshot, error: OSError | None) -> None:
        if making is not self._making:
            return
        if error is not None:
            self._could_not_make(error)
            return
        self._put_in_place(NAME_MAKING, partial(self._made, making, snapshot))

    def _made(self, making: _Making, snapshot: Snapshot) -> None:
        if making is self._making:
            self._making = None
        self.durable = snapshot
        self.made += 1
        log.info("snapshot of %d bytes up to entry %d", snapshot.size, snapshot.index)
        self._compact()
        self._wanted.tell(self.durable)
        self.consider()

    def _could_not_make(self, error: OSError) -> None:
        self._give_up_making(str(error))
        self._wanted.tell(None, Unavailable(f"no snapshot could be written: {error}"))

    def _give_up_making(self, reason: str) -> None:
        if self._making is not None:
            log.warning("no snapshot was made: %s", reason)
            self._making.cursor.close()
            self._making = None
            self._clear(NAME_MAKING)

    def _compact(self) -> None:
        """Forget the log before the durable snapshot, but for some entries kept for laggards."""
        if self.durable is not None:
            keep_from = self.durable.index - self._policy.entries_kept
            self._given_up += self._journal.forget_before(keep_from)
            if self._given_up:
                names, self._given_up = self._given_up, []
                self._writer.run(partial(self._delete, names), partial(self._deleted, names))

    def _delete(self, names: list[str]) -> None:
        """Oldest first, each for good before the next: what a crash or an error leaves begins
        later and has no gap."""
        for name in names:
            self._storage.delete(name)
            self._storage.sync_names()

    def _deleted(self, names: list[str], error: OSError | None) -> None:
        """What could not be deleted goes first next time: a later one gone before it would look
        like a log with a gap."""
        if error is not None:
            log.warning("old log files stay for now: %s", error)
            there = self._storage.names()
            self._given_up = [name for name in names if name in there] + self._given_up

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
        durable, offset = self.durable, _whole(message, "offset")
        if durable is None or message["sha256"] != durable.sha256:
            return  # another one by now: the next offer says which
        found: list[bytes] = []

        def work() -> None:
            found.append(self._storage.read_part(NAME, offset, self._policy.part_bytes))

        def send(error: OSError | None) -> None:
            if error is not None:
                log.warning("the snapshot cannot be read: %s", error)
            elif self.durable is durable and found[0] and not self._closed:
                part = {"type": "snapshot_part", "sha256": durable.sha256, "offset": offset}
                self._lines.send(node, {**part, "data": found[0]})
                self._lines.flush()

        if offset < durable.size:
            self._writer.run(work, send)

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
        stale = _whole(message, "term") < self._host.term
        if stale or self._installing or offer.index <= self._host.machine.applied:
            return
        if self._coming is None or self._coming.offer != offer:
            self._coming = snapshots.Incoming(self._cluster, offer)
            self._clear(NAME_COMING)
            log.info("receives a snapshot of %d bytes from %s", offer.size, node)
        self._ask(node, self._coming)

    def _ask(self, node: str, coming: snapshots.Incoming) -> None:
        get = {"type": "snapshot_get", "sha256": coming.offer.sha256, "offset": coming.offset}
        self._lines.send(node, get)
        self._lines.flush()

    def _on_part(self, node: str, message: Message) -> None:
        coming, data, offset = self._coming, message["data"], _whole(message, "offset")
        if type(data) is not bytes:
            raise ValueError("data")
        if coming is None or message["sha256"] != coming.offer.sha256:
            return
        if offset != coming.offset or not data:
            return  # asked for twice
        try:
            coming.feed(data)
            machine = coming.finish() if coming.complete else None
        except P2PError as error:
            if isinstance(error, Unsupported) and self._unsupported == coming.offer:
                # Twice the same, so it is no bit that flipped: this node is too old to go on.
                self._host.fail(LocalError(f"the snapshot of {node}: {error}"))
            self._unsupported = coming.offer
            self._throw_away(f"from {node}: {error}")
            return
        done = partial(self._part_kept, coming, machine, node)
        self._keep(NAME_COMING, offset, data, done)

    def _part_kept(
        self,
        coming: snapshots.Incoming,
        machine: TrackerMachine | None,
        node: str,
        error: OSError | None,
    ) -> None:
        if coming is not self._coming or self._closed:
            return
        if error is not None:
            self._throw_away(f"it cannot be kept: {error}")
        elif coming.offer.index <= self._host.machine.applied:
            self._throw_away("the log brought what is in it meanwhile")
        elif machine is None:
            self._ask(node, coming)
        else:
            self._coming, self._installing = None, True
            self._give_up_making("a newer one came")
            came = partial(self._came, coming.offer, machine, node)
            self._put_in_place(NAME_COMING, came)

    def _throw_away(self, reason: str) -> None:
        log.warning("the snapshot that comes is thrown away: %s", reason)
        self._coming = None
        self._clear(NAME_COMING)

    def _came(self, snapshot: Snapshot, machine: TrackerMachine, leader: str) -> None:
        self._installing = False
        self.durable = snapshot
        self.installs += 1
        self._bytes_at_last = self._journal.bytes_added
        self._host.install(snapshot, machine, leader)
        self._compact()
        self._wanted.tell(self.durable)


def _whole(message: Message, key: str) -> int:
    """A whole number of a message. Raises ``KeyError``, ``ValueError``."""
    value = message[key]
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(key)
    return value
