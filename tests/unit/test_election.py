"""Who stands, who waits, who is helped: the policy alone, with facts handed in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tracker_raft.raft import election
from tracker_raft.raft.ballots import (
    Action,
    Answer,
    AskAll,
    Here,
    LastLog,
    LetVote,
    Observe,
    PreVote,
    Stand,
)
from tracker_raft.raft.election import Elections, Reconnect

TIMEOUT_S, STAGGER_S = 0.16, 0.02
LOG = LastLog(3, 10)
START = Here(
    now_s=0.0,
    timeout_s=TIMEOUT_S,
    leads=False,
    term=3,
    leader=None,
    log=LOG,
    linked=("n2", "n3"),
)
FOLLOWS = replace(START, leader="n2")


class Node:
    """The policy of one node, and what it knows at the moment."""

    def __init__(self, node: str = "n1", members: int = 3, here: Here = FOLLOWS) -> None:
        self.here = here
        self.elections = Elections(node, members, STAGGER_S, here)
        if here.leader is not None:
            self.hears()

    def at(self, now_s: float, **changes: Any) -> list[Action]:
        """What it does at that time, things having become as ``changes`` say."""
        self.here = replace(self.here, now_s=now_s, **changes)
        return self.elections.step(self.here)

    def hears(self) -> None:
        """The leader says something."""
        self.elections.heard(self.here.now_s, self.here.timeout_s, self.here.term)

    def asked(self, node: str, term: int = 4, log: LastLog = LOG, number: int = 1) -> None:
        self.elections.asked(node, PreVote(term, log, number), self.here)

    def vote_asked(self, node: str, term: int, log: LastLog = LOG, **more: Any) -> dict[str, Any]:
        message = {
            "type": "request_vote",
            "term": term,
            "last_log_index": log.index,
            "last_log_term": log.term,
            **more,
        }
        self.elections.vote_asked(node, message, self.here)
        return message

    def answered(self, node: str, granted: bool, term: int = 3, number: int = 1) -> None:
        self.elections.answered(node, number, granted, term, self.here)


ASKS = [AskAll(PreVote(4, LOG, 1))]


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


# -- standing --------------------------------------------------------------------------------------


def test_a_leader_that_is_gone_is_replaced_at_once_and_after_a_pre_vote() -> None:
    """Broken: after a kill the cluster waits for a time-out, or a term is raised for nothing."""
    node = Node()
    assert node.at(0.05) == []
    node.elections.leader_gone("n2", node.here)
    assert node.at(0.05) == ASKS
    assert node.at(0.051) == []
    node.answered("n3", True)
    assert node.at(0.052) == [Stand(forced=False)]


def test_a_silent_leader_is_replaced_when_the_time_out_is_over() -> None:
    """Broken: a leader that is stopped leads for ever, or one that speaks is deposed."""
    node = Node()
    assert node.at(TIMEOUT_S * 0.9) == []
    node.hears()
    assert node.at(TIMEOUT_S * 1.8) == []
    assert node.at(TIMEOUT_S * 1.95) == ASKS


def test_the_second_in_rank_gives_the_first_its_time() -> None:
    """Broken: every survivor stands at once."""
    node = Node("n3", here=replace(FOLLOWS, linked=("n1",)))
    node.elections.leader_gone("n2", node.here)
    assert node.at(STAGGER_S * 0.9) == []
    assert node.at(STAGGER_S * 1.1) == ASKS


def test_who_still_applies_an_old_log_lets_the_others_go_first() -> None:
    """Broken: a node that came back a moment ago wins, and leads only when it has caught up."""
    node = Node(here=replace(FOLLOWS, linked=("n3",), catching_up=True))
    node.elections.leader_gone("n2", node.here)
    assert node.at(STAGGER_S * 1.9) == []
    assert node.at(STAGGER_S * 2.1) == ASKS


def test_a_round_that_fails_is_tried_again_later() -> None:
    """Broken: one lost message leaves the cluster without a leader for good."""
    node = Node()
    node.elections.leader_gone("n2", node.here)
    assert node.at(0.0) == ASKS
    assert node.at(TIMEOUT_S) == []
    assert node.at(TIMEOUT_S * 2.1) == [AskAll(PreVote(4, LOG, 2))]
    node.answered("n3", True, number=1)
    assert node.at(TIMEOUT_S * 2.1) == [], "an answer to the round before"


def test_one_of_five_needs_two_others() -> None:
    """Broken: a minority raises the term of everybody."""
    node = Node(members=5, here=replace(FOLLOWS, linked=("n3", "n4", "n5")))
    node.elections.leader_gone("n2", node.here)
    assert node.at(0.0) == ASKS
    node.answered("n3", True)
    node.answered("n3", True)
    node.answered("n4", False)
    assert node.at(0.001) == []
    node.answered("n5", True)
    assert node.at(0.002) == [Stand(forced=False)]


def test_a_node_alone_stands_at_once() -> None:
    """Broken: a cluster of one waits for nobody before it serves."""
    node = Node(members=1, here=replace(START, linked=()))
    assert node.at(0.0) == [Stand(forced=False)]


def test_a_node_that_just_started_waits_for_a_leader_to_show() -> None:
    """Broken: every restart is an election."""
    node = Node(here=START)
    node.asked("n3")
    assert node.at(TIMEOUT_S * 0.9) == []
    assert node.at(TIMEOUT_S * 1.01) == [Answer("n3", 1, granted=True)]


def test_a_candidate_that_lost_waits_longer_than_a_time_out() -> None:
    """Broken: two candidates split the vote, and then again and again."""
    node = Node()
    node.elections.leader_gone("n2", node.here)
    node.at(0.0)
    node.answered("n3", True)
    assert node.at(0.0) == [Stand(forced=False)]
    node.here = replace(node.here, term=4, leader=None)
    node.elections.stood(node.here)
    assert node.at(TIMEOUT_S) == []
    assert node.at(TIMEOUT_S * 2.1) == [AskAll(PreVote(5, LOG, 2))]


def test_who_cannot_keep_a_promise_does_not_stand() -> None:
    """Broken: a node whose disk is full is elected, and can acknowledge nothing."""
    node = Node()
    node.elections.put_off(1.0)
    node.elections.leader_gone("n2", node.here)
    node.elections.put_off(1.0)
    assert node.at(0.9) == []
    assert node.at(1.1) == ASKS


# -- being asked -----------------------------------------------------------------------------------


def test_under_a_live_leader_a_request_is_held_not_refused() -> None:
    """Broken: half of a network deposes the leader of the other half; or, refused, a candidate
    that noticed a death a moment earlier than this node waits for a time-out."""
    node = Node()
    node.asked("n3")
    assert node.at(0.01) == []
    node.elections.leader_gone("n2", node.here)
    assert node.at(0.01) == [Answer("n3", 1, granted=True)]
    assert node.at(0.01) == [], "and it lets that one win"


def test_a_held_request_is_granted_when_the_time_out_is_over() -> None:
    """Broken: after a silent leader the first candidate asks in vain and starts over."""
    node = Node("n3")
    node.at(TIMEOUT_S * 0.95)
    node.asked("n1")
    assert node.at(TIMEOUT_S * 0.96) == []
    assert node.elections.deadline_s(node.here) == pytest.approx(TIMEOUT_S)
    assert node.at(TIMEOUT_S * 1.001) == [Answer("n1", 1, granted=True)]


def test_a_belief_that_ended_does_not_come_back_with_a_longer_time_out() -> None:
    """Broken: on a machine that gets busy two candidates hold each other's requests."""
    node = Node()
    assert node.at(TIMEOUT_S * 1.01) == ASKS
    node.asked("n3", log=LastLog(3, 11))
    assert node.at(TIMEOUT_S * 1.1, timeout_s=TIMEOUT_S * 1.5)[0] == Answer("n3", 1, granted=True)


def test_who_stood_still_itself_looks_again_before_it_stands() -> None:
    """Broken: a machine that stops for a moment deposes a leader that stopped with it."""
    node = Node()
    assert node.at(TIMEOUT_S * 3, late_s=TIMEOUT_S * 2) == []
    assert node.at(TIMEOUT_S * 3.2, late_s=0.0) == []
    node.hears()
    assert node.at(TIMEOUT_S * 4.1) == []


def test_who_looked_again_in_vain_stands() -> None:
    """Broken: on a machine that is always late nobody replaces a dead leader."""
    node = Node()
    assert node.at(TIMEOUT_S * 1.5, late_s=TIMEOUT_S) == []
    assert node.at(TIMEOUT_S * 1.9, late_s=0.0) == ASKS
    node = Node()
    turns = [node.at(TIMEOUT_S * (1.5 + turn), late_s=TIMEOUT_S) for turn in range(3)]
    assert turns == [[], [], ASKS]


def test_a_request_is_not_held_for_ever() -> None:
    """Broken: a request of long ago is granted to somebody who forgot it."""
    node = Node()
    node.asked("n3")
    for beat in range(1, 20):
        assert node.at(beat * TIMEOUT_S / 5) == []
        node.hears()
    node.elections.leader_gone("n2", node.here)
    assert node.at(node.here.now_s) == ASKS


def test_what_came_over_a_broken_link_is_void() -> None:
    """Broken: a vote for a process that is gone."""
    node = Node()
    node.asked("n3")
    node.elections.link_lost("n3")
    node.elections.leader_gone("n2", node.here)
    assert node.at(0.0) == ASKS


def test_a_leader_holds_what_it_is_asked() -> None:
    """Broken: a leader grants the request of a node that cannot hear it."""
    node = Node("n2", here=replace(FOLLOWS, leads=True))
    node.asked("n3")
    message = node.vote_asked("n1", 5)
    assert node.at(0.01) == []
    assert node.at(0.02, leads=False, leader=None) == [
        Answer("n3", 1, granted=True),
        LetVote("n1", message),
    ]


def test_a_worse_log_is_refused_and_overtaken_at_once() -> None:
    """Broken: killed under load, a leader is replaced only after a time-out, in half of all cases.

    Followers differ by what was in flight; the one that lags may ask first.
    """
    node = Node()
    node.elections.leader_gone("n2", node.here)
    node.elections.put_off(1.0)
    node.asked("n3", log=LastLog(3, 9))
    assert node.at(0.0) == [Answer("n3", 1, granted=False), *ASKS]


def test_an_old_term_is_refused_so_that_it_catches_up() -> None:
    """Broken: a node that missed terms asks for ever for one that is over."""
    node = Node(here=START)
    node.at(TIMEOUT_S * 1.01)
    node.asked("n3", term=3)
    assert node.at(TIMEOUT_S * 1.01) == [Answer("n3", 1, granted=False)]


def test_a_refusal_of_a_higher_term_is_taken_over() -> None:
    """Broken: a candidate with the best log and an old term never wins."""
    node = Node()
    node.elections.leader_gone("n2", node.here)
    assert node.at(0.0) == ASKS
    node.answered("n3", False, term=7)
    assert node.at(0.001) == [Observe(7)]
    assert node.at(0.001 + 4 * STAGGER_S, term=7, leader=None) == [AskAll(PreVote(8, LOG, 2))]


def test_two_that_ask_at_the_same_time_do_not_split_the_votes() -> None:
    """Broken: both stand, each has its own vote, and a time-out goes by."""
    first, second = Node("n1"), Node("n3", here=replace(FOLLOWS, linked=("n1", "n2")))
    for node in (first, second):
        node.elections.leader_gone("n2", node.here)
    assert first.at(STAGGER_S * 1.1) == second.at(STAGGER_S * 1.1) == ASKS
    first.asked("n3")
    second.asked("n1")
    assert first.at(STAGGER_S * 1.2) == []
    assert second.at(STAGGER_S * 1.2) == [Answer("n1", 1, granted=True)]
    first.answered("n3", True)
    assert first.at(STAGGER_S * 1.3) == [Stand(forced=False)]


@pytest.mark.parametrize(("log", "granted"), [(LOG, False), (LastLog(3, 11), True)])
def test_who_was_granted_is_favoured_for_a_moment(log: LastLog, granted: bool) -> None:
    """Broken: a voter of five helps two candidates at once; or sticks to the worse one."""
    node = Node("n5", members=5)
    node.elections.leader_gone("n2", node.here)
    node.asked("n3")
    assert node.at(0.0) == [Answer("n3", 1, granted=True)]
    node.asked("n4", log=log)
    assert node.at(0.01) == ([Answer("n4", 1, granted=True)] if granted else [])
    if not granted:
        assert node.elections.deadline_s(node.here) == pytest.approx(3 * STAGGER_S)
        assert node.at(3.1 * STAGGER_S)[0] == Answer("n4", 1, granted=True)


# -- vote requests ---------------------------------------------------------------------------------


def test_a_vote_request_waits_for_the_end_of_the_leader() -> None:
    """Broken: a higher term alone deposes a healthy leader."""
    node = Node()
    message = node.vote_asked("n3", 4)
    assert node.at(0.01) == []
    node.elections.leader_gone("n2", node.here)
    assert node.at(0.01)[0] == LetVote("n3", message)


@pytest.mark.parametrize("more", [{"forced": True}, {}])
def test_forced_and_old_requests_go_to_the_engine_at_once(more: dict[str, bool]) -> None:
    """Broken: a hand-over waits for a time-out; or a candidate of the same term gets no vote."""
    node = Node()
    message = node.vote_asked("n3", 4 if more else 3, **more)
    assert node.at(0.0) == [LetVote("n3", message)]


def test_who_voted_waits_for_the_winner() -> None:
    """Broken: a voter competes with the candidate it has just voted for."""
    node = Node()
    node.elections.leader_gone("n2", node.here)
    node.elections.voted("n3", node.here)
    assert node.at(TIMEOUT_S * 0.9, term=4, leader=None) == []
    assert node.at(TIMEOUT_S * 1.1) == [AskAll(PreVote(5, LOG, 1))]


# -- leaders ---------------------------------------------------------------------------------------


def test_told_to_stand_it_does_so_without_asking() -> None:
    """Broken: a hand-over is held by those who still hear the old leader."""
    node = Node()
    node.elections.told_to_stand()
    assert node.elections.deadline_s(node.here) == node.here.now_s
    assert node.at(0.0) == [Stand(forced=True)]
    assert node.at(0.0) == []


def test_a_sign_of_life_behind_the_word_to_stand_does_not_take_it_back() -> None:
    """Broken: when both come in one read nobody stands, and the leader waits, paused, in vain."""
    node = Node()
    node.elections.told_to_stand()
    node.hears()
    assert node.at(0.0) == [Stand(forced=True)]


def test_a_new_leader_takes_back_the_word_of_the_old_one() -> None:
    """Broken: a node that was told late to stand deposes the one that was elected meanwhile."""
    node = Node()
    node.elections.told_to_stand()
    node.here = replace(node.here, term=4, leader="n3")
    node.hears()
    assert node.at(0.0) == []


def test_a_leader_told_of_a_higher_term_leads_on_above_it() -> None:
    """Broken: a node that once stood in a higher term ignores the leader for ever; or the leader
    gives way to one with a worse log."""
    node = Node("n2", here=replace(FOLLOWS, leads=True, leader="n2"))
    node.elections.hinted(9)
    assert node.at(0.0) == [Observe(9), Stand(forced=True)]
    node.elections.hinted(9)
    assert node.at(0.1, term=10) == [], "it is above that by now"


def test_a_leader_that_was_replaced_does_not_stand_against_its_successor() -> None:
    """Broken: a leader that comes back from a short cut deposes the healthy one elected since."""
    node = Node("n2", here=replace(FOLLOWS, leads=True, leader="n2"))
    node.elections.hinted(9, led=True)
    assert node.at(0.0) == [Observe(9)]


def test_who_voted_does_not_stand_against_its_candidate() -> None:
    """Broken: a leader that hands over hears of the term of its successor, votes for it, and stands
    above it in the same moment."""
    node = Node("n2", here=replace(FOLLOWS, leads=True, leader="n2"))
    node.elections.hinted(9)
    node.here = replace(node.here, leads=False, leader=None, term=9)
    node.elections.voted("n1", node.here)
    assert node.at(0.0) == []


def test_who_lost_its_place_lets_another_try_first() -> None:
    """Broken: a leader that hears nobody stands again at once."""
    node = Node("n2", here=replace(FOLLOWS, leads=True, leader="n2"))
    node.here = replace(node.here, now_s=1.0, leads=False, leader=None)
    node.elections.lost_leadership(node.here)
    assert node.at(1.0 + TIMEOUT_S * 0.9) == []
    assert node.at(1.0 + TIMEOUT_S * 1.1) == ASKS
