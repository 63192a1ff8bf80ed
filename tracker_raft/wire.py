"""Frames: u32 big-endian length, then one msgpack map. Sans-IO; knows no command.

Rules
-----
* A frame longer than its limit is refused from its length prefix, before it is read into memory.
* The body is a msgpack map with string keys. Extension types are refused; so is trailing data.
  (msgpack's own timestamp cannot be refused by its reader; it comes out as a plain float.)
* Raw payload (pieces) follows its header frame outside the framing: the header says how many
  bytes, so that ``sendfile`` can serve them. :class:`FrameDecoder` is therefore for control
  connections only; the piece exchange reads header and payload with exact reads, by
  :func:`frame_length` and :func:`decode_body`.

What to re-check when you change it: ``docs/protocol.md``, and that :meth:`FrameDecoder.feed` is
still linear in the bytes fed whatever the chunking (``tests/property/test_wire.py``).
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import msgpack

from tracker_raft.errors import BadRequest, TooLarge

HEADER = struct.Struct(">I")
HEADER_BYTES = HEADER.size
Message = dict[str, Any]


class _Packers(threading.local):
    """A packer for each thread: making one costs more than what it packs, and it is not for
    several threads."""

    def __init__(self) -> None:
        self.pack = msgpack.Packer(use_bin_type=True).pack


_packers = _Packers()


def pack(value: Any) -> bytes:
    """The msgpack of ``value``."""
    packed: bytes = _packers.pack(value)
    return packed


def encode(message: Mapping[str, Any], frame_bytes_max: int) -> bytes:
    """One frame. Raises :class:`TooLarge` when the body is over ``frame_bytes_max`` bytes."""
    return frame(pack(message), frame_bytes_max)


def frame(body: bytes, frame_bytes_max: int) -> bytes:
    """One frame of a body that is packed already. Raises :class:`TooLarge` like :func:`encode`."""
    if len(body) > frame_bytes_max:
        raise TooLarge(f"frame of {len(body)} bytes, limit {frame_bytes_max}; not sent")
    return HEADER.pack(len(body)) + body


def frame_length(header: bytes | bytearray | memoryview, frame_bytes_max: int) -> int:
    """Body length in bytes from the 4 header bytes; :class:`TooLarge` when over the limit."""
    (length,) = HEADER.unpack_from(header)
    if length > frame_bytes_max:
        raise TooLarge(f"frame of {length} bytes announced, limit {frame_bytes_max}; not read")
    return int(length)


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def decode_body(body: bytes | bytearray | memoryview) -> Message:
    """The map in one frame body. Raises :class:`BadRequest` for anything else.

    Arrays come back as tuples, so that what was decoded is immutable all the way down where it
    matters and can be handed to PySyncObj, which compares log entries as tuples.
    """
    message = decode(body)
    if type(message) is not dict:
        raise BadRequest(f"frame body is {type(message).__name__}, expected a map")
    for key in message:
        if type(key) is not str:
            raise BadRequest("frame body has a key that is not a string")
    return message


def decode(body: bytes | bytearray | memoryview) -> Any:
    """Whatever one msgpack says, by the same rules. Raises :class:`BadRequest`."""
    try:
        return msgpack.unpackb(
            body,
            raw=False,
            use_list=False,
            strict_map_key=True,
            ext_hook=_refuse_extension,
            timestamp=1,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise BadRequest(f"frame body is not msgpack: {type(error).__name__}: {error}") from None


class FrameDecoder:
    """Bytes in, messages out. One per connection; after an error it must not be fed again."""

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def whole(self, data: memoryview) -> Message | None:
        """The message that ``data`` is, when it is exactly one frame and nothing waits here;
        otherwise None, and it is to be fed. What :meth:`feed` would yield, without a copy: most
        of what a client sends comes like this."""
        size = len(data) - HEADER_BYTES
        if (
            self._buffer
            or not 0 <= size <= self.frame_bytes_max
            or HEADER.unpack_from(data)[0] != size
        ):
            return None
        return decode_body(data[HEADER_BYTES:])

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Copy ``data`` at once; then yield each complete message, one by one as asked for.

        The iterator raises :class:`TooLarge` or :class:`BadRequest`, and must be used up or closed
        before the next feed. Never holds more than one incomplete frame, at most
        ``frame_bytes_max`` + 4 bytes, beyond the chunk just fed.
        """
        self._buffer += data
        return self._messages()

    def _messages(self) -> Iterator[Message]:
        buffer = self._buffer
        start = 0
        try:
            while len(buffer) - start >= HEADER_BYTES:
                (length,) = HEADER.unpack_from(buffer, start)
                if length > self.frame_bytes_max:
                    frame_length(buffer[start:], self.frame_bytes_max)  # raises
                end = start + HEADER_BYTES + length
                if len(buffer) < end:
                    break
                message = decode_body(buffer[start + HEADER_BYTES : end])
                start = end
                yield message
        finally:
            del buffer[:start]

    def __repr__(self) -> str:
        return f"<FrameDecoder buffered={len(self._buffer)} max={self.frame_bytes_max}>"


def elide(value: Any, bytes_max: int = 8) -> Any:
    """A copy fit for a log: long bytes become their head and a count, containers are walked."""
    if isinstance(value, bytes | bytearray | memoryview):
        head = bytes(value[:bytes_max]).hex()
        return f"<{head}… {len(value)} bytes>" if len(value) > bytes_max else f"<{head}>"
    if isinstance(value, Mapping):
        return {key: elide(item, bytes_max) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if len(value) > 8:
            return [*(elide(item, bytes_max) for item in value[:8]), f"… {len(value)} items"]
        return [elide(item, bytes_max) for item in value]
    return value
