"""The file of a snapshot: what it holds comes back, or its damage is said."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_driver import Memory
from machine_driver import Driver, join, publish

from tracker_raft.errors import Damaged, LocalError, P2PError, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft import snapshots
from tracker_raft.raft.snapshots import HASH_BYTES, Incoming, Snapshot
from tracker_raft.raft.storage import Directory

TERM = 3


def machine() -> TrackerMachine:
    driver = Driver()
    for name in "abc":
        driver.ok(publish(name, name))
    driver.ok(join("peer", "a"))
    return driver.machine


MACHINE = machine()


def packed(cluster: str = "c", index: int = MACHINE.applied, term: int = TERM) -> bytes:
    """The file of :data:`MACHINE`."""
    data = snapshots.head(cluster, index, term) + b"".join(MACHINE.snapshot())
    return data + hashlib.sha256(data).digest()


FILE = packed()
OFFER = Snapshot(MACHINE.applied, TERM, len(FILE), FILE[-HASH_BYTES:])


def loaded(data: bytes, cluster: str = "c") -> tuple[Snapshot, TrackerMachine] | None:
    return snapshots.load(Memory({"snapshot": data}), cluster)


def sealed(head: object, body: bytes = b"".join(MACHINE.snapshot())) -> bytes:
    """A file with another head and the right hash."""
    fields: bytes = msgpack.packb(head)
    data = len(fields).to_bytes(4, "big") + fields + body
    return data + hashlib.sha256(data).digest()


HEAD = {"format": 1, "cluster": "c", "index": MACHINE.applied, "term": TERM}

# -- on disk ---------------------------------------------------------------------------------------


def test_a_snapshot_comes_back_from_a_directory(tmp_path: Path) -> None:
    """Broken: a restarted node has another state than it had."""
    storage = Directory(tmp_path)
    try:
        assert snapshots.load(storage, "c") is None
        storage.write("snapshot", 0, FILE)
        found = snapshots.load(storage, "c")
    finally:
        storage.close()
    assert found is not None
    assert found[0] == OFFER
    assert found[1].state_hash == MACHINE.state_hash
    assert found[1].applied == MACHINE.applied


def test_a_file_that_is_cut_anywhere_is_damaged() -> None:
    """Broken: a node starts with half of its state."""
    for length in range(len(FILE)):
        with pytest.raises(Damaged):
            loaded(FILE[:length])
    for more in (b"\0", b"x", FILE):
        with pytest.raises(Damaged):
            loaded(FILE + more)


def test_a_file_with_a_flipped_bit_anywhere_is_damaged() -> None:
    """Broken: a node starts with a state that no log ever made."""
    for place in range(len(FILE)):
        spoilt = bytearray(FILE)
        spoilt[place] ^= 1 << (place % 8)
        with pytest.raises(Damaged, match="must neither vote nor lead"):
            loaded(bytes(spoilt))


def test_a_newer_format_is_refused_whatever_else_it_says() -> None:
    """Broken: a node that was put back to an older version reads what it does not understand."""
    for head in ({**HEAD, "format": 2}, {"format": 2}):
        with pytest.raises(Unsupported, match="format 2, this version reads 1"):
            loaded(sealed(head))


def test_a_snapshot_of_another_cluster_is_refused() -> None:
    """Broken: a node takes the state of another cluster for its own."""
    with pytest.raises(LocalError, match="of cluster 'other', expected 'c'"):
        loaded(packed("other"))


@pytest.mark.parametrize(
    "head",
    [
        {},
        [],
        7,
        "text",
        {**HEAD, "index": "4"},
        {**HEAD, "index": 1.5},
        {**HEAD, "term": None},
        {name: value for name, value in HEAD.items() if name != "term"},
        {**HEAD, "padding": bytes(70_000)},
        {**HEAD, "index": MACHINE.applied + 1},
    ],
    ids=lambda head: str(head)[:60],
)
def test_a_head_that_makes_no_sense_is_damage(head: object) -> None:
    """Broken: an index that is not that of the state goes into the log and into every vote."""
    with pytest.raises(Damaged):
        loaded(sealed(head))


def test_a_hash_that_is_right_does_not_excuse_a_state_that_is_not() -> None:
    """Broken: what a node with a defect wrote is taken for its state."""
    with pytest.raises(P2PError):
        loaded(sealed(HEAD, b""))
    with pytest.raises(P2PError):
        loaded(sealed(HEAD, b"".join(MACHINE.snapshot())[:-1]))


# -- on its way ------------------------------------------------------------------------------------


def fed(data: bytes, sizes: list[int], offer: Snapshot = OFFER, cluster: str = "c") -> Incoming:
    """``data`` in parts of these sizes, and the rest."""
    coming = Incoming(cluster, offer)
    at = 0
    for size in [*sizes, len(data)]:
        if data[at : at + size]:
            coming.feed(data[at : at + size])
        at += size
    return coming


@given(st.lists(st.integers(1, len(FILE)), max_size=60))
def test_parts_of_any_size_make_the_machine(sizes: list[int]) -> None:
    """Broken: whether a laggard catches up depends on where the parts are cut."""
    coming = fed(FILE, sizes)
    assert coming.complete
    assert coming.offset == len(FILE)
    assert coming.finish().state_hash == MACHINE.state_hash


def test_byte_by_byte_it_is_complete_with_the_last_one() -> None:
    """Broken: a snapshot is installed before all of it is there."""
    coming = Incoming("c", OFFER)
    for place in range(len(FILE)):
        assert not coming.complete
        coming.feed(FILE[place : place + 1])
    assert coming.complete
    assert coming.finish().state_hash == MACHINE.state_hash


def taken(data: bytes, size: int, offer: Snapshot = OFFER) -> TrackerMachine:
    coming = fed(data, [size] * (len(data) // size), offer)
    assert coming.complete
    return coming.finish()


@pytest.mark.parametrize("size", [37, len(FILE)])
def test_a_flipped_bit_anywhere_is_found(size: int) -> None:
    """Broken (S3): what was changed on its way becomes the state, or lies on the disk until the
    next start finds it."""
    taken(FILE, size)
    for place in range(len(FILE)):
        spoilt = bytearray(FILE)
        spoilt[place] ^= 1 << (place % 8)
        with pytest.raises((Damaged, Unsupported, LocalError)):
            taken(bytes(spoilt), size)


@given(st.data())
def test_parts_in_another_order_are_found(data: st.DataObject) -> None:
    """Broken: a part of another place is taken for the one that was asked for."""
    size = data.draw(st.integers(8, len(FILE) // 3), "size")
    parts = [FILE[at : at + size] for at in range(0, len(FILE), size)]
    order = data.draw(st.permutations(parts), "order")
    shuffled = b"".join(order)
    if shuffled != FILE:
        with pytest.raises((Damaged, Unsupported, LocalError)):
            taken(shuffled, size)


def test_more_than_was_offered_is_refused() -> None:
    """Broken: a leader with a defect fills the disk of a follower."""
    coming = fed(FILE, [])
    with pytest.raises(Damaged, match="goes on behind them"):
        coming.feed(b"x")
    with pytest.raises(Damaged, match="goes on behind them"):
        Incoming("c", OFFER).feed(FILE + b"x")


@pytest.mark.parametrize(
    ("offer", "cluster", "error"),
    [
        (Snapshot(OFFER.index + 1, TERM, OFFER.size, OFFER.sha256), "c", Damaged),
        (Snapshot(OFFER.index, TERM + 1, OFFER.size, OFFER.sha256), "c", Damaged),
        (Snapshot(OFFER.index, TERM, OFFER.size, bytes(HASH_BYTES)), "c", Damaged),
        (OFFER, "other", LocalError),
    ],
)
def test_another_one_than_was_offered_is_refused(
    offer: Snapshot, cluster: str, error: type[P2PError]
) -> None:
    """Broken: the log goes on from an index or a term that the state does not have."""
    with pytest.raises(error):
        fed(FILE, [20] * 99, offer, cluster).finish()


def test_a_head_without_an_end_is_refused_early() -> None:
    """Broken: a length that lies makes a follower gather a whole snapshot as its head."""
    coming = Incoming("c", Snapshot(1, 1, 2**40, bytes(HASH_BYTES)))
    with pytest.raises(Damaged):
        coming.feed((snapshots.HEAD_BYTES_MAX + 1).to_bytes(4, "big") + bytes(100))


def test_a_snapshot_with_another_index_than_its_state_is_refused() -> None:
    """Broken: entries that the state holds are applied again, or some never."""
    file = packed(index=MACHINE.applied + 5)
    offer = Snapshot(MACHINE.applied + 5, TERM, len(file), file[-HASH_BYTES:])
    with pytest.raises(Damaged, match=f"holds {MACHINE.applied}"):
        taken(file, 100, offer)
