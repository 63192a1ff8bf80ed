"""One client's connection to a tracker, and its share of the loop's turns.

What a request means is for :mod:`tracker_raft.server`; here frames become requests, replies become
frames, and nobody gets more than can be done (D10). Clients send more than that, so what is not
done must be cheap and must not hold up the rest:

* a turn of the loop spends about :data:`TURN_S` on requests; what came beyond that waits, the
  connections in turn, and its connection is not read meanwhile. So consensus has its share of
  every turn, and a loop full of clients misses no heartbeat;
* a write is refused by its word alone, before it is looked at, while as many are under way as can
  be answered in time (:mod:`tracker_raft.raft.pace`);
* a deadline counts from when the bytes were read, not from when they were looked at.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import msgpack

from tracker_raft import commands, wire
from tracker_raft.commands import INTEGER_MAX
from tracker_raft.config import PROTOCOL_VERSION, WireLimits
from tracker_raft.errors import (
    BadRequest,
    Busy,
    OutcomeUnknown,
    P2PError,
    TooLarge,
    Unsupported,
)
from tracker_raft.raft.intake import NOWHERE, Position, Reply

log = logging.getLogger("tracker_raft.server")
wire_log = logging.getLogger("tracker_raft.wire")

RECEIVE_BYTES = 64 * 1024
TURN_S = 0.01
"""A quarter of a heartbeat's period, of CPU time: by the clock on the wall, a process that shares
its processor would find its turn over with nothing done, and read only what is too old to matter.
"""
LOOK_EVERY = 8
"""Requests between two looks at that clock, which is a system call."""
WRITE_WORDS = tuple(cls.op for cls in commands.WRITES)
"""A tuple: what a client sent as its word may be anything, and need not be hashable."""
WIRE_DEBUG = bool(os.environ.get("P2P_WIRE_DEBUG"))

Answer = Callable[[Reply, Position], None]


class TurnBudget:
    """What the connections of one tracker share: the time of a turn, and a buffer to read into."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.buffer = bytearray(RECEIVE_BYTES)
        self._loop = loop
        self._ends_s = 0.0
        self._left = 0
        self._asked = False
        self._later: dict[Connection, None] = {}

    def may_handle(self, connection: Connection) -> bool:
        """Whether one more request fits into this turn; if not, the connection is called again."""
        self._left -= 1
        if self._left >= 0:
            return True
        now_s = time.thread_time()
        if not self._asked:
            self._ask(now_s)
        if now_s < self._ends_s:
            self._left = LOOK_EVERY - 1
            return True
        self._left = 0
        self._later[connection] = None
        return False

    def handle_later(self, connection: Connection) -> None:
        """Call the connection's :meth:`~Connection.handle` in the next turn."""
        self._later[connection] = None
        if not self._asked:
            self._ask(time.thread_time())

    def _ask(self, now_s: float) -> None:
        self._asked = True
        self._ends_s = now_s + TURN_S
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._asked = False
        self._left = 0
        waiting, self._later = self._later, {}
        for connection in waiting:
            connection.handle()


class Host(Protocol):
    """The tracker, as far as its connections ask it."""

    loop: asyncio.AbstractEventLoop
    limits: WireLimits
    turns: TurnBudget
    connections: set[Connection]

    def hello(self) -> dict[str, Any]: ...

    def members_index(self) -> int:
        """Of the entry that says who the members are; 0 while only the settings do."""

    def trackers(self) -> list[str]:
        """Client addresses of the members that vote."""

    def refusal(self) -> bytes | None:
        """What a write is told now in the place of being run, packed without the map's head and
        id; None: it is welcome."""

    def request(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        """Answer one request once, now or later. Raises a refusal instead of answering it."""

    def lost(self, connection: Connection) -> None:
        """It is gone: answer nothing there any more."""


_REPLY_HEAD = b"\x84" + msgpack.packb("id")
"""A map of four, and its first key; :meth:`Server.refusal` gives the other three."""


def _number(message: wire.Message) -> int:
    number = message.get("id")
    if type(number) is not int or not 0 <= number <= INTEGER_MAX:
        raise BadRequest(f"request with id {number!r}, expected a whole number")
    return number


class Connection(asyncio.BufferedProtocol):
    """One client. Replies may leave in another order than their requests came."""

    def __init__(self, server: Host) -> None:
        self.server = server
        self.greeted = False
        self._told = 0
        """Of which entry of members the client was told."""
        self.in_flight = 0
        self.read_s = 0.0
        """When the requests at hand were read."""
        self._decoder = wire.FrameDecoder(server.limits.client_frame_bytes_max)
        self._at_hand: Iterator[wire.Message] | None = None
        """What was read and not handled yet. Nothing is read meanwhile."""
        self._out: list[bytes] = []
        self._paused = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.remote = "?"
        self._tells = log.isEnabledFor(logging.DEBUG)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.remote = str(transport.get_extra_info("peername"))
        self._timer = self.server.loop.call_later(
            self.server.limits.hello_timeout_s, self._break_off, BadRequest("no hello in time")
        )
        self.server.connections.add(self)
        if len(self.server.connections) > self.server.limits.client_connections_max:
            self._break_off(
                Busy(
                    f"{self.server.limits.client_connections_max} clients are connected",
                    retry_after_s=1.0,
                )
            )

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.server.turns.buffer  # one for all: what it holds is copied before the next

    def buffer_updated(self, nbytes: int) -> None:
        self.read_s = self.server.loop.time()
        self._at_hand = self._decoder.feed(memoryview(self.server.turns.buffer)[:nbytes])
        self.handle()

    def handle(self) -> None:
        """Handle what is at hand, as far as the turn and the limit on requests allow."""
        if self._at_hand is None or self._transport is None or self._transport.is_closing():
            return
        most = self.server.limits.requests_in_flight_max
        try:
            while self.in_flight < most and self.server.turns.may_handle(self):
                message = next(self._at_hand, None)
                if message is None:
                    self._at_hand = None
                    break
                if WIRE_DEBUG:
                    wire_log.debug("%s > %s", self.remote, wire.elide(message))
                if self.greeted and message.get("op") in WRITE_WORDS:
                    refusal = self.server.refusal()
                    if refusal is not None:
                        self._refuse(message, refusal)
                        continue
                self._received(message)
                if self._transport is None or self._transport.is_closing():
                    return
        except P2PError as error:
            self._break_off(error)
            return
        self._read(self._at_hand is None)

    def _read(self, wanted: bool) -> None:
        """Read on, or leave what comes to the client's side of the connection."""
        if self._transport is not None and self._paused is wanted:
            self._paused = not wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _refuse(self, message: wire.Message, refusal: bytes) -> None:
        """Refuse a write as cheaply as can be: most of what an overloaded tracker does is this."""
        if not self._out:
            self.server.loop.call_soon(self.flush)
        number: bytes = msgpack.packb(_number(message))
        size = len(_REPLY_HEAD) + len(number) + len(refusal)
        self._out.append(b"".join((wire.HEADER.pack(size), _REPLY_HEAD, number, refusal)))
        if WIRE_DEBUG:
            wire_log.debug("%s < %s busy", self.remote, message["id"])

    def _received(self, message: wire.Message) -> None:
        number = _number(message)
        if not self.greeted:
            self._greet(message)
            return
        self.in_flight += 1
        if self._tells:
            self._tell(number, message)
        try:
            self.server.request(message, self.read_s, partial(self._answer, number), self)
        except P2PError as error:
            self._answer(number, error.to_wire(), NOWHERE)

    def _tell(self, number: int, message: wire.Message) -> None:
        """Log a request by the ids it can be found by: here, and on each tracker it came to."""
        op, session, seq = (message.get(key) for key in ("op", "session", "seq"))
        ids = {"client": self.remote, "request": number, "op": op, "session": session, "seq": seq}
        log.debug("client %s: request %d %.40r %.40r/%.40r", *ids.values(), extra=ids)

    def _greet(self, message: wire.Message) -> None:
        if message.get("op") != "hello":
            raise BadRequest(f"first operation is {message.get('op')!r}, expected 'hello'")
        if message.get("protocol") != PROTOCOL_VERSION:
            raise Unsupported(
                f"protocol {message.get('protocol')!r}, this tracker speaks {PROTOCOL_VERSION}"
            )
        self.greeted = True
        if self._timer is not None:
            self._timer.cancel()
        self._told = self.server.members_index()
        self._send({"id": message["id"], "ok": self.server.hello()})

    def _answer(self, number: int, reply: Reply, at: Position) -> None:
        self.in_flight -= 1
        if self._paused and self.in_flight == self.server.limits.requests_in_flight_max // 2:
            self.server.turns.handle_later(self)
        if reply.get("error") == OutcomeUnknown.code:
            ids = {"client": self.remote, "request": number, "error": OutcomeUnknown.code}
            log.info("client %s: request %d: %s", self.remote, number, reply["message"], extra=ids)
        answer = {"id": number, **reply}
        if at != NOWHERE:
            answer["at"] = at
        if self._told != (index := self.server.members_index()):
            self._told = index
            answer["trackers"] = index, self.server.trackers()
        self._send(answer)

    def _send(self, message: dict[str, Any]) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if WIRE_DEBUG:
            wire_log.debug("%s < %s", self.remote, wire.elide(message))
        limit = self.server.limits.client_frame_bytes_max
        try:
            frame = wire.encode(message, limit)
        except TooLarge as error:
            frame = wire.encode({"id": message["id"], **error.to_wire()}, limit)
        if not self._out:
            self.server.loop.call_soon(self.flush)
        self._out.append(frame)

    def flush(self) -> None:
        """Write all replies of this loop turn in one go; drop a client that does not read."""
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
            waiting = self._transport.get_write_buffer_size()
            if waiting > self.server.limits.send_buffer_bytes_max:
                log.info("client %s closed: %d bytes of replies not read", self.remote, waiting)
                self._transport.abort()

    def _break_off(self, error: P2PError) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        log.info("client %s closed: %s", self.remote, error)
        self._send({"id": 0, **error.to_wire()})
        self.close()

    def close(self) -> None:
        """Write what waits and hang up."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._at_hand = None
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.server.lost(self)

    def __repr__(self) -> str:
        return f"<Connection {self.remote} in_flight={self.in_flight}>"
