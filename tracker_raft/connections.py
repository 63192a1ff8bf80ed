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
from tracker_raft.raft.intake import NOWHERE, Position, Reply, opened

log = logging.getLogger("tracker_raft.server")
wire_log = logging.getLogger("tracker_raft.wire")

RECEIVE_BYTES = 64 * 1024
TURN_S = 0.01
"""A quarter of a heartbeat's period, of CPU time: by the clock on the wall, a process that shares
its processor would find its turn over with nothing done, and read only what is too old to matter.
"""
FREE_SHARE = 0.25
"""Of a turn: as long as that nobody asks for its CPU time."""
LOOK_EVERY = 8
"""Requests between two looks at a clock."""
WRITE_WORDS = frozenset(cls.op for cls in commands.WRITES)
WIRE_DEBUG = bool(os.environ.get("P2P_WIRE_DEBUG"))

Answer = Callable[[Reply, Position], None]


class TurnBudget:
    """What the connections of one tracker share: the time of a turn, a buffer to read into, and the
    moment at which what they answered leaves."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.buffer = bytearray(RECEIVE_BYTES)
        self.view = memoryview(self.buffer)
        self._loop = loop
        self._ends_s: float | None = None
        """The CPU time at which the turn is over; None: not asked yet."""
        self._not_before_s = 0.0
        """The time before which it is not asked."""
        self._left = 0
        self._asked = False
        self._later: dict[Connection, None] = {}
        self._answered: list[Connection] = []

    def may_handle(self, connection: Connection) -> bool:
        """Whether one more request fits into this turn; if not, the connection is called again."""
        self._left -= 1
        if self._left >= 0:
            return True
        if not self._asked:
            self._ask()
        if not self._is_over():
            self._left = LOOK_EVERY - 1
            return True
        self._left = 0
        self._later[connection] = None
        return False

    def _is_over(self) -> bool:
        """To ask how much CPU time went by is a system call, and most turns are short: the first
        part of a turn goes by the clock on the wall, and from then on more CPU time than time
        cannot have gone by."""
        now_s = self._loop.time()
        if now_s < self._not_before_s:
            return False
        used_s = time.thread_time()
        if self._ends_s is None:
            left_s = TURN_S * (1 - FREE_SHARE)
            self._ends_s, self._not_before_s = used_s + left_s, now_s + left_s
        return used_s >= self._ends_s

    def handle_later(self, connection: Connection) -> None:
        """Call the connection's :meth:`~Connection.handle` in the next turn."""
        self._later[connection] = None
        if not self._asked:
            self._ask()

    def _ask(self) -> None:
        self._asked = True
        self._not_before_s = self._loop.time() + TURN_S * FREE_SHARE
        self._ends_s = None
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self._asked = False
        self._left = 0
        waiting, self._later = self._later, {}
        for connection in waiting:
            connection.handle()

    def flush_later(self, connection: Connection) -> None:
        """Call the connection's :meth:`~Connection.flush` once all of this turn is answered."""
        if not self._answered:
            self._loop.call_soon(self._flush)
        self._answered.append(connection)

    def _flush(self) -> None:
        answered, self._answered = self._answered, []
        for connection in answered:
            connection.flush()


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


_REFUSED = b"\x84" + wire.pack("id")
"""A map of four, and its first key; :meth:`Server.refusal` gives the other three."""
_DONE, _OK, _AT = b"\x83" + wire.pack("id"), wire.pack("ok"), wire.pack("at")
"""A map of three, and its keys."""


def _number(message: wire.Message) -> int:
    number = message.get("id")
    if type(number) is not int or not 0 <= number <= INTEGER_MAX:
        raise BadRequest(f"request with id {number!r}, expected a whole number")
    return number


class Connection(asyncio.BufferedProtocol):
    """One client. Replies may leave in another order than their requests came."""

    def __init__(self, server: Host) -> None:
        self.server = server
        self._turns = server.turns
        self._most = server.limits.requests_in_flight_max
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
        return self._turns.buffer  # one for all: what it holds is copied before the next

    def buffer_updated(self, nbytes: int) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self.read_s = self.server.loop.time()
        data = self._turns.view[:nbytes]
        try:
            message = self._decoder.whole(data)
            if message is None:
                self._at_hand = self._decoder.feed(data)
            elif self.in_flight < self._most and self._turns.may_handle(self):
                self._take(message)
                return
            else:
                self._at_hand = iter((message,))
        except P2PError as error:
            self._break_off(error)
            return
        self.handle()

    def handle(self) -> None:
        """Handle what is at hand, as far as the turn and the limit on requests allow."""
        if self._at_hand is None or self._transport is None or self._transport.is_closing():
            return
        try:
            while self.in_flight < self._most and self._turns.may_handle(self):
                message = next(self._at_hand, None)
                if message is None:
                    self._at_hand = None
                    break
                self._take(message)
                if self._transport is None or self._transport.is_closing():
                    return
        except P2PError as error:
            self._break_off(error)
            return
        self._read(self._at_hand is None)

    def _take(self, message: wire.Message) -> None:
        """Answer one message, or see to it that it is answered. Raises what ends the connection."""
        if WIRE_DEBUG:
            wire_log.debug("%s > %s", self.remote, wire.elide(message))
        if not self.greeted:
            self._greet(_number(message), message)
            return
        word = message.get("op")
        if type(word) is str and word in WRITE_WORDS:
            refusal = self.server.refusal()
            if refusal is not None:
                self._refuse(_number(message), refusal)
                return
        number = _number(message)
        self.in_flight += 1
        if self._tells:
            self._tell(number, message)
        try:
            self.server.request(message, self.read_s, partial(self._answer, number), self)
        except P2PError as error:
            self._answer(number, error.to_wire(), NOWHERE)

    def _read(self, wanted: bool) -> None:
        """Read on, or leave what comes to the client's side of the connection."""
        if self._transport is not None and self._paused is wanted:
            self._paused = not wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _refuse(self, number: int, refusal: bytes) -> None:
        """Refuse a write as cheaply as can be: most of what an overloaded tracker does is this."""
        self._send(_REFUSED + wire.pack(number) + refusal)
        if WIRE_DEBUG:
            wire_log.debug("%s < %s busy", self.remote, number)

    def _tell(self, number: int, message: wire.Message) -> None:
        """Log a request by the ids it can be found by: here, and on each tracker it came to."""
        op, session, seq = (message.get(key) for key in ("op", "session", "seq"))
        ids = {"client": self.remote, "request": number, "op": op, "session": session, "seq": seq}
        log.debug("client %s: request %d %.40r %.40r/%.40r", *ids.values(), extra=ids)

    def _greet(self, number: int, message: wire.Message) -> None:
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
        self._say({"id": number, "ok": self.server.hello()})

    def _answer(self, number: int, reply: Reply, at: Position) -> None:
        self.in_flight -= 1
        if self._paused and self.in_flight == self._most // 2:
            self._turns.handle_later(self)
        index = self.server.members_index()
        if isinstance(reply, bytes) and index == self._told and not WIRE_DEBUG:
            parts = _DONE, wire.pack(number), _OK, reply, _AT, wire.pack(at)
            self._send(b"".join(parts))
            return
        reply = opened(reply)
        if reply.get("error") == OutcomeUnknown.code:
            ids = {"client": self.remote, "request": number, "error": OutcomeUnknown.code}
            log.info("client %s: request %d: %s", self.remote, number, reply["message"], extra=ids)
        answer = {"id": number, **reply}
        if at != NOWHERE:
            answer["at"] = at
        if self._told != index:
            self._told = index
            answer["trackers"] = index, self.server.trackers()
        self._say(answer)

    def _say(self, message: dict[str, Any]) -> None:
        if WIRE_DEBUG:
            wire_log.debug("%s < %s", self.remote, wire.elide(message))
        self._send(wire.pack(message))

    def _send(self, body: bytes) -> None:
        """Queue one frame."""
        if self._transport is None or self._transport.is_closing():
            return
        limit = self.server.limits.client_frame_bytes_max
        try:
            frame = wire.frame(body, limit)
        except TooLarge as error:
            number = wire.decode_body(body)["id"]
            frame = wire.encode({"id": number, **error.to_wire()}, limit)
        if not self._out:
            self._turns.flush_later(self)
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
        self._say({"id": 0, **error.to_wire()})
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
