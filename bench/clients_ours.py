"""Our clients, as :mod:`bench.clients` drives them: publishes and look-ups.

A publish binds a name never used before to 32 random bytes: nothing on the way can compress or
skip it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bench.clients import Client, Place, Tally
from bench.load import FIRST_ID, FRAME_BYTES_MAX, PIECE_BYTES, packed, sessions
from tracker_raft import commands, wire
from tracker_raft.commands import Level, Lookup, NewFile
from tracker_raft.config import PROTOCOL_VERSION
from tracker_raft.entries import pack_operation


def logged_bytes() -> int:
    """What the log of a tracker holds for one publish of these clients, beside the name."""
    publish = commands.Publish("n" * 16, bytes(32), 1, 100, PIECE_BYTES)
    return len(pack_operation(1 << 17, 1 << 17, 1 << 17, publish.to_wire())) - 16


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


class OurBatches(_Ours):
    """Publishes of so many files by one operation, in a session of its own."""

    def __init__(self, tally: Tally, operations: int, session: int) -> None:
        super().__init__(tally, operations)
        self._run = f"{random.getrandbits(32):08x}".encode()
        self._seq = 0
        name = "n" * 16
        file = NewFile(name, b"\xff" * 32, 1, 100, PIECE_BYTES)
        batch = commands.PublishMany.of([file._replace(name=f"{n:016}") for n in range(operations)])
        id_, session_, seq, low = _MARKS
        body = {"id": id_, "session": session_, "seq": seq, "low": low, "deadline_ms": 30_000}
        frame = wire.encode({**body, **batch.to_wire()}, FRAME_BYTES_MAX)
        names = b"".join(packed_text(name) for name in batch.names)
        a, b, c, d, e, f, tail = _split(frame, [*map(packed, _MARKS), names, batch.contents])
        self._head = [a, b + packed(session) + c, d, e]
        self._between, self._tail = f, tail

    def request(self) -> bytes:
        self._seq += 1
        number = packed(self._seq)
        a, b, c, d = self._head
        first = (self._seq * self.operations) & 0xFFFFFFFF
        start = b"\xb0" + self._run
        names = [b"%s%08x" % (start, first + at) for at in range(self.operations)]
        contents = random.randbytes(32 * self.operations)
        out = [a, packed(FIRST_ID + self._seq), b, number, c, number, d, *names]
        self._left = 1
        return b"".join((*out, self._between, contents, self._tail))

    def fail(self) -> None:
        for _ in range(self.operations):
            super().fail()


def packed_text(text: str) -> bytes:
    """As msgpack writes a short text."""
    return bytes([0xA0 + len(text)]) + text.encode()


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
    tally: Tally,
    places: Sequence[Place],
    count: int,
    operations: int = 1,
    kind: Callable[[Tally, int, int], Client] = OurPublishes,
) -> list[tuple[Place, Callable[[], Client]]]:
    """Clients that publish, each in a session, spread over the trackers at ``places``."""
    host, port = places[0]
    numbers = await sessions(f"{host}:{port}", count)

    def make(session: int) -> Callable[[], Client]:
        return lambda: kind(tally, operations, session)

    return [(places[n % len(places)], make(session)) for n, session in enumerate(numbers)]
