"""Snapshots for whoever asks this tracker for one: taken when asked, held open, read in parts.

A held snapshot is an open file: it stays readable, as it was, when a newer snapshot takes its name.
Nothing of the state is read for it beside what each snapshot reads, so a backup costs a tracker
one snapshot and one pass over a file, in slices that leave room for everything else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tracker_raft.commands import Level, SnapshotPart, TakeSnapshot
from tracker_raft.errors import Busy, NotFound, P2PError, Unavailable
from tracker_raft.raft import snapshots
from tracker_raft.raft.intake import NOWHERE, Position, Reply
from tracker_raft.raft.replica import Replica
from tracker_raft.raft.snapshots import Snapshot

PART_BYTES: Final = 256 * 1024
HELD_S: Final = 60.0
"""A held snapshot of which no part was asked for so long is let go."""
HELD_MAX: Final = 4
WAITING_MAX: Final = 64
"""Who waits for a snapshot at the same time; they share one."""
BUSY_RETRY_S: Final = 5.0

Answer = Callable[[Reply, Position], None]


@dataclass(slots=True)
class _Held:
    file: int
    size: int
    used_s: float
    read: bool = False
    """Its last part was asked for: it is kept only while there is room."""


class Backups:
    """The snapshots asked for on one tracker."""

    def __init__(self, directory: Path, replica: Replica) -> None:
        """``directory``: that of the node, where its snapshot lies."""
        self._path = directory / snapshots.NAME
        self._replica = replica
        self._loop = asyncio.get_running_loop()
        self._held: dict[bytes, _Held] = {}
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for held in self._held.values():
            os.close(held.file)
        self._held.clear()

    # -- taking one -------------------------------------------------------------------------------

    def take(self, wanted: TakeSnapshot, deadline_s: float, answer: Answer) -> None:
        """Answer once, by ``deadline_s`` (loop time). Raises :class:`Busy`."""
        if self._waiting >= WAITING_MAX:
            raise Busy(f"{WAITING_MAX} wait for a snapshot already", retry_after_s=BUSY_RETRY_S)
        self._waiting += 1
        answered = False

        def settle(snapshot: Snapshot | None, error: P2PError | None) -> None:
            nonlocal answered
            if answered:
                return
            answered = True
            self._waiting -= 1
            timer.cancel()
            try:
                if snapshot is None:
                    raise error or Unavailable("no snapshot was taken")
                answer({"ok": self._told(snapshot, wanted.hold)}, (snapshot.index, 0))
            except P2PError as refusal:
                answer(refusal.to_wire(), NOWHERE)

        late = Unavailable("the snapshot is not finished yet; it goes on, ask again")
        timer = self._loop.call_at(deadline_s, settle, None, late)

        def applied(error: P2PError | None) -> None:
            if error is not None:
                settle(None, error)
            else:
                index = wanted.index or self._replica.machine.applied
                self._replica.keeper.take(index, settle)

        level = Level.SESSION if wanted.index else Level.LOCAL
        self._replica.reads.read(level, wanted.index, deadline_s, applied)

    def _told(self, snapshot: Snapshot, hold: bool) -> dict[str, Any]:
        if hold:
            self._hold(snapshot)
        return {
            "index": snapshot.index,
            "term": snapshot.term,
            "bytes": snapshot.size,
            "sha256": snapshot.sha256,
        }

    def _hold(self, snapshot: Snapshot) -> None:
        """Raises :class:`Busy`, :class:`Unavailable`."""
        held = self._held.get(snapshot.sha256)
        if held is None:
            self._make_room()
            if len(self._held) >= HELD_MAX:
                text = f"{HELD_MAX} snapshots are being read already"
                raise Busy(text, retry_after_s=BUSY_RETRY_S)
            held = self._held[snapshot.sha256] = _Held(self._open(snapshot), snapshot.size, 0.0)
        held.used_s, held.read = self._loop.time(), False
        if self._timer is None:
            self._timer = self._loop.call_later(HELD_S, self._let_go)

    def _make_room(self) -> None:
        for sha256, held in list(self._held.items()):
            if held.read and len(self._held) >= HELD_MAX:
                os.close(held.file)
                del self._held[sha256]

    def _open(self, snapshot: Snapshot) -> int:
        """The file, if it is that snapshot: a newer one may be taking its name right now."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Unavailable(f"the snapshot cannot be opened: {error.strerror}") from error
        try:
            size = os.fstat(file).st_size
            tail = os.pread(file, snapshots.HASH_BYTES, snapshot.size - snapshots.HASH_BYTES)
            if (size, tail) != (snapshot.size, snapshot.sha256):
                raise Unavailable("another snapshot has just taken its place; ask again")
        except OSError as error:
            os.close(file)
            raise Unavailable(f"the snapshot cannot be read: {error.strerror}") from error
        except Unavailable:
            os.close(file)
            raise
        return file

    def _let_go(self) -> None:
        now_s = self._loop.time()
        for sha256, held in list(self._held.items()):
            if held.used_s + HELD_S <= now_s:
                os.close(held.file)
                del self._held[sha256]
        self._timer = self._loop.call_later(HELD_S / 4, self._let_go) if self._held else None

    # -- reading it -------------------------------------------------------------------------------

    def part(self, wanted: SnapshotPart, answer: Answer) -> None:
        """Answer once, from beside the loop. Raises :class:`NotFound`,
        :class:`Unavailable`."""
        held = self._held.get(wanted.sha256)
        if held is None:
            raise NotFound("this snapshot is not held here (any more); take one anew")
        held.used_s = self._loop.time()
        held.read = wanted.offset + PART_BYTES >= held.size
        try:
            file = os.dup(held.file)  # its own, for the other one may be let go meanwhile
        except OSError as error:
            raise Unavailable(f"the snapshot cannot be read: {error.strerror}") from error
        reading = self._loop.run_in_executor(None, _read, file, wanted.offset)
        reading.add_done_callback(partial(_was_read, answer))


def _was_read(answer: Answer, reading: asyncio.Future[bytes]) -> None:
    if reading.cancelled():
        return
    error = reading.exception()
    if error is not None:
        answer(Unavailable(f"the snapshot cannot be read: {error}").to_wire(), NOWHERE)
    else:
        answer({"ok": {"data": reading.result()}}, NOWHERE)


def _read(file: int, offset: int) -> bytes:
    try:
        return os.pread(file, PART_BYTES, offset)
    finally:
        os.close(file)
