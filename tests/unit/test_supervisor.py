"""A node that ended: when it is started again, and when not any more."""

from __future__ import annotations

from itertools import pairwise

from tracker_raft.cluster.supervise import ATTEMPTS_MAX, PAUSE_MAX_S, STEADY_S, Supervisor

NODES = ("n1", "n2", "n3")


def starts(supervisor: Supervisor, alive: tuple[str, ...], from_s: float, to_s: float) -> list[str]:
    """Who is started in that time, looked at four times a second, if none of them stays up."""
    found: list[str] = []
    for quarter in range(round(from_s * 4), round(to_s * 4)):
        found += supervisor.look(alive, quarter / 4)[0]
    return found


def test_a_node_that_ended_is_started_after_a_moment() -> None:
    """Broken: a tracker that crashed stays down, or is started in the same instant again."""
    supervisor = Supervisor(NODES, 0.0)
    assert supervisor.look(NODES, 1.0) == ([], [])
    assert supervisor.look(("n1", "n3"), 1.25) == ([], []), "not at once"
    assert starts(supervisor, ("n1", "n3"), 1.25, 2.0) == ["n2"]
    assert supervisor.attempts("n2") == 1
    assert supervisor.attempts("n1") == 0


def test_one_that_ends_again_and_again_waits_longer_and_is_given_up() -> None:
    """Broken: a tracker with a damaged disk is started for ever, many times a second."""
    supervisor = Supervisor(NODES, 0.0)
    at: list[float] = []
    given_up: list[str] = []
    for quarter in range(4 * 600):
        start, gone = supervisor.look(("n1", "n3"), quarter / 4)
        at += [quarter / 4] * len(start)
        given_up += gone
    assert given_up == ["n2"], "told once"
    assert len(at) == ATTEMPTS_MAX
    pauses = [after - before for before, after in pairwise(at)]
    assert pauses == sorted(pauses)
    assert max(pauses) <= PAUSE_MAX_S + 1
    assert supervisor.look(NODES, 700.0) == ([], [])
    assert starts(supervisor, ("n1", "n3"), 700.25, 800.0) == [], "somebody else's attempt failed"


def test_a_node_that_ran_for_a_while_begins_anew() -> None:
    """Broken: a tracker that crashes once a month is given up in its eighth."""
    supervisor = Supervisor(("n1",), 0.0)
    now_s = 0.0
    for _ in range(3 * ATTEMPTS_MAX):
        supervisor.look(("n1",), now_s)
        now_s += STEADY_S
        supervisor.look(("n1",), now_s)
        assert starts(supervisor, (), now_s, now_s + 1.5) == ["n1"]
        now_s += 1.5
        assert supervisor.attempts("n1") == 1
