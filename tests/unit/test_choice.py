"""The choice that learns. If a test here fails, downloads keep slow peers and pass by fast ones."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from peer.choice import FADE, FORGOTTEN, Candidate, Learning, PeerChoice, RoundRobin

PLACES = 3


class World:
    """Peers with rates that the choice does not know; a round is one :meth:`PeerChoice.release`."""

    def __init__(self, choice: PeerChoice, rates: dict[str, float]) -> None:
        self.choice, self.rates = choice, rates
        self.held: list[str] = []
        self.known: dict[str, float] = {}
        self.bytes = 0.0

    def candidate(self, peer: str) -> Candidate:
        return Candidate(peer, peer in self.held, rate_bytes_s=self.known.get(peer))

    def round(self) -> None:
        places = PLACES - len(self.held)
        if places:
            candidates = [self.candidate(peer) for peer in self.rates]
            self.held += self.choice.choose(candidates, places)
        for peer in self.held:
            self.known[peer] = self.rates[peer]
            self.bytes += self.rates[peer]
        waiting = [self.candidate(peer) for peer in self.rates if peer not in self.held]
        released = self.choice.release([self.candidate(peer) for peer in self.held], waiting)
        assert released is None or released in self.held
        self.held = [peer for peer in self.held if peer != released]


def rates(fast: int, slow: int) -> dict[str, float]:
    return {f"fast{n}": 10e6 for n in range(fast)} | {f"slow{n}": 1e6 for n in range(slow)}


def test_the_fast_ones_are_found_and_kept() -> None:
    """Broken if a download with three fast sources among twenty is fed by the slow ones."""
    world = World(Learning(random.Random(1)), rates(3, 17))
    for _ in range(40):
        world.round()
    held: Counter[str] = Counter()
    for _ in range(40):
        world.round()
        held.update(peer for peer in world.held if peer.startswith("fast"))
    assert sum(held.values()) >= 80, "of 120 places, one of three is out to look at others"


def test_who_gets_slower_is_left() -> None:
    """Broken if what a peer delivered long ago is believed for ever."""
    world = World(Learning(random.Random(2)), rates(4, 8))
    for _ in range(30):
        world.round()
    fallen = next(peer for peer in world.held if peer.startswith("fast"))
    world.rates[fallen] = 0.1e6
    held = 0
    for _ in range(30):
        world.round()
        held += fallen in world.held
    assert held < 12


def test_who_gets_faster_is_found_again() -> None:
    """Broken if a peer that was slow once is never tried again."""
    world = World(Learning(random.Random(3)), rates(0, 6))
    for _ in range(20):
        world.round()
    world.rates["slow0"] = 100e6
    rounds = 0
    while world.known["slow0"] < 100e6:
        world.round()
        rounds += 1
        assert rounds < 30


def test_the_content_are_curious() -> None:
    """Broken if peers that all deliver the same keep a faster one from ever being tried."""
    world = World(Learning(random.Random(8)), rates(0, 9))
    world.round()
    new = next(peer for peer in world.rates if peer not in world.known)
    world.rates[new] = 10e6
    rounds = 0
    while new not in world.held:
        world.round()
        rounds += 1
        assert rounds < 20


def test_it_beats_taking_turns() -> None:
    """Broken if learning is worth nothing: the default would be more than is needed."""
    learning, turns = (
        World(Learning(random.Random(4)), rates(3, 12)),
        World(RoundRobin(), rates(3, 12)),
    )
    for _ in range(60):
        learning.round()
        turns.round()
    assert learning.bytes > 1.5 * turns.bytes


def test_nobody_makes_room_for_nobody() -> None:
    """Broken if a place is given up while there is no one to take it."""
    choice = Learning(random.Random(5))
    held = [Candidate("a", True, rate_bytes_s=1e6), Candidate("b", True, rate_bytes_s=1.0)]
    assert choice.release(held, []) is None
    assert choice.release([], [Candidate("c")]) is None


def test_what_is_forgotten_takes_no_memory() -> None:
    """Broken if a download that meets thousands of peers keeps all of them in mind."""
    choice = Learning(random.Random(6))
    for number in range(500):
        choice.release([Candidate(f"p{number}", True, rate_bytes_s=1e6)], [])
    memory = next(n for n in range(100) if FADE**n < FORGOTTEN)
    assert len(choice._rounds) == len(choice._rates) <= memory


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), st.floats(0.0, 1e12), max_size=12))
def test_any_rates_are_borne(found: dict[str, float]) -> None:
    """Broken if rates of zero, or no rates at all, end a download."""
    world = World(Learning(random.Random(7)), found)
    for _ in range(5):
        world.round()
        assert len(world.held) <= PLACES
