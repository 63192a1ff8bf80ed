"""A load generator for trackers: requests at a given rate, whether they are answered or not.

Many pipelined connections in one thread. Frames are made from templates and replies are looked
at no closer than needed, so that the generator takes little of the machine from those it
measures. *Open loop*: a request is due at its time and its latency counts from there, however
busy the generator or the tracker is; nothing is sent again. *Closed loop*: so many requests are
always under way.
"""

from __future__ import annotations

import asyncio
import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from bench import harness
from tracker_raft import commands, wire
from tracker_raft.config import PROTOCOL_VERSION, MachineLimits

FRAME_BYTES_MAX = 1024 * 1024
FIRST_ID = 1 << 20
"""From here on msgpack writes an id in five bytes, the same for all."""
TICK_S = 0.002
WINDOW = MachineLimits().session_window_max - 1
PIECE_BYTES = 512 * 1024
LOOKED_AT = 4
"""Sessions that may be full before a write is given up."""
BACKLOG_BYTES_MAX = 256 * 1024
"""What a connection has that its tracker does not take: nothing more is sent there."""
BUSY = b"\xa5error\xa4busy"
"""How a refusal goes on behind its id."""


@dataclass(slots=True)
class Counted:
    """What became of the requests of one run. Latencies count from the time a request was due."""

    seconds: float = 0.0
    offered: int = 0
    good: int = 0
    """Answered ``ok`` within the deadline."""
    late: int = 0
    """Answered ``ok`` after it."""
    silent: int = 0
    """Not answered by the end."""
    unsent: int = 0
    """Refused by the generator itself: every window was full, or the connection was."""
    errors: dict[str, int] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list, repr=False)
    refusals_ms: list[float] = field(default_factory=list, repr=False)

    def values(self) -> dict[str, float]:
        """The figures of a sample."""
        seconds = self.seconds or 1.0
        found = {
            "offered_per_s": self.offered / seconds,
            "goodput_per_s": self.good / seconds,
            "busy_per_s": self.errors.get("busy", 0) / seconds,
            "late": float(self.late),
            "unanswered": float(self.silent + self.unsent),
            "other_errors": float(sum(n for w, n in self.errors.items() if w != "busy")),
        }
        if self.latencies_ms:
            found["p50_ms"] = harness.percentile(self.latencies_ms, 50)
            found["p99_ms"] = harness.percentile(self.latencies_ms, 99)
        if self.refusals_ms:
            found["busy_p50_ms"] = harness.percentile(self.refusals_ms, 50)
        return found


class _Session:
    """One request session: which numbers are under way."""

    __slots__ = ("number", "seq", "under_way")

    def __init__(self, number: int) -> None:
        self.number = number
        self.seq = 0
        self.under_way: dict[int, None] = {}

    def next(self) -> tuple[int, int] | None:
        """(seq, low) of a new write; None: the window is full."""
        seq = self.seq + 1
        low = next(iter(self.under_way), seq)
        if seq - low >= WINDOW:
            return None
        self.seq = seq
        self.under_way[seq] = None
        return seq, low


class Requests(ABC):
    """Makes request frames; one kind for a run."""

    @abstractmethod
    def take(self, number: int) -> tuple[bytes, dict[int, None], int] | None:
        """A frame with this id; and a table, and the key that is to leave it when the request is
        settled, if it is there. None: not now."""


_NO_TABLE: dict[int, None] = {}
"""A read holds no number of a session."""


class Reads(Requests):
    """Look-ups of one name, or of the peers of one content."""

    def __init__(self, operation: commands.Operation, level: commands.Level, seen: int) -> None:
        body = {"id": FIRST_ID, **operation.to_wire(), "level": str(level), "deadline_ms": 5_000}
        if level is commands.Level.SESSION:
            body["seen"] = seen
        self._head, self._tail = wire.encode(body, FRAME_BYTES_MAX).split(packed(FIRST_ID), 1)

    def take(self, number: int) -> tuple[bytes, dict[int, None], int]:
        return self._head + packed(number) + self._tail, _NO_TABLE, 0


class Writes(Requests):
    """Publishes of names never used before, in as many sessions as it takes."""

    def __init__(self, sessions: Sequence[int], deadline_s: float) -> None:
        self._sessions = deque(_Session(number) for number in sessions)
        publish = commands.Publish("load/00000000", bytes(32), 1, 100, PIECE_BYTES)
        mark = [FIRST_ID + n for n in range(4)]
        body = {
            "id": mark[0],
            "session": mark[1],
            "seq": mark[2],
            "low": mark[3],
            "deadline_ms": round(deadline_s * 1000),
            **publish.to_wire(),
        }
        frame = wire.encode(body, FRAME_BYTES_MAX)
        fields: list[bytes] = []
        shape = ">"
        numbers = [(packed(each)[1:], "I") for each in mark]  # behind the byte that says what it is
        for place, kind in [*numbers, (b"00000000", "8s")]:
            part, frame = frame.split(place, 1)
            fields.append(part)
            shape += f"{len(part)}s{kind}"
        self._a, self._b, self._c, self._d, self._e = fields
        self._tail = frame
        self._pack = struct.Struct(f"{shape}{len(frame)}s").pack
        self._run = time.time_ns() % 10**9

    def take(self, number: int) -> tuple[bytes, dict[int, None], int] | None:
        for _ in range(LOOKED_AT):  # to look at all would cost more than to send
            session = self._sessions[0]
            self._sessions.rotate(-1)
            numbers = session.next()
            if numbers is not None:
                seq, low = numbers
                name = b"%08x" % ((number + self._run) & 0xFFFFFFFF)
                head = self._a, number, self._b, session.number, self._c, seq, self._d, low
                frame = self._pack(*head, self._e, name, self._tail)
                return frame, session.under_way, seq
        return None


def packed(number: int) -> bytes:
    """Five bytes, whatever the number: every reader of msgpack takes them."""
    return b"\xce" + struct.pack(">I", number)


class _Line(asyncio.Protocol):
    """One connection: frames out, (id, word) in; the word is empty for ``ok``."""

    def __init__(self, told: Callable[[int, str, float], None]) -> None:
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self._told = told
        self._rest = b""

    @property
    def full(self) -> bool:
        """It is gone, or takes nothing more for now."""
        if self.lost or self.transport is None:
            return True
        return self.transport.get_write_buffer_size() > BACKLOG_BYTES_MAX

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        hello = {"id": 0, "op": "hello", "protocol": PROTOCOL_VERSION}
        transport.write(wire.encode(hello, FRAME_BYTES_MAX))

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        start, end, told, now_s = 0, len(data), self._told, time.perf_counter()
        while end - start >= 4:
            stop = start + 4 + int.from_bytes(data[start : start + 4], "big")
            if stop > end:
                break
            # {"id": u32, "ok" or "error": ...}: the tracker writes its keys in this order.
            if data[start + 8] == 0xCE:
                number = int.from_bytes(data[start + 9 : start + 13], "big")
                if data[start + 13] == 0xA2:
                    told(number, "", now_s)
                elif data.startswith(BUSY, start + 13):
                    told(number, "busy", now_s)
                else:
                    word = str(msgpack.unpackb(data[start + 4 : stop])["error"])
                    told(number, word, now_s)
            elif not self.greeted.done():
                self.greeted.set_result(None)
            start = stop
        self._rest = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.greeted.done():
            self.greeted.set_exception(exc or ConnectionError("closed without a hello"))


class Generator:
    """Connections to some trackers, and the requests under way on them."""

    def __init__(self, endpoints: Sequence[str], connections: int) -> None:
        self._endpoints = endpoints
        self._connections = connections
        self._lines: list[_Line] = []
        self._under_way: dict[int, tuple[float, dict[int, None], int]] = {}
        """When each was due, and the table and the key of :meth:`Requests.take`."""
        self._next_id = FIRST_ID
        self._counted = Counted()
        self._deadline_s = 1.0
        self._counting = False

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for number in range(self._connections):
            host, _, port = self._endpoints[number % len(self._endpoints)].rpartition(":")
            _, line = await loop.create_connection(lambda: _Line(self._told), host, int(port))
            await line.greeted
            self._lines.append(line)

    def close(self) -> None:
        for line in self._lines:
            if line.transport is not None:
                line.transport.abort()

    async def open_loop(
        self, requests: Requests, rate: float, seconds: float, deadline_s: float
    ) -> Counted:
        """Offer ``rate`` requests a second, then wait ``deadline_s`` for the last answers."""
        counted = self._begin(deadline_s)
        begun = time.perf_counter()
        sent = 0
        while (now := time.perf_counter()) - begun < seconds:
            due = min(int((now - begun) * rate), int(seconds * rate))
            step = max(1, -(-(due - sent) // len(self._lines)))
            line = sent
            while sent < due:
                count = min(step, due - sent)
                times = [begun + (sent + each + 1) / rate for each in range(count)]
                self._send(self._lines[line % len(self._lines)], requests, times)
                sent, line = sent + count, line + 1
            self._give_up(now)
            await asyncio.sleep(TICK_S)
        counted.offered, counted.seconds = sent, time.perf_counter() - begun
        await asyncio.sleep(deadline_s)
        return self._end(counted)

    async def closed_loop(
        self, requests: Requests, under_way: int, seconds: float, deadline_s: float = 30.0
    ) -> Counted:
        """Keep ``under_way`` requests on each connection for so long."""
        counted = self._begin(deadline_s)
        begun = time.perf_counter()
        owed = dict.fromkeys(self._lines, under_way)

        def refill() -> None:
            for line, count in owed.items():
                if count:
                    owed[line] = 0
                    self._send(line, requests, [time.perf_counter()] * count)

        told = {line: line._told for line in self._lines}
        for line in self._lines:

            def again(number: int, word: str, now_s: float, line: _Line = line) -> None:
                told[line](number, word, now_s)
                if not any(owed.values()):
                    asyncio.get_running_loop().call_soon(refill)
                owed[line] += 1

            line._told = again
        refill()
        await asyncio.sleep(seconds)
        counted.seconds = time.perf_counter() - begun
        self._counting = False
        owed.clear()
        for line in self._lines:
            line._told = told[line]
        counted.offered = counted.good + counted.late + sum(counted.errors.values())
        until = time.perf_counter() + deadline_s
        while self._under_way and time.perf_counter() < until:  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(TICK_S)
        self._under_way.clear()
        return counted

    def _begin(self, deadline_s: float) -> Counted:
        self._counted, self._deadline_s, self._counting = Counted(), deadline_s, True
        return self._counted

    def _end(self, counted: Counted) -> Counted:
        self._give_up(time.perf_counter() + self._deadline_s)
        self._counting = False
        return counted

    def _send(self, line: _Line, requests: Requests, due_s: Sequence[float]) -> None:
        frames = []
        number, under_way, full = self._next_id, self._under_way, line.full
        for when in due_s:
            made = None if full else requests.take(number)
            if made is None:
                self._counted.unsent += 1
                continue
            frame, table, key = made
            under_way[number] = when, table, key
            number += 1
            frames.append(frame)
        self._next_id = number
        if frames and line.transport is not None:
            line.transport.write(b"".join(frames))

    def _told(self, number: int, word: str, now_s: float) -> None:
        found = self._under_way.pop(number, None)
        if found is None:
            return
        due_s, table, key = found
        table.pop(key, None)
        if not self._counting:
            return
        took_s = now_s - due_s
        counted = self._counted
        if word:
            counted.errors[word] = counted.errors.get(word, 0) + 1
            counted.refusals_ms.append(took_s * 1e3)
        elif took_s <= self._deadline_s:
            counted.good += 1
            counted.latencies_ms.append(took_s * 1e3)
        else:
            counted.late += 1

    def _give_up(self, now: float) -> None:
        """Whoever asked is not there any more: its number is free, an answer would be late."""
        while self._under_way:
            number = next(iter(self._under_way))
            due_s, table, key = self._under_way[number]
            if due_s + self._deadline_s >= now:
                return
            del self._under_way[number]
            table.pop(key, None)
            self._counted.silent += 1


async def sessions(endpoint: str, count: int) -> list[int]:
    """That many new request sessions."""
    host, _, port = endpoint.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        hello = {"id": 0, "op": "hello", "protocol": PROTOCOL_VERSION}
        writer.write(wire.encode(hello, FRAME_BYTES_MAX))
        for number in range(1, count + 1):
            body = {"id": number, "op": "open_session", "deadline_ms": 30_000}
            writer.write(wire.encode(body, FRAME_BYTES_MAX))
        found: list[int] = []
        while len(found) < count:
            length = wire.frame_length(await reader.readexactly(4), FRAME_BYTES_MAX)
            reply: dict[str, Any] = wire.decode_body(await reader.readexactly(length))
            if reply["id"] == 0:
                continue
            if "ok" not in reply:
                raise RuntimeError(f"no session: {reply}")
            found.append(int(reply["ok"]["session"]))
        return found
    finally:
        writer.close()
        await writer.wait_closed()
