"""The rules of the swarm brain and the picker, one test each, by their names.

If a test here fails, a download asks for a piece twice, forgets one, or trusts a liar.
"""

from __future__ import annotations

import dataclasses
import itertools
import random

from peer.limits import PeerLimits
from peer.picker import pick
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges
from peer.swarm import Ask, AskManifest, Done, GiveUp, Swarm, Wait

PIECE = 1024
LIMITS = dataclasses.replace(
    PeerLimits(), run_bytes_target=4 * PIECE, run_bytes_max=8 * PIECE, run_pieces_max=6
)


def swarm_of(pieces: int, *peers: str) -> Swarm:
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.described(PieceMap([pieces * PIECE], PIECE))
    for peer in peers:
        swarm.connected(peer)
    return swarm


def ask(swarm: Swarm, peer: str) -> Run:
    decision = swarm.next(peer)
    assert isinstance(decision, Ask), decision
    return decision.run


def ask_all(swarm: Swarm, peer: str) -> list[Run]:
    """Everything the peer may be asked for now."""
    runs = []
    while isinstance(decision := swarm.next(peer), Ask):
        runs.append(decision.run)
    return runs


def numbers(runs: list[Run]) -> list[int]:
    return sorted(piece for run in runs for piece in range(run.first, run.end))


def deliver(swarm: Swarm, peer: str, run: Run) -> None:
    swarm.verified(run.first, run.count)
    swarm.ended(peer, run)


# -- swarm ----------------------------------------------------------------------------------------


def test_manifest_first() -> None:
    """Broken if pieces are asked for before it is known which there are, or nobody is asked."""
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.connected("a")
    swarm.connected("b")
    assert swarm.next("a") == AskManifest()
    assert swarm.next("b") == Wait()
    assert not swarm.done
    swarm.manifest_ended("a")
    assert swarm.next("b") == AskManifest()
    swarm.lost("b")
    assert swarm.next("a") == AskManifest()
    swarm.manifest_ended("b")  # old news: a is asked now
    assert swarm.next("c") == Wait()
    swarm.described(PieceMap([PIECE], PIECE))
    assert ask(swarm, "a") == Run(0, 1)


def test_once() -> None:
    """Broken if bandwidth is spent twice on one piece."""
    swarm = swarm_of(40, "a", "b")
    runs = ask_all(swarm, "a") + ask_all(swarm, "b")
    assert numbers(runs) == sorted(set(numbers(runs)))
    deliver(swarm, "a", runs[0])
    for run in ask_all(swarm, "a"):
        assert not set(numbers([run])) & set(numbers(runs))


def test_nothing_is_lost_when_a_peer_is() -> None:
    """Broken if a download hangs at 99 % after a peer went away."""
    swarm = swarm_of(20, "a", "b")
    asked = ask_all(swarm, "a")
    assert numbers(asked) == list(range(20))
    assert swarm.next("b") == Wait()
    first = asked[0]
    swarm.verified(first.first, 1)
    swarm.lost("a")
    assert numbers(ask_all(swarm, "b")) == [p for p in range(20) if p != first.first]
    assert swarm.next("a") == Wait()
    swarm.connected("a")
    assert swarm.next("a") == Wait()


def test_nothing_is_lost_when_a_run_breaks_off() -> None:
    """Broken if one connection of two to a peer takes pieces with it, or those of the other."""
    swarm = swarm_of(8, "a")
    one, two = ask_all(swarm, "a")
    swarm.verified(one.first, 3)
    swarm.ended("a", one)
    swarm.ended("a", one)
    assert swarm.missing().count == 5
    assert numbers(ask_all(swarm, "a")) == [one.first + 3]
    deliver(swarm, "a", two)
    assert swarm.missing() == Ranges((one.first + 3, one.first + 4))


def test_eight_in_flight() -> None:
    """Broken if a peer is flooded with requests."""
    swarm = swarm_of(1000, "a", "b")
    runs = ask_all(swarm, "a")
    assert len(runs) == LIMITS.requests_in_flight_max == 8
    assert isinstance(swarm.next("b"), Ask)
    deliver(swarm, "a", runs[3])
    assert len(ask_all(swarm, "a")) == 1


def test_who_sends_wrong_bytes_is_banned() -> None:
    """Broken if a liar is asked again, or nobody can read why it was not."""
    swarm = swarm_of(8, "a", "b")
    ask_all(swarm, "a")
    swarm.ban("a", "sent wrong bytes for piece 3")
    assert swarm.next("a") == GiveUp("sent wrong bytes for piece 3")
    swarm.ban("a", "later trouble")
    swarm.connected("a")
    assert swarm.next("a") == GiveUp("sent wrong bytes for piece 3")
    assert dict(swarm.banned) == {"a": "sent wrong bytes for piece 3"}
    assert numbers(ask_all(swarm, "b")) == list(range(8))


def test_a_refusal_ends_a_source() -> None:
    """Broken if a peer that lost its file is asked for ever, or called a liar."""
    swarm = swarm_of(8, "a", "b")
    ask_all(swarm, "a")
    swarm.refused("a", "answered damaged")
    assert swarm.next("a") == GiveUp("answered damaged")
    assert not swarm.banned
    assert numbers(ask_all(swarm, "b")) == list(range(8))


def test_done() -> None:
    """Broken if a download ends early, or never."""
    swarm = swarm_of(8, "a")
    for run in ask_all(swarm, "a"):
        assert not swarm.done
        deliver(swarm, "a", run)
    assert swarm.done
    assert swarm.next("a") == Done()
    assert not swarm.missing()
    assert swarm_of(0).done


def test_the_state_can_be_read() -> None:
    """Broken if a log of a stuck download says nothing."""
    swarm = swarm_of(8, "a")
    ask_all(swarm, "a")
    swarm.ban("b", "lies")
    assert repr(swarm) == (
        "<Swarm 0/8 verified, 0 free, asked={'a': ['0+4', '4+4']}, banned=['b']>"
    )
    assert repr(Swarm(LIMITS, random.Random(1))).startswith("<Swarm 0/? verified")


# -- picker ---------------------------------------------------------------------------------------


def picked(
    free: Ranges, has: Ranges | None = None, go_on_at: int | None = None, pieces: int = 1000
) -> Run | None:
    whole = PieceMap([pieces * PIECE], PIECE)
    return pick(free, has, go_on_at, whole, LIMITS, random.Random(7))


def test_only_what_is_free() -> None:
    """Broken if the picker leaves the free pieces."""
    assert picked(Ranges((5, 7))) == Run(5, 2)
    assert picked(Ranges()) is None


def test_only_what_the_peer_has() -> None:
    """Broken if a partial peer is asked for what it lacks."""
    assert picked(Ranges((0, 10)), Ranges((8, 12))) == Run(8, 2)
    assert picked(Ranges((0, 10)), Ranges((10, 12))) is None


def test_runs_have_bounds() -> None:
    """Broken if one request asks for more than the protocol allows, or for nothing."""
    assert picked(Ranges((0, 10)), go_on_at=0) == Run(0, 4)  # bytes
    small = PieceMap([1] * 100, PIECE)
    run = pick(Ranges((0, 100)), None, 0, small, LIMITS, random.Random(7))
    assert run == Run(0, 6)  # pieces
    large = PieceMap([100 * PIECE], 50 * PIECE)
    assert pick(Ranges((0, 2)), None, 0, large, LIMITS, random.Random(7)) == Run(0, 1)


def test_go_on_where_the_last_run_ended() -> None:
    """Broken if a peer reads all over its disk for one download."""
    assert picked(Ranges((0, 1000)), go_on_at=500) == Run(500, 4)
    swarm = swarm_of(1000, "a")
    runs = ask_all(swarm, "a")
    assert all(one.end == two.first for one, two in itertools.pairwise(runs))


def test_else_start_anywhere() -> None:
    """Broken if all peers of a fresh swarm fetch the same pieces first."""
    firsts = set()
    for seed in range(20):
        whole = PieceMap([1000 * PIECE], PIECE)
        run = pick(Ranges((0, 1000)), None, None, whole, LIMITS, random.Random(seed))
        assert run is not None
        firsts.add(run.first)
    assert len(firsts) > 10
    assert picked(Ranges((3, 8)), go_on_at=100) == Run(3, 4)
