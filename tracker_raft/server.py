"""Client connections of one tracker: decode, check, ask the replica, reply.

Any tracker answers any request: writes and linearizable reads go through the replica, which
forwards to the leader where needed. ``docs/protocol.md`` is the specification of what is said
here. A connection that breaks the protocol is told why in one error frame and closed; nothing a
client sends is a reason for a traceback.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from tracker_raft import commands, wire
from tracker_raft.commands import INTEGER_MAX, Level, Operation, check_int
from tracker_raft.config import PROTOCOL_VERSION, NodeConfig
from tracker_raft.entries import pack_operation
from tracker_raft.errors import (
    BadRequest,
    Busy,
    LocalError,
    NoLeader,
    NotFound,
    P2PError,
    TooLarge,
    Unsupported,
)
from tracker_raft.raft.intake import NOWHERE, Position, Reply
from tracker_raft.raft.replica import Replica
from tracker_raft.watching import Watches

log = logging.getLogger("tracker_raft.server")
wire_log = logging.getLogger("tracker_raft.wire")

DEADLINE_DEFAULT_S = 10.0
RENEW_PERIOD_S = 1.0
RENEW_BYTES_MAX = 64 * 1024
"""Renewals in one log operation; what is beyond it goes into the next operation."""
FEATURES: tuple[str, ...] = ()
WIRE_DEBUG = bool(os.environ.get("P2P_WIRE_DEBUG"))


class Renewals:
    """Collects lease renewals and logs them as one operation a second at most (D4)."""

    def __init__(self) -> None:
        self._peers: dict[str, None] = {}

    def add(self, peer: str) -> None:
        self._peers[peer] = None

    def operations(self) -> list[bytes]:
        """What was collected, packed, and forgotten here."""
        packed, group, size = [], [], 0
        for peer in self._peers:
            group.append(peer)
            size += len(peer.encode()) + 3
            if size >= RENEW_BYTES_MAX:
                packed.append(_pack_renewals(group))
                group, size = [], 0
        if group:
            packed.append(_pack_renewals(group))
        self._peers.clear()
        return packed


def _pack_renewals(peers: list[str]) -> bytes:
    return pack_operation(0, 0, 0, {"op": commands.RENEW_MANY, "peers": peers})


class Connection(asyncio.Protocol):
    """One client. Replies may leave in another order than their requests came."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.greeted = False
        self.in_flight = 0
        self._decoder = wire.FrameDecoder(server.limits.client_frame_bytes_max)
        self._out: list[bytes] = []
        self._paused = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.remote = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                if WIRE_DEBUG:
                    wire_log.debug("%s > %s", self.remote, wire.elide(message))
                self._received(message)
                if self._transport is None or self._transport.is_closing():
                    return
        except P2PError as error:
            self._break_off(error)

    def _received(self, message: wire.Message) -> None:
        number = message.get("id")
        if type(number) is not int or not 0 <= number <= INTEGER_MAX:
            raise BadRequest(f"request with id {number!r}, expected a whole number")
        if not self.greeted:
            self._greet(message)
            return
        self.in_flight += 1
        if self.in_flight >= self.server.limits.requests_in_flight_max and not self._paused:
            self._paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        try:
            self.server.request(message, partial(self._answer, number), self)
        except P2PError as error:
            self._answer(number, error.to_wire(), NOWHERE)

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
        self._send({"id": message["id"], "ok": self.server.hello()})

    def _answer(self, number: int, reply: Reply, at: Position) -> None:
        self.in_flight -= 1
        if self._paused and self.in_flight <= self.server.limits.requests_in_flight_max // 2:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        answer = {"id": number, **reply}
        if at != NOWHERE:
            answer["at"] = at
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
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        self.server.connections.discard(self)
        self.server.watches.forget(self)

    def __repr__(self) -> str:
        return f"<Connection {self.remote} in_flight={self.in_flight}>"


Answer = Callable[[Reply, Position], None]


class Server:
    """The client side of one tracker. ``describe`` adds what only the node knows to ``status``."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        replica: Replica,
        trackers: Callable[[], list[str]],
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self._replica = replica
        self._trackers = trackers
        self._describe = describe
        self._renewals = Renewals()
        self.watches = Watches(self.loop, replica, self.limits)
        self._server: asyncio.Server | None = None
        self._renew_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises :class:`LocalError` when the port cannot be had."""
        bind = self.config.client_bind
        try:
            self._server = await self.loop.create_server(
                lambda: Connection(self), bind.host, bind.port, backlog=1024
            )
        except OSError as error:
            raise LocalError(
                f"cannot listen on client address {bind}: {error.strerror or error}"
            ) from error
        self._renew_task = self.loop.create_task(self._log_renewals())

    async def close(self) -> None:
        """Stop listening and hang up on every client, replies in hand written first."""
        if self._server is not None:
            self._server.close()
        if self._renew_task is not None:
            self._renew_task.cancel()
        self.watches.close()
        for connection in list(self.connections):
            connection.close()
        await asyncio.sleep(0)

    def hello(self) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL_VERSION,
            "features": list(FEATURES),
            "node": self.config.node,
            "cluster": self.config.cluster,
            "trackers": self._trackers(),
        }

    # -- requests --------------------------------------------------------------------------------

    def request(self, message: wire.Message, answer: Answer, owner: object) -> None:
        """Answer one request of ``owner`` once, now or later, or never if the connection is gone.

        Raises a refusal instead of answering it.
        """
        operation = commands.parse(message)
        deadline_s = self.loop.time() + self._time_left_s(message)
        if isinstance(operation, commands.WRITES):
            self._write(operation, message, deadline_s, answer)
        elif isinstance(operation, commands.READS):
            self._read(operation, message, deadline_s, answer)
        elif isinstance(operation, commands.Watch):
            self.watches.watch(operation, deadline_s, owner, answer)
        elif isinstance(operation, commands.Renew):
            answer({"ok": {"lease_ms": self._renew(operation.peer)}}, NOWHERE)
        else:
            answer({"ok": self._describe()}, NOWHERE)

    def _time_left_s(self, message: wire.Message) -> float:
        asked_ms = message.get("deadline_ms", round(DEADLINE_DEFAULT_S * 1000))
        left_ms = check_int("deadline_ms", asked_ms, 0, INTEGER_MAX)
        return min(left_ms / 1000, self.limits.request_deadline_max_s)

    def _write(
        self, operation: Operation, message: wire.Message, deadline_s: float, answer: Answer
    ) -> None:
        session = seq = low = 0
        if not isinstance(operation, commands.OpenSession):
            session = check_int("session", message.get("session"), 1, INTEGER_MAX)
            seq = check_int("seq", message.get("seq"), 1, INTEGER_MAX)
            low = check_int("low", message.get("low"), 1, seq)
        packed = pack_operation(session, seq, low, operation.to_wire())
        self._replica.submit(packed, deadline_s, answer)

    def _read(
        self, operation: Operation, message: wire.Message, deadline_s: float, answer: Answer
    ) -> None:
        try:
            level = Level(message.get("level", Level.LINEARIZABLE))
        except ValueError:
            raise BadRequest(
                f"level {message.get('level')!r}, expected one of {', '.join(Level)}"
            ) from None
        seen = check_int("seen", message.get("seen", 0), 0, INTEGER_MAX)

        def done(error: P2PError | None) -> None:
            at = (self._replica.machine.applied, 0)
            try:
                if error is not None:
                    raise error
                answer({"ok": self._replica.machine.query(operation)}, at)
            except P2PError as refusal:
                answer(refusal.to_wire(), at)

        self._replica.reads.read(level, seen, deadline_s, done)

    def _renew(self, peer: str) -> int:
        if self._replica.leader is None:
            raise NoLeader("no leader is reachable from here, a renewal would not be logged")
        left_ms = self._replica.machine.lease_left_ms(peer)
        if left_ms is None:
            raise NotFound(f"peer {peer!r} has no lease here; join again")
        self._renewals.add(peer)
        return left_ms

    async def _log_renewals(self) -> None:
        while True:
            await asyncio.sleep(RENEW_PERIOD_S)
            for packed in self._renewals.operations():
                deadline_s = self.loop.time() + DEADLINE_DEFAULT_S
                try:
                    self._replica.submit(packed, deadline_s, lambda reply, at: None)
                except Busy as error:
                    log.info("renewals dropped, peers renew again: %s", error)
