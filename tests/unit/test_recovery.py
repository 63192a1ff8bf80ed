"""What a node begins with: whether its snapshot and its log fit, and what it goes on from."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
from journal_driver import IDENTITY, Memory
from machine_driver import Driver, publish
from replica_driver import Node, cluster, leader_of, story, until

from tracker_raft.config import SnapshotPolicy
from tracker_raft.entries import pack_operation
from tracker_raft.errors import Damaged, LocalError
from tracker_raft.raft import snapshots
from tracker_raft.raft.journal import NO_OP, SegmentJournal
from tracker_raft.raft.recovery import recover

SEGMENT_BYTES = 600


def directory(
    *, snapshot: int = 0, snapshot_term: int = 1, last: int = 0, first: int = 1
) -> Memory:
    """A snapshot up to one index (0: none) and a log from ``first`` to ``last``, all of term 1."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
    if first > 1:
        journal.restart_at(first, 1)
    for index in range(journal.last_index + 1, last + 1):
        journal.add(b"\x00entry %d" % index, index, 1)
    journal.setCurrentTerm(5, "n2")
    journal.sync()
    if snapshot:
        driver = Driver()
        while driver.machine.applied < snapshot:
            driver.ok(publish(f"f{driver.machine.applied}", "x"))
        keep(storage, driver, snapshot_term)
    return storage


def keep(storage: Memory, driver: Driver, term: int) -> None:
    machine = driver.machine
    data = snapshots.head(IDENTITY.cluster, machine.applied, term) + b"".join(machine.snapshot())
    storage.files["snapshot"] = bytearray(data + hashlib.sha256(data).digest())


def test_an_empty_directory_is_a_beginning() -> None:
    """Broken: nobody can start a cluster."""
    found = recover(Memory(), IDENTITY)
    assert (found.machine.applied, found.snapshot, len(found.journal)) == (0, None, 0)
    assert found.journal.identity == IDENTITY


def test_without_a_snapshot_the_log_is_all() -> None:
    """Broken: a restarted node forgets its log, or its vote."""
    found = recover(directory(last=9), IDENTITY)
    assert (found.machine.applied, found.snapshot) == (0, None)
    assert (found.journal.first_index, found.journal.last_index) == (1, 9)
    assert (found.journal.getCurrentTerm(), found.journal.getVotedForNodeId()) == (5, "n2")


@pytest.mark.parametrize(("first", "last"), [(1, 12), (1, 8), (5, 12), (8, 12), (8, 8)])
def test_a_log_that_meets_the_snapshot_is_kept(first: int, last: int) -> None:
    """Broken: entries behind the snapshot, acknowledged ones, are thrown away at a start."""
    storage = directory(snapshot=8, first=first, last=last)
    before = storage.copy()
    found = recover(storage, IDENTITY)
    assert found.machine.applied == 8
    assert found.snapshot is not None
    assert (found.snapshot.index, found.snapshot.term) == (8, 1)
    assert (found.journal.first_index, found.journal.last_index) == (first, last)
    assert found.journal.position == 0, "nothing is to be written"
    assert storage.copy() == before


@pytest.mark.parametrize("last", [1, 4, 7])
def test_a_log_that_is_shorter_than_the_snapshot_is_replaced_by_it(last: int) -> None:
    """Broken: a node that crashed between the rename and the log's own record does not start, or
    votes with a log that ends before what it has applied."""
    storage = directory(snapshot=8, last=last)
    found = recover(storage, IDENTITY)
    assert found.machine.applied == 8
    assert found.journal[:] == [(NO_OP, 8, 1)]
    assert (found.journal.getCurrentTerm(), found.journal.getVotedForNodeId()) == (5, "n2")
    found.journal.sync()
    again = recover(storage, IDENTITY)
    assert again.journal[:] == [(NO_OP, 8, 1)]


def test_a_log_of_another_history_is_replaced_by_the_snapshot() -> None:
    """Broken: entries that were never committed follow those that were."""
    found = recover(directory(snapshot=8, snapshot_term=2, last=12), IDENTITY)
    assert found.journal[:] == [(NO_OP, 8, 2)]


def test_a_snapshot_alone_is_enough_to_go_on_from() -> None:
    """Broken: a node whose log was lost loses its state as well. (The others see it by its
    birth.)"""
    storage = directory(snapshot=8)
    del storage.files["log-000000000001"]
    found = recover(storage, IDENTITY)
    assert (found.machine.applied, found.journal[:]) == (8, [(NO_OP, 8, 1)])


def test_a_log_that_begins_behind_the_snapshot_refuses_to_start() -> None:
    """Broken: a node leads, or answers, without entries that were acknowledged."""
    storage = directory(snapshot=8, first=9, last=12)
    before = storage.copy()
    with pytest.raises(Damaged, match="begins at entry 9, the snapshot ends at 8"):
        recover(storage, IDENTITY)
    assert storage.copy() == before


def test_a_cut_log_without_its_snapshot_refuses_to_start() -> None:
    """Broken: a node whose snapshot was deleted begins with an empty state in the middle."""
    storage = directory(first=4, last=12)
    with pytest.raises(Damaged, match="begins at entry 4 and there is no snapshot before it"):
        recover(storage, IDENTITY)


def test_a_snapshot_that_is_damaged_refuses_to_start_and_changes_nothing() -> None:
    """Broken: a node with a bad snapshot goes on from its log alone."""
    storage = directory(snapshot=8, last=12)
    storage.files["snapshot"][50] ^= 1
    before = storage.copy()
    with pytest.raises(Damaged, match="snapshot: "):
        recover(storage, IDENTITY)
    assert storage.copy() == before


def test_a_disk_that_cannot_be_read_is_said_so() -> None:
    """Broken: a start ends in a trace instead of a reason."""
    storage = directory(snapshot=8, last=12)
    storage.fails["read"] = errno.EIO
    with pytest.raises(LocalError, match="snapshot cannot be read"):
        recover(storage, IDENTITY)


# -- nodes -----------------------------------------------------------------------------------------

OFTEN = SnapshotPolicy(
    log_bytes_min=4096,
    entries_kept=5,
    slice_rows=20,
    slice_pause_s=0.001,
    part_bytes=512,
    offer_period_s=0.1,
)


def numbered(session: int, seq: int) -> bytes:
    return pack_operation(session, seq, seq, publish(f"f{seq}", "x"))


class Client:
    """One session, every write in an entry of its own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.session = self.seq = 0

    async def write(self, count: int) -> None:
        if not self.session:
            reply, _ = await self.node.write()
            self.session = reply["ok"]["session"]
        for _ in range(count):
            self.seq += 1
            reply, _ = await self.node.write(numbered(self.session, self.seq))
            assert "ok" in reply


@story
async def test_a_node_comes_back_from_its_snapshot_and_the_log_behind_it(tmp_path: Path) -> None:
    """Broken: a restart loses what was acknowledged, or the log is never shorter."""
    async with cluster(tmp_path, 1, snapshots=OFTEN, segment_bytes=2048) as (node,):
        await leader_of([node])
        client = Client(node)
        while node.replica.keeper.made < 3:
            await client.write(20)
        await client.write(3)
        before = node.machine.counts(), node.machine.applied, node.machine.state_hash
        assert node.journal.first_index > 20
        assert node.replica.status().snapshot > node.journal.first_index
    async with cluster(tmp_path, 1, snapshots=OFTEN, segment_bytes=2048) as (node,):
        assert node.recovered.snapshot is not None
        assert node.machine.applied == node.recovered.snapshot.index > 20
        await until(lambda: node.machine.applied >= before[1])
        await leader_of([node])
        assert node.machine.counts() == before[0]
        client.node = node
        await client.write(1)


@story
async def test_a_node_that_lags_behind_the_log_catches_up_by_snapshot(tmp_path: Path) -> None:
    """Broken: a tracker that was down for a while never comes back, or with another state."""
    async with cluster(tmp_path, 3, snapshots=OFTEN, segment_bytes=2048) as nodes:
        leader = await leader_of(nodes)
        laggard = next(node for node in nodes if node is not leader)
        client = Client(leader)
        await client.write(5)
        await laggard.close()
        others = [node for node in nodes if node is not laggard]
        ends = laggard.journal.last_index
        while min(node.journal.first_index for node in others) <= ends:
            client.node = await leader_of(others)
            await client.write(20)
        again = Node(laggard.config, segment_bytes=2048)
        try:
            await again.links.start()
            client.node = await leader_of(others)
            await until(lambda: again.replica.keeper.installs)
            await client.write(5)
            newest = client.node.machine.applied
            await until(lambda: again.machine.applied >= newest)
            assert again.machine.applied == newest
            assert again.machine.state_hash == client.node.machine.state_hash
            assert again.journal.first_index > ends
            assert again.fatal == []
            # Its acknowledgements count: with it and one other there is a majority.
            gone = next(node for node in others if node is not client.node)
            await gone.close()
            await client.write(5)
        finally:
            await again.close()
