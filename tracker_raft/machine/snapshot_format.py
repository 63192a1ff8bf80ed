"""The bytes of a snapshot of the state machine: a sequence of sealed blocks. Pure.

::

    {"kind": "head",    "body": <{"format": 1, ...}>,     "seal": ...}
    {"kind": "files",   "body": <[[name, history]...]>,   "seal": ...}    and so on, many of each
    {"kind": "end",     "body": <{"state_hash": hex}>,    "seal": ...}

Each block is one frame of :mod:`tracker_raft.wire`. Its seal is the hash of the seal before it,
its kind and its body, so a block that is changed, missing, doubled or out of order is found
before its body is read. Blocks are about :data:`BLOCK_BYTES` long and each stands by itself: a
snapshot is written and read without ever being in memory as a whole, and however it was cut into
chunks on its way.

The format has a number of its own. A newer one is refused before anything else of it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

import msgpack

from tracker_raft import wire
from tracker_raft.errors import BadRequest, Damaged, Unsupported

FORMAT: Final = 1
BLOCK_BYTES: Final = 256 * 1024
"""A block is closed by the row that takes it over this."""
_FRAME_BYTES_MAX: Final = 4 * BLOCK_BYTES
"""No row comes near it: the longest is a reply with all versions of a name, some 20 KB."""
_SEAL_BYTES: Final = 16


def _seal(before: bytes, kind: str, body: bytes) -> bytes:
    return blake2b(before + kind.encode() + b":" + body, digest_size=_SEAL_BYTES).digest()


def write(
    head: dict[str, int], tables: Iterable[tuple[str, Iterable[Any]]], state_hash: str
) -> Iterator[bytes]:
    """Blocks for ``head``, for the rows of each (kind, rows) and for the end, one by one."""
    seal = b""
    packer = msgpack.Packer(use_bin_type=True, autoreset=False)
    for kind, body in _bodies(packer, {"format": FORMAT, **head}, tables, state_hash):
        seal = _seal(seal, kind, body)
        yield wire.encode({"kind": kind, "body": body, "seal": seal}, _FRAME_BYTES_MAX)


def _bodies(
    packer: Any,
    head: dict[str, int],
    tables: Iterable[tuple[str, Iterable[Any]]],
    state_hash: str,
) -> Iterator[tuple[str, bytes]]:
    yield "head", msgpack.packb(head)
    for kind, rows in tables:
        count = size = 0
        parts: list[bytes] = []
        for row in rows:
            packer.pack(row)
            parts.append(packer.bytes())
            packer.reset()
            count, size = count + 1, size + len(parts[-1])
            if size >= BLOCK_BYTES:
                yield kind, _array(packer, count, parts)
                count = size = 0
                parts = []
        if parts:
            yield kind, _array(packer, count, parts)
    yield "end", msgpack.packb({"state_hash": state_hash})


def _array(packer: Any, count: int, parts: list[bytes]) -> bytes:
    packer.pack_array_header(count)
    header = bytes(packer.bytes())
    packer.reset()
    return header + b"".join(parts)


def read(chunks: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """(kind, decoded body) of each block, the head first and the end last.

    Raises :class:`Damaged` for anything that :func:`write` did not write, and
    :class:`Unsupported` for a newer format. Nothing must be believed before the end was seen.
    """
    seal, kind = b"", ""
    for message in _messages(chunks):
        if kind == "end":
            raise Damaged("snapshot goes on after its end")
        before, kind, body = kind, message.get("kind", ""), message.get("body")
        if type(kind) is not str or type(body) is not bytes:
            raise Damaged(f"snapshot has a malformed block after {before!r}")
        seal = _seal(seal, kind, body)
        if message.get("seal") != seal:
            raise Damaged(f"snapshot block {kind!r} does not match its seal: changed or misplaced")
        yield kind, _checked(before, kind, _unpack(body))
    if kind != "end":
        raise Damaged(f"snapshot breaks off after block {kind!r}")


def _checked(before: str, kind: str, body: Any) -> Any:
    """The body, if the block may stand where it stands and is of a format read here."""
    if (kind == "head") != (before == ""):
        raise Damaged(f"snapshot block {kind!r} after {before!r}, expected the head first and once")
    if kind in ("head", "end"):
        if type(body) is not dict:
            raise Damaged(f"snapshot block {kind!r} is {type(body).__name__}, expected a map")
    elif type(body) is not list:
        raise Damaged(f"snapshot block {kind!r} is {type(body).__name__}, expected an array")
    if kind == "head" and body.get("format") != FORMAT:
        found = body.get("format")
        if type(found) is int and found > FORMAT:
            raise Unsupported(f"snapshot of format {found}, this version reads {FORMAT}")
        raise Damaged(f"snapshot of format {found!r}, expected {FORMAT}")
    return body


def _messages(chunks: Iterable[bytes]) -> Iterator[wire.Message]:
    decoder = wire.FrameDecoder(_FRAME_BYTES_MAX)
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), _FRAME_BYTES_MAX):  # so the decoder's buffer is small
                yield from decoder.feed(view[start : start + _FRAME_BYTES_MAX])
    except BadRequest as error:
        raise Damaged(f"snapshot has no valid block where one must be: {error}") from error


def _unpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise Damaged(f"snapshot block is not msgpack: {error}") from error
