"""The steps of one hand-over, with a real engine and no clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import Line, Member, acknowledgement, append

from tracker_raft.errors import BadRequest, NoLeader, P2PError, Unavailable
from tracker_raft.raft.engine import Role
from tracker_raft.raft.handover import HandOver

HEARTBEAT_S = 5.0


class Lines:
    """Links to n2 and n3 that do nothing."""

    connected: tuple[str, ...] = ("n2", "n3")


class Case:
    """``n1`` leads three in term 1; its no-op is entry 2."""

    def __init__(self, directory: Path) -> None:
        self.member = Member(directory, line=Line())
        self.lines: Any = Lines()
        self.hand_over = HandOver(
            self.member.engine, self.member.nodes, self.lines, self.member.line.send, HEARTBEAT_S
        )
        self.told: list[tuple[str | None, P2PError | None]] = []
        self.term = self.member.lead()

    def begin(self, target: str | None = None, deadline_s: float = 1e9) -> None:
        self.hand_over.begin(
            target, deadline_s, lambda leader, why: self.told.append((leader, why))
        )

    def acknowledged(self, node: str, index: int) -> None:
        self.member.filtered(node, acknowledgement(self.term, index + 1))
        self.member.engine.doTick(0)

    def step(self, now_s: float | None = None) -> list[str]:
        """Whom it told to stand."""
        now_s = time.monotonic() if now_s is None else now_s
        self.member.line.sent.clear()
        self.hand_over.step(now_s)
        return [to for to, message in self.member.line.sent if message["type"] == "timeout_now"]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.member.close()


def test_the_target_is_told_when_it_has_all_and_all_is_committed(case: Case) -> None:
    """Broken: a successor is told to stand that cannot win, or that lacks what is acknowledged."""
    case.begin("n3")
    assert case.hand_over.paused
    assert case.step() == [], "the no-op is on no follower yet"
    case.acknowledged("n2", 2)
    assert case.member.engine.raftCommitIndex == 2
    assert case.step() == [], "n2 has it, n3 is meant"
    case.acknowledged("n3", 2)
    assert case.step() == ["n3"]
    assert case.step() == [], "once"
    assert case.told == []


def test_a_member_that_stands_still_is_not_told(case: Case) -> None:
    """Broken: it stands when it wakes up, long after the attempt was abandoned."""
    case.begin("n3")
    case.acknowledged("n2", 2)
    case.acknowledged("n3", 2)
    assert case.step(time.monotonic() + 4 * HEARTBEAT_S) == []
    assert case.step() == ["n3"]


def test_it_is_done_when_another_leader_is_heard(case: Case) -> None:
    """Broken: "handed over" is said while nobody leads."""
    case.begin()
    case.acknowledged("n2", 2)
    assert case.step() == ["n2"]
    case.member.raw(
        "n2", {"type": "request_vote", "term": 2, "last_log_index": 2, "last_log_term": 1}
    )
    assert case.member.engine.role is Role.FOLLOWER
    case.step()
    assert not case.hand_over.paused and case.told == []
    case.member.filtered("n2", append(2, (2, 1), []))
    case.step()
    assert case.told == [("n2", None)]


def test_it_is_abandoned_in_time_and_the_leader_goes_on(case: Case) -> None:
    """Broken: a hand-over that does not work stops the cluster for good."""
    case.begin("n3", deadline_s=5.0)
    case.step(4.9)
    assert case.hand_over.paused and case.hand_over.deadline_s() == 5.0
    case.step(5.0)
    ((leader, why),) = case.told
    assert leader is None and isinstance(why, Unavailable) and "this one leads on" in str(why)
    assert not case.hand_over.paused and case.hand_over.deadline_s() is None


def test_a_leader_that_was_elected_again_goes_on_at_once(case: Case) -> None:
    """Broken: it has its place back, and proposes nothing until the time of the attempt is over."""
    case.begin("n2")
    case.acknowledged("n2", 2)
    assert case.step() == ["n2"]
    case.member.engine.observe_term(5)
    case.member.lead()
    case.step()
    ((leader, why),) = case.told
    assert leader is None and "n2 stood and was not elected; this one leads on" in str(why)
    assert not case.hand_over.paused


def test_two_that_ask_are_told_by_one_attempt(case: Case) -> None:
    """Broken: the second one is never answered."""
    case.begin("n3", deadline_s=5.0)
    case.begin(deadline_s=50.0)
    case.step(5.0)
    assert len(case.told) == 2


def test_what_cannot_be_is_refused_at_once(case: Case) -> None:
    """Broken: a mistake costs the whole time of an attempt."""
    with pytest.raises(BadRequest, match="cannot hand over to 'n9': the other members are n2, n3"):
        case.begin("n9")
    case.member.filtered("n2", append(2, (2, 1), []))
    with pytest.raises(NoLeader):
        case.begin()
    assert not case.told and not case.hand_over.paused
