"""Serves pieces: a listening socket, a thread for each connection, ``sendfile``.

Rules
-----
* Whatever arrives, the process goes on: a malformed frame is answered with one error frame and
  the connection is closed; running out of descriptors or threads costs the newcomer alone.
* Everything is bounded: connections, the frame that is read, the silence that is borne, the
  bytes one request may ask for. Requests sent ahead wait in the kernel's buffer, not in memory.
* A header is sent only when the files it speaks of are still what was shared. What fails after
  the header closes the connection, because the bytes it promised cannot be taken back.

Small pieces are read into one buffer and sent together with their header; larger ones go from
the page cache to the socket without passing through this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterable, Mapping

from peer import messages
from peer.limits import PEER_PROTOCOL_VERSION, PeerLimits
from peer.link import close, set_timeouts, tune
from peer.messages import GetManifest, Have, Hello, Request
from peer.pieces import Span
from peer.shared import Content
from tracker_raft import wire
from tracker_raft.commands import Operation
from tracker_raft.config import Address, require_loopback
from tracker_raft.errors import BadRequest, Busy, LimitReached, LocalError, NotFound, P2PError

GATHER_BYTES = 256 * 1024
"""The buffer for small pieces; of one connection."""
SMALL_BYTES = 64 * 1024
"""Pieces up to this are gathered: below it one more system call costs more than the copy."""
LINGER_S = 0.5
LINGER_BYTES = 1024 * 1024
"""How long, and how much, a refused peer is still listened to, so that it reads why."""
ACCEPT_PAUSE_S = 0.1
"""After the system refused a new connection (no descriptors, no memory)."""

_log = logging.getLogger(__name__)


class Seeder:
    """Serves ``contents`` at ``address`` from the moment it is made until :meth:`close`.

    ``contents`` is read on every request, by many threads, and may change meanwhile.
    Raises :class:`BadRequest` for an address beyond this machine without ``insecure``,
    :class:`LocalError` when it cannot listen there.
    """

    def __init__(
        self,
        peer: str,
        contents: Mapping[bytes, Content],
        bind: Address,
        *,
        insecure: bool = False,
        limits: PeerLimits | None = None,
    ) -> None:
        require_loopback("peer address", bind, insecure)
        self.peer = peer
        self.limits = limits or PeerLimits()
        self._contents = contents
        self._listener = _listen(bind)
        host, port = self._listener.getsockname()[:2]
        self.address = Address(host, port)
        """Where it listens; the port is the real one when 0 was asked for."""
        self.bytes_sent = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._sessions: dict[_Session, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept_all, name="seeder-accept")
        self._acceptor.start()

    def content(self, content: bytes) -> Content:
        """Raises :class:`NotFound`."""
        found = self._contents.get(content)
        if found is None:
            raise NotFound(f"content {content.hex()} is not served here")
        return found

    def close(self) -> None:
        """Stop serving; all threads have ended and all sockets are closed when it returns."""
        self._closing.set()
        close(self._listener)
        self._acceptor.join()
        with self._lock:
            sessions = dict(self._sessions)
        for session in sessions:
            session.abort()
        for thread in sessions.values():
            thread.join()

    def _accept_all(self) -> None:
        while not self._closing.is_set():
            try:
                connection, remote = self._listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    _log.warning("cannot accept a connection: %s", error)
                    self._closing.wait(ACCEPT_PAUSE_S)
                continue
            self._admit(connection, remote[0])

    def _admit(self, connection: socket.socket, host: str) -> None:
        session = _Session(self, connection, host)
        thread = threading.Thread(target=self._serve, args=(session,), name="seeder-serve")
        with self._lock:
            full = len(self._sessions) >= self.limits.serve_connections_max
            if not full:
                self._sessions[session] = thread
        if full:
            session.turn_away()
            return
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            _log.warning("cannot serve a connection: %s", error)
            self._forget(session)
            session.turn_away()

    def _serve(self, session: _Session) -> None:
        try:
            session.run()
        finally:
            self._forget(session)

    def _forget(self, session: _Session) -> None:
        with self._lock:
            self._sessions.pop(session, None)
            self.bytes_sent += session.bytes_sent

    def __repr__(self) -> str:
        return f"<Seeder {self.peer} at {self.address}, {len(self._sessions)} connections>"


class _Session:
    """One connection; its thread is the only one that uses it, but for :meth:`abort`."""

    def __init__(self, seeder: Seeder, connection: socket.socket, host: str) -> None:
        self._seeder = seeder
        self._limits = seeder.limits
        self._socket = connection
        self._host = host
        self._buffer = memoryview(bytearray(0))
        self._greeted = False
        self.bytes_sent = 0

    def run(self) -> None:
        decoder = wire.FrameDecoder(self._limits.frame_bytes_max)
        try:
            set_timeouts(self._socket, self._limits.hello_timeout_s, self._limits.send_timeout_s)
            while data := self._socket.recv(4096):
                for message in decoder.feed(data):
                    self._answer(message)
        except BadRequest as error:
            self._refuse(error)
        except (OSError, P2PError) as error:
            # Gone, silent for too long, or a file that broke behind its header.
            _log.debug("connection from %s ended: %s", self._host, error)
        finally:
            self._socket.close()

    def abort(self) -> None:
        """Wake the thread that serves it; from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def turn_away(self) -> None:
        """Answer ``busy`` and close, without a wait."""
        busy = Busy("this peer serves as many connections as it may", retry_after_s=1.0)
        with contextlib.suppress(OSError):
            self._socket.setblocking(False)
            self._socket.send(messages.encode_error(0, busy))
        close(self._socket)

    def _refuse(self, error: P2PError) -> None:
        with contextlib.suppress(OSError):
            self._socket.sendall(messages.encode_error(0, error))
            # Closing with unread bytes would reset the connection and take the answer with it.
            self._socket.shutdown(socket.SHUT_WR)
            set_timeouts(self._socket, LINGER_S, LINGER_S)
            heard = 0
            while heard < LINGER_BYTES and (data := self._socket.recv(65536)):
                heard += len(data)

    def _answer(self, message: wire.Message) -> None:
        """Answer one request. Raises :class:`BadRequest` for what no peer would send."""
        number, operation = messages.parse(message)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("%s asks %s", self._host, wire.elide(message))
        if not self._greeted and not isinstance(operation, Hello):
            raise BadRequest(f"the first frame is {operation.op!r}, expected 'hello'")
        try:
            self._do(number, operation)
        except BadRequest:
            raise
        except P2PError as error:
            self._socket.sendall(messages.encode_error(number, error))

    def _do(self, number: int, operation: Operation) -> None:
        if isinstance(operation, Hello):
            self._greeted = True
            limits = self._limits
            set_timeouts(self._socket, limits.idle_timeout_s, limits.send_timeout_s)
            self._reply(
                number,
                {"protocol": PEER_PROTOCOL_VERSION, "peer": self._seeder.peer, "features": []},
            )
        elif isinstance(operation, GetManifest):
            encoded = self._seeder.content(operation.content).encoded
            self._reply(number, {"bytes": len(encoded)}, encoded)
        elif isinstance(operation, Have):
            bitmap = self._seeder.content(operation.content).bitmap()
            if bitmap is None:
                self._reply(number, {"complete": True})
            else:
                self._reply(number, {"complete": False, "bytes": len(bitmap)}, bitmap)
        elif isinstance(operation, Request):
            self._serve_run(number, operation)

    def _reply(self, number: int, result: Mapping[str, object], payload: bytes = b"") -> None:
        header = messages.encode_ok(number, result)
        self._socket.sendall(header, socket.MSG_MORE if payload else 0)
        if payload:
            self._socket.sendall(payload)

    # -- pieces -----------------------------------------------------------------------------------

    def _serve_run(self, number: int, request: Request) -> None:
        content = self._seeder.content(request.content)
        spans = self._spans(content, request)
        total = sum(span.length for span in spans)
        if total > self._limits.run_bytes_max and request.count > 1:
            raise LimitReached(f"run of {total} bytes, limit {self._limits.run_bytes_max}")
        for file in dict.fromkeys(span.file for span in spans):
            content.check(file)
        try:
            self._send(content, messages.encode_ok(number, {"bytes": total}), spans)
        except P2PError as error:
            # The header may be out: only closing tells the peer that its bytes will not come.
            raise ConnectionAbortedError(str(error)) from error
        self.bytes_sent += total

    def _spans(self, content: Content, request: Request) -> list[Span]:
        pieces = content.manifest.pieces
        if request.first + request.count > pieces.count:
            raise NotFound(
                f"pieces {request.first}+{request.count} of a content of {pieces.count} pieces"
            )
        wanted = range(request.first, request.first + request.count)
        bitmap = content.bitmap()
        if bitmap is not None and not all(_bit(bitmap, piece) for piece in wanted):
            raise NotFound(f"pieces {request.first}+{request.count} are not all here yet")
        return list(pieces.spans(request.first, request.count))

    def _send(self, content: Content, header: bytes, spans: Iterable[Span]) -> None:
        if not self._buffer:
            self._buffer = memoryview(bytearray(GATHER_BYTES))
        buffer = self._buffer
        filled = len(header)
        buffer[:filled] = header
        for span in spans:
            with content.open(span.file) as fd:
                if span.length > SMALL_BYTES:
                    if filled:
                        self._socket.sendall(buffer[:filled], socket.MSG_MORE)
                        filled = 0
                    self._send_file(fd, span)
                    continue
                if filled + span.length > len(buffer):
                    self._socket.sendall(buffer[:filled], socket.MSG_MORE)
                    filled = 0
                _read_span(fd, buffer[filled : filled + span.length], span)
                filled += span.length
        if filled:
            self._socket.sendall(buffer[:filled])

    def _send_file(self, fd: int, span: Span) -> None:
        offset, end = span.offset, span.offset + span.length
        out = self._socket.fileno()
        while offset < end:
            sent = os.sendfile(out, fd, offset, end - offset)
            if sent == 0:
                raise LocalError(f"a shared file ends at {offset} bytes, expected {end}")
            offset += sent


def _read_span(fd: int, view: memoryview, span: Span) -> None:
    filled = 0
    while filled < len(view):
        size = os.preadv(fd, [view[filled:]], span.offset + filled)
        if size == 0:
            raise LocalError(f"a shared file ends at {span.offset + filled} bytes")
        filled += size


def _bit(bitmap: bytes, piece: int) -> bool:
    return bool(bitmap[piece >> 3] & (0x80 >> (piece & 7)))


def _listen(bind: Address) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the second: no name could look like this
        raise LocalError(f"cannot listen on {bind}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune(listener, bind.host)
        listener.bind(place)
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise LocalError(f"cannot listen on {bind}: {error.strerror or error}") from error
    return listener
