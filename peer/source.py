"""One connection of a download: asks ahead, receives, verifies and writes in one thread.

A thread does everything for its connection, with one buffer that it keeps. Handing pieces to
another thread was measured to cost up to a CPU second for each GiB; ``recv``, SHA-256 and
``pwrite`` release the interpreter lock, so two such threads already overlap fully.

The thread belongs to a download, which it sees as a :class:`Task`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from peer import messages
from peer.limits import PEER_PROTOCOL_VERSION, PeerLimits
from peer.link import Link, Lost
from peer.manifest import LIMITS as MANIFEST_LIMITS
from peer.messages import GetManifest, Have, Hello, Request
from peer.pieces import HASH_BYTES, Run, Span
from peer.ranges import Ranges
from peer.store import Store
from peer.swarm import Ask, AskManifest, Decision, Done, GiveUp, Swarm, Wait
from tracker_raft.commands import Operation, PeerRecord, check_int
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest

BUFFER_BYTES_MIN = 256 * 1024
"""Small pieces are received together up to this."""
WAIT_S = 1.0
"""Every fact wakes who waits; this is for the one that a later change forgets to tell."""
BITMAP_BYTES_MAX = MANIFEST_LIMITS.manifest_bytes_max // HASH_BYTES // 8
"""No content has more pieces than hashes fit a manifest."""


class Task(Protocol):
    """What a connection needs of its download. ``changed`` guards ``swarm`` and ``stopped``."""

    @property
    def changed(self) -> threading.Condition: ...
    @property
    def swarm(self) -> Swarm: ...
    @property
    def content(self) -> bytes: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def store(self) -> Store | None:
        """Set before the swarm is told of the manifest."""

    def manifest_size(self, announced: object) -> int:
        """The size of the manifest that a peer announces. Raises :class:`BadRequest`."""

    def describe(self, encoded: bytearray) -> None:
        """Take the manifest. Raises :class:`BadRequest` when it is not that of the content."""


@dataclass(slots=True)
class _Pending:
    number: int
    run: Run


class Source:
    """A connection to one peer, from :meth:`open` to :meth:`close`; one thread uses it."""

    def __init__(self, task: Task, record: PeerRecord, limits: PeerLimits, own_peer: str) -> None:
        self._task = task
        self._record = record
        self._limits = limits
        self._own_peer = own_peer
        self._peer = record.peer
        self._link: Link | None = None
        self._pending: deque[_Pending] = deque()
        self._number = 0
        self._buffer = memoryview(bytearray(0))
        self.asked = False
        """Whether it was asked for anything of the content."""
        self.bytes_verified = 0
        self.bytes_payload = 0
        """Bytes of manifest and pieces that came in, right or wrong: a sign of life."""

    def open(self) -> None:
        """Connect. Raises :class:`Lost`, and :class:`BadRequest` for what is no address."""
        limits = self._limits
        self._link = Link.connect(
            Address.parse(self._record.address),
            connect_timeout_s=limits.connect_timeout_s,
            progress_timeout_s=limits.progress_timeout_s,
            progress_bytes_min=limits.progress_bytes_min,
        )

    def greet(self) -> Ranges | None:
        """Say hello, and ask a partial peer what it has: None is all.

        Raises :class:`Lost`, :class:`~peer.messages.Answered`, :class:`BadRequest`.
        """
        hello = Hello(PEER_PROTOCOL_VERSION, self._own_peer)
        self._send(messages.encode_request(0, hello))
        messages.parse_reply(0, self._frame())
        if self._record.complete:
            return None
        result = self._ask(Have(self._task.content))
        if result.get("complete") is True:
            return None
        size = check_int("bytes", result.get("bytes"), 0, BITMAP_BYTES_MAX)
        bitmap = bytearray(size)
        self._receive(memoryview(bitmap))
        return Ranges.from_bitmap(bytes(bitmap), size * 8)

    def transfer(self, depth: int) -> None:
        """Do what the swarm decides until it is done, gives this peer up, or the task stops.

        Raises :class:`Lost`, :class:`Answered`, :class:`BadRequest`, :class:`LocalError`; what
        was asked and not delivered is then free again.
        """
        try:
            while not self._task.stopped:
                decision = self._ask_ahead(depth)
                if self._pending:
                    self._receive_run()
                elif isinstance(decision, AskManifest):
                    self._fetch_manifest()
                elif isinstance(decision, Done | GiveUp):
                    return
        finally:
            with self._task.changed:
                for pending in self._pending:
                    self._task.swarm.ended(self._peer, pending.run)
                self._pending.clear()
                self._task.changed.notify_all()

    def abort(self) -> None:
        """Wake the thread; from any thread."""
        link = self._link
        if link is not None:
            link.abort()

    @property
    def is_open(self) -> bool:
        """Whether it has connected, now or before."""
        return self._link is not None

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    # -- asking -----------------------------------------------------------------------------------

    def _ask_ahead(self, depth: int) -> Decision | None:
        """Send requests until ``depth`` are unanswered; the decision that ended it, if any.

        When there is nothing to ask and nothing to receive it waits for the next fact.
        """
        requests = []
        decision: Decision | None = None
        with self._task.changed:
            while len(self._pending) < depth:
                decision = self._task.swarm.next(self._peer)
                if not isinstance(decision, Ask):
                    break
                run = decision.run
                self._number += 1
                self._pending.append(_Pending(self._number, run))
                requests.append(Request(self._task.content, run.first, run.count))
            if isinstance(decision, Wait) and not self._pending and not self._task.stopped:
                # Under the same lock as the decision: no fact can slip in between.
                self._task.changed.wait(WAIT_S)
        if requests:
            self.asked = True
            numbers = range(self._number - len(requests) + 1, self._number + 1)
            frames = map(messages.encode_request, numbers, requests)
            self._send(b"".join(frames))
        return decision

    def _fetch_manifest(self) -> None:
        self.asked = True
        try:
            result = self._ask(GetManifest(self._task.content))
            encoded = bytearray(self._task.manifest_size(result.get("bytes")))
            self._receive(memoryview(encoded))
            self.bytes_payload += len(encoded)
            self._task.describe(encoded)
        finally:
            with self._task.changed:
                self._task.swarm.manifest_ended(self._peer)
                self._task.changed.notify_all()

    # -- receiving --------------------------------------------------------------------------------

    def _receive_run(self) -> None:
        """Receive the oldest run asked for; tell the swarm what of it is right."""
        pending, store = self._pending[0], self._task.store
        if store is None:
            raise AssertionError("a run was asked for before the content was described")
        run = pending.run
        right = run.first
        try:
            result = messages.parse_reply(pending.number, self._frame())
            spans = list(store.manifest.pieces.spans(run.first, run.count))
            expected = sum(span.length for span in spans)
            if result.get("bytes") != expected:
                raise BadRequest(
                    f"announced {result.get('bytes')!r} bytes for run {run} of {expected}"
                )
            if not self._buffer:
                size = max(store.manifest.piece_bytes, BUFFER_BYTES_MIN)
                self._buffer = memoryview(bytearray(size))
            for batch, size in _batches(spans, len(self._buffer)):
                self._receive(self._buffer[:size])
                self.bytes_payload += size
                place = 0
                for span in batch:
                    data = self._buffer[place : place + span.length]
                    if not store.put(span, data):
                        raise BadRequest(f"sent wrong bytes for piece {span.piece}")
                    place += span.length
                    right = span.piece + 1
                    self.bytes_verified += span.length
        finally:
            self._pending.popleft()
            self._end_run(run, right)

    def _end_run(self, run: Run, right: int) -> None:
        """Verified up to ``right``; the rest of the run is free again."""
        with self._task.changed:
            swarm = self._task.swarm
            swarm.verified(run.first, right - run.first)
            swarm.ended(self._peer, run)
            if right < run.end or swarm.done:
                self._task.changed.notify_all()

    # -- frames -----------------------------------------------------------------------------------

    def _ask(self, operation: Operation) -> messages.Result:
        self._number += 1
        self._send(messages.encode_request(self._number, operation))
        return messages.parse_reply(self._number, self._frame())

    def _connected(self) -> Link:
        if self._link is None:
            raise Lost("is not connected")
        return self._link

    def _send(self, data: bytes) -> None:
        self._connected().send(data)

    def _frame(self) -> messages.Result:
        return self._connected().receive_frame(self._limits.frame_bytes_max)

    def _receive(self, view: memoryview) -> None:
        self._connected().receive_into(view)

    def __repr__(self) -> str:
        return f"<Source {self._peer} at {self._record.address}, {len(self._pending)} pending>"


def _batches(spans: list[Span], bytes_max: int) -> list[tuple[list[Span], int]]:
    """Spans put together as long as they fit ``bytes_max``, with the bytes of each batch."""
    batches: list[tuple[list[Span], int]] = []
    batch: list[Span] = []
    size = 0
    for span in spans:
        if batch and size + span.length > bytes_max:
            batches.append((batch, size))
            batch, size = [], 0
        batch.append(span)
        size += span.length
    batches.append((batch, size))
    return batches
