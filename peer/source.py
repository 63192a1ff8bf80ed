"""One connection of a download: asks ahead, receives, verifies and writes in one thread.

While there is nothing to ask it waits for both, a fact of the download and news of the peer, by
``poll`` on the socket and on an ``eventfd`` that whoever changes something writes to.

A thread does everything for its connection, with one buffer that it keeps. Handing pieces to
another thread was measured to cost up to a CPU second for each GiB; ``recv``, SHA-256 and
``pwrite`` release the interpreter lock, so two such threads already overlap fully.

The thread belongs to a download, which it sees as a :class:`~peer.task.Task`.
"""

from __future__ import annotations

import itertools
import os
import select
import time
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from peer import messages
from peer.decisions import Ask, AskManifest, Decision, Done, GiveUp, Rest, Wait
from peer.limits import PEER_PROTOCOL_VERSION, PeerLimits
from peer.link import Link, Lost
from peer.messages import PIECES_MAX, Cancel, GetManifest, Have, Hello, Request
from peer.pieces import Run, Span, batches
from peer.ranges import Ranges
from peer.store import Store
from peer.task import Task
from tracker_raft.commands import Operation, PeerRecord, check_int
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, Busy

BUFFER_BYTES_MIN = 256 * 1024
"""Small pieces are received together up to this."""
BITMAP_BYTES_MAX = PIECES_MAX // 8
BUSY_S = 1.0
"""Before a busy peer that did not say when is asked again."""


@dataclass(slots=True)
class _Pending:
    number: int
    run: Run
    cancelled: bool = False


class Greeting(NamedTuple):
    """What a peer says of itself."""

    has: Ranges | None
    """The pieces it has, None for all."""
    start_at: int | None
    """Where it proposes to begin."""
    others: list[PeerRecord]
    """Who fetches from it as well."""


class Source:
    """A connection to one peer, from :meth:`open` to :meth:`close`; one thread uses it."""

    def __init__(self, task: Task, record: PeerRecord, limits: PeerLimits, own_peer: str) -> None:
        self._task = task
        self._record = record
        self._limits = limits
        self._frame_bytes_max = limits.frame_bytes_max
        self._own_peer = own_peer
        self.peer = record.peer
        self._link: Link | None = None
        self._pending: deque[_Pending] = deque()
        self._number = 0
        self._buffer = memoryview(bytearray(0))
        self._features: frozenset[str] = frozenset()
        self._told_pieces = 0
        self._wake_fd = -1
        self._retired = False
        self.asked = False
        """Whether it was asked for anything of the content."""
        self.bytes_verified = 0
        self.rested = False
        """Whether it ended because the peer had nothing to give."""
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

    def greet(self) -> Greeting:
        """Say hello and ask what the peer has, and to be told what it gets.

        Raises :class:`Lost`, :class:`~peer.messages.Answered`, :class:`BadRequest`.
        """
        hello = Hello(PEER_PROTOCOL_VERSION, self._own_peer)
        self._number += 1
        address, zone = self._task.served_at
        have = Have(self._task.content, follow=True, address=address, zone=zone)
        self._send(messages.encode_request(0, hello) + messages.encode_request(self._number, have))
        features = messages.parse_reply(0, self._frame()).get("features", ())
        if isinstance(features, list | tuple):
            self._features = frozenset(word for word in features if isinstance(word, str))
        result = messages.parse_reply(self._number, self._frame())
        others = messages.parse_others(result.get("others"))
        if result.get("complete") is True:
            start = result.get("start")
            if start is not None:
                check_int("start", start, 0, PIECES_MAX)
            return Greeting(None, start, others)
        size = check_int("bytes", result.get("bytes"), 0, BITMAP_BYTES_MAX)
        bitmap = bytearray(size)
        self._receive(memoryview(bitmap))
        return Greeting(Ranges.from_bitmap(bytes(bitmap), size * 8), None, others)

    def transfer(self, depth: int) -> None:
        """Do what the swarm decides until it is done, gives this peer up, or the task stops.

        Raises :class:`Lost`, :class:`Answered`, :class:`BadRequest`, :class:`LocalError`; what
        was asked and not delivered is then free again.
        """
        try:
            while not self._task.stopped:
                decision = self._ask_ahead(0 if self._retired else depth)
                if self._pending:
                    self._receive_run()
                elif self._retired:
                    return
                elif isinstance(decision, AskManifest):
                    self._fetch_manifest()
                elif isinstance(decision, Wait):
                    self._wait(decision.again_s)
                elif isinstance(decision, Done | GiveUp | Rest):
                    self.rested = isinstance(decision, Rest)
                    return
        finally:
            with self._task.changed:
                for pending in self._pending:
                    self._task.swarm.ended(self.peer, pending.run)
                self._pending.clear()
                self._task.waiting.discard(self)
                self._task.wake()

    def retire(self) -> None:
        """End when what was asked for has come; under the lock of the download."""
        self._retired = True
        if self in self._task.waiting:
            self.wake()

    def abort(self) -> None:
        """Wake the thread; from any thread."""
        link = self._link
        if link is not None:
            link.abort()

    @property
    def is_open(self) -> bool:
        """Whether it has connected, now or before."""
        return self._link is not None

    def wake(self) -> None:
        """Let it look what to do; under the lock of the download."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """After :meth:`transfer`, so that nobody wakes it any more."""
        if self._link is not None:
            self._link.close()
        if self._wake_fd >= 0:
            os.close(self._wake_fd)
            self._wake_fd = -1

    # -- asking -----------------------------------------------------------------------------------

    def _ask_ahead(self, depth: int) -> Decision | None:
        """Send requests until ``depth`` are unanswered; the decision that ended it, if any."""
        asked: list[_Pending] = []
        cancelled: list[int] = []
        decision: Decision | None = None
        with self._task.changed:
            now_s = time.monotonic()
            swarm = self._task.swarm
            if len(self._pending) > 1 and "cancel" in self._features:
                cancelled = self._cancel_unneeded()
            while len(self._pending) < depth:
                decision = swarm.next(self.peer, now_s)
                if not isinstance(decision, Ask):
                    break
                self._number += 1
                asked.append(_Pending(self._number, decision.run))
                self._pending.append(asked[-1])
            if isinstance(decision, Wait) and not self._pending:
                # Under the same lock as the decision: no fact can slip in between.
                if self._wake_fd < 0:
                    self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._task.waiting.add(self)
        frames = [
            messages.encode_request(
                one.number, Request(self._task.content, one.run.first, one.run.count)
            )
            for one in asked
        ]
        if cancelled:
            frames.append(messages.encode_request(0, Cancel(tuple(cancelled))))
        if frames:
            self.asked = self.asked or bool(asked)
            self._send(b"".join(frames))
        return decision

    def _cancel_unneeded(self) -> list[int]:
        """Mark the requests that others have answered; the oldest is under way already."""
        numbers = []
        for pending in itertools.islice(self._pending, 1, None):
            if not pending.cancelled and self._task.swarm.unneeded(self.peer, pending.run):
                pending.cancelled = True
                numbers.append(pending.number)
        return numbers

    def _wait(self, seconds: float) -> None:
        """Until a fact wakes it, the peer tells news, or the time is over."""
        link = self._connected()
        poll = select.poll()
        poll.register(link.fileno(), select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
        if link.fileno() in ready:
            message = link.receive_frame(self._limits.frame_bytes_max)
            if not self._is_news(message):
                messages.parse_reply(0, message)  # an error that ends the connection
                raise BadRequest("answered something that was not asked")

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
                self._task.swarm.manifest_ended(self.peer)
                self._task.wake()

    # -- receiving --------------------------------------------------------------------------------

    def _receive_run(self) -> None:
        """Receive the oldest run asked for; tell the swarm what of it is right."""
        pending, store = self._pending[0], self._task.store
        if store is None:
            raise AssertionError("a run was asked for before the content was described")
        run = pending.run
        try:
            result = messages.parse_reply(pending.number, self._frame())
            spans = list(store.manifest.pieces.spans(run.first, run.count))
            expected = sum(span.length for span in spans)
            announced = result.get("bytes")
            if pending.cancelled and announced == 0:
                return
            if announced != expected:
                raise BadRequest(f"announced {announced!r} bytes for run {run} of {expected}")
            self._receive_pieces(store, run, spans)
        except messages.Answered as error:
            if not isinstance(error.error, Busy):
                raise messages.Answered(error.error, f"said it has pieces {run} and ") from error
            with self._task.changed:
                until_s = time.monotonic() + (error.error.retry_after_s or BUSY_S)
                self._task.swarm.busy(self.peer, until_s)
        finally:
            self._pending.popleft()
            self._end_run(run)

    def _receive_pieces(self, store: Store, run: Run, spans: list[Span]) -> None:
        if not self._buffer:
            size = max(store.manifest.piece_bytes, BUFFER_BYTES_MIN)
            self._buffer = memoryview(bytearray(size))
        first, right, right_bytes = run.first, 0, 0
        bring_at_s = time.monotonic() + self._limits.tell_interval_s
        try:
            for batch, size in batches(spans, len(self._buffer)):
                self._task.down.wait(size, self._task.pause)
                self._receive(self._buffer[:size])
                self.bytes_payload += size
                written = store.put(batch, self._buffer[:size])
                right += written
                if written < len(batch):
                    right_bytes += sum(span.length for span in batch[:written])
                    raise BadRequest(f"sent wrong bytes for piece {batch[written].piece}")
                right_bytes += size
                if (now_s := time.monotonic()) >= bring_at_s:
                    bring_at_s = now_s + self._limits.tell_interval_s
                    self._bring(run, first, right, right_bytes)
                    first, right, right_bytes = first + right, 0, 0
        finally:
            if right:
                self._bring(run, first, right, right_bytes)

    def _bring(self, run: Run, first: int, count: int, size: int) -> None:
        """These pieces of a run are on disk. Told together where they come fast: one fact costs
        as much as many."""
        self.bytes_verified += size
        with self._task.changed:
            swarm = self._task.swarm
            swarm.arrived(self.peer, run, first, count, time.monotonic())
            if swarm.done:
                self._task.wake()
        self._task.gained(first, count)

    def _end_run(self, run: Run) -> None:
        """What did not come is free again."""
        with self._task.changed:
            free_before = self._task.swarm.free_count
            self._task.swarm.ended(self.peer, run)
            if self._task.swarm.free_count != free_before:
                self._task.wake()

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
        """The next frame that is no news."""
        while self._is_news(message := self._connected().receive_frame(self._frame_bytes_max)):
            pass
        return message

    def _is_news(self, message: messages.Result) -> bool:
        """Take news of pieces. A piece is told once, so a flood of them breaks the protocol."""
        runs = messages.parse_news(message, self._task.content)
        if runs is None:
            return False
        store = self._task.store
        count = store.manifest.pieces.count if store is not None else PIECES_MAX
        self._told_pieces += sum(run.count for run in runs)
        if self._told_pieces > count:
            raise BadRequest(f"told of {self._told_pieces} pieces of {count}")
        with self._task.changed:
            for run in runs:
                self._task.swarm.told(self.peer, run.first, run.count)
            for other in self._task.waiting:
                if other.peer == self.peer:
                    other.wake()
        return True

    def _receive(self, view: memoryview) -> None:
        self._connected().receive_into(view)

    def __repr__(self) -> str:
        return f"<Source {self.peer} at {self._record.address}, {len(self._pending)} pending>"
