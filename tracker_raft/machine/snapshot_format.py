"""The bytes of a snapshot of the state machine: a sequence of sealed blocks. Pure.

::

    {"kind": "head",    "body": <{"format": 2 or 3, ...}>, "seal": ...}
    {"kind": "files",   "body": <[[name, history]...]>,   "seal": ...}    and so on, many of each
    {"kind": "end",     "body": <{"state_hash": hex}>,    "seal": ...}

Each block is one frame of :mod:`tracker_raft.wire`. Its seal is the hash of the seal before it,
its kind and its body, so a block that is changed, missing, doubled or out of order is found
before its body is read. Blocks have at most :data:`BLOCK_ROWS` rows and about
:data:`BLOCK_BYTES`, and each stands by itself: a snapshot is written and read without ever being
in memory as a whole, and however it was cut into chunks on its way.

The format has a number of its own. Another one is refused before anything else of it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgpack

from tracker_raft import wire
from tracker_raft.errors import BadRequest, Damaged, Unsupported
from tracker_raft.versions import NEWEST, OLDEST, beyond

FORMAT: Final = 2
"""1 had no changes of the files. A state without them is not the same, so 1 is not read."""
FORMAT_VERSIONED: Final = 3
"""The head names a cluster version above 1, which software that reads only 2 knows nothing of. A
state at version 1 is written as 2, so that a tracker not upgraded yet can take it."""
BLOCK_BYTES: Final = 256 * 1024
"""A block is closed by the row that takes it over this."""
BLOCK_ROWS: Final = 1_000
"""Or by the row with this number: loading a block is one step, and short rows take as long."""
_LUMP_ROWS: Final = 64
"""So many rows are packed by one call, before it is known whether they fit."""
_FRAME_BYTES_MAX: Final = 4 * BLOCK_BYTES
"""No row comes near it: the longest is a reply with all versions of a name, some 20 KB."""
_SEAL_BYTES: Final = 16


def _seal(before: bytes, kind: str, body: bytes) -> bytes:
    return blake2b(before + kind.encode() + b":" + body, digest_size=_SEAL_BYTES).digest()


class Writer:
    """Rows in, blocks out. The caller gives :meth:`head`, the blocks of each kind and the end.

    Blocks are cut by what they hold alone, so equal rows make equal bytes, however the caller
    spreads the work over time.
    """

    def __init__(self) -> None:
        self._seal = b""
        self._pack = msgpack.Packer(use_bin_type=True).pack
        self._begin()

    def _begin(self) -> None:
        self._rows = self._bytes = 0
        self._parts: list[bytes] = []

    @property
    def empty(self) -> bool:
        """No row was added since the last block."""
        return not self._rows

    @property
    def full(self) -> bool:
        """:meth:`block` must be called now."""
        return self._bytes >= BLOCK_BYTES or self._rows >= BLOCK_ROWS

    @property
    def room(self) -> int:
        """So many rows fit at most."""
        return BLOCK_ROWS - self._rows

    def add(self, row: tuple[Any, ...]) -> None:
        self._put(self._pack(row), 1)

    def add_many(self, rows: Sequence[tuple[Any, ...]]) -> int:
        """:meth:`add` for each, of :attr:`room` at most, until :attr:`full`; for how many."""
        for start in range(0, len(rows), _LUMP_ROWS):
            lump = rows[start : start + _LUMP_ROWS]
            packed = self._pack(lump)[_header_bytes(len(lump)) :]
            if self._bytes + len(packed) < BLOCK_BYTES:
                self._put(packed, len(lump))
                continue
            for at, row in enumerate(lump, start + 1):
                self.add(row)
                if self.full:
                    return at
        return len(rows)

    def _put(self, packed: bytes, rows: int) -> None:
        self._parts.append(packed)
        self._rows += rows
        self._bytes += len(packed)

    def head(self, fields: dict[str, int]) -> bytes:
        number = FORMAT_VERSIONED if "cluster_version" in fields else FORMAT
        return self._sealed("head", msgpack.packb({"format": number, **fields}))

    def block(self, kind: str) -> bytes:
        """The rows added since the last block, as one of this kind."""
        body = _array_header(self._rows) + b"".join(self._parts)
        self._begin()
        return self._sealed(kind, body)

    def end(self, state_hash: str) -> bytes:
        return self._sealed("end", msgpack.packb({"state_hash": state_hash}))

    def _sealed(self, kind: str, body: bytes) -> bytes:
        self._seal = _seal(self._seal, kind, body)
        message = {"kind": kind, "body": body, "seal": self._seal}
        return wire.encode(message, _FRAME_BYTES_MAX)


def _array_header(count: int) -> bytes:
    header: bytes = msgpack.Packer().pack_array_header(count)
    return header


def _header_bytes(count: int) -> int:
    """Of an array of so many, up to :data:`_LUMP_ROWS`."""
    return 1 if count < 16 else 3


class Reader:
    """Bytes in, blocks out. After an error it must not be fed again."""

    def __init__(self) -> None:
        self._decoder = wire.FrameDecoder(_FRAME_BYTES_MAX)
        self._seal = b""
        self._kind = ""
        """Of the newest block; empty before the first."""

    def feed(self, chunk: bytes) -> Iterator[tuple[str, Any]]:
        """(kind, decoded body) of each block that ``chunk`` completes: head first, end last.

        Raises :class:`Damaged` for anything that :class:`Writer` did not write, and
        :class:`Unsupported` for another format. Nothing must be believed before :meth:`finish`.
        """
        for message in self._messages(chunk):
            yield self._opened(message)

    def _messages(self, chunk: bytes) -> Iterator[wire.Message]:
        view = memoryview(chunk)
        try:
            for start in range(0, len(view), _FRAME_BYTES_MAX):  # so the decoder's buffer is small
                yield from self._decoder.feed(view[start : start + _FRAME_BYTES_MAX])
        except BadRequest as error:
            raise Damaged(f"snapshot has no valid block where one must be: {error}") from error

    def finish(self) -> None:
        """Raises :class:`Damaged` unless the end was the last thing fed."""
        if self._kind != "end":
            raise Damaged(f"snapshot breaks off after block {self._kind!r}")

    def _opened(self, message: wire.Message) -> tuple[str, Any]:
        if self._kind == "end":
            raise Damaged("snapshot goes on after its end")
        before, kind, body = self._kind, message.get("kind", ""), message.get("body")
        if type(kind) is not str or type(body) is not bytes:
            raise Damaged(f"snapshot has a malformed block after {before!r}")
        self._kind, self._seal = kind, _seal(self._seal, kind, body)
        if message.get("seal") != self._seal:
            raise Damaged(f"snapshot block {kind!r} does not match its seal: changed or misplaced")
        return kind, _checked(before, kind, _unpack(body))


def _checked(before: str, kind: str, body: Any) -> Any:
    """The body, if the block may stand where it stands and is of a format read here."""
    if (kind == "head") != (before == ""):
        raise Damaged(f"snapshot block {kind!r} after {before!r}, expected the head first and once")
    if kind in ("head", "end"):
        if type(body) is not dict:
            raise Damaged(f"snapshot block {kind!r} is {type(body).__name__}, expected a map")
    elif type(body) is not list:
        raise Damaged(f"snapshot block {kind!r} is {type(body).__name__}, expected an array")
    if kind == "head":
        _check_head(body)
    return body


def _check_head(head: dict[str, Any]) -> None:
    found = head.get("format")
    if found not in (FORMAT, FORMAT_VERSIONED):
        both = f"{FORMAT} and {FORMAT_VERSIONED}"
        if type(found) is int and found > 0:
            raise Unsupported(f"snapshot of format {found}, this version reads {both}")
        raise Damaged(f"snapshot of format {found!r}, expected {both}")
    version = head.get("cluster_version", OLDEST)
    if type(version) is not int or (version > OLDEST) != (found == FORMAT_VERSIONED):
        raise Damaged(f"snapshot of format {found} at cluster version {version!r}")
    if version > NEWEST:
        raise Unsupported(beyond(version))


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise Damaged(f"snapshot block is not msgpack: {error}") from error
