"""When to stand: the process of the leader is proved gone, or only this node can win."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import Member, append, entry

from tracker_raft.raft import election
from tracker_raft.raft.election import Reconnect
from tracker_raft.raft.engine import Role
from tracker_raft.raft.watch import RECONNECT_TRIES, LeaderWatch

STAGGER_S = 0.015


@pytest.mark.parametrize(
    ("shown", "gone"),
    [
        (Reconnect.REFUSED, True),
        (Reconnect.OTHER_RUN, True),
        (Reconnect.SAME_RUN, False),
        (Reconnect.NO_ANSWER, False),
    ],
)
def test_only_proof_counts_as_gone(shown: Reconnect, gone: bool) -> None:
    """Broken: a broken connection deposes a healthy leader, or a dead one is waited for."""
    assert election.leader_is_gone(shown) is gone


def test_all_members_compute_the_same_order() -> None:
    """Broken: two candidates stand at the same moment and split the vote."""
    alive = {"n1", "n3", "n4", "n5"}
    places = {node: election.rank(node, alive - {node}, "n2") for node in alive}
    assert places == {"n1": 0, "n3": 1, "n4": 2, "n5": 3}
    assert election.rank("n3", {"n1", "n2"}, "n1") == 1, "a link to the lost leader counts not"
    assert [election.stand_after_s(place, STAGGER_S) for place in (0, 2)] == [0, 0.03]


class Surroundings:
    """Links and time of one watch: reconnects are answered by the test."""

    def __init__(self) -> None:
        self.connected: tuple[str, ...] = ("n3",)
        self.asked: list[tuple[str, Callable[[Reconnect], None]]] = []
        self.later: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self.kicks = 0

    def kick(self) -> None:
        self.kicks += 1

    # lines
    def linked(self, node: str) -> bool:
        return node in self.connected

    def reconnect(self, node: str, done: Callable[[Reconnect], None]) -> None:
        self.asked.append((node, done))

    def send(self, node: str, message: dict[str, Any]) -> bool:
        return True

    def flush(self) -> None: ...

    def backlog(self, node: str) -> int:
        return 0

    def drop(self, node: str, reason: str) -> None: ...

    # scheduler
    time = staticmethod(time.monotonic)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Any:
        self.later.append((callback, args))

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Any:
        self.later.append((callback, args))


class Watched:
    """A follower of ``n2`` whose link to it is about to break."""

    def __init__(self, directory: Path) -> None:
        self.member = Member(directory)
        self.member.follow([1, 1])
        self.around = Surroundings()
        self.watch = LeaderWatch(
            "n1", self.member.engine, self.around, self.around, STAGGER_S, self.around.kick
        )

    def stands_in_s(self) -> float:
        return self.member.engine.deadline() - time.monotonic()


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    yield watched
    watched.member.close()


def test_a_leader_whose_process_is_gone_is_replaced_at_once(watched: Watched) -> None:
    """Broken: after a kill the cluster waits for a time-out."""
    watched.watch.link_down("n3")
    assert watched.around.asked == [], "the loss of another follower says nothing"
    watched.watch.link_down("n2")
    ((node, done),) = watched.around.asked
    assert node == "n2"
    assert watched.stands_in_s() > 100
    done(Reconnect.REFUSED)
    assert watched.stands_in_s() <= 0
    assert watched.around.kicks == 1


def test_the_second_in_rank_gives_the_first_its_time(watched: Watched) -> None:
    """Broken: every survivor stands at once."""
    watched.around.connected = ("n0", "n3")
    watched.watch.link_up("n2", other_run=True)
    assert 0 < watched.stands_in_s() <= STAGGER_S


def test_who_still_applies_an_old_log_lets_the_others_go_first(watched: Watched) -> None:
    """Broken: a node that came back a moment ago wins, and leads only when it has caught up."""
    watched.member.raw("n2", append(1, (3, 1), [], commit=3))
    assert watched.member.engine.applies_more
    watched.watch.link_up("n2", other_run=True)
    assert STAGGER_S < watched.stands_in_s() <= 2 * STAGGER_S


def test_without_an_answer_it_asks_again_and_then_leaves_it_to_the_time_out(
    watched: Watched,
) -> None:
    """Broken: a dying process that still completes a handshake passes for alive."""
    watched.watch.link_down("n2")
    for tries in range(1, RECONNECT_TRIES + 1):
        assert len(watched.around.asked) == tries
        watched.around.asked[-1][1](Reconnect.NO_ANSWER)
        callback, args = watched.around.later.pop()
        callback(*args)
    assert len(watched.around.asked) == RECONNECT_TRIES
    assert watched.stands_in_s() > 100


@pytest.mark.parametrize("end", ["same run", "linked again", "another leader", "closed"])
def test_what_is_no_proof_changes_nothing(watched: Watched, end: str) -> None:
    """Broken: a leader that is well is deposed."""
    watched.watch.link_down("n2")
    shown = Reconnect.REFUSED
    if end == "same run":
        shown = Reconnect.SAME_RUN
    elif end == "linked again":
        watched.around.connected = ("n2", "n3")
    elif end == "another leader":
        watched.member.raw("n3", append(2, (3, 1), [entry(4, 2)]))
    else:
        watched.watch.close()
    watched.around.asked[0][1](shown)
    assert watched.stands_in_s() > 100
    assert watched.around.later == []


def asks(watched: Watched, term: int, last_log: tuple[int, int]) -> None:
    """``n3`` asks for a vote, as the replica hands it on."""
    last_term, last_index = last_log
    watched.member.raw(
        "n3",
        {
            "type": "request_vote",
            "term": term,
            "last_log_index": last_index,
            "last_log_term": last_term,
        },
    )
    watched.watch.vote_asked("n3", last_log)


def test_a_candidate_that_lags_behind_is_overtaken_at_once(watched: Watched) -> None:
    """Broken: killed under load, a leader is replaced only after a time-out, in half of all cases.

    Followers differ by what was in flight. The one that lags may stand first; its higher term
    ends the other's watch over the lost leader, and nobody can win until a time-out.
    """
    watched.watch.link_down("n2")
    asks(watched, 2, (1, 2))
    assert watched.member.sent("response_vote") == []
    assert watched.stands_in_s() <= 0
    watched.around.asked[0][1](Reconnect.REFUSED)
    assert watched.stands_in_s() <= 0


@pytest.mark.parametrize("last_log", [(1, 3), (1, 4), (2, 2)])
def test_a_candidate_that_can_win_is_not_disturbed(
    watched: Watched, last_log: tuple[int, int]
) -> None:
    """Broken: a voter competes with the candidate it has just voted for."""
    asks(watched, 3, last_log)
    assert len(watched.member.sent("response_vote")) == 1
    assert watched.stands_in_s() > 100


def test_a_late_request_of_an_older_term_deposes_nobody(watched: Watched) -> None:
    """Broken: a vote request that arrives late starts an election under a healthy leader."""
    asks(watched, 1, (0, 1))
    assert watched.member.engine.leader == "n2"
    assert watched.member.engine.role is Role.FOLLOWER
    assert watched.stands_in_s() > 100
