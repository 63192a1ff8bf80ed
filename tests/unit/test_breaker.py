"""Breaker, back-off and rotation: which endpoint is asked when, without a socket or a clock."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_raft.client.breaker import Backoff, Breaker
from tracker_raft.client.rotation import ENDPOINTS_MAX, Choice, Rotation
from tracker_raft.config import Address, ClientConfig
from tracker_raft.errors import BadRequest

CONFIG = ClientConfig(breaker_failures=2, breaker_open_min_s=1.0, breaker_open_max_s=4.0)
A, B, C = (Address("127.0.0.1", port) for port in (7001, 7002, 7003))


def fail(breaker: Breaker, now: float) -> None:
    breaker.failed(now, breaker.enter())


def rotation(*addresses: Address, seed: int = 1) -> Rotation:
    return Rotation(addresses, CONFIG, random.Random(seed))


def chosen(choice: Choice | None) -> Choice:
    assert choice is not None
    return choice


# -- breaker --------------------------------------------------------------------------------------


def test_a_breaker_opens_after_failures_in_a_row_only() -> None:
    """Broken: one lost packet now and then shuts a healthy tracker out, or a dead one never."""
    breaker = Breaker(2, 1.0, 4.0)
    for now in range(5):
        fail(breaker, now)
        breaker.enter()
        breaker.succeeded()
    assert breaker.state(5) == "closed" and breaker.admits(5)
    fail(breaker, 6)
    assert breaker.state(6) == "closed"
    fail(breaker, 6)
    assert breaker.state(6) == "open" and not breaker.admits(6.9)
    assert repr(breaker) == "<Breaker open for 1.0 s until 7.0>"


def test_half_open_lets_exactly_one_probe_through() -> None:
    """Broken: all threads wait for a dead tracker's time-out at once, each time it half-opens."""
    breaker = Breaker(1, 1.0, 4.0)
    fail(breaker, 0)
    assert breaker.state(1) == "half-open" and breaker.admits(1)
    probe = breaker.enter()
    assert probe and not breaker.admits(1)
    breaker.succeeded()
    assert breaker.state(1) == "closed" and not breaker.enter()


def test_open_time_doubles_to_its_maximum_and_success_resets_it() -> None:
    """Broken: a tracker dead for an hour is probed every moment, or one just back waits long."""
    breaker, now, waits = Breaker(1, 1.0, 4.0), 0.0, []
    for _ in range(5):
        fail(breaker, now)
        assert breaker.retry_at is not None
        waits.append(breaker.retry_at - now)
        now = breaker.retry_at
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]
    breaker.enter()
    breaker.succeeded()
    fail(breaker, now)
    assert breaker.retry_at == now + 1.0


def test_late_failures_of_one_outage_count_once() -> None:
    """Broken: sixteen threads losing a tracker together shut it out for sixteen outages' time."""
    breaker = Breaker(2, 1.0, 4.0)
    attempts = [breaker.enter() for _ in range(16)]
    for probe in attempts:
        breaker.failed(10.0, probe)
    assert breaker.retry_at == 11.0


def test_an_abandoned_probe_frees_its_place() -> None:
    """Broken: a probe that ended without a verdict blocks the endpoint for ever."""
    breaker = Breaker(1, 1.0, 4.0)
    fail(breaker, 0)
    breaker.abandoned(breaker.enter())
    assert breaker.admits(1)


@given(st.integers(0, 2**32))
def test_backoff_is_jittered_below_a_bound_that_doubles(seed: int) -> None:
    """Broken: clients that lost a tracker together come back together, or never stop waiting."""
    backoff = Backoff(0.01, 0.05, random.Random(seed))
    waits = [backoff.next_s() for _ in range(6)]
    for wait, bound in zip(waits, [0.01, 0.02, 0.04, 0.05, 0.05, 0.05], strict=True):
        assert 0 <= wait <= bound
    assert len(set(waits)) > 1


# -- rotation -------------------------------------------------------------------------------------


def test_a_round_asks_each_endpoint_once_from_the_current_one_on() -> None:
    """Broken: a failure is answered by asking the same tracker again, or one is left out."""
    ring = rotation(A, B, C)
    tried: list[Address] = []
    while choice := ring.choose(tried, 0.0):
        ring.failed(choice, 0.0)
        tried.append(choice.address)
    assert tried == list(ring.addresses) and set(tried) == {A, B, C}


def test_the_one_that_answered_is_asked_again() -> None:
    """Broken: a client wanders over all trackers and keeps a connection to each."""
    ring = rotation(A, B, C)
    first = chosen(ring.choose([], 0.0))
    assert ring.in_use is None
    ring.failed(first, 0.0)
    second = chosen(ring.choose([first.address], 0.0))
    ring.answered(second)
    assert ring.in_use == second.address
    assert chosen(ring.choose([], 0.0)) == second
    ring.failed(second, 0.0)
    assert ring.in_use is None


def test_clients_spread_over_the_trackers() -> None:
    """Broken: all clients sit on the first tracker of the list, or all move to the same next."""
    orders = {rotation(A, B, C, seed=seed).addresses for seed in range(60)}
    assert len(orders) == 6


def test_an_open_breaker_is_passed_over_and_probed_once_when_its_time_has_come() -> None:
    """Broken: every call pays the dead tracker's time-out before it goes to a live one."""
    ring = rotation(A, B)
    dead, live = ring.addresses
    for _ in range(2):
        ring.failed(Choice(dead, False), 0.0)
    ring.failed(Choice(live, False), 0.0)  # the ring turns back to the dead one
    assert chosen(ring.choose([], 0.5)).address == live
    assert chosen(ring.choose([], 1.0)) == Choice(dead, probe=True)
    assert chosen(ring.choose([], 1.0)).address == live
    assert (ring.state(dead, 0.5), ring.state(dead, 1.0)) == ("open", "half-open")


def test_when_all_breakers_are_open_the_soonest_is_asked_all_the_same() -> None:
    """Broken: a client refuses to try while its whole cluster restarts."""
    ring = rotation(A, B, C)
    for now, address in enumerate([B, A, C]):
        for _ in range(2):
            ring.failed(Choice(address, False), float(now) / 10)
    choice = chosen(ring.choose([], 0.5))
    assert choice == Choice(B, probe=True)
    assert ring.choose([B], 0.5) is None, "one attempt a round is enough"
    ring.failed(choice, 0.5)
    assert chosen(ring.choose([], 0.6)).address == A


def test_a_rest_that_was_asked_for_is_kept() -> None:
    """Broken: an overloaded tracker is asked again before the time it named."""
    ring = rotation(A)
    ring.declined(chosen(ring.choose([], 0.0)), rest_until=2.0)
    assert ring.choose([], 1.9) is None and ring.wake_in_s(1.5) == 0.5
    assert chosen(ring.choose([], 2.0)).address == A and ring.wake_in_s(2.5) == 0.0


def test_learned_endpoints_stay_within_the_limit_and_never_drop_a_given_one() -> None:
    """Broken: a lying tracker fills memory, or pushes the user's own trackers out."""
    ring = rotation(A, B)
    first = [Address("127.0.0.1", port) for port in range(8000, 8030)]
    ring.learn(first)
    assert len(ring.addresses) == ENDPOINTS_MAX and {A, B} < set(ring.addresses)
    newer = [Address("127.0.0.1", port) for port in range(9000, 9003)]
    ring.learn(newer)
    assert len(ring.addresses) == ENDPOINTS_MAX and {A, B, *newer} < set(ring.addresses)


def test_trackers_that_were_removed_are_left() -> None:
    """Broken: a client asks removed trackers for ever, and never those in their place."""
    new, newer = Address("127.0.0.1", 9001), Address("127.0.0.1", 9002)
    ring = rotation(A, B)
    ring.answered(chosen(ring.choose([], 0.0)))
    ring.learn([A, B, new], 5)
    ring.learn([new, newer], 8)
    ring.learn([A, B, new], 5)  # of a tracker that lags behind
    first = chosen(ring.choose([], 0.0)).address
    second = chosen(ring.choose([first], 0.0)).address
    assert {first, second} == {new, newer}
    third = chosen(ring.choose([new, newer], 0.0)).address
    assert third in (A, B), "given ones are the last resort: they may have another name"
    ring.learn([A, newer], 9)
    assert new not in ring.addresses and {A, B, newer} == set(ring.addresses)


def test_reports_on_an_endpoint_that_was_dropped_meanwhile_are_ignored() -> None:
    """Broken: an attempt that outlives its endpoint in the ring crashes the call."""
    ring = rotation(A)
    gone = Choice(B, False)
    ring.answered(gone)
    ring.failed(gone, 0.0)
    ring.declined(gone, 1.0)
    ring.abandoned(gone)
    assert ring.state(B, 0.0) == "closed" and ring.addresses == (A,)


@pytest.mark.parametrize("count", [0, ENDPOINTS_MAX + 1])
def test_no_trackers_or_too_many_are_refused(count: int) -> None:
    """Broken: a client without trackers fails later, with an error that means something else."""
    with pytest.raises(BadRequest, match=f"{count} trackers given, expected 1 to 16"):
        rotation(*(Address("127.0.0.1", 7000 + number) for number in range(count)))


@given(st.data())
def test_every_round_ends_and_never_asks_one_endpoint_twice(data: st.DataObject) -> None:
    """Broken: some order of answers and failures makes a round endless or skips a live tracker."""
    ring, now = rotation(A, B, C), 0.0
    for _ in range(data.draw(st.integers(1, 8))):
        tried: list[Address] = []
        resting = ring.wake_in_s(now) > 0
        while choice := ring.choose(tried, now):
            assert choice.address not in tried
            tried.append(choice.address)
            outcome = data.draw(st.sampled_from(["answered", "failed", "declined", "abandoned"]))
            if outcome == "answered":
                ring.answered(choice)
                break
            if outcome == "failed":
                ring.failed(choice, now)
            elif outcome == "declined":
                ring.declined(choice, now + data.draw(st.floats(0, 2)))
            else:
                ring.abandoned(choice)
        assert bool(tried) != resting, "a round asks somebody unless all asked for rest"
        now += data.draw(st.floats(0, 3))
