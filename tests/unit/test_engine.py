"""PySyncObj as the replica drives it: when the next tick has something to do, and when not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_driver import REGULAR, Member, acknowledgement, append, entry

from tracker_raft.raft.engine import Role
from tracker_raft.raft.log_motion import APPLY_BYTES_MAX, COMMIT_TOLD_S


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    member = Member(tmp_path)
    yield member
    member.close()


def test_it_advances_only_when_the_next_tick_moves_the_commit_index(member: Member) -> None:
    """Broken: a leader waits a heartbeat for a commit it could make now, or ticks for nothing."""
    term = member.lead()
    assert not member.engine.advances
    member.filtered("n2", acknowledgement(term, 3))
    assert member.engine.advances
    member.engine.doTick(0)
    assert member.engine.raftCommitIndex == 2
    assert not member.engine.advances


def test_a_follower_catching_up_on_older_terms_moves_no_commit(member: Member) -> None:
    """Broken: the loop spins at full load, and floods the links, until the follower is level.

    Entries of older terms are not committed by counting (Raft paper, 5.4.2), so agreement on
    them gives the next tick nothing to do.
    """
    member.follow([1, 1, 1, 1])
    term = member.lead()
    member.filtered("n2", acknowledgement(term, 5))
    assert not member.engine.advances
    member.engine.doTick(0)
    assert member.engine.raftCommitIndex == 1
    member.filtered("n2", acknowledgement(term, member.journal.last_index + 1))
    assert member.engine.advances


def test_an_acknowledgement_does_not_send_what_is_in_flight_again(member: Member) -> None:
    """Broken: under load a leader sends everything that is in flight again for every ack."""
    term = member.lead()
    member.propose(3)
    member.engine.send_now()
    member.engine.doTick(0)  # 3, 4 and 5 are on their way; the no-op, 2, went with the election
    member.line.sent.clear()
    member.filtered("n2", acknowledgement(term, 3))
    member.engine.send_now()
    member.engine.doTick(0)
    assert [message["entries"] for _, message in member.line.sent] == [[], []]


def test_what_got_lost_is_sent_again_once_the_follower_asks(member: Member) -> None:
    """Broken: a follower that missed an append would never get it."""
    term = member.lead()
    member.propose(3)
    member.engine.send_now()
    member.engine.doTick(0)
    member.line.sent.clear()
    member.filtered("n2", acknowledgement(term, 3, success=False, reset=True))
    member.engine.send_now()
    member.engine.doTick(0)
    again = {to: [e[1] for e in message["entries"]] for to, message in member.line.sent}
    assert again == {"n2": [3, 4, 5], "n3": []}


def test_a_leader_proposes_only_behind_its_own_no_op(member: Member) -> None:
    """Broken: a new leader would stamp and answer before it knows what was committed before it."""
    term = member.lead()
    assert member.engine.role is Role.LEADER
    assert not member.engine.leads
    member.filtered("n3", acknowledgement(term, 3))
    member.engine.doTick(0)
    assert member.engine.leads
    assert member.applied == [(2, None)]


def test_an_older_leader_is_left_for_a_newer_one(member: Member) -> None:
    """Broken: two leaders, of which the older goes on proposing."""
    term = member.lead()
    member.filtered("n3", append(term + 1, (1, 0), [entry(2, term + 1)]))
    assert member.engine.role is Role.FOLLOWER
    assert member.engine.leader == "n3"
    assert member.terms == [0, term + 1]
    assert member.roles == [Role.CANDIDATE, Role.LEADER, Role.FOLLOWER]


def test_a_long_log_is_applied_in_slices(member: Member) -> None:
    """Broken: a node that comes back is deaf for seconds, and is taken for dead meanwhile."""
    command = REGULAR + bytes(APPLY_BYTES_MAX // 4)
    entries = [(command, index, 1) for index in range(2, 12)]
    member.filtered("n2", append(1, (1, 0), entries, commit=11))
    member.engine.send_what_is_new(time.monotonic())
    ticks = 0
    while member.engine.raftLastApplied < 11:
        before = len(member.applied)
        member.engine.doTick(0)
        ticks += 1
        assert 1 <= len(member.applied) - before <= 4
        assert member.engine.raftCommitIndex == 11
        left = member.engine.raftLastApplied < 11
        assert (member.engine.applies_more, member.engine.has_more) == (left, left)
    assert [index for index, _ in member.applied] == list(range(2, 12))
    assert ticks == 3


def test_a_new_commit_index_alone_is_told_a_moment_later(member: Member) -> None:
    """Broken: each commit is a message of its own beside the entries; or followers are told of the
    last one only with the next sign of life."""
    engine, term = member.engine, member.lead()
    engine.send_what_is_new(time.monotonic())
    member.line.sent.clear()
    engine.doTick(0)
    assert member.sent("append_entries"), "new entries leave at once"
    member.filtered("n2", acknowledgement(term, 3))
    asked_s = time.monotonic()
    engine.send_what_is_new(asked_s)
    assert engine.deadline() == asked_s + COMMIT_TOLD_S
    engine.send_what_is_new(asked_s + COMMIT_TOLD_S / 2)
    assert engine.deadline() == asked_s + COMMIT_TOLD_S, "it is put off by each turn"
    engine.doTick(0)
    assert engine.raftCommitIndex == 2


@pytest.mark.parametrize(
    ("who", "index", "commit"),
    [
        ("n2", 4, 4),  # of the leader's own term, and here
        ("n2", 3, 3),
        ("n2", 5, 1),  # not here
        ("n2", 2, 1),  # of an earlier term: what stands here may not be what stands there
        ("n3", 4, 1),  # not the leader
        ("n2", 0, 1),  # not by the log
    ],
)
def test_an_answer_of_the_leader_tells_of_a_commit(
    member: Member, who: str, index: int, commit: int
) -> None:
    """Broken: a client's next read waits for a message more; or an entry is applied that was never
    committed."""
    member.follow([1, 2, 2])
    member.engine.told_committed(who, index)
    assert member.engine.raftCommitIndex == commit
    member.engine.move_log(time.monotonic())
    assert [index for index, _ in member.applied] == list(range(2, commit + 1))


def test_an_answer_takes_no_commit_back_and_tells_a_leader_nothing(member: Member) -> None:
    """Broken: what was applied counts as not committed, or a member moves what acknowledgements
    alone may."""
    member.follow([1, 1, 1], commit=4)
    member.engine.told_committed("n2", 3)
    assert member.engine.raftCommitIndex == 4
    member.lead()
    member.engine.told_committed("n1", member.journal.last_index)
    member.engine.told_committed("n2", member.journal.last_index)
    assert member.engine.raftCommitIndex == 4
