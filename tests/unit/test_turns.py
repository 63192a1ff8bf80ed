"""Whose run is sent next, one test for each rule of :mod:`peer.turns`.

If a test here fails, a seeder sends a piece to everybody at once and late, or a slow reader shuts
the others out.
"""

from __future__ import annotations

import dataclasses

from peer.limits import PeerLimits
from peer.turns import Turns

LIMITS = dataclasses.replace(PeerLimits(), turns_max=2, turn_s=0.5)


def test_few_are_sent_at_a_time_and_the_others_come_in_order() -> None:
    """Broken if all share the link, or if who asked first is served last."""
    turns: Turns[str] = Turns(LIMITS)
    assert [turns.ask(name, 0.0) for name in "abcd"] == [True, True, False, False]
    assert turns.next(0.1) is None
    turns.leave("b")
    assert not turns.ask("e", 0.1), "c and d have waited longer"
    assert turns.next(0.1) == "c"
    assert turns.next(0.1) is None
    turns.leave("a")
    turns.leave("c")
    assert [turns.next(0.2), turns.next(0.2), turns.next(0.2)] == ["d", "e", None]


def test_a_slow_reader_does_not_shut_others_out() -> None:
    """Broken if two peers that hardly read stop a seeder."""
    turns: Turns[str] = Turns(LIMITS)
    assert turns.ask("slow", 0.0)
    assert turns.ask("slower", 0.2)
    assert not turns.ask("a", 0.3)
    assert 0.2 <= turns.wait_s(0.3) < 0.21
    assert turns.next(0.49) is None
    assert turns.next(0.3 + turns.wait_s(0.3)) == "a"
    assert not turns.ask("b", 0.6)
    assert turns.next(0.71) == "b"


def test_who_goes_while_it_waits_is_forgotten() -> None:
    """Broken if a turn is given to a connection that has ended, and so to nobody."""
    turns: Turns[str] = Turns(LIMITS)
    assert [turns.ask(name, 0.0) for name in "abcd"] == [True, True, False, False]
    turns.leave("c")
    turns.leave("a")
    assert turns.next(0.1) == "d"
