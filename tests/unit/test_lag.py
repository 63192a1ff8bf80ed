"""How late the loop is, and how much longer the node then waits."""

from __future__ import annotations

import pytest

from tracker_raft.raft.lag import FLOOR_LAGS, HALF_LIFE_S, TIMEOUTS_MAX, LoopLag

TIMEOUT_S = 0.2


def test_a_loop_in_time_waits_as_long_as_it_was_told() -> None:
    """Broken: an idle machine takes longer than promised to replace a leader."""
    lag = LoopLag(TIMEOUT_S)
    for turn in range(1000):
        lag.observe(0.001, turn * 0.03)
    assert lag.timeout_s(30.0) == TIMEOUT_S


def test_a_loop_that_is_late_again_and_again_waits_longer_up_to_a_limit() -> None:
    """Broken: a busy machine deposes its leader for nothing; or never again."""
    lag = LoopLag(TIMEOUT_S)
    for turn in range(100):
        lag.observe(0.08, turn * 0.02)
    assert lag.timeout_s(2.0) == pytest.approx(FLOOR_LAGS * 0.08, rel=0.15)
    for turn in range(100):
        lag.observe(5.0, 2.0 + turn * 0.02)
    assert lag.timeout_s(4.0) == TIMEOUTS_MAX * TIMEOUT_S


def test_the_floor_falls_again() -> None:
    """Broken: one bad minute makes failover slow for good."""
    lag = LoopLag(TIMEOUT_S)
    for turn in range(100):
        lag.observe(0.1, turn * 0.02)
    raised_s = lag.recent_s(2.0)
    assert lag.recent_s(2.0 + HALF_LIFE_S) == pytest.approx(raised_s / 2)
    assert lag.timeout_s(2.0 + 8 * HALF_LIFE_S) == TIMEOUT_S


def test_one_long_stop_is_not_taken_for_a_busy_machine() -> None:
    """Broken: after a pause of a second a node waits longer, and so does its cluster."""
    lag = LoopLag(TIMEOUT_S)
    lag.observe(3.0, 10.0)
    assert lag.timeout_s(10.0) == TIMEOUT_S
