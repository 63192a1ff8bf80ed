"""Clients in a closed loop, by the thousand in one thread: ours, etcd's and stock PySyncObj's.

A *client* has a connection of its own and one request under way at any time; it asks again when it
is answered. What is measured is the servers, so a client is as cheap as can be: requests are made
from templates and of an answer no more is read than whether it is one. All makes share the loop
below and differ in the bytes alone, so none of them is favoured by its client.

etcd is spoken to as its own clients do, by gRPC over HTTP/2 (:class:`EtcdPuts`); its JSON gateway,
which stands between, would cost more than etcd itself. A library for that would cost several times
what etcd does, so the few frames that are needed are made by hand here.

Every operation binds a name never used before to 32 random bytes: nothing on the way can compress
or skip it. A rival's value is filled up with random bytes to what our log holds for one publish.
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import harness
from bench.load import FIRST_ID, FRAME_BYTES_MAX, PIECE_BYTES, packed, sessions
from tracker_raft import commands, wire
from tracker_raft.commands import Level, Lookup
from tracker_raft.config import PROTOCOL_VERSION
from tracker_raft.entries import pack_operation

Place = tuple[str, int]
ANSWER_S = 30.0
VALUE_BYTES = 105
"""So many a rival stores beside its key: see :func:`logged_bytes`."""


def logged_bytes() -> int:
    """What the log of a tracker holds for one publish of these clients, beside the name."""
    publish = commands.Publish("n" * 16, bytes(32), 1, 100, PIECE_BYTES)
    return len(pack_operation(1 << 17, 1 << 17, 1 << 17, publish.to_wire())) - 16


@dataclass(slots=True)
class Tally:
    """What the clients of one run were answered."""

    counting: bool = False
    operations: int = 0
    failed: int = 0
    latencies_ms: list[float] = field(default_factory=list, repr=False)
    """Of requests, from sending to the last byte of the answer."""


class Client(asyncio.Protocol, ABC):
    """One connection. ``operations``: how many one of its requests holds."""

    def __init__(self, tally: Tally, operations: int) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.stopped = False
        self.pause_s: float | None = None
        """Ask so often, whether it takes long or not; None: again as soon as answered."""
        self.operations = operations
        self._tally = tally
        self._asked_s = 0.0
        self._rest = b""

    @abstractmethod
    def greeting(self) -> bytes:
        """The first bytes to send; :attr:`ready` is resolved by what answers them."""

    @abstractmethod
    def request(self) -> bytes: ...

    @abstractmethod
    def answers(self, data: bytes) -> int:
        """Take in ``data``; how many requests are settled by it (0 or 1)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.greeting())

    def ask(self) -> None:
        if self.transport is not None and not self.stopped:
            self._asked_s = time.perf_counter()
            self.transport.write(self.request())

    def keep_pace(self, due_s: float) -> None:
        """Ask at ``due_s`` (loop time), and every :attr:`pause_s` from then on."""
        assert self.pause_s is not None
        if not self.stopped:
            loop = asyncio.get_running_loop()
            self.ask()
            self._asked_s -= loop.time() - due_s  # the latency counts from when it was due
            loop.call_at(due_s + self.pause_s, self.keep_pace, due_s + self.pause_s)

    def data_received(self, data: bytes) -> None:
        if not self.answers(self._rest + data if self._rest else data):
            return
        tally = self._tally
        if tally.counting:
            tally.latencies_ms.append((time.perf_counter() - self._asked_s) * 1e3)
            tally.operations += self.operations
        if self.pause_s is None:
            self.ask()

    def fail(self) -> None:
        """One operation was refused."""
        if self._tally.counting:
            self._tally.failed += 1
            self._tally.operations -= 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stopped:
            self._tally.failed += 1
        self.transport = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed without a word"))


# -- ours -----------------------------------------------------------------------------------------


class _Ours(Client):
    """Frames of our protocol; a request is ``operations`` frames written at once."""

    def __init__(self, tally: Tally, operations: int) -> None:
        super().__init__(tally, operations)
        self._left = 0

    def greeting(self) -> bytes:
        hello = {"id": 0, "op": "hello", "protocol": PROTOCOL_VERSION}
        return wire.encode(hello, FRAME_BYTES_MAX)

    def answers(self, data: bytes) -> int:
        start, end, settled = 0, len(data), 0
        while end - start >= 4:
            stop = start + 4 + int.from_bytes(data[start : start + 4], "big")
            if stop > end:
                break
            if data[start + 8] != 0xCE:  # not one of our ids, so it is the hello
                self.ready.set_result(None)
            else:  # {"id": u32, "ok" or "error": ...}: the tracker writes its keys in this order
                if data[start + 13] != 0xA2:
                    self.fail()
                self._left -= 1
                settled = int(self._left == 0)
            start = stop
        self._rest = data[start:]
        return settled


_MARKS = [FIRST_ID + n for n in range(4)]


def _split(frame: bytes, places: Sequence[bytes]) -> list[bytes]:
    parts = []
    for place in places:
        part, frame = frame.split(place, 1)
        parts.append(part)
    return [*parts, frame]


class OurPublishes(_Ours):
    """Publishes in a session of its own."""

    def __init__(self, tally: Tally, operations: int, session: int) -> None:
        super().__init__(tally, operations)
        self._session = session
        self._run = f"{random.getrandbits(32):08x}".encode()
        self._seq = 0
        content, name = bytes(range(32)), "n" * 16
        publish = commands.Publish(name, content, 1, 100, PIECE_BYTES)
        id_, session_, seq, low = _MARKS
        body = {"id": id_, "session": session_, "seq": seq, "low": low, "deadline_ms": 30_000}
        frame = wire.encode({**body, **publish.to_wire()}, FRAME_BYTES_MAX)
        marks = [*map(packed, _MARKS), name.encode(), content]
        a, b, c, d, e, f, self._tail = _split(frame, marks)
        self._head, self._parts = a, (b + packed(session) + c, d, e, f)

    def request(self) -> bytes:
        head, tail, (b, d, e, f) = self._head, self._tail, self._parts
        low = packed(self._seq + 1)
        out = []
        for seq in range(self._seq + 1, self._seq + self.operations + 1):
            id_, number = packed(FIRST_ID + seq), packed(seq)
            name = b"%s%08x" % (self._run, seq)
            content = random.randbytes(32)
            out.append(b"".join((head, id_, b, number, d, low, e, name, f, content, tail)))
        self._seq += self.operations
        self._left = self.operations
        return b"".join(out)


class OurLookups(_Ours):
    """Look-ups of one name at a level."""

    def __init__(self, tally: Tally, operations: int, name: str, level: Level, seen: int) -> None:
        super().__init__(tally, operations)
        body = {"id": FIRST_ID, **Lookup(name).to_wire(), "level": str(level), "seen": seen}
        self._frames = wire.encode(body, FRAME_BYTES_MAX) * operations

    def request(self) -> bytes:
        self._left = self.operations
        return self._frames


async def our_publishes(
    tally: Tally, places: Sequence[Place], count: int, operations: int = 1
) -> list[tuple[Place, Callable[[], Client]]]:
    """Clients that publish, each in a session, spread over the trackers at ``places``."""
    host, port = places[0]
    numbers = await sessions(f"{host}:{port}", count)

    def make(session: int) -> Callable[[], Client]:
        return lambda: OurPublishes(tally, operations, session)

    return [(places[n % len(places)], make(session)) for n, session in enumerate(numbers)]


# -- etcd -----------------------------------------------------------------------------------------


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _literal(index: int, value: bytes) -> bytes:
    """A header field whose name is in HPACK's static table, to be remembered (RFC 7541, 6.2.1)."""
    return bytes((0x40 | index, len(value))) + value


class EtcdPuts(Client):
    """Puts by gRPC: ``etcdserverpb.KV/Put``, or ``/Txn`` when a request holds several.

    HTTP/2 (RFC 9113), as far as one call after the other needs it. The headers are spelled out
    once and then referred to by their numbers, as any client does. An answer with a message was a
    success: a call that failed ends without one.
    """

    DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
    FRAME_BYTES_MAX = 16_384
    WINDOW_MAX = 2**31 - 1

    def __init__(self, tally: Tally, operations: int) -> None:
        super().__init__(tally, operations)
        self._run = f"{random.getrandbits(32):08x}".encode()
        self._number = 0
        self._stream = -1
        self._answered = False
        self._window = 65_535
        self._waiting: list[bytes] = []
        path = b"/etcdserverpb.KV/Put" if operations == 1 else b"/etcdserverpb.KV/Txn"
        self._headers = b"".join(
            (
                b"\x83\x86",  # :method POST, :scheme http
                _literal(4, path),
                _literal(1, b"etcd"),
                _literal(31, b"application/grpc"),
                b"\x40\x02te\x08trailers",
            )
        )

    def greeting(self) -> bytes:
        wide = struct.pack(">I", self.WINDOW_MAX - 65_535)  # all that is ever sent to us fits
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        return (
            preface
            + self._frame(self.SETTINGS, 0, 0, b"")
            + self._frame(self.WINDOW_UPDATE, 0, 0, wide)
        )

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        head = struct.pack(">BHBBI", 0, len(payload), kind, flags, stream)
        return head + payload

    def request(self) -> bytes:
        self._stream += 2
        self._answered = False
        message = self._message()
        body = b"\0" + struct.pack(">I", len(message)) + message
        headers, self._headers = self._headers, b"\x83\x86\xc1\xc0\xbf\xbe"
        out = [self._frame(self.HEADERS, 4, self._stream, headers)]
        for start in range(0, len(body), self.FRAME_BYTES_MAX):
            part = body[start : start + self.FRAME_BYTES_MAX]
            last = start + self.FRAME_BYTES_MAX >= len(body)
            self._waiting.append(self._frame(self.DATA, int(last), self._stream, part))
        return b"".join((*out, *self._allowed()))

    def _allowed(self) -> list[bytes]:
        """The frames that the server has room for."""
        count = 0
        for frame in self._waiting:
            if len(frame) - 9 > self._window:
                break
            self._window -= len(frame) - 9
            count += 1
        out, self._waiting = self._waiting[:count], self._waiting[count:]
        return out

    def _message(self) -> bytes:
        if self.operations == 1:
            return self._put()
        return b"".join(_field(2, _field(2, self._put())) for _ in range(self.operations))

    def _put(self) -> bytes:
        self._number += 1
        key = b"%s%08x" % (self._run, self._number)
        value = random.randbytes(VALUE_BYTES)
        return b"".join((b"\x0a", bytes((len(key),)), key, b"\x12", bytes((len(value),)), value))

    def answers(self, data: bytes) -> int:
        start, end, settled = 0, len(data), 0
        while end - start >= 9:
            stop = start + 9 + (data[start] << 16 | data[start + 1] << 8 | data[start + 2])
            if stop > end:
                break
            kind, flags = data[start + 3], data[start + 4]
            if kind == self.DATA:
                self._answered = True
            elif kind == self.HEADERS:
                if flags & 1:
                    settled = 1
                    if not self._answered:
                        self.fail()
            else:
                self._control(kind, flags, data[start + 5 : start + 9], data[start + 9 : stop])
            start = stop
        self._rest = data[start:]
        return settled

    def _control(self, kind: int, flags: int, stream: bytes, payload: bytes) -> None:
        assert self.transport is not None
        if kind == self.SETTINGS and not flags:
            self.transport.write(self._frame(self.SETTINGS, 1, 0, b""))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == self.PING and not flags:
            self.transport.write(self._frame(self.PING, 1, 0, payload))
        elif kind == self.WINDOW_UPDATE and stream == b"\0\0\0\0":
            self._window += int.from_bytes(payload, "big")
            self.transport.write(b"".join(self._allowed()))
        elif kind in (self.RST_STREAM, self.GOAWAY):
            self.fail()


# -- stock PySyncObj ------------------------------------------------------------------------------


class StockPuts(Client):
    """Lines of :mod:`bench.stock_node`."""

    def __init__(self, tally: Tally, operations: int) -> None:
        super().__init__(tally, operations)
        self._run = f"{random.getrandbits(32):08x}"
        self._number = 0

    def greeting(self) -> bytes:
        self.ready.set_result(None)
        return b""

    def request(self) -> bytes:
        pairs = []
        for _ in range(self.operations):
            self._number += 1
            # Half as many bytes, in hexadecimal: the same entropy costs it no more room.
            value = random.randbytes(VALUE_BYTES // 2).hex()
            pairs.append(f"{self._run}{self._number:08x} {value}")
        return f"put {' '.join(pairs)}\n".encode()

    def answers(self, data: bytes) -> int:
        if not data.endswith(b"\n"):
            self._rest = data
            return 0
        self._rest = b""
        if data != b"ok\n":
            self.fail()
        return 1


# -- the loop -------------------------------------------------------------------------------------

Made = Sequence[tuple[Place, Callable[[], Client]]]


async def connected(made: Made) -> list[Client]:
    """All of them, each greeted by its server."""
    loop = asyncio.get_running_loop()
    clients = []
    for (host, port), make in made:
        _, client = await loop.create_connection(make, host, port)
        clients.append(client)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*(client.ready for client in clients))
    return clients


async def closed_loop(
    tally: Tally, made: Made, seconds: float, cpu_s: Callable[[], float], warm_s: float = 0.5
) -> dict[str, float]:
    """Every client asks as soon as it is answered, for so long; ``cpu_s`` of the servers."""
    clients = await connected(made)
    try:
        for client in clients:
            client.ask()
        return await _counted(tally, seconds, cpu_s, warm_s)
    finally:
        _stop(clients)


async def paced(
    tally: Tally, made: Made, seconds: float, cpu_s: Callable[[], float], pause_s: float = 1.0
) -> dict[str, float]:
    """Every client asks once in ``pause_s``, evenly spread; latency counts from when it was due."""
    clients = await connected(made)
    try:
        begun_s = asyncio.get_running_loop().time() + 0.05
        for number, client in enumerate(clients):
            client.pause_s = pause_s
            due_s = begun_s + pause_s * number / len(clients)
            asyncio.get_running_loop().call_at(due_s, client.keep_pace, due_s)
        return await _counted(tally, seconds, cpu_s, warm_s=2 * pause_s)
    finally:
        _stop(clients)


def _stop(clients: Sequence[Client]) -> None:
    for client in clients:
        client.stopped = True
        if client.transport is not None:
            client.transport.abort()


async def _counted(
    tally: Tally, seconds: float, cpu_s: Callable[[], float], warm_s: float
) -> dict[str, float]:
    await asyncio.sleep(warm_s)
    before_s, own_s, begun_s = cpu_s(), time.process_time(), time.perf_counter()
    tally.counting = True
    await asyncio.sleep(seconds)
    tally.counting = False
    took_s = time.perf_counter() - begun_s
    used_s, own_s = cpu_s() - before_s, time.process_time() - own_s
    if not tally.operations:
        raise RuntimeError(f"nothing was answered in {took_s:.1f} s; {tally.failed} failed")
    return {
        "per_s": tally.operations / took_s,
        "p50_ms": harness.percentile(tally.latencies_ms, 50),
        "p99_ms": harness.percentile(tally.latencies_ms, 99),
        "cpu_us": used_s / tally.operations * 1e6,
        "client_cores": own_s / took_s,
        "failed": float(tally.failed),
    }
