"""The read barrier: an index only from a confirmed term, and an answer for every read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tracker_raft.commands import Level
from tracker_raft.config import Address, Member, NodeConfig, WireLimits
from tracker_raft.errors import P2PError, ShuttingDown
from tracker_raft.raft.reads import AppliedWaiters, ReadBarrier, Reads, Waiter

HERE = Address("127.0.0.1", 1)


class Asked:
    """Reads by name, and what they were granted."""

    def __init__(self) -> None:
        self.granted: list[tuple[str, int | str | None]] = []

    def waiter(self, name: str, deadline_s: float = 10.0, *, remote: bool = False) -> Waiter:
        def granted(index: int | None, error: P2PError | None) -> None:
            self.granted.append((name, index if error is None else error.code))

        return Waiter(deadline_s, granted, remote=remote)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def barrier(asked: Asked, *names: str, members: int = 3) -> ReadBarrier:
    made = ReadBarrier(members)
    for name in names:
        made.add(asked.waiter(name))
    return made


def test_a_majority_confirms_and_the_leader_is_one_of_it(asked: Asked) -> None:
    """Broken: a leader believes itself, or waits for more members than a majority has."""
    five = barrier(asked, "a", "b", members=5)
    number = five.begin_round(7, 0.0)
    assert number is not None
    five.confirmed(number, "n2")
    five.confirmed(number, "n2")
    assert asked.granted == [], "one member twice is not two members"
    five.confirmed(number, "n3")
    assert asked.granted == [("a", 7), ("b", 7)]
    five.confirmed(number, "n4")
    assert len(asked.granted) == 2


def test_half_of_four_is_no_majority(asked: Asked) -> None:
    """Broken: two halves of a cluster each answer reads."""
    four = barrier(asked, "a", members=4)
    number = four.begin_round(7, 0.0)
    assert number is not None
    four.confirmed(number, "n2")
    assert asked.granted == []
    four.confirmed(number, "n3")
    assert asked.granted == [("a", 7)]


def test_alone_there_is_nobody_to_ask(asked: Asked) -> None:
    """Broken: a cluster of one answers no read."""
    one = barrier(asked, "a", members=1)
    assert one.begin_round(4, 0.0) is None
    assert asked.granted == [("a", 4)]


def test_a_read_that_came_after_the_question_is_not_covered_by_it(asked: Asked) -> None:
    """Broken: a read is answered from a term that was confirmed before it was asked."""
    three = barrier(asked, "early")
    first = three.begin_round(5, 0.0)
    three.add(asked.waiter("late"))
    assert first is not None
    three.confirmed(first, "n2")
    assert asked.granted == [("early", 5)]
    second = three.begin_round(8, 0.1)
    assert second is not None
    three.confirmed(first, "n3")
    assert len(asked.granted) == 1
    three.confirmed(second, "n2")
    assert asked.granted[-1] == ("late", 8)


def test_a_question_whose_answers_got_lost_is_asked_anew(asked: Asked) -> None:
    """Broken: reads wait for their deadline because one link broke at the wrong moment."""
    three = barrier(asked, "a")
    lost = three.begin_round(5, 1.0)
    three.retry_rounds(1.0)
    assert len(three.waiting) == 0
    three.retry_rounds(1.1)
    assert len(three.waiting) == 1
    again = three.begin_round(6, 1.2)
    assert lost is not None
    assert again is not None
    three.confirmed(lost, "n2")
    assert asked.granted == []
    three.confirmed(again, "n2")
    assert asked.granted == [("a", 6)]


def test_a_deposed_leader_keeps_its_own_reads_and_returns_those_of_others(asked: Asked) -> None:
    """Broken: a read is answered by a leader that is none, or lost between two trackers."""
    three = barrier(asked, "own")
    three.add(asked.waiter("of another", remote=True))
    number = three.begin_round(5, 0.0)
    three.lost_leadership()
    assert asked.granted == [("of another", "no_leader")]
    assert len(three.waiting) == 1
    assert number is not None
    three.confirmed(number, "n2")
    three.confirmed(number, "n3")
    assert len(asked.granted) == 1
    asking = three.ask_leader("n2")
    assert three.told(asking, 9, "n2")
    assert asked.granted[-1] == ("own", 9)


def test_a_follower_asks_again_when_there_was_no_answer(asked: Asked) -> None:
    """Broken: a read asked of a dead or deposed leader waits for its deadline."""
    three = barrier(asked, "a")
    assert not three.told(three.ask_leader("n2"), None, "n2")
    assert len(three.waiting) == 1
    number = three.ask_leader("n2")
    three.link_lost("n3")
    three.leader_is("n2")
    assert len(three.waiting) == 0
    three.link_lost("n2")
    assert len(three.waiting) == 1
    assert three.told(number, 5, "n2"), "too late, and nobody waits for it"
    three.ask_leader("n3")
    three.leader_is(None)
    assert (len(three.waiting), asked.granted) == (1, [])


def test_only_who_was_asked_grants_a_read(asked: Asked) -> None:
    """Broken: any member may settle a read, with an index from before what was acknowledged."""
    three = barrier(asked, "a")
    number = three.ask_leader("n2")
    assert three.told(number, 0, "n3")
    assert asked.granted == []
    assert three.told(number, 9, "n2")
    assert asked.granted == [("a", 9)]


def test_every_read_is_answered_by_its_deadline_wherever_it_waits(asked: Asked) -> None:
    """Broken: a client waits for ever, or is answered twice."""
    three = barrier(asked, "in a round")
    number = three.begin_round(5, 0.0)
    three.add(asked.waiter("asked"))
    asking = three.ask_leader("n2")
    three.add(asked.waiter("waits"))
    three.add(asked.waiter("longer", 20.0))
    three.expire(9.9)
    assert asked.granted == []
    three.expire(10.0)
    assert sorted(asked.granted) == [(n, "no_leader") for n in ("asked", "in a round", "waits")]
    assert number is not None
    three.confirmed(number, "n2")
    three.told(asking, 9, "n2")
    three.refuse_all(ShuttingDown("stops"))
    assert asked.granted[3:] == [("longer", "shutting_down")]
    assert len(three.waiting) == 0


def test_a_read_waits_until_its_index_is_applied_here() -> None:
    """Broken: a follower answers from before the index the leader gave, or in doubt never."""
    done: list[Any] = []
    waiters = AppliedWaiters()

    def note(name: str) -> Any:
        return lambda error: done.append((name, error and error.code))

    for name, index, deadline_s in (("b", 6, 9), ("a", 5, 9), ("never", 99, 2), ("c", 7, 9)):
        waiters.add(index, deadline_s, note(name))
    waiters.wake(4, 1)
    assert done == []
    waiters.wake(6, 1)
    assert done == [("a", None), ("b", None)]
    waiters.wake(6, 3)
    assert done[2:] == [("never", "no_leader")]
    assert len(waiters) == 1
    waiters.refuse_all(ShuttingDown("stops"))
    assert done[3:] == [("c", "shutting_down")]
    assert len(waiters) == 0


def test_so_many_reads_may_wait_and_those_that_need_not_wait_are_never_refused() -> None:
    """Broken: reads pile up in a tracker that is cut off, until its memory is gone."""
    said: list[str] = []
    applied = 5
    members = tuple(Member(f"n{number}", HERE) for number in (1, 2, 3))
    limits = WireLimits(reads_max=2)
    config = NodeConfig("n1", Path("unused"), members, HERE, HERE, HERE, limits=limits)
    reads = Reads(config, lambda: applied, lambda: None)

    def done(error: P2PError | None) -> None:
        said.append("ok" if error is None else error.code)

    reads.read(Level.LINEARIZABLE, 0, 9.0, done)
    reads.read(Level.SESSION, 7, 9.0, done)
    assert said == []
    reads.read(Level.LINEARIZABLE, 0, 9.0, done)
    reads.read(Level.SESSION, 7, 9.0, done)
    assert said == ["busy", "busy"]
    reads.read(Level.SESSION, 5, 9.0, done)
    reads.read(Level.LOCAL, 0, 9.0, done)
    assert said[2:] == ["ok", "ok"]
    applied = 7
    reads.wake(1.0)
    assert (said[4:], reads.under_way) == (["ok"], 1)
    number = reads.barrier.begin_round(6, 1.0)
    assert number is not None
    reads.barrier.confirmed(number, "n2")
    assert (said[5:], reads.under_way) == (["ok"], 0)
    reads.read(Level.LINEARIZABLE, 0, 9.0, done)
    reads.barrier.expire(9.0)
    assert (said[6:], reads.under_way) == (["no_leader"], 0)
