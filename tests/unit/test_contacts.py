"""The rules of contacts, the choice among them, slots and rate limits, by their names.

If a test here fails, a dead peer is hammered, a slow one keeps its place, or a limit is none.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest
from fake_client import FakeClient

from peer.choice import ByRate, Candidate, Learning, NearFirst, PeerChoice, RoundRobin
from peer.contacts import CONTACTS_MAX, Contacts
from peer.limits import PeerLimits
from peer.rates import Rate, run_bytes
from peer.slots import Slots
from peer.throttle import Throttle, TokenBucket
from peer.trackers import PeerFinder
from tracker_raft.commands import PeerRecord

LIMITS = PeerLimits()
NOW_S = 1000.0


def contacts_of(*peers: str, zone: str = "") -> Contacts[str]:
    contacts: Contacts[str] = Contacts("me", zone, LIMITS, random.Random(1))
    for number, peer in enumerate(peers):
        contacts.learn(PeerRecord(peer, f"127.0.0.1:{1000 + number}", True))
    return contacts


# -- contacts -------------------------------------------------------------------------------------


def test_back_off() -> None:
    """Broken if a dead peer is tried ten times a second for the whole download."""
    contacts = contacts_of("a")
    waits = []
    for _ in range(12):
        contacts.broke(contacts["a"], "gone", NOW_S, fruitless=False)
        waits.append(contacts["a"].retry_at_s - NOW_S)
    assert LIMITS.retry_min_s / 2 <= waits[0] <= LIMITS.retry_min_s
    assert LIMITS.retry_max_s / 2 <= waits[-1] <= LIMITS.retry_max_s
    assert contacts.candidates((), NOW_S) == []
    assert [one.peer for one in contacts.candidates((), contacts["a"].retry_at_s)] == ["a"]


def test_fruitless_connections_are_counted_until_one_delivers() -> None:
    """Broken if a peer that works is given up for troubles of an hour ago."""
    contacts = contacts_of("a")
    contacts.broke(contacts["a"], "silent", NOW_S, fruitless=True)
    contacts.broke(contacts["a"], "gone", NOW_S, fruitless=False)
    assert contacts["a"].fruitless == 1
    contacts.delivered(contacts["a"])
    assert (contacts["a"].fruitless, contacts["a"].failures) == (0, 0)


def test_moved() -> None:
    """Broken if a peer that was started again elsewhere waits for its old back-off."""
    contacts = contacts_of("a")
    contacts.broke(contacts["a"], "gone", NOW_S, fruitless=False)
    contacts.learn(PeerRecord("a", "127.0.0.1:9", True))
    assert len(contacts.candidates((), NOW_S)) == 1
    contacts.learn(PeerRecord("me", "127.0.0.1:10", True))
    assert len(contacts) == 1


def test_bounded() -> None:
    """Broken if a tracker can fill this machine with peers."""
    contacts = contacts_of(*(str(number) for number in range(CONTACTS_MAX + 5)))
    assert len(contacts) == CONTACTS_MAX


# -- choice ---------------------------------------------------------------------------------------


def some(count: int, **what: object) -> list[Candidate]:
    return [Candidate(f"p{number:02}", **what) for number in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "choice",
    [RoundRobin(), ByRate(random.Random(1)), Learning(random.Random(1))],
    ids=["turn", "rate", "learning"],
)
def test_every_choice_keeps_its_promises(choice: PeerChoice) -> None:
    """Broken if a choice takes more places than there are, one twice, or who is connected."""
    candidates = [*some(10), Candidate("held", connected=True), Candidate("q", rate_bytes_s=5.0)]
    for places in range(14):
        chosen = choice.choose(candidates, places)
        assert len(chosen) == len(set(chosen)) == min(places, 11)
        assert "held" not in chosen
    assert choice.choose([], 3) == []
    assert choice.release([], candidates) is None


def test_round_robin_gives_everybody_a_turn() -> None:
    """Broken if the baseline asks the same few peers for ever."""
    choice = RoundRobin()
    turns = Counter(peer for _ in range(6) for peer in choice.choose(some(4), 2))
    assert set(turns.values()) == {3}


def test_fast_peers_are_chosen_and_new_ones_tried() -> None:
    """Broken if the fastest peer is chosen like any other, or a new one never."""
    choice = ByRate(random.Random(1))
    known = [Candidate("fast", rate_bytes_s=1e8), Candidate("slow", rate_bytes_s=1e6)]
    turns = Counter(choice.choose([*known, Candidate("new")], 1)[0] for _ in range(1000))
    assert turns["fast"] > turns["new"] > turns["slow"] > 20


def test_the_slowest_makes_room() -> None:
    """Broken if peers that deliver nothing to speak of hold every place."""
    choice = ByRate(random.Random(1))
    equal = some(3, connected=True, rate_bytes_s=1e6)
    assert choice.release(equal, [Candidate("new")]) is None
    slow = [*equal, Candidate("slow", True, rate_bytes_s=1e4)]
    assert choice.release(slow, [Candidate("new")]) == "slow"
    assert choice.release(slow, [Candidate("tried", rate_bytes_s=1e9)]) is None


def test_near_peers_first_and_a_few_far_ones() -> None:
    """Broken if traffic leaves the zone without need, or a zone lives in a world of its own."""
    choice = NearFirst(RoundRobin(), far_min=2)
    near, far = some(10, near=True), [Candidate(f"far{n}", near=False) for n in range(10)]
    chosen = choice.choose([*near, *far], 6)
    assert sum(peer.startswith("far") for peer in chosen) == 2
    held = [Candidate("far8", True, near=False), Candidate("far9", True, near=False)]
    assert not any(peer.startswith("far") for peer in choice.choose([*near, *far[:8], *held], 6))
    assert len(choice.choose([*near[:1], *far], 6)) == 6, "places are not left empty"


def test_zones_make_peers_near() -> None:
    """Broken if the zone that a peer was given means nothing."""
    contacts = contacts_of("x", zone="r1")
    contacts.learn(PeerRecord("y", "127.0.0.1:5", True, "r1"))
    assert [one.near for one in contacts.candidates((), NOW_S)] == [False, True]
    assert all(one.near for one in contacts_of("x").candidates((), NOW_S))


# -- slots ----------------------------------------------------------------------------------------


def test_slots_are_bounded_and_change_hands() -> None:
    """Broken if a peer serves more than it may, or the first comers for ever."""
    limits = dataclasses.replace(LIMITS, upload_slots_max=2, slot_idle_s=1.0, slot_turn_s=10.0)
    slots = Slots(limits)
    assert slots.take("a", 0.0) == slots.take("b", 0.0) == 0.0
    assert 0 < slots.take("c", 0.5) <= 1.0
    assert slots.take("a", 0.9) == slots.take("b", 0.9) == 0.0, "they go on"
    now_s = 0.9
    while now_s < 9.9:
        now_s += 0.5
        assert slots.take("a", now_s) == slots.take("b", now_s) == 0.0
        assert slots.take("c", now_s) > 0
    assert slots.take("a", 10.6) > 0, "its turn is over"
    assert slots.take("c", 10.6) == 0.0, "who waited longest is next"
    assert slots.take("a", 10.7) > 0
    slots.leave("c")
    assert slots.take("a", 10.8) == 0.0
    assert slots.take("d", 13.0) == 0.0, "who does not ask has left his slot"
    assert repr(slots) == "<Slots 1 held, 0 waiting>"


def test_without_others_a_slot_is_held_for_good() -> None:
    """Broken if a lone peer is refused for no reason."""
    slots = Slots(dataclasses.replace(LIMITS, upload_slots_max=1, slot_turn_s=1.0))
    assert [slots.take("a", now / 2) for now in range(100)] == [0.0] * 100


# -- asking the trackers --------------------------------------------------------------------------


def test_a_crowd_meets_different_peers_and_each_of_it_all() -> None:
    """Broken if everybody in a large swarm asks the same fifty peers, or never hears of some."""
    trackers, content = FakeClient(), b"c" * 32
    for number in range(200):
        trackers.join(f"p{number}", "127.0.0.1:5", content)
    crowd = [PeerFinder(trackers, content, random_source=random.Random(seed)) for seed in range(40)]
    met = Counter(record.peer for finder in crowd for record in finder())
    assert len(met) > 190
    assert max(met.values()) < 25, "of forty"
    alone = PeerFinder(trackers, content)
    assert len({record.peer for _ in range(4) for record in alone()}) == 200


# -- rates and limits -----------------------------------------------------------------------------


def test_a_rate_is_of_the_time_that_was_asked() -> None:
    """Broken if a peer that nobody asked is taken for a slow one, or a paused one for fast."""
    rate = Rate()
    assert rate.bytes_s(NOW_S) is None
    rate.asked(NOW_S)
    rate.delivered(1000, NOW_S + 1)
    assert rate.bytes_s(NOW_S + 1) == pytest.approx(1000)
    rate.rested()
    assert rate.bytes_s(NOW_S + 100) == pytest.approx(1000)
    rate.asked(NOW_S + 100)
    assert rate.silent_s(NOW_S + 109) == 9
    assert rate.bytes_s(NOW_S + 109) == pytest.approx(100)
    for second in range(110, 120):
        rate.delivered(5000, NOW_S + second)
    assert rate.bytes_s(NOW_S + 119) == pytest.approx(5000, rel=0.05)


def test_runs_take_a_time_and_not_a_count() -> None:
    """Broken if a run takes a slow peer minutes."""
    assert run_bytes(None, run_s=0.1, first_bytes=500, bytes_max=1000) == 500
    assert run_bytes(1000.0, run_s=0.1, first_bytes=500, bytes_max=1000) == 101
    assert run_bytes(1e9, run_s=0.1, first_bytes=500, bytes_max=1000) == 1000


def test_a_token_bucket_keeps_its_average() -> None:
    """Broken if a rate limit is passed, or what is allowed is not used."""
    bucket, now_s, moved = TokenBucket(1000, 0.0), 0.0, 0
    sizes = random.Random(1)
    while now_s < 100:
        size = sizes.randrange(1, 400)
        now_s += bucket.take(size, now_s)
        moved += size
    assert 99_000 <= moved <= 101_000
    assert bucket.take(10**6, now_s + 1000) == 0.0, "what was not used is lent out"
    assert bucket.take(1, now_s + 1000) == pytest.approx(1000 - 0.1, rel=0.01)


def test_no_limit_costs_nothing() -> None:
    """Broken if an unlimited peer waits."""
    waits: list[float] = []
    Throttle(None).wait(10**12, waits.append)
    limited = Throttle(1000)
    limited.wait(5000, waits.append)
    assert waits == []
    limited.wait(1, waits.append)
    assert waits[0] > 4
