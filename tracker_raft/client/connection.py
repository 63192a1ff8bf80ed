"""Blocking connections to trackers: one request at a time each, pooled per endpoint.

Rules
-----
* A new connection sends its hello and its first request in one go: one round trip, not two.
* Whoever asks says until when; no socket call waits longer than that deadline. (The system's
  look-up of a host name knows no deadline; addresses in numbers need none.)
* A connection on which anything went wrong, or on which a reply is still owed, is never used
  again: its late reply would be taken for the next one's.
* **Silence is asked about.** A tracker that says nothing for a while is sent a ``ping``, which a
  live one answers at once however busy its log is. One that does not is stopped or cut off, and
  is left long before the deadline. After each answer the next ping waits twice as long.
* :class:`ConnectionLost` says whether the whole request had left this machine. If it had not, the
  tracker has no complete frame and cannot have run it.

``P2P_WIRE_DEBUG=1`` prints the conversation (logger ``tracker_raft.wire``), bytes elided.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable

from tracker_raft import sockets, wire
from tracker_raft.client.deadline import Deadline
from tracker_raft.config import PROTOCOL_VERSION, Address, ClientConfig
from tracker_raft.errors import BadRequest

RECEIVE_BYTES = 64 * 1024
ROUND_TRIPS = 4.0
"""Silence is at least this many times what it took to connect."""
HELLO: wire.Message = {"id": 0, "op": "hello", "protocol": PROTOCOL_VERSION, "features": []}


class ConnectionLost(Exception):
    """An attempt ended without a reply. Internal to the client; ``str()`` says what happened."""

    def __init__(
        self, what: str, *, sent: bool = False, stale: bool = False, silent: bool = False
    ) -> None:
        super().__init__(what)
        self.silent = silent
        """The connection stands, and not even a ping was answered in time."""
        self.sent = sent
        """The request left this machine as a whole: it may have been run."""
        self.stale = stale
        """A connection that had worked was found closed, before any byte of a reply."""


def wire_log() -> logging.Logger | None:
    """The log of the conversation when ``P2P_WIRE_DEBUG=1`` asks for it, else None."""
    if os.environ.get("P2P_WIRE_DEBUG") != "1":
        return None
    log = logging.getLogger("tracker_raft.wire")
    log.setLevel(logging.DEBUG)
    if not log.hasHandlers():  # a switch that prints nothing would be no switch
        log.addHandler(logging.StreamHandler(sys.stderr))
    return log


def dial(address: Address, deadline: Deadline) -> socket.socket:
    """A connected socket. Raises :class:`ConnectionLost`."""
    problem = "has no address"
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ConnectionLost(f"has no known address ({error})") from error
    for family, kind, protocol, _, target in found:
        left_s = deadline.left_s()
        if left_s <= 0:
            raise ConnectionLost("accepted no connection in time")
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left_s)
            sockets.prompt(sock)
            sock.connect(target)
            return sock
        except TimeoutError:
            problem = "accepted no connection in time"
        except ConnectionRefusedError:
            problem = "refused the connection"
        except OSError as error:
            problem = f"was not reached ({error})"
        except BaseException:
            sock.close()
            raise
        sock.close()
    raise ConnectionLost(problem)


class Connection:
    """One connection to a tracker. Belongs to one thread at a time; only :meth:`shutdown` may be
    called from another."""

    def __init__(
        self,
        address: Address,
        sock: socket.socket,
        frame_bytes_max: int,
        on_hello: Callable[[wire.Message], None],
        round_trip_s: float = 0.0,
    ) -> None:
        """``round_trip_s``: what it took to connect."""
        self.address = address
        self.usable = True
        """False: it is to be closed, not to be used again."""
        self.replies = 0
        """Requests answered so far."""
        self._sock = sock
        self._round_trip_s = round_trip_s
        self._frame_bytes_max = frame_bytes_max
        self._decoder = wire.FrameDecoder(frame_bytes_max)
        self._inbox: deque[wire.Message] = deque()
        self._on_hello = on_hello
        self._greeted = False
        self._next_id = 1
        self._log = wire_log()

    def request(
        self, message: wire.Message, deadline: Deadline, silence_s: float = math.inf
    ) -> wire.Message:
        """Send ``message`` under a fresh id and return its reply map.

        ``silence_s``: after this long without a word the tracker is pinged, and left when it does
        not answer that within the same time.
        A reply with id 0 is the tracker's refusal of the connection or of the frame: nothing was
        run. Raises :class:`ConnectionLost`, after which the connection is not usable, and
        :class:`~tracker_raft.errors.TooLarge` before anything is sent, after which it is.
        """
        number = self._take_id()
        outgoing = [{"id": number, **message}]
        if not self._greeted:
            outgoing.insert(0, HELLO)
        data = b"".join(wire.encode(each, self._frame_bytes_max) for each in outgoing)
        if self._log:
            for each in outgoing:
                self._log.debug("%s <- %s", self.address, wire.elide(each))
        self.usable = False
        self._send(data, deadline)
        reply = self._receive(number, deadline, silence_s)
        self.replies += 1
        self.usable = reply["id"] == number
        return reply

    def _take_id(self) -> int:
        number, self._next_id = self._next_id, self._next_id + 1
        return number

    def is_stale(self) -> bool:
        """Whether an idle connection was closed by its tracker (or holds what nobody asked for).

        Asking the kernel before sending keeps the question "was it run?" from arising at all in
        the most frequent case, a tracker that was restarted.
        """
        try:
            self._sock.settimeout(0)
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def shutdown(self) -> None:
        """Wake a thread that waits in :meth:`request`; it gets :class:`ConnectionLost`."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # not connected any more: nobody waits on it

    def close(self) -> None:
        self.usable = False
        self._sock.close()

    def __repr__(self) -> str:
        return f"<Connection {self.address} usable={self.usable} replies={self.replies}>"

    def _send(self, data: bytes, deadline: Deadline) -> None:
        try:
            # 1 ms at least: a time-out of 0 means "do not block" to a socket, not "in time".
            self._sock.settimeout(max(deadline.left_s(), 0.001))
            self._sock.sendall(data)
        except TimeoutError as error:
            raise ConnectionLost("took no request in time") from error
        except OSError as error:
            stale = self.replies > 0
            raise ConnectionLost(f"broke the connection ({error})", stale=stale) from error
        self._greeted = True

    def _receive(self, number: int, deadline: Deadline, silence_s: float) -> wire.Message:
        asked_s = deadline.left_s()
        silence_s = max(silence_s, ROUND_TRIPS * self._round_trip_s)
        heard = pinged = False
        quiet_s = silence_s
        while True:
            reply = self._reply_among(number)
            if reply is not None:
                return reply
            left_s = deadline.left_s()
            if left_s <= 0:
                raise ConnectionLost(f"was silent for {asked_s:.3g} s", sent=True)
            patience_s = silence_s if pinged else quiet_s
            if self._read(min(left_s, patience_s), heard):
                heard = True
                if pinged:
                    pinged, quiet_s = False, quiet_s * 2
            elif left_s <= patience_s:
                continue  # the time is over, or all but
            elif pinged:
                for_s = asked_s - deadline.left_s()
                raise ConnectionLost(
                    f"was silent for {for_s:.3g} s and answered no ping", sent=True, silent=True
                )
            else:
                pinged = True
                self._ping(deadline)

    def _reply_among(self, number: int) -> wire.Message | None:
        """The reply to request ``number`` among what was read; all else is taken note of."""
        while self._inbox:
            message = self._inbox.popleft()
            if self._log:
                self._log.debug("%s -> %s", self.address, wire.elide(message))
            if message.get("id") == number or (message.get("id") == 0 and "error" in message):
                return message
            if message.get("id") == 0:
                self._on_hello(message)
        return None

    def _ping(self, deadline: Deadline) -> None:
        try:
            self._send(wire.encode({"id": self._take_id(), "op": "ping"}, RECEIVE_BYTES), deadline)
        except ConnectionLost as lost:  # the request itself had left before
            raise ConnectionLost(str(lost), sent=True) from lost

    def _read(self, wait_s: float, heard: bool) -> bool:
        """Whether something was read within ``wait_s``."""
        try:
            self._sock.settimeout(wait_s)
            data = self._sock.recv(RECEIVE_BYTES)
        except TimeoutError:
            return False
        except OSError as error:
            stale = self.replies > 0 and not heard
            text = f"broke the connection ({error})"
            raise ConnectionLost(text, sent=True, stale=stale) from error
        if not data:
            stale = self.replies > 0 and not heard
            text = "closed the connection " + ("in mid-reply" if heard else "without an answer")
            raise ConnectionLost(text, sent=True, stale=stale)
        try:
            self._inbox.extend(self._decoder.feed(data))
        except BadRequest as error:
            raise ConnectionLost(f"did not speak as a tracker ({error})", sent=True) from error
        return True


class ConnectionPool:
    """Idle connections per endpoint, the last used first; knows those in use too. Thread-safe.

    Decides under its lock, dials and closes outside it.
    """

    def __init__(self, config: ClientConfig, on_hello: Callable[[wire.Message], None]) -> None:
        self._config = config
        self._on_hello = on_hello
        self._lock = threading.Lock()
        self._idle: dict[Address, list[Connection]] = {}
        self._in_use: set[Connection] = set()
        self._closed = False

    def take(self, address: Address) -> Connection | None:
        """An idle connection that still stands, or None. Hand it back by :meth:`give_back`."""
        while True:
            with self._lock:
                idle = self._idle.get(address)
                if not idle:
                    return None
                connection = idle.pop()
                self._in_use.add(connection)
            if not connection.is_stale():
                return connection
            connection.usable = False
            self.give_back(connection)

    def connect(self, address: Address, deadline: Deadline) -> Connection:
        """A new connection. Raises :class:`ConnectionLost`. Hand it back by :meth:`give_back`."""
        left_s = deadline.left_s()
        sock = dial(address, deadline)
        took_s = left_s - deadline.left_s()
        connection = Connection(
            address, sock, self._config.frame_bytes_max, self._on_hello, round_trip_s=took_s
        )
        with self._lock:
            closed = self._closed
            if not closed:
                self._in_use.add(connection)
        if closed:
            connection.close()
            raise ConnectionLost("was not asked: this client was closed")
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request if it is usable and there is room, else close it."""
        with self._lock:
            self._in_use.discard(connection)
            idle = self._idle.setdefault(connection.address, [])
            room = len(idle) < self._config.idle_connections_max
            keep = connection.usable and room and not self._closed
            if keep:
                idle.append(connection)
        if not keep:
            connection.close()

    def forget(self, address: Address) -> None:
        """Close the idle connections to an endpoint that was found dead."""
        with self._lock:
            idle = self._idle.pop(address, [])
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close all; threads that wait on one get :class:`ConnectionLost`."""
        with self._lock:
            self._closed = True
            idle = [connection for some in self._idle.values() for connection in some]
            self._idle.clear()
            in_use = list(self._in_use)
        for connection in idle:
            connection.close()
        for connection in in_use:  # its own thread closes it
            connection.shutdown()

    def abandon(self) -> None:
        """In a forked child: close this process's copies. Takes no lock, for the thread that held
        it may not exist here, and shuts nothing down, for the parent goes on using them."""
        for some in self._idle.values():
            for connection in some:
                connection.close()
        for connection in self._in_use:
            connection.close()

    def __repr__(self) -> str:
        with self._lock:
            idle = {str(address): len(some) for address, some in self._idle.items() if some}
            return f"<ConnectionPool idle={idle} in_use={len(self._in_use)}>"
