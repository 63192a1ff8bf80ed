"""Replicas compare their state all the time: the odd one stops before it answers anybody else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from replica_driver import Node, cluster, leader_of, story, until

from tracker_raft.raft.agreement import CHECK_EVERY, CHECKS_KEPT, Agreement
from tracker_raft.raft.filters import Message

A, B, C = "a" * 64, "b" * 64, "c" * 64


def test_who_differs_from_a_majority_must_stop() -> None:
    """Broken: a replica with another state goes on answering."""
    agreement = Agreement("n1", 3)
    assert agreement.heard("n2", 64, A) is None
    assert agreement.heard("n3", 64, A) is None, "it has not applied it yet"
    reason = agreement.applied(64, B)
    assert reason is not None
    assert "bbbb" in reason
    assert "at entry 64, but 2 of 3 members have aaaa" in reason
    assert "must be rebuilt" in reason


def test_it_is_found_whoever_speaks_last() -> None:
    """Broken: the odd one is only found when it is the slowest."""
    agreement = Agreement("n1", 3)
    assert agreement.applied(64, B) is None
    assert agreement.heard("n2", 64, A) is None, "one against one: nobody can tell"
    assert agreement.heard("n3", 64, A) is not None


def test_the_majority_goes_on() -> None:
    """Broken: one replica with another state stops all of them."""
    agreement = Agreement("n1", 3)
    assert agreement.applied(64, A) is None
    assert agreement.heard("n2", 64, A) is None
    assert agreement.heard("n3", 64, B) is None


def test_without_a_majority_nobody_stops() -> None:
    """Broken: two pairs that differ, or three that all do, take the cluster down."""
    agreement = Agreement("n1", 5)
    for node, said in (("n1", A), ("n2", A), ("n3", B), ("n4", B)):
        assert agreement.heard(node, 64, said) is None
    assert agreement.heard("n5", 64, B) is not None
    split = Agreement("n1", 3)
    for node, said in (("n1", A), ("n2", B), ("n3", C)):
        assert split.heard(node, 64, said) is None


def test_a_majority_of_all_members_counts_not_of_those_who_spoke() -> None:
    """Broken: in a cluster of five two members stop a third."""
    agreement = Agreement("n1", 5)
    agreement.heard("n2", 64, A)
    agreement.heard("n3", 64, A)
    assert agreement.applied(64, B) is None


def test_a_dispute_is_told_once_with_who_said_what() -> None:
    """Broken: replicas that differ without a majority go on and nobody is told."""
    agreement = Agreement("n1", 3)
    agreement.applied(64, A)
    assert agreement.dispute(64) is None
    agreement.heard("n2", 64, B)
    told = agreement.dispute(64)
    assert told == f"members differ in their state hash at entry 64: n1 {A[:16]}, n2 {B[:16]}"
    assert agreement.dispute(64) is None
    assert agreement.dispute(9999) is None


def test_what_was_said_long_ago_is_forgotten() -> None:
    """Broken: what members say fills the memory of a tracker that runs for months."""
    agreement = Agreement("n1", 3)
    for number in range(10 * CHECKS_KEPT):
        agreement.heard("n2", number * CHECK_EVERY, A)
    assert len(agreement._checks) == CHECKS_KEPT
    agreement.heard("n3", 0, A)
    assert len(agreement._checks) == CHECKS_KEPT


# -- nodes -----------------------------------------------------------------------------------------


async def past_a_check(nodes: list[Node]) -> None:
    """Write until every node that goes on is past the next entry at which all compare."""
    goal = max(node.machine.applied for node in nodes) + CHECK_EVERY
    leader = await leader_of(nodes)
    while leader.machine.applied < goal:
        await leader.write()
    await until(lambda: all(node.machine.applied >= goal or node.fatal for node in nodes))


@story
async def test_a_replica_whose_state_was_changed_stops_and_names_the_entry(tmp_path: Path) -> None:
    """Broken: a replica that diverged answers reads, and one day leads."""
    async with cluster(tmp_path, 3) as nodes:
        leader = await leader_of(nodes)
        await past_a_check(nodes)
        assert [node.fatal for node in nodes] == [[], [], []]
        victim = next(node for node in nodes if node is not leader)
        victim.machine._sessions.opened += 1
        applied = victim.machine.applied
        await past_a_check(nodes)
        await until(lambda: victim.fatal)
        (reason,) = victim.fatal
        entry = (applied // CHECK_EVERY + 1) * CHECK_EVERY
        assert f"at entry {entry}, but 2 of 3 members have" in reason
        assert "this replica has diverged" in reason
        others = [node for node in nodes if node is not victim]
        reply, _ = await (await leader_of(others)).write()
        assert "ok" in reply
        assert [node.fatal for node in others] == [[], []]


@story
async def test_two_that_differ_are_reported_and_go_on(tmp_path: Path) -> None:
    """Broken: a divergence that nobody can judge is not even told."""
    records: list[str] = []

    class Records(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    handler = Records()
    logging.getLogger("tracker_raft.replica").addHandler(handler)
    try:
        async with cluster(tmp_path, 3) as nodes:
            leader = await leader_of(nodes)
            others = [node for node in nodes if node is not leader]
            await others[0].close()
            others[1].machine._sessions.opened += 1
            await past_a_check([leader, others[1]])
            await until(lambda: any("members differ" in text for text in records))
            assert [leader.fatal, others[1].fatal] == [[], []]
    finally:
        logging.getLogger("tracker_raft.replica").removeHandler(handler)


NONSENSE: list[Message] = [
    {"type": "state"},
    {"type": "state", "index": float("inf"), "hash": A},
    {"type": "state", "index": "64", "hash": A},
    {"type": "state", "index": 64, "hash": b"a" * 64},
    {"type": "state", "index": 64, "hash": "a" * 65},
    {"type": "snapshot_get", "sha256": bytes(32), "offset": float("inf")},
    {"type": "snapshot_offer", "index": 9},
]


@pytest.mark.parametrize("message", NONSENSE, ids=str)
def test_a_state_that_makes_no_sense_costs_the_link_and_no_more(
    tmp_path: Path, message: Message
) -> None:
    """Broken: a member with a defect stops this tracker, or fills its memory."""

    async def run(path: Path) -> None:
        async with cluster(path, 1) as (node,):
            dropped: list[str] = []
            node.links.drop = lambda node, reason: dropped.append(reason)  # type: ignore[method-assign]  # a spy for this test
            node.replica.link_message("n2", message)
            assert len(dropped) == 1
            assert str(message["type"]) in dropped[0]
            assert node.fatal == []

    story(run)(tmp_path)
