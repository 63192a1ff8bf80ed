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

from peer.decisions import Ask, AskManifest, Done, GiveUp, Rest, Wait
from peer.limits import PeerLimits
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges, first_common
from peer.swarm import Swarm

PIECE = 64
NOW_S = 100.0
LIMITS = dataclasses.replace(
    PeerLimits(),
    run_bytes_target=4 * PIECE,
    run_bytes_max=6 * PIECE,
    run_pieces_max=5,
    requests_in_flight_max=3,
    requests_in_flight_crowd=2,
    many_peers=3,
    endgame_bytes_max=2 * PIECE,
)
PEERS = ("a", "b", "c")
peers = st.sampled_from(PEERS)


@dataclasses.dataclass
class Asked:
    """A request as the model remembers it; ``owns``: the pieces that are nobody else's."""

    run: Run
    owns: set[int]
    got: int = 0


class SwarmModel(RuleBasedStateMachine):
    """Keeps, beside the brain, who was asked for what, in plain sets; time passes as it likes."""

    @initialize(sizes=st.lists(st.integers(0, 9 * PIECE), max_size=8), seed=st.integers(0, 2**32))
    def begin(self, sizes: list[int], seed: int) -> None:
        self.pieces = PieceMap(sizes, PIECE)
        self.swarm = Swarm(LIMITS, random.Random(seed))
        self.swarm.described(self.pieces)
        self.now_s = NOW_S
        self.verified: set[int] = set()
        self.asked: dict[str, list[Asked]] = {}
        self.has: dict[str, set[int]] = {}
        self.useless: set[str] = set()
        self.taken = 0
        self.doubled = 0

    def owned(self) -> set[int]:
        """What belongs to some request."""
        sets = [asked.owns for all_asked in self.asked.values() for asked in all_asked]
        assert sum(map(len, sets)) == len(set().union(*sets)), "a piece belongs to two requests"
        return set().union(*sets)

    def free(self) -> set[int]:
        return set(range(self.pieces.count)) - self.verified - self.owned()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 5.0]))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(peer=peers, holes=st.sets(st.integers(0, 80)))
    def connect(self, peer: str, holes: set[int]) -> None:
        everything = set(range(self.pieces.count))
        has = everything - holes if holes else everything
        self.has[peer] = self.has.get(peer, set()) | has if peer in self.asked else has
        self.swarm.connected(peer, Ranges(*((p, p + 1) for p in has)) if holes else None)
        self.asked.setdefault(peer, [])

    @rule(peer=peers, first=st.integers(0, 80), count=st.integers(1, 9))
    def tell(self, peer: str, first: int, count: int) -> None:
        if peer in self.asked and first + count <= self.pieces.count:
            self.swarm.told(peer, first, count)
            self.has[peer] |= set(range(first, first + count))

    @rule(peer=peers)
    def next(self, peer: str) -> None:
        decision = self.swarm.next(peer, self.now_s)
        if len(self.verified) == self.pieces.count:
            assert decision == Done()
        elif peer in self.useless:
            assert isinstance(decision, GiveUp)
        elif not isinstance(decision, Ask):
            assert isinstance(decision, Wait | Rest)
            useful = peer in self.asked and self.free() & self.has[peer]
            everything = set(range(self.pieces.count))
            partial = sum(self.has[one] != everything for one in self.asked if self.asked[one])
            few = len(self.asked) < LIMITS.many_peers or partial < LIMITS.many_peers - 1
            spared = not few and peer in self.asked and self.has[peer] == everything
            room = len(self.asked.get(peer, ())) < (1 if spared else 2)
            assert not (useful and room), "there was room, and nothing asked"
        else:
            self.ask(peer, decision.run)

    def ask(self, peer: str, run: Run) -> None:
        wanted = set(run_pieces(run))
        assert wanted and wanted <= self.has[peer]
        assert run.count <= LIMITS.run_pieces_max
        size = self.pieces.bytes_of(run.first, run.count)
        assert size <= LIMITS.run_bytes_target or run.count == 1
        crowd = len(self.asked) >= LIMITS.many_peers
        bound = LIMITS.requests_in_flight_crowd if crowd else LIMITS.requests_in_flight_max
        assert len(self.asked[peer]) < bound
        owns = wanted
        if not wanted <= self.free():
            assert not wanted & self.free()
            assert not self.asked[peer], "only who has nothing to do takes from others"
            stolen = self.swarm.pieces_stolen - self.taken
            self.taken = self.swarm.pieces_stolen
            if stolen:
                assert stolen == run.count
                owner = [a for asked in self.asked.values() for a in asked if wanted <= a.owns]
                assert len(owner) == 1
                assert max(owner[0].owns) == max(wanted), "stolen from the end"
                owner[0].owns -= wanted
            else:
                self.doubled += 1
                assert self.swarm.pieces_doubled == self.doubled
                assert run.count == 1 and not self.free() and not wanted & self.verified
                owns = set()
        assert not owns & self.verified
        self.asked[peer].append(Asked(run, owns))
        extra = sum(not a.owns and not a.got for asked in self.asked.values() for a in asked)
        assert extra or owns

    @rule(peer=peers, place=st.integers(0, 2), count=st.integers(1, 5))
    def arrive(self, peer: str, place: int, count: int) -> None:
        """The next pieces of a request."""
        all_asked = self.asked.get(peer, [])
        if place < len(all_asked):
            asked = all_asked[place]
            came = list(run_pieces(asked.run))[asked.got : asked.got + count]
            if came:
                self.swarm.arrived(peer, asked.run, came[0], len(came), self.now_s)
                asked.got += len(came)
                self.verified.update(came)
                for other in [a for every in self.asked.values() for a in every]:
                    other.owns -= set(came)

    @rule(peer=peers, place=st.integers(0, 2))
    def end_run(self, peer: str, place: int) -> None:
        all_asked = self.asked.get(peer, [])
        # Of two requests for the same run the older one is answered first.
        if place < len(all_asked):
            run = all_asked[place].run
            first = next(asked for asked in all_asked if asked.run == run)
            all_asked.remove(first)
            self.swarm.ended(peer, run)

    @rule(peer=peers, fate=st.sampled_from(["lost", "ban", "refused"]))
    def part(self, peer: str, fate: str) -> None:
        if fate == "lost":
            self.swarm.lost(peer)
        else:
            getattr(self.swarm, fate)(peer, "a reason")
            self.useless.add(peer)
        self.asked.pop(peer, None)

    @rule(peer=peers)
    def end_what_was_never_asked(self, peer: str) -> None:
        self.swarm.ended(peer, Run(10_000, 1))

    @invariant()
    def agrees_with_the_model(self) -> None:
        if not hasattr(self, "swarm"):
            return
        assert self.swarm.free_count == len(self.free()), "a piece is lost, or free and asked for"
        missing = {p for start, end in self.swarm.missing() for p in range(start, end)}
        assert missing == set(range(self.pieces.count)) - self.verified
        assert self.swarm.done == (not missing)
        assert self.swarm.bytes_verified == sum(
            self.pieces.bytes_of(piece, 1) for piece in self.verified
        )
        for piece in range(self.pieces.count):
            having = sum(piece in self.has[peer] for peer in self.asked)
            assert self.swarm.availability(piece) == having, f"piece {piece}"

    def teardown(self) -> None:
        """From any state, one honest peer that has all finishes the download, though the others
        go on holding what they were asked for."""
        if not hasattr(self, "swarm"):
            return
        self.swarm.connected("honest")
        for _ in range(20 * self.pieces.count + 20):
            decision = self.swarm.next("honest", self.now_s)
            self.now_s += LIMITS.steal_after_s
            if decision == Done():
                return
            if isinstance(decision, Ask):
                run = decision.run
                self.swarm.arrived("honest", run, run.first, run.count, self.now_s)
                self.swarm.ended("honest", run)
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
        decision = swarm.next(peer, NOW_S)
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
    outside = {p for a, b in ranges.gaps(number, 70) for p in range(a, b)}
    assert outside == set(range(number, 70)) - model
    assert ranges.covers(number, number + 3) == ({number, number + 1, number + 2} <= model)
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
    assert left.minus(right) == Ranges(
        *((p, p + 1) for p in range(60) if p in left and p not in right)
    )
    assert left.plus(right) == Ranges(*((p, p + 1) for p in range(60) if p in left or p in right))
    first = first_common([left, right], 0, 60)
    assert first == (None if not both else left.overlap(right).nth(0))


@given(st.binary(max_size=5), st.integers(0, 50))
def test_a_foreign_bitmap_is_read_as_far_as_it_goes(bitmap: bytes, count: int) -> None:
    """Broken if a bitmap that is too long or too short breaks a download."""
    ranges = Ranges.from_bitmap(bitmap, count)
    expected = {n for n in range(min(count, len(bitmap) * 8)) if bitmap[n // 8] & (0x80 >> (n % 8))}
    assert {p for a, b in ranges for p in range(a, b)} == expected
    assert str(ranges).count(",") <= 7
