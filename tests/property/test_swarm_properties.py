"""The swarm brain under any order of events, against a model; sets kept as ranges.

If a test here fails, some order of losses, bans and deliveries loses a piece, asks for one twice,
or leaves a download waiting while an honest peer could serve it.
"""

from __future__ import annotations

import dataclasses
import random

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from peer.limits import PeerLimits
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges
from peer.swarm import Ask, AskManifest, Done, GiveUp, Swarm, Wait

PIECE = 64
LIMITS = dataclasses.replace(
    PeerLimits(),
    run_bytes_target=4 * PIECE,
    run_bytes_max=6 * PIECE,
    run_pieces_max=5,
    requests_in_flight_max=3,
)
PEERS = ("a", "b", "c")
peers = st.sampled_from(PEERS)


class SwarmModel(RuleBasedStateMachine):
    """Keeps, beside the brain, who was asked for what, in plain sets."""

    @initialize(sizes=st.lists(st.integers(0, 9 * PIECE), max_size=8), seed=st.integers(0, 2**32))
    def begin(self, sizes: list[int], seed: int) -> None:
        self.pieces = PieceMap(sizes, PIECE)
        self.swarm = Swarm(LIMITS, random.Random(seed))
        self.swarm.described(self.pieces)
        self.verified: set[int] = set()
        self.asked: dict[str, list[Run]] = {}
        self.has: dict[str, set[int]] = {}
        self.useless: set[str] = set()

    def in_flight(self) -> list[int]:
        return [p for runs in self.asked.values() for run in runs for p in run_pieces(run)]

    @rule(peer=peers, holes=st.sets(st.integers(0, 80)))
    def connect(self, peer: str, holes: set[int]) -> None:
        everything = set(range(self.pieces.count))
        self.has[peer] = everything - holes if holes else everything
        ranges = Ranges(*((p, p + 1) for p in self.has[peer])) if holes else None
        self.swarm.connected(peer, ranges)
        self.asked.setdefault(peer, [])

    @rule(peer=peers)
    def next(self, peer: str) -> None:
        decision = self.swarm.next(peer)
        free = set(range(self.pieces.count)) - self.verified - set(self.in_flight())
        room = len(self.asked.get(peer, ())) < LIMITS.requests_in_flight_max
        could = peer in self.asked and room and bool(free & self.has[peer])
        if len(self.verified) == self.pieces.count:
            assert decision == Done()
        elif peer in self.useless:
            assert isinstance(decision, GiveUp)
        elif could:
            assert isinstance(decision, Ask)
            wanted = set(run_pieces(decision.run))
            assert wanted and wanted <= free & self.has[peer]
            assert decision.run.count <= LIMITS.run_pieces_max
            size = self.pieces.bytes_of(decision.run.first, decision.run.count)
            assert size <= LIMITS.run_bytes_target or decision.run.count == 1
            self.asked[peer].append(decision.run)
        else:
            assert decision == Wait()

    @rule(peer=peers, place=st.integers(0, 2), delivered=st.integers(0, 5))
    def end_run(self, peer: str, place: int, delivered: int) -> None:
        runs = self.asked.get(peer, [])
        if place < len(runs):
            run = runs.pop(place)
            right = list(run_pieces(run))[:delivered]
            if right:
                self.swarm.verified(run.first, len(right))
                self.verified.update(right)
            self.swarm.ended(peer, run)

    @rule(peer=peers, fate=st.sampled_from(["lost", "ban", "refused"]))
    def part(self, peer: str, fate: str) -> None:
        # An honest peer is left, so that a download can always end.
        if fate == "lost" or peer == "c":
            self.swarm.lost(peer)
        elif fate == "ban":
            self.swarm.ban(peer, "lied")
            self.useless.add(peer)
        else:
            self.swarm.refused(peer, "refused")
            self.useless.add(peer)
        self.asked.pop(peer, None)

    @rule(peer=peers, run=st.builds(Run, st.integers(0, 80), st.integers(1, 5)))
    def stray_news(self, peer: str, run: Run) -> None:
        """News of a run that this peer was never asked for changes nothing."""
        if run not in self.asked.get(peer, ()):
            self.swarm.ended(peer, run)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "swarm"):
            return
        flight = self.in_flight()
        assert len(flight) == len(set(flight)), "a piece is asked for twice"
        missing = {p for start, end in self.swarm.missing() for p in range(start, end)}
        assert missing == set(range(self.pieces.count)) - self.verified
        assert self.swarm.done == (not missing)

    def teardown(self) -> None:
        """From any state, one honest peer that has all finishes the download."""
        if not hasattr(self, "swarm"):
            return
        for peer in PEERS[:2]:
            self.swarm.lost(peer)
        self.swarm.lost("c")
        self.swarm.connected("c")
        for _ in range(self.pieces.count + 1):
            decision = self.swarm.next("c")
            if decision == Done():
                return
            assert isinstance(decision, Ask)
            self.swarm.verified(decision.run.first, decision.run.count)
            self.swarm.ended("c", decision.run)
        raise AssertionError(f"not done: {self.swarm!r}")


TestSwarm = SwarmModel.TestCase


def run_pieces(run: Run) -> range:
    return range(run.first, run.end)


@given(st.lists(peers, max_size=20), st.sets(st.integers(0, 20)))
def test_the_manifest_is_asked_of_one_at_a_time(order: list[str], drops: set[int]) -> None:
    """Broken if a slow peer blocks the manifest, or all are asked at once."""
    swarm = Swarm(LIMITS, random.Random(1))
    asked: str | None = None
    for step, peer in enumerate(order):
        swarm.connected(peer)
        decision = swarm.next(peer)
        assert decision == (AskManifest() if asked is None else Wait())
        asked = asked or peer
        if step in drops:
            swarm.lost(asked)
            asked = None


spans = st.tuples(st.integers(0, 60), st.integers(0, 60))


@given(st.lists(st.tuples(st.booleans(), spans), max_size=30), st.integers(0, 60))
def test_ranges_are_a_set(steps: list[tuple[bool, tuple[int, int]]], number: int) -> None:
    """Broken if a set of pieces gains or loses one."""
    ranges, model = Ranges(), set[int]()
    for put, (start, end) in steps:
        if put:
            ranges.add(start, end)
            model |= set(range(start, end))
        else:
            ranges.remove(start, end)
            model -= set(range(start, end))
    assert {p for a, b in ranges for p in range(a, b)} == model
    assert ranges.count == len(model)
    edges = [edge for pair in ranges for edge in pair]
    assert edges == sorted(set(edges)), "ranges touch or are out of order"
    assert (number in ranges) == (number in model)
    assert Ranges.from_bitmap(ranges.to_bitmap(60), 60) == ranges
    assert len(ranges) == len(list(ranges)) == len({ranges.nth(i) for i in range(len(ranges))})


@given(st.lists(spans, max_size=8), st.lists(spans, max_size=8))
def test_an_overlap_is_an_intersection(
    one: list[tuple[int, int]], two: list[tuple[int, int]]
) -> None:
    """Broken if a partial peer is asked for what it lacks."""
    left, right = Ranges(*one), Ranges(*two)
    both = {p for a, b in left.overlap(right) for p in range(a, b)}
    assert both == {p for p in range(61) if p in left and p in right}
    assert left.overlap(right).count == len(both)


@given(st.binary(max_size=5), st.integers(0, 50))
def test_a_foreign_bitmap_is_read_as_far_as_it_goes(bitmap: bytes, count: int) -> None:
    """Broken if a bitmap that is too long or too short breaks a download."""
    ranges = Ranges.from_bitmap(bitmap, count)
    expected = {n for n in range(min(count, len(bitmap) * 8)) if bitmap[n // 8] & (0x80 >> (n % 8))}
    assert {p for a, b in ranges for p in range(a, b)} == expected
    assert str(ranges).count(",") <= 7
