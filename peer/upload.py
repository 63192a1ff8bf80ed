"""One connection that is served: reads requests, answers them in order, tells of new pieces.

Its thread is the only one that reads and answers. News of pieces may come from another thread, in
between two answers: whoever sends holds the lock ``_sending`` for as long as its bytes belong
together. News never waits for the other side; what it does not take stays for later.

The connection belongs to a seeder, which it sees as a :class:`Host`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from peer import messages
from peer.limits import PEER_PROTOCOL_VERSION, PeerLimits
from peer.link import close, set_timeouts
from peer.messages import Cancel, GetManifest, Have, Hello, Request
from peer.offers import Offers
from peer.pieces import Span
from peer.shared import Content
from peer.throttle import Throttle
from tracker_raft import wire
from tracker_raft.commands import Operation, PeerRecord
from tracker_raft.errors import BadRequest, Busy, LimitReached, LocalError, NotFound, P2PError

GATHER_BYTES = 256 * 1024
GATHER_BYTES_MAX = 1024 * 1024
"""The buffer for small pieces, of one connection; the second where a run of them is longer."""
SMALL_BYTES = 64 * 1024
"""Pieces up to this are gathered: below it one more system call costs more than the copy."""
LINGER_S = 0.5
LINGER_BYTES = 1024 * 1024
"""How long, and how much, a refused peer is still listened to, so that it reads why."""
CONNECT_AGAIN_S = 0.25
"""When somebody who found all connections taken is to try again, about: until then it has heard
of others."""
READ_BYTES = 4096
FEATURES = ("news", "cancel")
"""Said in the hello: what a peer of this version understands beyond the first one."""

_log = logging.getLogger(__name__)


class Host(Protocol):
    """What a connection needs of its seeder. Any thread."""

    @property
    def peer(self) -> str: ...
    @property
    def limits(self) -> PeerLimits: ...
    @property
    def offers(self) -> Offers: ...
    @property
    def up(self) -> Throttle: ...
    @property
    def turned_away(self) -> Mapping[str, str]:
        """Peers that are not served any more, and why."""

    def slot(self, upload: Upload) -> None:
        """Raises :class:`Busy` when it is not its turn to be sent pieces."""

    def turn(self, upload: Upload) -> AbstractContextManager[None]:
        """Inside the ``with`` it is its turn to be sent a run; waits for that."""

    def pause(self, seconds: float) -> None:
        """Wait, unless the seeder is closed meanwhile."""

    def turn_away(self, peer: str, reason: str) -> None:
        """Serve this peer no more."""


class Upload:
    """One connection. :meth:`abort` and :meth:`tell` are for any thread."""

    def __init__(self, host: Host, connection: socket.socket, remote: str) -> None:
        self._host = host
        self._limits = host.limits
        self._socket = connection
        self._remote = remote
        self._buffer = memoryview(bytearray(0))
        self._queue: deque[tuple[int, Operation]] = deque()
        self._cancelled: set[int] = set()
        self._decoder = wire.FrameDecoder(self._limits.frame_bytes_max)
        self._sending = threading.Lock()
        self._unsent = b""
        """The rest of a frame of news. Guarded by ``_sending``."""
        self._following: set[bytes] = set()
        self.peer = ""
        """Who is served; empty before its hello."""
        self.bytes_sent = 0
        self.may_go = threading.Event()
        """Set when it is its turn."""

    def run(self) -> None:
        """Serve until the other side leaves or breaks the protocol."""
        try:
            set_timeouts(self._socket, self._limits.hello_timeout_s, self._limits.send_timeout_s)
            while self._read():
                while self._queue:
                    self._answer(*self._queue.popleft())
                    self._read_ahead()
        except BadRequest as error:
            if self.peer:
                self._host.turn_away(self.peer, error.message)
            self._refuse(error)
        except (OSError, P2PError) as error:
            # Gone, silent for too long, or a file that broke behind its header.
            _log.debug("connection from %s ended: %s", self._remote, error)
        finally:
            with self._sending:
                self._socket.close()

    def abort(self) -> None:
        """Wake the thread that serves it; from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def say_busy(self) -> None:
        """Answer ``busy`` and close, without a wait."""
        busy = Busy("this peer serves as many connections as it may", retry_after_s=CONNECT_AGAIN_S)
        with contextlib.suppress(OSError):
            self._socket.setblocking(False)
            self._socket.send(messages.encode_error(0, busy))
        close(self._socket)

    def tell(self) -> bool:
        """Send news of pieces, as much as the other side takes at once. False: more is left."""
        if not self._sending.acquire(blocking=False):
            return False
        try:
            if not self._unsent:
                for content in tuple(self._following):
                    if runs := self._host.offers.news(content, self):
                        self._unsent += messages.encode_news(content, runs)
            if self._unsent:
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT)
                self._unsent = self._unsent[sent:]
            return not self._unsent
        except BlockingIOError:
            return False
        except OSError:
            return True  # closed; its thread knows
        finally:
            self._sending.release()

    def _refuse(self, error: P2PError) -> None:
        with contextlib.suppress(OSError):
            with self._sending:
                self._socket.sendall(self._unsent + messages.encode_error(0, error))
                self._unsent = b""
            # Closing with unread bytes would reset the connection and take the answer with it.
            self._socket.shutdown(socket.SHUT_WR)
            set_timeouts(self._socket, LINGER_S, LINGER_S)
            heard = 0
            while heard < LINGER_BYTES and (data := self._socket.recv(65536)):
                heard += len(data)

    # -- requests ---------------------------------------------------------------------------------

    def _read(self, flags: int = 0) -> bool:
        """Put what comes into the queue; False: the other side has closed."""
        data = self._socket.recv(READ_BYTES, flags)
        for message in self._decoder.feed(data):
            number, operation = messages.parse(message)
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s asks %s", self._remote, wire.elide(message))
            if not self.peer and not isinstance(operation, Hello):
                raise BadRequest(f"the first frame is {operation.op!r}, expected 'hello'")
            if isinstance(operation, Hello):
                self._greeted(operation)
            if isinstance(operation, Cancel):
                waiting = {queued for queued, _ in self._queue}
                self._cancelled.update(waiting.intersection(operation.requests))
                continue
            self._queue.append((number, operation))
            if len(self._queue) > self._limits.requests_queued_max:
                raise BadRequest(
                    f"over {self._limits.requests_queued_max} requests sent ahead of the answers"
                )
        return bool(data)

    def _read_ahead(self) -> None:
        """What has come meanwhile: it may cancel what waits."""
        with contextlib.suppress(BlockingIOError):
            while self._queue and self._read(socket.MSG_DONTWAIT):
                pass

    def _greeted(self, hello: Hello) -> None:
        if (reason := self._host.turned_away.get(hello.peer)) is not None:
            raise BadRequest(f"{hello.peer} is not served any more: {reason}")
        self.peer = hello.peer
        set_timeouts(self._socket, self._limits.idle_timeout_s, self._limits.send_timeout_s)

    def _answer(self, number: int, operation: Operation) -> None:
        """Answer one request. Raises :class:`BadRequest` for what no peer would send."""
        try:
            if isinstance(operation, Request):
                self._serve_run(number, operation)
            else:
                self._tell_about(number, operation)
        except BadRequest:
            raise
        except P2PError as error:
            self._send_all(messages.encode_error(number, error))

    def _tell_about(self, number: int, operation: Operation) -> None:
        offers = self._host.offers
        if isinstance(operation, Hello):
            self._reply(
                number,
                {
                    "protocol": PEER_PROTOCOL_VERSION,
                    "peer": self._host.peer,
                    "features": list(FEATURES),
                },
            )
        elif isinstance(operation, GetManifest):
            encoded = offers.find(operation.content).encoded
            self._reply(number, {"bytes": len(encoded)}, encoded)
        elif isinstance(operation, Have):
            self._tell_pieces(number, operation)

    def _tell_pieces(self, number: int, have: Have) -> None:
        offers, content = self._host.offers, have.content
        here = offers.here(content, self if have.follow else None)
        result: dict[str, object] = {}
        if have.address:
            record = PeerRecord(self.peer, have.address, False, have.zone)
            result["others"] = messages.encode_others(offers.others(content, self, record))
        if here is None:
            count = offers.find(content).manifest.pieces.count
            result.update(complete=True, start=offers.start(count))
            self._reply(number, result)
            return
        bitmap = here.to_bitmap(offers.find(content).manifest.pieces.count) if here else b""
        result.update(complete=False, bytes=len(bitmap))
        self._reply(number, result, bitmap)
        if have.follow:
            self._following.add(content)

    def _reply(self, number: int, result: Mapping[str, object], payload: bytes = b"") -> None:
        header = messages.encode_ok(number, result)
        with self._sending:
            self._send_unsent()
            self._socket.sendall(header, socket.MSG_MORE if payload else 0)
            if payload:
                self._socket.sendall(payload)

    def _send_all(self, data: bytes) -> None:
        with self._sending:
            self._send_unsent()
            self._socket.sendall(data)

    def _send_unsent(self) -> None:
        if self._unsent:
            self._socket.sendall(self._unsent)
            self._unsent = b""

    def _send_news(self) -> None:
        """Between two answers: on a connection that is always busy :meth:`tell` comes too late."""
        for content in self._following:
            if runs := self._host.offers.news(content, self):
                self._socket.sendall(messages.encode_news(content, runs), socket.MSG_MORE)

    # -- pieces -----------------------------------------------------------------------------------

    def _serve_run(self, number: int, request: Request) -> None:
        if number in self._cancelled:
            self._cancelled.discard(number)
            self._reply(number, {"bytes": 0})
            return
        content = self._host.offers.find(request.content)
        spans = self._spans(content, request)
        total = sum(span.length for span in spans)
        if total > self._limits.run_bytes_max and request.count > 1:
            raise LimitReached(f"run of {total} bytes, limit {self._limits.run_bytes_max}")
        header = messages.encode_ok(number, {"bytes": total})
        if not self._gathers(content, spans, len(header) + total):
            for file in dict.fromkeys(span.file for span in spans):
                content.check(file)
        self._host.slot(self)
        with self._host.turn(self):
            self._send(content, header, spans)

    def _spans(self, content: Content, request: Request) -> list[Span]:
        pieces = content.manifest.pieces
        if request.first + request.count > pieces.count:
            raise NotFound(
                f"pieces {request.first}+{request.count} of a content of {pieces.count} pieces"
            )
        if not content.has(request.first, request.count):
            raise NotFound(f"pieces {request.first}+{request.count} are not all here yet")
        return list(pieces.spans(request.first, request.count))

    def _gathers(self, content: Content, spans: Sequence[Span], size: int) -> bool:
        """Whether an answer of ``size`` bytes is whole small files, all read before anything of it
        is sent, so that what is wrong with one shows in time. Makes the buffer."""
        files = content.manifest.files
        whole = (
            size <= GATHER_BYTES_MAX
            and not self._host.up.limited  # what is limited is to flow, not to gush
            and all(
                span.length <= SMALL_BYTES and files[span.file].size == span.length
                for span in spans
            )
        )
        wanted = GATHER_BYTES_MAX if whole and size > GATHER_BYTES else GATHER_BYTES
        if len(self._buffer) < wanted:
            self._buffer = memoryview(bytearray(wanted))
        return whole

    def _send(self, content: Content, header: bytes, spans: Sequence[Span]) -> None:
        """Send an answer. Raises :class:`P2PError` when nothing of it is out yet; what fails later
        closes the connection: only that tells the peer that its bytes will not come."""
        buffer, up = self._buffer, self._host.up
        filled, begun = len(header), False
        buffer[:filled] = header
        with self._sending:
            self._send_unsent()
            self._send_news()
            try:
                for span in spans:
                    large = span.length > SMALL_BYTES
                    if filled and (large or filled + span.length > len(buffer)):
                        begun = True
                        self._socket.sendall(buffer[:filled], socket.MSG_MORE)
                        filled = 0
                    if large:
                        with content.open(span.file) as fd:
                            self._send_file(fd, span)
                        continue
                    if up.limited:
                        up.wait(span.length, self._host.pause)
                    content.read(span, buffer[filled : filled + span.length])
                    filled += span.length
                    self.bytes_sent += span.length
            except P2PError as error:
                if begun:
                    raise ConnectionAbortedError(str(error)) from error
                raise
            if filled:
                self._socket.sendall(buffer[:filled])

    def _send_file(self, fd: int, span: Span) -> None:
        offset, end = span.offset, span.offset + span.length
        out, up = self._socket.fileno(), self._host.up
        while offset < end:
            size = min(end - offset, up.slice_bytes)
            up.wait(size, self._host.pause)
            sent = os.sendfile(out, fd, offset, size)
            if sent == 0:
                raise LocalError(f"a shared file ends at {offset} bytes, expected {end}")
            offset += sent
            self.bytes_sent += sent
