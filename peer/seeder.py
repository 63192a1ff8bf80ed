"""Serves pieces: a listening socket, a thread for each connection, ``sendfile``.

Rules
-----
* Whatever arrives, the process goes on: a malformed frame is answered with one error frame and
  the connection is closed; running out of descriptors or threads costs the newcomer alone.
* Everything is bounded: connections, the frame that is read, the silence that is borne, the
  bytes one request may ask for. Requests sent ahead wait in the kernel's buffer, not in memory.
* Who floods (``requests_queued_max`` requests ahead, frames beyond the limit) or talks nonsense is
  closed, and turned away by its name from then on, with the reason.
* Slots: at most ``upload_slots_max`` connections are sent pieces at a time, others are answered
  ``busy`` with a time to come back (:mod:`peer.slots`). ``up_bytes_s`` holds for all together.
* Turns: of those, few are sent a run at a time, one after the other (:mod:`peer.turns`).
* Peers are told of new pieces as they come (:mod:`peer.offers`), but never in the middle of an
  answer.
* A header is sent only when the files it speaks of are still what was shared. What fails after
  the header closes the connection, because the bytes it promised cannot be taken back.

Small pieces are read into one buffer and sent together with their header; larger ones go from
the page cache to the socket without passing through this process.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from peer.limits import PeerLimits
from peer.link import close, tune
from peer.offers import Knows, Met, Offers
from peer.ranges import Ranges
from peer.shared import Content
from peer.slots import Slots
from peer.throttle import Throttle
from peer.turns import Turns
from peer.upload import Upload
from tracker_raft.config import Address, require_loopback
from tracker_raft.errors import Busy, LocalError

ACCEPT_PAUSE_S = 0.1
"""After the system refused a new connection (no descriptors, no memory)."""

TURNED_AWAY_MAX = 256

_log = logging.getLogger(__name__)


class Seeder:
    """Serves ``contents`` at ``address`` from the moment it is made until :meth:`close`.

    ``contents`` are complete ones; it is read on every request, by many threads, and may change
    meanwhile. What is under download comes and goes by :meth:`add` and :meth:`remove`.
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
        self.offers = Offers(contents)
        self.up = Throttle(self.limits.up_bytes_s)
        self._listener = _listen(bind)
        host, port = self._listener.getsockname()[:2]
        self.address = Address(host, port)
        """Where it listens; the port is the real one when 0 was asked for."""
        self._ended_bytes_sent = 0
        self._closing = threading.Event()
        self._slots = Slots(self.limits)
        self._turns: Turns[Upload] = Turns(self.limits)
        self._turn_lock = threading.Lock()
        self._turned_away: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()
        self._sessions: dict[Upload, threading.Thread] = {}
        self._acceptor = threading.Thread(target=self._accept_all, name="seeder-accept")
        self._teller = threading.Thread(target=self._tell_all, name="seeder-tell")
        self._acceptor.start()
        self._teller.start()

    # -- contents under download ------------------------------------------------------------------

    def expect(self, content: bytes, met: Met) -> None:
        """``content`` is about to be put in by :meth:`add`; ``met`` hears of peers that fetch it
        as well, in any thread, until :meth:`remove`."""
        self.offers.expect(content, met)

    def add(self, content: Content, here: Ranges | None, knows: Knows | None = None) -> None:
        """Serve ``content`` as well, of which the pieces ``here`` (None: all) are there now.

        ``knows``: the pieces that the peer of a given name has; it is not told of those.
        """
        self.offers.add(content, here, knows)

    def gained(self, content: bytes, first: int, count: int) -> None:
        """These pieces of a content that was added are there as well; peers are told soon."""
        self.offers.gained(content, first, count)

    def remove(self, content: bytes) -> None:
        """Serve it no more; connections that follow it are closed."""
        for listener in self.offers.remove(content):
            listener.abort()

    # -- for connections --------------------------------------------------------------------------

    @property
    def bytes_sent(self) -> int:
        """Payload bytes of pieces, up to now."""
        with self._lock:
            now_sent: int = sum(one.bytes_sent for one in self._sessions)
            return self._ended_bytes_sent + now_sent

    def slot(self, upload: Upload) -> None:
        """Raises :class:`Busy` when it is not its turn to be sent pieces."""
        with self._lock:
            retry_s = self._slots.take(upload, time.monotonic())
        if retry_s:
            raise Busy(
                f"all {self.limits.upload_slots_max} upload slots are in use", retry_after_s=retry_s
            )

    @contextmanager
    def turn(self, upload: Upload) -> Iterator[None]:
        """Inside it is the turn of ``upload`` to be sent a run; waits for that."""
        with self._turn_lock:
            upload.may_go.clear()
            going = self._turns.ask(upload, time.monotonic())
        try:
            while not going and not self._closing.is_set():
                with self._turn_lock:
                    self._next_turns()
                    wait_s = self._turns.wait_s(time.monotonic())
                going = upload.may_go.wait(wait_s)
            yield
        finally:
            with self._turn_lock:
                self._turns.leave(upload)
                self._next_turns()

    def _next_turns(self) -> None:
        """Let those go whose turn it is."""
        while (upload := self._turns.next(time.monotonic())) is not None:
            upload.may_go.set()

    def pause(self, seconds: float) -> None:
        """Wait, unless it is closed meanwhile."""
        self._closing.wait(seconds)

    def turn_away(self, peer: str, reason: str) -> None:
        """Serve ``peer`` no more."""
        _log.warning("peer %s is not served any more: %s", peer, reason)
        with self._lock:
            self._turned_away[peer] = reason
            while len(self._turned_away) > TURNED_AWAY_MAX:
                self._turned_away.popitem(last=False)

    @property
    def turned_away(self) -> dict[str, str]:
        """Peers that are not served any more, and why."""
        with self._lock:
            return dict(self._turned_away)

    def close(self) -> None:
        """Stop serving; all threads have ended and all sockets are closed when it returns."""
        self._closing.set()
        self.offers.changed.set()
        close(self._listener)
        self._acceptor.join()
        self._teller.join()
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
        session = Upload(self, connection, host)
        thread = threading.Thread(target=self._serve, args=(session,), name="seeder-serve")
        with self._lock:
            full = len(self._sessions) >= self.limits.serve_connections_max
            if not full:
                self._sessions[session] = thread
        if full:
            session.say_busy()
            return
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more threads
            _log.warning("cannot serve a connection: %s", error)
            self._forget(session)
            session.say_busy()

    def _tell_all(self) -> None:
        while True:
            self.offers.changed.wait()
            if self._closing.wait(self.limits.tell_interval_s):
                return
            told = [listener.tell() for listener in self.offers.behind()]
            if not all(told):
                self.offers.changed.set()

    def _serve(self, session: Upload) -> None:
        try:
            session.run()
        finally:
            self._forget(session)

    def _forget(self, session: Upload) -> None:
        with self._lock:
            if self._sessions.pop(session, None) is not None:
                self._ended_bytes_sent += session.bytes_sent
            self._slots.leave(session)
        self.offers.forget(session)

    def __repr__(self) -> str:
        return f"<Seeder {self.peer} at {self.address}, {len(self._sessions)} connections>"


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
