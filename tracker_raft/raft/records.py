"""The journal on disk: records, batches, segments. Bytes in, bytes out. Pure.

Format (integers big-endian), :data:`FORMAT`::

    segment  record... zeros
    record   u32 payload length | u32 CRC-32 of the payload, seeded with the record before | payload
    payload  u8 kind, with LAST in the last record of a batch | u32 batch | body
    kinds    0 header    msgpack {"format", "cluster", "node", "birth", "segment", "chain",
                                  "term", "voted_for"}; the first record of a segment
             1 entry     u64 index | u64 term | command
             2 truncate  u64 index: entries from here on are gone
             3 vote      u64 term | node id voted for in it, empty for none
             4 reset     u64 index | u64 term: a snapshot up to here replaced the log

A *batch* is what one sync made durable; it never spans two segments, and the next one is not
written before that sync. It is read whole or not at all. A *segment* is allocated whole, as zeros,
so that writing into it does not run out of space. Its header repeats term and vote, so that
deleting older segments loses nothing, and names the CRC its predecessor ended with (``chain``).

What a bad record means. Chained CRCs tie a record to all before it. Behind the last whole batch,
bytes that belong to the batch that was being written when the machine stopped are a *torn tail*,
whichever of its pages arrived: nobody was told of it, it is cut. A valid record of a *later
batch* behind a bad one proves that the bad one had been durable: *damage* to what others rely on.
A flip in the very last batch cannot be told from a torn tail.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

FORMAT = 1
RECORD_BYTES_MAX = 4 * 1024 * 1024
"""A payload. Longer ones are not read back, so they must not be written."""
BATCH_MASK = 0xFFFFFFFF
_FRAME = struct.Struct(">II")
_START = struct.Struct(">BI")
_ENTRY = struct.Struct(">QQ")
_INDEX = struct.Struct(">Q")
_LAST = 0x80
BODY_BYTES_MAX = RECORD_BYTES_MAX - _START.size


class Kind(IntEnum):
    HEADER = 0
    ENTRY = 1
    TRUNCATE = 2
    VOTE = 3
    RESET = 4


class Record(NamedTuple):
    """One record, decoded as far as its kind."""

    kind: int
    batch: int
    last: bool
    body: memoryview


class Body(NamedTuple):
    """A record to be written: it gets its batch and its place in the chain when it is."""

    kind: Kind
    data: bytes


def header(fields: dict[str, Any]) -> Body:
    return Body(Kind.HEADER, msgpack.packb({"format": FORMAT, **fields}))


def entry(command: bytes, index: int, term: int) -> Body:
    return Body(Kind.ENTRY, _ENTRY.pack(index, term) + command)


def truncate(index: int) -> Body:
    return Body(Kind.TRUNCATE, _INDEX.pack(index))


def vote(term: int, voted_for: str | None) -> Body:
    return Body(Kind.VOTE, _INDEX.pack(term) + (voted_for or "").encode())


def reset(index: int, term: int) -> Body:
    return Body(Kind.RESET, _ENTRY.pack(index, term))


def read_header(body: memoryview) -> dict[str, Any]:
    """Fields of a header. Raises ``ValueError`` when it is none."""
    fields = msgpack.unpackb(body)
    if type(fields) is not dict:
        raise ValueError(f"a header that is {type(fields).__name__}")
    return fields


def read_entry(body: memoryview) -> tuple[bytes, int, int]:
    """(command, index, term): the shape PySyncObj keeps its log in."""
    index, term = _ENTRY.unpack_from(body)
    return bytes(body[_ENTRY.size :]), index, term


def read_index(body: memoryview) -> int:
    """The index of a truncate record, the term of a vote record."""
    return int(_INDEX.unpack_from(body)[0])


def read_index_of(body: Body) -> int:
    """The index an entry, truncate or reset record speaks of, without reading the rest."""
    return int(_INDEX.unpack_from(body.data)[0])


def read_vote(body: memoryview) -> tuple[int, str | None]:
    return read_index(body), str(body[_INDEX.size :], "utf-8") or None


def read_reset(body: memoryview) -> tuple[int, int]:
    index, term = _ENTRY.unpack_from(body)
    return index, term


def pack_batch(bodies: Iterable[Body], batch: int, chain: int) -> tuple[bytes, int]:
    """The bytes of one batch behind a record whose CRC is ``chain``, and the chain after it."""
    rows = list(bodies)
    out = bytearray()
    for number, (kind, data) in enumerate(rows):
        flags = kind | (_LAST if number == len(rows) - 1 else 0)
        payload = _START.pack(flags, batch & BATCH_MASK) + data
        chain = zlib.crc32(payload, chain)
        out += _FRAME.pack(len(payload), chain)
        out += payload
    return bytes(out), chain


@dataclass(slots=True)
class Scan:
    """What a segment's bytes hold."""

    records: list[tuple[int, Record]]
    """(offset behind it, record), in order, up to the end of the last whole batch."""
    end: int
    """Offset behind the last whole batch."""
    chain: int
    """CRC of its last record."""
    torn_bytes: int
    """Length of what follows without being zeros; 0 for a clean segment."""
    damaged: bool
    """What follows had been durable."""


def scan(data: memoryview, batch: int) -> Scan:
    """Read one segment, and judge what ends it. Its first batch is number ``batch``."""
    records: list[tuple[int, Record]] = []
    whole, end, end_chain = 0, 0, 0
    offset, chain = 0, 0
    while (found := _record_at(data, offset, chain)) is not None:
        offset, chain, record = found
        records.append((offset, record))
        if record.last:
            whole, end, end_chain, batch = len(records), offset, chain, record.batch + 1
    del records[whole:]
    torn = len(bytes(data[end:]).rstrip(b"\0"))
    damaged = end + torn > offset and _later_batch_follows(data, offset, chain, batch)
    return Scan(records, end, end_chain, torn, damaged)


def may_be_begun(data: memoryview, batch: int) -> bool:
    """Whether a segment without a whole batch is what writing its first one, number ``batch``,
    may have left: a sector comes whole or not at all, so its first one is blank or says so."""
    said = bytes(data[_FRAME.size : _FRAME.size + _START.size]).rstrip(b"\0")
    ways = (_START.pack(Kind.HEADER | flag, batch & BATCH_MASK) for flag in (0, _LAST))
    return not any(data[:1]) and any(way.startswith(said) for way in ways)


def _record_at(data: memoryview, offset: int, chain: int) -> tuple[int, int, Record] | None:
    """(offset behind it, its CRC, the record) if a valid one stands at ``offset``."""
    start = offset + _FRAME.size
    if start > len(data):
        return None
    length, stored = _FRAME.unpack_from(data, offset)
    end = start + length
    if not _START.size <= length <= RECORD_BYTES_MAX or end > len(data):
        return None
    payload = data[start:end]
    if zlib.crc32(payload, chain) != stored:
        return None
    flags, batch = _START.unpack_from(payload)
    return end, stored, Record(flags & ~_LAST, batch, bool(flags & _LAST), payload[_START.size :])


def _later_batch_follows(data: memoryview, bad: int, chain: int, batch: int) -> bool:
    """Whether behind the bad record at ``bad``, of number ``batch``, one of a later batch stands.

    Where the next record begins is not known, the length may be what was damaged; so every offset
    is tried. What it is chained to is one of three: the CRC the bad record carries (its payload or
    length was damaged), the CRC of the bytes up to here as its payload (its head was; ``chain`` is
    the CRC before), or, for a record further on, what the intact record in between carries.
    """
    text = bytes(data).rstrip(b"\0")
    start = hashed = bad + _FRAME.size
    if start > len(data):
        return False
    carried = _FRAME.unpack_from(data, bad)[1]
    while (start := text.find(b"\0", start)) >= 0:  # a length begins with it
        if (follower := _place_behind(data, start)) is not None:
            if _is_of_later_batch(data, start, batch):
                chain, hashed = zlib.crc32(data[hashed:start], chain), start
                if any(_record_at(data, start, seed) for seed in (carried, chain)):
                    return True
            stored = _FRAME.unpack_from(data, start)[1]
            if _is_of_later_batch(data, follower, batch) and _record_at(data, follower, stored):
                return True
        start += 1
    return False


def _place_behind(data: memoryview, start: int) -> int | None:
    """Offset behind what may be a record at ``start``; whether it is one, its CRC tells."""
    if start + _FRAME.size > len(data):
        return None
    length, _ = _FRAME.unpack_from(data, start)
    end = start + _FRAME.size + int(length)
    return end if _START.size <= length <= RECORD_BYTES_MAX and end <= len(data) else None


def _is_of_later_batch(data: memoryview, start: int, batch: int) -> bool:
    """Whether what may be a record at ``start`` says that it is; numbers begin again at 2^32."""
    if _place_behind(data, start) is None:
        return False
    _, found = _START.unpack_from(data, start + _FRAME.size)
    return bool(0 < (found - batch) & BATCH_MASK <= len(data))
