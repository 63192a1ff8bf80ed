"""The rules of the swarm brain, one test each, by their names.

If a test here fails, a download asks for a piece twice, forgets one, or trusts a liar.
"""

from __future__ import annotations

import dataclasses
import random
import re

import pytest

from peer.decisions import Ask, AskManifest, Done, GiveUp, Rest, Wait
from peer.limits import PeerLimits
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges
from peer.swarm import Swarm
from tracker_raft.errors import BadRequest

PIECE = 1024
NOW_S = 10_000.0
LIMITS = dataclasses.replace(
    PeerLimits(), run_bytes_target=4 * PIECE, run_bytes_max=8 * PIECE, run_pieces_max=6
)
FEW = Ranges((0, 4))


def swarm_of(pieces: int, *peers: str) -> Swarm:
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.described(PieceMap([pieces * PIECE], PIECE))
    for peer in peers:
        swarm.connected(peer)
    return swarm


def ask(swarm: Swarm, peer: str) -> Run:
    decision = swarm.next(peer, NOW_S)
    assert isinstance(decision, Ask), decision
    return decision.run


def ask_all(swarm: Swarm, peer: str) -> list[Run]:
    """Everything the peer may be asked for now."""
    runs = []
    while isinstance(decision := swarm.next(peer, NOW_S), Ask):
        runs.append(decision.run)
    return runs


def numbers(runs: list[Run]) -> list[int]:
    return sorted(piece for run in runs for piece in range(run.first, run.end))


def deliver(swarm: Swarm, peer: str, run: Run) -> None:
    swarm.arrived(peer, run, run.first, run.count, NOW_S)
    swarm.ended(peer, run)


def pace(swarm: Swarm, peer: str, bytes_s: float) -> None:
    """Let ``peer`` deliver one run at this rate, up to now."""
    decision = swarm.next(peer, NOW_S - 1000)
    assert isinstance(decision, Ask)
    run = decision.run
    swarm.arrived(peer, run, run.first, run.count, NOW_S - 1000 + run.count * PIECE / bytes_s)
    swarm.ended(peer, run)


# -- swarm ----------------------------------------------------------------------------------------


def test_manifest_first() -> None:
    """Broken if pieces are asked for before it is known which there are, or nobody is asked."""
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.connected("a")
    swarm.connected("b")
    assert swarm.next("a", NOW_S) == AskManifest()
    assert swarm.next("b", NOW_S) == Wait()
    assert not swarm.done
    swarm.manifest_ended("a")
    assert swarm.next("b", NOW_S) == AskManifest()
    swarm.lost("b")
    assert swarm.next("a", NOW_S) == AskManifest()
    swarm.manifest_ended("b")  # old news: a is asked now
    assert swarm.next("c", NOW_S) == Wait()
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
    assert swarm.next("b", NOW_S) == Wait()
    first = asked[0]
    swarm.verified(first.first, 1)
    swarm.lost("a")
    assert numbers(ask_all(swarm, "b")) == [p for p in range(20) if p != first.first]
    assert swarm.next("a", NOW_S) == Wait()
    swarm.connected("a")
    assert swarm.next("a", NOW_S) == Wait()


def test_nothing_is_lost_when_a_run_breaks_off() -> None:
    """Broken if one connection of two to a peer takes pieces with it, or those of the other."""
    swarm = swarm_of(8, "a")
    one, *others = ask_all(swarm, "a")
    swarm.arrived("a", one, one.first, 1, NOW_S)
    swarm.ended("a", one)
    swarm.ended("a", one)
    assert swarm.missing().count == 7
    assert numbers(ask_all(swarm, "a")) == list(range(one.first + 1, one.end))
    for run in others:
        deliver(swarm, "a", run)
    assert swarm.missing() == Ranges((one.first + 1, one.end))


def test_eight_in_flight() -> None:
    """Broken if a peer is flooded with requests."""
    swarm = swarm_of(1000, "a", "b")
    runs = ask_all(swarm, "a")
    assert len(runs) == LIMITS.requests_in_flight_max == 8
    assert isinstance(swarm.next("b", NOW_S), Ask)
    deliver(swarm, "a", runs[3])
    assert len(ask_all(swarm, "a")) == 1


def test_few_in_flight_in_a_crowd() -> None:
    """Broken if everybody asks the one seeder for everything before others can have it."""
    swarm = swarm_of(1000, "a", "b", "c", "d")
    assert len(ask_all(swarm, "a")) == LIMITS.requests_in_flight_crowd == 3


def test_the_seeder_is_spared() -> None:
    """Broken if a swarm goes on taking from its seeder what its peers have already."""
    swarm = swarm_of(1000, "seeder")
    for peer, start in (("a", 0), ("b", 300), ("c", 600)):
        swarm.connected(peer, Ranges((start, start + 300)))
    asked = ask_all(swarm, "seeder")
    assert len(asked) == LIMITS.requests_in_flight_crowd, "nobody else is asked yet"
    assert min(numbers(asked)) >= 900, "it alone has these"
    for run in asked:
        swarm.ended("seeder", run)
    for peer in "abc":
        assert len(ask_all(swarm, peer)) == LIMITS.requests_in_flight_crowd
    assert len(ask_all(swarm, "seeder")) == 1, "the others do the work"
    swarm.lost("c")
    assert len(ask_all(swarm, "seeder")) == 7, "no crowd any more"


def test_who_has_nothing_is_not_asked_for_the_manifest() -> None:
    """Broken if a newcomer is given up because it does not have the manifest yet either."""
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.connected("new", Ranges())
    assert isinstance(swarm.next("new", NOW_S), Wait)
    swarm.connected("old", Ranges((0, 1)))
    assert swarm.next("old", NOW_S) == AskManifest()


def test_a_slow_peer_is_asked_little_ahead() -> None:
    """Broken if a peer of a few bytes a second is given megabytes to bring."""
    swarm = swarm_of(1000, "a", "b")
    pace(swarm, "a", 2 * PIECE)
    assert [run.count for run in ask_all(swarm, "a")] == [1, 1]
    pace(swarm, "b", 1e9)
    assert len(ask_all(swarm, "b")) == 8


def test_runs_by_rate_and_time() -> None:
    """Broken if a run takes a fast peer no time, or a slow one for ever."""
    for bytes_s, pieces in ((PIECE, 1), (2 * PIECE / LIMITS.run_s, 2), (1e9, 4)):
        swarm = swarm_of(1000, "a")
        pace(swarm, "a", bytes_s)
        assert ask(swarm, "a").count == pieces


def test_stealing() -> None:
    """Broken if a fast peer stands idle while a slow one has all the work left."""
    swarm = swarm_of(24, "slow", "fast")
    pace(swarm, "fast", 1e9)
    slow = ask_all(swarm, "slow")
    swarm.arrived("slow", slow[0], slow[0].first, 1, NOW_S + 1)
    later_s = NOW_S + 1
    decision = swarm.next("fast", later_s)
    assert isinstance(decision, Ask)
    last = slow[-1]
    assert decision.run.end == last.end, "the end of what comes last is taken first"
    stolen = numbers([decision.run])
    while isinstance(decision := swarm.next("fast", later_s), Ask):
        deliver(swarm, "fast", decision.run)
        stolen += numbers([decision.run])
    assert swarm.pieces_stolen == len(set(stolen)) == len(stolen)
    if slow[0].count > 1:
        assert slow[0].first + 1 not in stolen, "the piece under way is left to its owner"
    assert swarm.unneeded("slow", last)
    assert not swarm.unneeded("slow", slow[0])


def test_what_a_silent_peer_has_under_way_is_stolen_too() -> None:
    """Broken if a paused peer holds the last piece of a download."""
    swarm = swarm_of(8, "paused", "b")
    paused = ask_all(swarm, "paused")
    swarm.verified(0, 0)
    assert swarm.next("b", NOW_S) == Wait()
    silent_s = NOW_S + LIMITS.steal_after_s
    got: list[int] = []
    while isinstance(decision := swarm.next("b", silent_s), Ask):
        got += numbers([decision.run])
        deliver(swarm, "b", decision.run)
        silent_s += LIMITS.steal_after_s
    assert sorted(got) == numbers(paused)
    assert swarm.done


def test_nobody_steals_what_comes_in_a_moment() -> None:
    """Broken if equal peers fetch everything twice."""
    swarm = swarm_of(24, "a", "b")
    pace(swarm, "a", 1e8)
    pace(swarm, "b", 1e8)
    ask_all(swarm, "a")
    for run in ask_all(swarm, "b"):
        deliver(swarm, "b", run)
    assert swarm.next("b", NOW_S) == Wait()


def test_endgame_is_the_last_resort_and_bounded() -> None:
    """Broken if the end of a download waits for one peer, or doubles its traffic."""
    limits = dataclasses.replace(LIMITS, endgame_bytes_max=2 * PIECE)
    swarm = Swarm(limits, random.Random(1))
    swarm.described(PieceMap([8 * PIECE], PIECE))
    swarm.connected("a", FEW)
    ask_all(swarm, "a")
    late_s = NOW_S + 1
    for peer in ("b", "c", "d"):
        swarm.connected(peer, FEW)
        assert swarm.next(peer, late_s) == Wait(), "there are free pieces, just not for them"
    swarm.verified(4, 4)
    assert swarm.next("b", NOW_S) == Wait(), "they may come in a moment"
    one, two = swarm.next("b", late_s), swarm.next("c", late_s)
    assert isinstance(one, Ask) and isinstance(two, Ask)
    assert one.run != two.run
    assert swarm.next("d", late_s) == Wait()
    assert swarm.pieces_doubled == one.run.count + two.run.count == 2
    swarm.ended("b", one.run)
    assert swarm.missing() == FEW
    assert not swarm.free_count, "it still belongs to the first one"


def test_endgame_goes_on_when_the_second_peer_hangs_too() -> None:
    """Broken if two peers that hang hold up the last piece while an honest one has it."""
    swarm = swarm_of(1, "a", "b")
    ask_all(swarm, "a")
    second = swarm.next("b", NOW_S + 1)
    assert isinstance(second, Ask)
    swarm.connected("c")
    assert swarm.next("c", NOW_S + 1) == Wait(), "the second one was asked only now"
    assert swarm.next("c", NOW_S + 2) == second


def test_who_sends_wrong_bytes_is_banned() -> None:
    """Broken if a liar is asked again, or nobody can read why it was not."""
    swarm = swarm_of(8, "a", "b")
    ask_all(swarm, "a")
    swarm.ban("a", "sent wrong bytes for piece 3")
    assert swarm.next("a", NOW_S) == GiveUp("sent wrong bytes for piece 3")
    swarm.ban("a", "later trouble")
    swarm.connected("a")
    assert swarm.next("a", NOW_S) == GiveUp("sent wrong bytes for piece 3")
    assert dict(swarm.banned) == {"a": "sent wrong bytes for piece 3"}
    assert numbers(ask_all(swarm, "b")) == list(range(8))


def test_a_refusal_ends_a_source() -> None:
    """Broken if a peer that lost its file is asked for ever, or called a liar."""
    swarm = swarm_of(8, "a", "b")
    ask_all(swarm, "a")
    swarm.refused("a", "answered damaged")
    assert swarm.next("a", NOW_S) == GiveUp("answered damaged")
    assert not swarm.banned
    assert numbers(ask_all(swarm, "b")) == list(range(8))


def test_a_busy_peer_is_asked_again_when_it_said() -> None:
    """Broken if a full peer is asked at once, or never again."""
    swarm = swarm_of(8, "a")
    swarm.busy("a", NOW_S + 0.5)
    assert swarm.next("a", NOW_S) == Wait(0.5)
    assert isinstance(swarm.next("a", NOW_S + 0.5), Ask)


def test_idle_ones_rest() -> None:
    """Broken if places are held by peers that have nothing to give."""
    swarm = swarm_of(8)
    swarm.connected("a", Ranges())
    assert isinstance(swarm.next("a", NOW_S), Wait)
    assert swarm.next("a", NOW_S + LIMITS.idle_close_s) == Rest()
    swarm.told("a", 3, 1)
    assert swarm.next("a", NOW_S + LIMITS.idle_close_s) == Ask(Run(3, 1))


def test_no_tall_tales() -> None:
    """Broken if a peer can tell of pieces that do not exist."""
    swarm = swarm_of(8)
    swarm.connected("a", Ranges((0, 1)))
    with pytest.raises(BadRequest, match=r"told of pieces 7\+2 of 8"):
        swarm.told("a", 7, 2)
    swarm.told("b", 7, 2)  # nobody we know
    swarm.told("a", 0, 8)
    swarm.told("a", 0, 8)
    assert swarm.availability(0) == 1
    assert swarm.has_of("a") == Ranges((0, 8))


def test_a_bitmap_before_the_manifest_is_cut_to_what_there_is() -> None:
    """Broken if the padding of a bitmap is taken for pieces."""
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.connected("a", Ranges((0, 16)))
    swarm.connected("b", Ranges((2, 16)))
    swarm.described(PieceMap([9 * PIECE], PIECE))
    assert [swarm.availability(piece) for piece in range(9)] == [1, 1] + [2] * 7
    assert swarm.has_of("b") == Ranges((2, 9))
    swarm.lost("a")
    assert [swarm.availability(piece) for piece in range(9)] == [0, 0] + [1] * 7


def test_manifest_of_a_slow_peer() -> None:
    """Broken if a peer that is paused before it sent the manifest holds a download."""
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.connected("a")
    swarm.connected("b")
    assert swarm.next("a", NOW_S) == AskManifest()
    assert swarm.next("b", NOW_S) == Wait()
    assert swarm.next("b", NOW_S + LIMITS.manifest_wait_s) == AskManifest()
    assert swarm.next("a", NOW_S + 2 * LIMITS.manifest_wait_s) == Wait()


def test_only_what_is_wanted() -> None:
    """Broken if unwanted files of a tree are fetched, or a part of one never ends."""
    swarm = Swarm(LIMITS, random.Random(1))
    swarm.described(PieceMap([20 * PIECE], PIECE), Ranges((3, 5), (9, 10)))
    swarm.connected("a")
    runs = ask_all(swarm, "a")
    assert numbers(runs) == [3, 4, 9]
    for run in runs:
        deliver(swarm, "a", run)
    assert swarm.done
    assert swarm.bytes_verified == 3 * PIECE


def test_preferred_first() -> None:
    """Broken if a reader waits for pieces while others are fetched."""
    swarm = swarm_of(1000, "a")
    swarm.prefer(500, 6)
    swarm.prefer(20, 2)
    assert ask(swarm, "a") == Run(20, 2)
    assert ask(swarm, "a") == Run(500, 4)
    assert ask(swarm, "a") == Run(504, 2)


def test_done() -> None:
    """Broken if a download ends early, or never."""
    swarm = swarm_of(8, "a")
    for run in ask_all(swarm, "a"):
        assert not swarm.done
        deliver(swarm, "a", run)
    assert swarm.done
    assert swarm.next("a", NOW_S) == Done()
    assert not swarm.missing()
    assert swarm_of(0).done


def test_the_state_can_be_read() -> None:
    """Broken if a log of a stuck download says nothing."""
    swarm = swarm_of(8, "a")
    ask_all(swarm, "a")
    swarm.ban("b", "lies")
    assert re.fullmatch(
        r"<Swarm 0/8 verified, 0 free, asked=\{'a': \[('\d\+\d'(, )?)+\]\}, banned=\['b'\]>",
        repr(swarm),
    )
    assert repr(Swarm(LIMITS, random.Random(1))).startswith("<Swarm 0/? verified")
