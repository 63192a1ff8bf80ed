"""Logical time: it goes on with the leader, and nothing else moves it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from tracker_raft.raft.clock import LogicalClock


def test_time_goes_on_from_the_state_machines() -> None:
    """Broken: a new leader's time jumps, and leases expire or live for ever."""
    clock = LogicalClock()
    clock.lead(5_000, 1000.0)
    assert clock.stamp_ms(1000.0) == 5_000
    assert clock.stamp_ms(1000.25) == 5_250
    assert clock.stamp_ms(1001.0) == 6_000


def test_a_pause_of_any_length_counts_as_a_second() -> None:
    """Broken: a leader that was suspended expires every lease when it goes on."""
    clock = LogicalClock()
    clock.lead(0, 10.0)
    assert clock.stamp_ms(10_000.0) == 1_000
    assert clock.stamp_ms(10_000.5) == 1_500


def test_an_outage_takes_no_time() -> None:
    """Broken: everything expires while there is no leader to renew at."""
    clock = LogicalClock()
    clock.lead(2_000, 10.0)
    assert clock.stamp_ms(10.5) == 2_500
    clock.lead(2_500, 90.0)
    assert clock.stamp_ms(90.5) == 3_000


@example([0.0], 1_001)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 2**40))
def test_it_never_goes_back_whatever_the_readings(readings: list[float], begin_ms: int) -> None:
    """Broken: an entry is stamped with a time before the one in front of it."""
    clock = LogicalClock()
    clock.lead(begin_ms, readings[0])
    stamps = [clock.stamp_ms(reading) for reading in readings]
    assert stamps == sorted(stamps)
    assert stamps[0] == begin_ms
    assert stamps[-1] <= begin_ms + 1_000 * len(readings)
