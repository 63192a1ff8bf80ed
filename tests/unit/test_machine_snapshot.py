"""Snapshots: a restored machine is the machine, and damage is found before it is believed."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgpack
import pytest
from machine_driver import Driver, content, join, publish

from tracker_raft import wire
from tracker_raft.commands import List, Lookup, Peers
from tracker_raft.errors import Damaged, Unsupported
from tracker_raft.machine import TrackerMachine, snapshot_format

EMPTY_HASH = TrackerMachine().state_hash


@pytest.fixture
def driver() -> Driver:
    """A machine with something in every table."""
    driver = Driver()
    driver.open()
    driver.ok(publish("a", "one"))
    driver.ok(publish("a", "two", replace=True))
    driver.ok(publish("a", "three", replace=True))
    driver.ok({"op": "remove", "name": "a@v3"})
    driver.ok(publish("b/ü", "one", owner="alice"))
    driver.ok(join("p", "one", complete=True))
    driver.entry((driver.session, 8, 7, join("q", "one", zone="eu", lease_ms=9000)), at_ms=500)
    driver.entry((driver.session, 9, 7, publish("a", "four")), at_ms=600)
    driver.seq = 9
    return driver


def sealed(blocks: Iterable[tuple[str, bytes]]) -> bytes:
    """A snapshot of these (kind, body) blocks with correct seals: what a faulty writer makes."""
    out, seal = b"", b""
    for kind, body in blocks:
        seal = blake2b(seal + kind.encode() + b":" + body, digest_size=16).digest()
        out += wire.encode({"kind": kind, "body": body, "seal": seal}, 2**24)
    return out


HEAD = msgpack.packb(
    {
        "format": 2,
        "applied": 0,
        "time_ms": 0,
        "sessions_opened": 0,
        "horizon_index": 0,
        "horizon_position": 0,
    }
)
END = msgpack.packb({"state_hash": EMPTY_HASH})


def test_a_restored_machine_is_equal_and_goes_on_alike(driver: Driver) -> None:
    """If this fails, a tracker that caught up by snapshot differs from the others."""
    original = driver.machine
    restored = TrackerMachine.restore(original.snapshot())

    assert restored.state_hash == original.state_hash
    assert restored.counts() == original.counts()
    assert (restored.applied, restored.time_ms) == (original.applied, 600)
    for query in (List(), Lookup(content=content("one")), Peers(content("one"))):
        assert restored.query(query) == original.query(query)
    assert b"".join(restored.snapshot()) == b"".join(original.snapshot())

    repeated = driver.raw(driver.session, 9, 7, publish("a", "four"))
    next_version = driver.raw(driver.session, 10, 10, publish("a", "three", replace=True))
    driver.machine, driver.index = restored, driver.index - 2
    assert driver.raw(driver.session, 9, 7, publish("a", "four")) == repeated
    assert driver.raw(driver.session, 10, 10, publish("a", "three", replace=True)) == next_version
    assert next_version["ok"]["file"]["version"] == 4
    driver.tick(1000)
    original.apply(driver.index, b"")
    assert restored.counts()["leases"] == 1


def test_equal_states_give_the_same_bytes_whatever_the_way_there() -> None:
    """If this fails, comparing snapshots tells nothing, and each transfer starts anew."""
    one, other = Driver(), Driver()
    for driver, order in ((one, (1, 2, 3)), (other, (3, 1, 2))):
        driver.open()
        for n in (1, 2, 3):  # the order of the changes is part of the state
            driver.raw(1, n, 1, publish(f"name{n}", "x"))
        for n in order:
            driver.raw(2, n, 1, join(f"peer{n}", "x"))
        driver.raw(1, 4, 1, join("peer1", "y"))
    one.entry((1, 5, 1, join("peer2", "z")), (2, 4, 1, join("peer1", "z")), at_ms=9)
    other.entry((2, 4, 1, join("peer1", "z")), (1, 5, 1, join("peer2", "z")), at_ms=9)

    assert one.machine.state_hash == other.machine.state_hash
    assert list(one.machine.snapshot()) == list(other.machine.snapshot())


def test_the_bytes_may_arrive_cut_in_any_way(driver: Driver) -> None:
    """If this fails, a snapshot sent or stored in other chunks than it was made in is lost."""
    data = b"".join(driver.machine.snapshot())

    for step in (1, 7, 1000, len(data)):
        chunks = [data[start : start + step] for start in range(0, len(data), step)]
        assert TrackerMachine.restore(chunks).state_hash == driver.machine.state_hash


def test_a_large_table_is_written_in_blocks_of_bounded_size() -> None:
    """If this fails, a snapshot of millions of files needs its whole size in memory."""
    driver = Driver()
    long = "n" * 500
    for n in range(2000):
        driver.ok(publish(f"{long}{n}", "x"))

    blocks = list(driver.machine.snapshot())

    assert len(blocks) > 4
    assert max(map(len, blocks)) < snapshot_format.BLOCK_BYTES + 4096
    restored = TrackerMachine.restore([b"".join(blocks)])
    assert restored.counts()["files"] == 2000


def test_any_changed_byte_is_found(driver: Driver) -> None:
    """If this fails, a flipped bit on a disk becomes state that the others do not have."""
    data = bytearray(b"".join(driver.machine.snapshot()))

    for position in range(len(data)):
        data[position] ^= 0x20
        with pytest.raises(Damaged):
            TrackerMachine.restore([bytes(data)])
        data[position] ^= 0x20


def test_a_snapshot_that_breaks_off_is_found_wherever_it_does(driver: Driver) -> None:
    """If this fails, a tracker that lost power while saving starts with half of the state."""
    data = b"".join(driver.machine.snapshot())

    for length in range(len(data)):
        with pytest.raises(Damaged):
            TrackerMachine.restore([data[:length]])


def test_missing_doubled_and_exchanged_blocks_are_found(driver: Driver) -> None:
    """If this fails, a snapshot put together from the wrong parts is believed."""
    blocks = list(driver.machine.snapshot())
    assert len(blocks) == 8

    for n in range(len(blocks)):
        without = blocks[:n] + blocks[n + 1 :]
        doubled = blocks[: n + 1] + blocks[n:]
        for wrong in (without, doubled):
            with pytest.raises(Damaged):
                TrackerMachine.restore(wrong)
    with pytest.raises(Damaged, match="after its end"):
        TrackerMachine.restore([*blocks, blocks[0]])


def test_a_newer_format_is_refused_as_such() -> None:
    """If this fails, a downgrade reports a damaged disk where nothing is damaged."""
    newer = sealed([("head", msgpack.packb({"format": 4, "anything": 1})), ("planets", b"\x90")])

    with pytest.raises(Unsupported, match="format 4, this version reads 2 and 3"):
        TrackerMachine.restore([newer])


def test_an_older_format_is_refused_as_such() -> None:
    """If this fails, a directory of an older version is called damaged, and may be thrown away."""
    older = sealed([("head", msgpack.packb({"format": 1}))])

    with pytest.raises(Unsupported, match="format 1, this version reads 2"):
        TrackerMachine.restore([older])


@pytest.mark.parametrize(
    ("blocks", "text"),
    [
        pytest.param([], "breaks off after block ''", id="nothing"),
        pytest.param([("end", END)], "expected the head first", id="no head"),
        pytest.param([("head", HEAD)], "breaks off after block 'head'", id="no end"),
        pytest.param([("head", HEAD), ("head", HEAD)], "first and once", id="two heads"),
        pytest.param([("head", b"\x90")], "'head' is list, expected a map", id="head no map"),
        pytest.param([("head", b"\x80")], "format None, expected 2", id="no format"),
        pytest.param([("head", b"\x81\xa6format\x02")], "cannot be loaded", id="poor head"),
        pytest.param([("head", HEAD), ("files", b"\x80")], "expected an array", id="no array"),
        pytest.param([("head", HEAD), ("files", b"\xc1")], "not msgpack", id="not msgpack"),
        pytest.param([("head", HEAD), ("planets", b"\x90")], "unknown kind", id="unknown kind"),
        pytest.param([("head", HEAD), ("end", b"\x80")], "cannot be loaded", id="poor end"),
        pytest.param([("head", HEAD), ("end", b"\x90")], "expected a map", id="end no map"),
        pytest.param(
            [("head", HEAD), ("files", msgpack.packb([["a", b"\x92\x01\x90"]])), ("end", END)],
            "snapshot says state hash",
            id="wrong hash",
        ),
    ],
)
def test_what_a_faulty_writer_sealed_is_not_believed(
    blocks: list[tuple[str, bytes]], text: str
) -> None:
    """If this fails, a mistake in one version's writer is loaded as state by another."""
    with pytest.raises(Damaged, match=text):
        TrackerMachine.restore([sealed(blocks)])


@pytest.mark.parametrize("kind", ["changes", "files", "leases", "members", "sessions", "replies"])
@pytest.mark.parametrize(
    "row", [1, "text", [], [1], [None] * 5, ["a", "b"], ["a", b"b"], [1, 2, 3]]
)
def test_rows_of_another_shape_are_not_loaded(kind: str, row: Any) -> None:
    """If this fails, a malformed row crashes a tracker at its start instead of naming the block."""
    blocks = [("head", HEAD), (kind, msgpack.packb([row])), ("end", END)]

    with pytest.raises(Damaged):
        TrackerMachine.restore([sealed(blocks)])


@pytest.mark.parametrize("message", [{}, {"kind": 1, "body": b""}, {"kind": "head", "body": "x"}])
def test_frames_that_are_no_blocks_are_refused(message: dict[str, Any]) -> None:
    """If this fails, another file in the place of a snapshot raises something unexpected."""
    with pytest.raises(Damaged, match="malformed block after ''"):
        TrackerMachine.restore([wire.encode(message, 1000)])


def test_the_texts_of_refusals_are_kept_but_are_no_part_of_the_state_hash() -> None:
    """If this fails, a version that words an error better looks like a diverged replica."""
    one, other = Driver(), Driver()
    first = one.run({"op": "remove", "name": "a"})
    second = other.run({"op": "remove", "name": "b"})
    assert first["error"] == second["error"]
    assert first["message"] != second["message"]

    assert one.machine.state_hash == other.machine.state_hash

    restored = TrackerMachine.restore(one.machine.snapshot())
    one.machine = restored
    assert one.raw(one.session, 1, 1, {"op": "remove", "name": "a"}) == first
