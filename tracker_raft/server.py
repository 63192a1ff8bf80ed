"""Client connections of one tracker: decode, check, ask the replica, reply.

Any tracker answers any request: writes and linearizable reads go through the replica, which
forwards to the leader where needed. ``docs/protocol.md`` is the specification of what is said
here. A connection that breaks the protocol is told why in one error frame and closed; nothing a
client sends is a reason for a traceback.

How clients are kept from asking for more than can be done: :mod:`tracker_raft.connections` (what
one turn of the loop handles), :mod:`tracker_raft.raft.pace` (how many writes may be under way).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgpack

from tracker_raft import commands, sockets, wire
from tracker_raft.commands import INTEGER_MAX, Level, Operation, check_int
from tracker_raft.config import PROTOCOL_VERSION, NodeConfig
from tracker_raft.connections import Answer, Connection, TurnBudget
from tracker_raft.entries import ROWS_SINCE, pack_operation, pack_publish
from tracker_raft.errors import (
    BadRequest,
    Busy,
    LocalError,
    NoLeader,
    NotFound,
    P2PError,
    ShuttingDown,
)
from tracker_raft.raft.intake import NOWHERE
from tracker_raft.raft.replica import Replica
from tracker_raft.watching import Watches

log = logging.getLogger("tracker_raft.server")

DEADLINE_DEFAULT_S = 10.0
DEADLINE_DEFAULT_MS = round(DEADLINE_DEFAULT_S * 1000)
RENEW_PERIOD_S = 1.0
RENEW_BYTES_MAX = 64 * 1024
"""Renewals in one log operation; what is beyond it goes into the next operation."""
FEATURES: tuple[str, ...] = ()


_LEVELS = {level.value: level for level in Level}
Handler = Callable[[wire.Message, float, Answer, Connection], None]
"""Of one word: takes what :meth:`Server.request` takes."""


def _numbered(message: wire.Message) -> tuple[int, int, int]:
    """Session, seq and low of a write. Raises :class:`BadRequest`."""
    session, seq, low = message.get("session"), message.get("seq"), message.get("low")
    if (
        type(session) is type(seq) is type(low) is int
        and 1 <= session <= INTEGER_MAX
        and 1 <= low <= seq <= INTEGER_MAX
    ):
        return session, seq, low
    return (
        check_int("session", session, 1, INTEGER_MAX),
        checked := check_int("seq", seq, 1, INTEGER_MAX),
        check_int("low", low, 1, checked),
    )


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


class Server:
    """The client side of one tracker. ``control`` answers what concerns the tracker itself."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        replica: Replica,
        trackers: Callable[[], list[str]],
        control: Callable[[Operation, float, Answer], None],
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.turns = TurnBudget(self.loop)
        self._busy: Busy | None = None
        self._busy_packed = b""
        self._replica = replica
        self._trackers = trackers
        self._control = control
        self._leaving: ShuttingDown | None = None
        self._renewals = Renewals()
        self._watches = Watches(self.loop, replica, self.limits)
        self._handlers: dict[str, Handler] = {
            **dict.fromkeys(commands.BY_WORD, self._control_this),
            **{cls.op: self._write for cls in commands.WRITES},
            **{cls.op: self._read for cls in commands.READS},
            commands.Publish.op: self._publish,
            commands.Watch.op: self._watch,
            commands.Renew.op: self._renew_lease,
        }
        self._server: asyncio.Server | None = None
        self._renew_task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises :class:`LocalError` when the port cannot be had."""
        bind = self.config.client_bind
        try:
            self._server = await sockets.listen(lambda: Connection(self), bind, backlog=1024)
        except OSError as error:
            raise LocalError(
                f"cannot listen on client address {bind}: {error.strerror or error}"
            ) from error
        self._renew_task = self.loop.create_task(self._log_renewals())

    async def drain(self, patience_s: float) -> None:
        """Refuse what comes from now on, and wait until what was taken before is answered."""
        self._leaving = ShuttingDown("this tracker is stopping; not run")
        if self._server is not None:
            self._server.close()
        self._watches.close()
        until_s = self.loop.time() + patience_s
        # Every answer of every connection is waited for: no one event says that they are all given.
        while self.loop.time() < until_s and any(one.in_flight for one in self.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    async def close(self) -> None:
        """Stop listening and hang up on every client, replies in hand written first."""
        if self._server is not None:
            self._server.close()
        if self._renew_task is not None:
            self._renew_task.cancel()
        self._watches.close()
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
            "members": self.members_index(),
        }

    def members_index(self) -> int:
        return self._replica.roll.membership.settled.index

    def trackers(self) -> list[str]:
        return self._trackers()

    # -- requests --------------------------------------------------------------------------------

    def refusal(self) -> bytes | None:
        """What a write is told now in the place of being run, packed without the map's head and
        id; None: it is welcome."""
        busy = None if self._leaving is not None else self._replica.intake.refusal()
        if busy is None:
            return None
        if busy is not self._busy:
            self._busy = busy
            packed: bytes = msgpack.packb(busy.to_wire())
            self._busy_packed = packed[1:]
        return self._busy_packed

    def lost(self, connection: Connection) -> None:
        """It is gone, and nobody is left to answer there."""
        self.connections.discard(connection)
        self._watches.forget(connection)

    def request(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        """Answer one request once, now or later. Raises a refusal instead of answering it.

        ``read_s``: when it was read (loop time); its deadline counts from there.
        """
        if self._leaving is not None:
            raise self._leaving
        word = message.get("op")
        handler = self._handlers.get(word) if type(word) is str else None
        if handler is None:
            raise commands.unknown(word)
        handler(message, read_s, answer, connection)

    def _deadline_s(self, message: wire.Message, read_s: float) -> float:
        left_ms: object = message.get("deadline_ms", DEADLINE_DEFAULT_MS)
        if type(left_ms) is not int or not 0 <= left_ms <= INTEGER_MAX:
            left_ms = check_int("deadline_ms", left_ms, 0, INTEGER_MAX)  # says what is wrong
        return read_s + min(left_ms / 1000, self.limits.request_deadline_max_s)

    def _publish(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        """What :meth:`_write` does with a publish, which most of all operations are, without making
        an object of it; logged as an array where every tracker reads that."""
        if self._replica.machine.version < ROWS_SINCE:
            self._write(message, read_s, answer, connection)
            return
        row = commands.publish_row(message)
        deadline_s = self._deadline_s(message, read_s)
        packed = pack_publish(*_numbered(message), row)
        self._replica.submit(packed, deadline_s, answer, word=commands.Publish.op)

    def _write(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        operation = commands.parse(message)
        deadline_s = self._deadline_s(message, read_s)
        numbers = (0, 0, 0)
        if not isinstance(operation, commands.OpenSession):
            numbers = _numbered(message)
        packed = pack_operation(*numbers, operation.to_wire())
        self._replica.submit(packed, deadline_s, answer, word=operation.op)

    def _read(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        operation = commands.parse(message)
        deadline_s = self._deadline_s(message, read_s)
        asked = message.get("level", Level.LINEARIZABLE.value)
        level = _LEVELS.get(asked) if type(asked) is str else None
        if level is None:
            raise BadRequest(f"level {asked!r}, expected one of {', '.join(Level)}")
        seen = check_int("seen", message.get("seen", 0), 0, INTEGER_MAX)
        self._replica.reads.read(level, seen, deadline_s, partial(self._query, operation, answer))

    def _query(self, operation: Operation, answer: Answer, error: P2PError | None) -> None:
        """The machine may be asked now, or ``error`` says why not."""
        machine = self._replica.machine
        at = (machine.applied, 0)
        try:
            if error is not None:
                raise error
            answer({"ok": machine.query(operation)}, at)
        except P2PError as refusal:
            answer(refusal.to_wire(), at)

    def _watch(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        wanted = commands.Watch.from_wire(message)
        self._watches.watch(wanted, self._deadline_s(message, read_s), connection, answer)

    def _renew_lease(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        renewal = commands.Renew.from_wire(message)
        self._deadline_s(message, read_s)
        answer({"ok": {"lease_ms": self._renew(renewal.peer)}}, NOWHERE)

    def _control_this(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        operation = commands.parse(message)
        self._control(operation, self._deadline_s(message, read_s), answer)

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
                    self._replica.submit(packed, deadline_s, lambda reply, at: None, own=True)
                except Busy as error:
                    log.info("renewals dropped, peers renew again: %s", error)
