"""The bytes of a segment: what was packed is read, and what ends it is judged."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_raft.raft import records
from tracker_raft.raft.records import Body, Kind

HEADER = records.header({"cluster": "c"})
SECTOR_BYTES = 512


def segment(*batches: list[Body], first: int = 1) -> tuple[bytes, list[int]]:
    """The bytes of these batches, and where each ends."""
    data, chain, ends = b"", 0, []
    for number, bodies in enumerate(batches, first):
        more, chain = records.pack_batch(bodies, number, chain)
        data += more
        ends.append(len(data))
    return data, ends


def read(data: bytes, batch: int = 1) -> records.Scan:
    return records.scan(memoryview(data), batch)


def bodies(scan: records.Scan) -> list[tuple[int, bytes]]:
    return [(record.kind, bytes(record.body)) for _, record in scan.records]


def entries(first: int, count: int) -> list[Body]:
    return [records.entry(b"command %d" % n, n, 1) for n in range(first, first + count)]


def test_every_kind_is_read_as_it_was_written() -> None:
    """Broken: a log or a vote comes back as something else."""
    assert records.read_header(memoryview(HEADER.data)) == {"format": 1, "cluster": "c"}
    assert records.read_entry(memoryview(records.entry(b"\x00x", 7, 3).data)) == (b"\x00x", 7, 3)
    assert records.read_index(memoryview(records.truncate(9).data)) == 9
    assert records.read_vote(memoryview(records.vote(4, "n2").data)) == (4, "n2")
    assert records.read_vote(memoryview(records.vote(5, None).data)) == (5, None)
    assert records.read_reset(memoryview(records.reset(8, 2).data)) == (8, 2)
    for body in (records.entry(b"", 7, 3), records.truncate(7), records.reset(7, 3)):
        assert records.read_index_of(body) == 7


def test_what_is_no_header_is_told_from_one() -> None:
    """Broken: any bytes at the head of a file are taken for the owner's name."""
    with pytest.raises(ValueError, match="a header that is list"):
        records.read_header(memoryview(b"\x90"))
    with pytest.raises(ValueError, match="max_map_len"):
        records.read_header(memoryview(b"\x85"))


KINDS = st.sampled_from([Kind.ENTRY, Kind.TRUNCATE, Kind.VOTE, Kind.RESET])
BODIES = st.builds(Body, KINDS, st.binary(min_size=16, max_size=40))


@given(st.lists(st.lists(BODIES, min_size=1, max_size=4), max_size=5), st.integers(0, 600))
def test_what_was_packed_is_scanned_and_zeros_behind_it_are_a_clean_end(
    batches: list[list[Body]], zeros: int
) -> None:
    """Broken: records are lost, or space that was only reserved is taken for a torn tail."""
    data, ends = segment([HEADER], *batches)
    scan = read(data + bytes(zeros))
    assert bodies(scan) == [(b.kind, b.data) for batch in [[HEADER], *batches] for b in batch]
    assert (scan.end, scan.torn_bytes, scan.damaged) == (ends[-1], 0, False)
    last = [record.last for _, record in scan.records]
    assert sum(last) == len(batches) + 1
    assert scan.chain == int.from_bytes(data[len(data) - len_of_last(scan) :][4:8], "big")


def len_of_last(scan: records.Scan) -> int:
    offsets = [0, *(offset for offset, _ in scan.records)]
    return offsets[-1] - offsets[-2]


@given(st.lists(BODIES, min_size=1, max_size=6), st.data())
def test_a_batch_of_which_not_all_arrived_is_as_if_it_never_was(
    batch: list[Body], data: st.DataObject
) -> None:
    """Broken: half of what one sync should have made durable comes back, and the log goes on
    behind records that the next opening takes for damage."""
    before, ends = segment([HEADER, *entries(1, 2)])
    whole, _ = segment([HEADER, *entries(1, 2)], batch)
    size = data.draw(st.integers(0, len(whole) - ends[-1] - 1))
    scan = read(whole[: ends[-1] + size] + bytes(100))
    assert bodies(scan) == bodies(read(before))
    assert (scan.end, scan.damaged) == (ends[-1], False)
    assert scan.torn_bytes == len(whole[ends[-1] : ends[-1] + size].rstrip(b"\0"))


@pytest.mark.parametrize("in_a_new_segment", [False, True])
@given(st.integers(0, 2**12 - 1))
def test_whichever_sectors_of_a_large_batch_arrived_it_is_torn_and_not_damaged(
    in_a_new_segment: bool, arrived: int
) -> None:
    """Broken: a power loss in the middle of one large sync looks like damage, and a node that
    lost nothing refuses to start."""
    large = [records.entry(bytes([n]) * 300, n, 1) for n in range(3, 18)]
    before = [] if in_a_new_segment else [[HEADER, *entries(1, 2)]]
    batch = [HEADER, *large] if in_a_new_segment else large
    whole, ends = segment(*before, batch, first=7)
    begins = 0 if in_a_new_segment else ends[0]
    torn = bytearray(whole)
    sectors = range(begins // SECTOR_BYTES, -(-len(whole) // SECTOR_BYTES))
    assert len(sectors) <= 12
    for bit, sector in enumerate(sectors):
        if not arrived >> bit & 1:
            start = max(begins, sector * SECTOR_BYTES)
            end = min(len(whole), (sector + 1) * SECTOR_BYTES)
            torn[start:end] = bytes(end - start)
    scan = read(bytes(torn) + bytes(2000), batch=7)
    assert not scan.damaged
    if torn == whole:
        assert scan.end == len(whole)
    else:
        assert scan.end == begins
        if in_a_new_segment:
            assert records.may_be_begun(memoryview(torn), 7)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("first", [1, 2**32 - 2])
def test_a_flip_before_the_last_batch_is_damage_wherever_it_is(mask: int, first: int) -> None:
    """Broken: entries that were acknowledged are quietly cut off. Numbers of batches begin again
    after 2^32 of them, weeks under full load."""
    data, ends = segment(
        [HEADER], entries(1, 2), [records.entry(bytes(50), 3, 1)], entries(4, 1), first=first
    )
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= mask
        scan = read(bytes(flipped) + bytes(300), batch=first)
        assert scan.damaged == (place < ends[-2]), f"byte {place}"
        assert scan.end == max([0, *(end for end in ends if end <= place)])


def test_damage_is_seen_when_all_that_follows_it_ends_in_zeros() -> None:
    """Broken: the proof of the damage is itself taken for empty space."""
    data, ends = segment([HEADER], entries(1, 1), [records.entry(bytes(1000), 2, 1)])
    flipped = bytearray(data)
    flipped[ends[0] + 9] ^= 1
    assert read(bytes(flipped) + bytes(500)).damaged


@pytest.mark.parametrize("part", ["head", "body", "all"])
def test_a_record_lost_whole_before_the_last_one_is_damage(part: str) -> None:
    """Broken: a hole in the file, overwritten with zeros, passes for its end."""
    data, ends = segment([HEADER], entries(1, 1), entries(2, 1), entries(3, 1))
    start, end = {
        "head": (ends[1], ends[1] + 8),
        "body": (ends[1] + 8, ends[2]),
        "all": (ends[0], ends[1]),
    }[part]
    assert read(data[:start] + bytes(end - start) + data[end:] + bytes(100)).damaged


def test_a_length_over_the_limit_is_no_record() -> None:
    """Broken: one flipped length makes the reader look for gigabytes."""
    payload = bytes(records.RECORD_BYTES_MAX + 1)
    data = len(payload).to_bytes(4, "big") + zlib.crc32(payload).to_bytes(4, "big") + payload
    assert read(data).records == []
    body = records.entry(bytes(records.BODY_BYTES_MAX - 16), 1, 1)
    longest, _ = segment([body])
    assert len(read(longest).records) == 1


@pytest.mark.parametrize(
    ("found", "begun"),
    [
        (b"", True),
        (bytes(300), True),
        (records.pack_batch([HEADER], 5, 0)[0], True),
        (records.pack_batch([HEADER, *entries(1, 1)], 5, 0)[0], True),
        (records.pack_batch([HEADER], 5, 0)[0][:11], True),
        (records.pack_batch([HEADER], 6, 0)[0], False),
        (records.pack_batch(entries(1, 1), 5, 0)[0], False),
        (b"Dear diary", False),
        (b"\0\0Dear diary, today", False),
    ],
)
def test_only_what_a_first_write_may_leave_is_taken_for_that(found: bytes, begun: bool) -> None:
    """Broken: a file of somebody else is emptied, or a crash in a first write stops the node."""
    assert records.may_be_begun(memoryview(found), 5) is begun
