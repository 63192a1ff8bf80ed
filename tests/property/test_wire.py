"""Any bytes, any chunking: the frame decoder gives the same messages or a definite refusal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_raft import wire
from tracker_raft.errors import BadRequest, TooLarge

FRAME_BYTES_MAX = 4096

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
keys = st.text(max_size=12)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
messages = st.dictionaries(keys, values, max_size=6)


def chunks_of(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def decode(chunks: Iterable[bytes], frame_bytes_max: int = FRAME_BYTES_MAX) -> list[wire.Message]:
    decoder = wire.FrameDecoder(frame_bytes_max)
    return [message for chunk in chunks for message in decoder.feed(chunk)]


@given(st.lists(messages, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_chunking_gives_the_same_messages(sent: list[wire.Message], cuts: list[int]) -> None:
    """Broken: how TCP happens to cut the stream changes what is read."""
    stream = b"".join(wire.encode(message, 64 * 1024) for message in sent)
    assert decode(chunks_of(stream, cuts), 64 * 1024) == sent


@given(st.lists(messages, max_size=2), st.binary(max_size=200), st.lists(st.integers(0, 10_000)))
def test_arbitrary_bytes_are_messages_or_a_definite_refusal(
    good: list[wire.Message], garbage: bytes, cuts: list[int]
) -> None:
    """Broken: garbage from the network raises what no shell expects, and kills a tracker."""
    stream = b"".join(wire.encode(message, 64 * 1024) for message in good) + garbage
    decoder = wire.FrameDecoder(64 * 1024)
    read: list[wire.Message] = []
    try:
        for chunk in chunks_of(stream, cuts):
            read.extend(decoder.feed(chunk))
    except (BadRequest, TooLarge):
        pass
    for message in read:
        assert all(type(key) is str for key in message)


@given(
    st.lists(messages, min_size=1, max_size=2),
    st.binary(max_size=3),
    st.binary(max_size=8) | st.just(b""),
    st.integers(0, 200),
)
def test_a_frame_that_comes_alone_is_what_feeding_it_would_give(
    sent: list[wire.Message], before: bytes, garbage: bytes, limit: int
) -> None:
    """Broken: what is read depends on whether it came in one piece."""
    stream = b"".join(wire.encode(message, 64 * 1024) for message in sent)
    for data in (stream, stream + garbage, before + stream, garbage):
        short, long = wire.FrameDecoder(limit), wire.FrameDecoder(limit)
        try:
            read = short.whole(memoryview(data))
        except BadRequest as error:
            with pytest.raises(BadRequest, match=re.escape(str(error))):
                list(long.feed(data))
            continue
        if read is None:  # then it is fed, as if nothing had happened
            continue
        assert list(long.feed(data)) == [read]
        assert short.whole(memoryview(data)) == read, "nothing stays behind"
    part = wire.FrameDecoder(64 * 1024)
    assert list(part.feed(stream[:4])) == []
    assert part.whole(memoryview(stream)) is None, "it is the rest of another frame"


@given(st.binary(max_size=300))
def test_an_arbitrary_body_is_a_map_or_bad_request(body: bytes) -> None:
    """Broken: a body that msgpack cannot read raises something other than BadRequest."""
    try:
        message = wire.decode_body(body)
    except BadRequest:
        return
    assert type(message) is dict


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb([1, 2]),
        msgpack.packb({1: "a number for a key"}),
        msgpack.packb({"extension": msgpack.ExtType(5, b"x")}),
        msgpack.packb({"trailing": 1}) + b"\x00",
        b"\x81\xa1a" * 3000,
        b"\x91" * 3000,
        b"\x81\xa1a\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xa2\xff\xfe",
        b"\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12,
        b"",
    ],
    ids=lambda body: body[:8].hex() or "empty",
)
def test_what_is_not_a_map_of_plain_values_is_bad_request(body: bytes) -> None:
    """Broken: a body outside the rules gets in, or raises something a shell does not expect."""
    with pytest.raises(BadRequest):
        wire.decode_body(body)


def test_a_timestamp_comes_out_as_a_plain_number() -> None:
    """Broken: the one extension msgpack reads by itself brings a foreign object in."""
    assert wire.decode_body(msgpack.packb({"t": msgpack.Timestamp(3, 0)})) == {"t": 3.0}


@pytest.mark.parametrize(
    "bad", [b"\x00\x00\x00\x01\xc1", b"\xff\xff\xff\xff"], ids=["body", "size"]
)
def test_garbage_behind_a_good_frame_is_refused_after_it_was_read(bad: bytes) -> None:
    """Broken: the refusal itself fails, because the decoder still holds a view of its buffer."""
    decoder = wire.FrameDecoder(100)
    read: list[wire.Message] = []
    with pytest.raises(BadRequest):
        for message in decoder.feed(wire.encode({"op": "hello"}, 100) + bad):
            read.append(message)  # noqa: PERF402 - what was read before the error must be kept
    assert read == [{"op": "hello"}]


@given(st.integers(1, 2**32 - 1), st.integers(0, 64))
def test_an_oversized_frame_is_refused_from_its_prefix(length: int, limit: int) -> None:
    """Broken: four bytes from a stranger make a tracker reserve or wait for gigabytes."""
    decoder = wire.FrameDecoder(limit)
    prefix = wire.HEADER.pack(length)
    if length > limit:
        with pytest.raises(TooLarge, match=f"frame of {length} bytes announced, limit {limit}"):
            list(decoder.feed(prefix))
    else:
        assert list(decoder.feed(prefix)) == []


@given(messages, st.integers(0, 300))
def test_what_is_encoded_is_within_the_limit_or_refused(message: wire.Message, limit: int) -> None:
    """Broken: a sender emits a frame that the receiver must refuse."""
    try:
        frame = wire.encode(message, limit)
    except TooLarge:
        assert len(msgpack.packb(message)) > limit
    else:
        assert wire.frame_length(frame, limit) == len(frame) - wire.HEADER_BYTES <= limit


def test_one_byte_at_a_time_stays_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a slow sender makes the decoder look at the same bytes again for each new one."""
    message = {"op": "publish", "content": bytes(2_000), "name": "models/a"}
    stream = wire.encode(message, FRAME_BYTES_MAX) * 3
    looked_at = {"prefixes": 0, "body_bytes": 0}
    frame_length, decode_body = wire.frame_length, wire.decode_body

    def counted_length(header: Any, frame_bytes_max: int) -> int:
        looked_at["prefixes"] += 1
        return frame_length(header, frame_bytes_max)

    def counted_body(body: Any) -> wire.Message:
        looked_at["body_bytes"] += len(body)
        return decode_body(body)

    monkeypatch.setattr(wire, "frame_length", counted_length)
    monkeypatch.setattr(wire, "decode_body", counted_body)
    assert decode([stream[i : i + 1] for i in range(len(stream))]) == [message] * 3
    assert looked_at["prefixes"] <= len(stream)
    assert looked_at["body_bytes"] == len(stream) - 3 * wire.HEADER_BYTES


@given(st.lists(messages, min_size=1, max_size=3), st.integers(0, 200))
def test_the_decoder_never_keeps_more_than_one_incomplete_frame(
    sent: list[wire.Message], missing: int
) -> None:
    """Broken: memory of a connection grows with what it received, not with its limit."""
    frames = [wire.encode(message, 64 * 1024) for message in sent]
    cut = max(0, len(frames[-1]) - 1 - missing)
    decoder = wire.FrameDecoder(64 * 1024)
    read = list(decoder.feed(b"".join(frames[:-1]) + frames[-1][:cut]))
    assert read == sent[:-1]
    assert f"buffered={cut} " in repr(decoder)


def test_a_conversation_is_readable_with_its_bytes_counted() -> None:
    """Broken: a log of the conversation is unreadable or floods the terminal with payload."""
    shown = wire.elide({"op": "publish", "content": bytes(range(32)), "many": list(range(20))})
    assert shown["content"] == "<0001020304050607… 32 bytes>"
    assert shown["many"][-1] == "… 20 items" and len(shown["many"]) == 9
    assert wire.elide(b"ab") == "<6162>"
