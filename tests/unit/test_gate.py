"""The gate: what must wait for the disk, and what must not."""

from __future__ import annotations

from typing import Any

from engine_driver import acknowledgement

from tracker_raft.raft.gate import Gate

TERM = 3


def ack(index: int, **more: Any) -> dict[str, Any]:
    return acknowledgement(TERM, index + 1, **more)


def vote(number: int) -> dict[str, Any]:
    return {"type": "response_vote", "term": number}


# -- promises on their way out (S4) ----------------------------------------------------------------


def test_a_promise_leaves_when_what_it_rests_on_is_durable_and_not_before() -> None:
    """Broken: a vote or an acknowledgement that a crash takes back has left the node."""
    gate = Gate()
    gate.hold(5, "n2", vote(1))
    assert list(gate.promises(4)) == []
    assert list(gate.promises(5)) == [("n2", vote(1))]
    assert list(gate.promises(5)) == [], "once"


def test_promises_leave_in_the_order_they_were_made() -> None:
    """Broken: a follower's acknowledgements overtake each other, and the leader goes back."""
    gate = Gate()
    gate.hold(1, "n2", vote(1))
    gate.hold(3, "n3", vote(2))
    gate.hold(3, "n2", vote(3))
    gate.hold(7, "n3", vote(4))
    assert list(gate.promises(3)) == [("n2", vote(1)), ("n3", vote(2)), ("n2", vote(3))]
    assert list(gate.promises(9)) == [("n3", vote(4))]


def test_a_promise_that_rests_on_nothing_new_leaves_at_once() -> None:
    """Broken: an idle follower answers heartbeats only when something is written."""
    gate = Gate()
    gate.hold(4, "n2", vote(1))
    assert list(gate.promises(4)) == [("n2", vote(1))]


def test_what_was_said_over_a_broken_link_does_not_leave_over_the_next() -> None:
    """Broken: a promise to one process reaches another, before that one has said anything."""
    gate = Gate()
    gate.hold(1, "n2", vote(1))
    gate.hold(1, "n3", vote(2))
    gate.link_lost("n2")
    assert list(gate.promises(9)) == [("n3", vote(2))]


# -- acknowledgements on their way in (S5) ---------------------------------------------------------


def test_an_acknowledgement_above_the_leaders_own_durable_index_waits() -> None:
    """Broken: an entry is committed that is durable on a minority: the leader counts itself."""
    gate = Gate()
    assert not gate.must_wait("n2", ack(7), 7)
    assert gate.must_wait("n2", ack(8), 7)
    assert list(gate.arrivals(7)) == []
    assert list(gate.arrivals(8)) == [("n2", ack(8))]
    assert list(gate.arrivals(8)) == [], "once"
    assert not gate.must_wait("n2", ack(8), 8)


def test_what_a_follower_says_behind_a_waiting_acknowledgement_waits_with_it() -> None:
    """Broken: an older word of a follower is taken for its newest one."""
    gate = Gate()
    ask = ack(2, success=False, reset=True)
    assert gate.must_wait("n2", ack(8), 7)
    assert gate.must_wait("n2", ack(5), 7)
    assert gate.must_wait("n2", ask, 7)
    assert gate.must_wait("n2", ack(9), 7)
    assert not gate.must_wait("n3", ack(5), 7), "another follower's words do not wait"
    assert list(gate.arrivals(8)) == [("n2", ack(8)), ("n2", ack(5)), ("n2", ask)]
    assert gate.must_wait("n2", ack(1), 8)
    assert list(gate.arrivals(9)) == [("n2", ack(9)), ("n2", ack(1))]


def test_an_ask_to_go_on_from_elsewhere_promises_nothing() -> None:
    """Broken: a follower that lacks entries is not helped until the leader's disk is done."""
    gate = Gate()
    assert not gate.must_wait("n2", ack(9, success=False, reset=True), 3)


def test_acknowledgements_of_a_broken_link_do_not_count() -> None:
    """Broken: an entry is committed by what a process said that is not there any more."""
    gate = Gate()
    assert gate.must_wait("n2", ack(8), 7)
    assert gate.must_wait("n3", ack(8), 7)
    gate.link_lost("n2")
    gate.link_lost("n1")
    assert list(gate.arrivals(8)) == [("n3", ack(8))]


def test_a_link_may_break_while_its_acknowledgements_are_counted() -> None:
    """Broken: a node stops because what it counted cost somebody the link."""
    gate = Gate()
    for node in ("n2", "n3", "n4"):
        for index in (8, 9):
            assert gate.must_wait(node, ack(index), 7)
    counted = []
    for node, message in gate.arrivals(9):
        counted.append((node, message["next_node_idx"] - 1))
        if node == "n2":
            gate.link_lost("n2")
            gate.link_lost("n3")
    assert counted == [("n2", 8), ("n4", 8), ("n4", 9)]
