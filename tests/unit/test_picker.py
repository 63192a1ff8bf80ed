"""The rules of the picker, one test each, by their names; and the counts it goes by.

If a test here fails, a swarm does not trade, a reader waits, or a peer is asked for what it lacks.
"""

from __future__ import annotations

import dataclasses
import random

import pytest

from peer.availability import Availability
from peer.limits import PeerLimits
from peer.picker import Asked, Wishes, pick
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges

PIECE = 1024
LIMITS = dataclasses.replace(
    PeerLimits(), run_bytes_max=8 * PIECE, run_pieces_max=6, run_bytes_target=PIECE
)
ANYBODY = Asked(bytes_max=4 * PIECE)


def picked(
    free: Ranges,
    peer: Asked = ANYBODY,
    *,
    counts: Availability | None = None,
    wishes: Wishes | None = None,
    pieces: PieceMap | None = None,
    limits: PeerLimits = LIMITS,
    seed: int = 7,
) -> Run | None:
    whole = pieces or PieceMap([1000 * PIECE], PIECE)
    return pick(
        free,
        peer,
        counts or Availability(whole.count),
        whole,
        limits,
        random.Random(seed),
        wishes or Wishes(),
    )


def whoever(**what: object) -> Asked:
    return dataclasses.replace(ANYBODY, **what)  # type: ignore[arg-type]  # fields of Asked


def counted(*sets: Ranges, pieces: int = 1000) -> Availability:
    counts = Availability(pieces)
    for pieces_of_one in sets:
        counts.gained(pieces_of_one)
    return counts


def test_only_what_is_free() -> None:
    """Broken if the picker leaves the free pieces."""
    assert picked(Ranges((5, 7))) == Run(5, 2)
    assert picked(Ranges()) is None


def test_only_what_the_peer_has() -> None:
    """Broken if a partial peer is asked for what it lacks."""
    assert picked(Ranges((0, 10)), whoever(has=Ranges((8, 12)))) == Run(8, 2)
    assert picked(Ranges((0, 10)), whoever(has=Ranges((10, 12)))) is None


def test_runs_have_bounds() -> None:
    """Broken if one request asks for more than the protocol allows, or for nothing."""
    assert picked(Ranges((0, 10)), whoever(go_on_at=0)) == Run(0, 4)  # what it delivers in time
    assert picked(Ranges((0, 10)), whoever(go_on_at=0, bytes_max=10**9)) == Run(0, 6)  # pieces
    large = PieceMap([100 * PIECE], 50 * PIECE)
    assert picked(Ranges((0, 2)), whoever(go_on_at=0), pieces=large) == Run(0, 1)
    wide = PieceMap([100 * PIECE], 3 * PIECE)
    assert picked(Ranges((0, 9)), whoever(go_on_at=0, bytes_max=10**9), pieces=wide) == Run(0, 2)


def test_preferred_first() -> None:
    """Broken if a reader waits for pieces while rarer ones are fetched."""
    wishes = Wishes([Ranges((70, 72)), Ranges((40, 50))], started=Ranges((5, 6)))
    free = Ranges((0, 100))
    assert picked(free, wishes=wishes) == Run(70, 2)
    free.remove(70, 72)
    assert picked(free, wishes=wishes) == Run(40, 4)


def test_started_first() -> None:
    """Broken if what a lost peer left half done stays so until the end."""
    wishes = Wishes(started=Ranges((5, 6)))
    assert picked(Ranges((0, 100)), whoever(go_on_at=50), wishes=wishes) == Run(5, 1)


def test_in_order_if_so_wished() -> None:
    """Broken if a sequential download jumps about."""
    wishes = Wishes(sequential=True)
    assert picked(Ranges((7, 9), (20, 100)), whoever(go_on_at=50), wishes=wishes) == Run(7, 2)


def test_rarest_first() -> None:
    """Broken if what only one peer has is left until that peer has gone."""
    counts = counted(Ranges((0, 30)), Ranges((0, 10), (12, 30)), Ranges((0, 10), (13, 30)))
    for seed in range(20):
        assert picked(Ranges((0, 30)), counts=counts, seed=seed) == Run(10, 2)
    left = Ranges((0, 10), (12, 30))
    assert picked(left, counts=counts) == Run(12, 1)
    # What nobody else has comes from the complete peer.
    assert picked(Ranges((0, 1000)), whoever(go_on_at=30), counts=counts) == Run(30, 4)


def test_go_on_where_the_last_run_ended() -> None:
    """Broken if a peer reads all over its disk for one download."""
    assert picked(Ranges((0, 1000)), whoever(go_on_at=500)) == Run(500, 4)
    counts = counted(Ranges((500, 600)))
    rarer = picked(Ranges((0, 1000)), whoever(go_on_at=500), counts=counts)
    assert rarer is not None
    assert not 500 <= rarer.first < 600


def test_a_random_tie() -> None:
    """Broken if all peers of a fresh swarm fetch the same pieces first."""
    firsts = {picked(Ranges((0, 1000)), seed=seed) for seed in range(20)}
    assert len(firsts) > 10
    assert picked(Ranges((3, 8)), whoever(go_on_at=100)) is not None


def test_it_starts_where_the_seeder_proposed() -> None:
    """Broken if newcomers begin in the same place though the seeder spread them."""
    assert picked(Ranges((0, 1000)), whoever(start_at=618)) == Run(618, 4)
    assert picked(Ranges((0, 1000)), whoever(start_at=618, go_on_at=3)) == Run(3, 4)
    assert picked(Ranges((0, 1000)), whoever(start_at=10**9)) is not None


def test_whole_blocks() -> None:
    """Broken if what peers have falls into ever more and smaller ranges while they trade."""
    limits = dataclasses.replace(LIMITS, run_bytes_target=4 * PIECE)
    free = Ranges((0, 1000))
    for seed in range(20):
        run = picked(free, limits=limits, seed=seed)
        assert run is not None and (run.first % 4, run.count) == (0, 4)
    assert picked(free, whoever(go_on_at=7), limits=limits) == Run(7, 1)
    assert picked(free, whoever(go_on_at=6, bytes_max=6 * PIECE), limits=limits) == Run(6, 6)
    assert picked(free, whoever(go_on_at=5, bytes_max=2 * PIECE), limits=limits) == Run(5, 2)
    # What ends there anyway is not cut once more, and a small content has no blocks.
    assert picked(Ranges((6, 10)), whoever(go_on_at=6), limits=limits) == Run(6, 4)
    small = PieceMap([60 * PIECE], PIECE)
    assert {picked(Ranges((0, 60)), pieces=small, limits=limits, seed=s) for s in range(500)} > {
        Run(first, 4) for first in (1, 2, 3)
    }


def test_availability_counts_every_peer() -> None:
    """Broken if a peer that left is still counted, or one is counted twice."""
    counts = counted(Ranges((0, 5)), Ranges((3, 8)), pieces=10)
    counts.complete_peers = 2
    assert [counts.of(piece) for piece in range(10)] == [3, 3, 3, 4, 4, 3, 3, 3, 2, 2]
    counts.dropped(Ranges((0, 5)))
    assert [counts.of(piece) for piece in range(10)] == [2, 2, 2, 3, 3, 3, 3, 3, 2, 2]
    assert repr(counts) == "<Availability 2 complete, 0: 0-2, 8-9, 1: 3-7>"
    with pytest.raises(IndexError, match="piece 10"):
        counts.of(10)


def test_availability_has_no_more_levels_than_peers() -> None:
    """Broken if each piece of news makes every later one dearer."""
    counts = counted(*(Ranges((piece, piece + 1)) for piece in range(500)), pieces=500)
    counts.gained(Ranges(*((piece, piece + 1) for piece in range(0, 500, 2))))
    assert len(list(counts.rarest_first())) == 2
    assert repr(counts).count(":") == 3


def test_short_ranges_that_do_not_meet_are_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a decision walks what a peer has once for each level of rarity: in a swarm of
    hundreds that is most of what the brain costs."""
    has = Ranges(*((piece, piece + 1) for piece in range(0, 1000, 2)))
    free = Ranges(*((piece, piece + 1) for piece in range(1, 1000, 2)))
    counts = counted(*(Ranges((n * 100, 1000)) for n in range(10)))
    looks = 0
    after = Ranges.after

    def look(ranges: Ranges, number: int) -> tuple[int, int] | None:
        nonlocal looks
        looks += 1
        return after(ranges, number)

    monkeypatch.setattr(Ranges, "after", look)
    assert picked(free, whoever(has=has), counts=counts) is None
    free.add(998, 999)
    assert picked(free, whoever(has=has), counts=counts) == Run(998, 1)
    assert looks < 100
