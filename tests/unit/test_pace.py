"""How much one tracker takes in: as much as it answers in time, and the rest comes back later."""

from __future__ import annotations

import pytest

from tracker_raft.raft.pace import (
    LEAST,
    QUEUE_S,
    RETRY_MAX_S,
    RETRY_MIN_S,
    WINDOW_S,
    Pace,
)


def window(pace: Pace, now_s: float, *, logged: int, refused: int = 0) -> float:
    """One window in which so many were answered by the log and so many refused; its end."""
    for _ in range(logged):
        pace.taken()
        pace.answered(logged=True)
    for _ in range(refused):
        pace.refusal(pace.limit)
    pace.turn(now_s + WINDOW_S)
    return now_s + WINDOW_S


def settled(per_window: int, *, refused: int = 1, windows: int = 12) -> tuple[Pace, float]:
    pace, now_s = Pace(20_000), 0.0
    pace.turn(now_s)
    for _ in range(windows):
        now_s = window(pace, now_s, logged=per_window, refused=refused)
    return pace, now_s


def test_the_limit_is_what_is_answered_in_time() -> None:
    """Broken: the queue is longer than anyone waits, or shorter than a batch needs."""
    pace, _ = settled(1_000)
    assert pace.rate_per_s == pytest.approx(10_000, rel=0.01)
    assert pace.limit == pytest.approx(10_000 * QUEUE_S, rel=0.01)
    assert settled(20)[0].limit == LEAST, "a slow disk needs room for a batch"
    assert settled(50_000)[0].limit <= 20_000, "the named limit holds whatever the rate"


def test_a_quiet_time_says_nothing_about_what_can_be_done() -> None:
    """Broken: after a quiet night the first clients of the morning are refused."""
    pace, now_s = settled(1_000)
    before = pace.limit
    for _ in range(50):
        now_s = window(pace, now_s, logged=3)
    assert pace.limit == before


def test_a_disk_that_got_slower_is_noticed_once_somebody_is_refused() -> None:
    """Broken: the limit stays at the best that ever was, and everyone waits too long."""
    pace, now_s = settled(2_000)
    for _ in range(12):
        now_s = window(pace, now_s, logged=500, refused=10)
    assert pace.rate_per_s == pytest.approx(5_000, rel=0.05)


def test_a_time_without_a_leader_is_one_slow_window() -> None:
    """Broken: after each failover a busy cluster sends its clients away for seconds."""
    pace, now_s = settled(1_000)
    for _ in range(pace.limit):
        pace.taken()
    before = pace.rate_per_s
    for _ in range(10):
        now_s += WINDOW_S
        pace.refusal(pace.limit)
        pace.turn(now_s)
    assert pace.rate_per_s == before and pace.retry_after_s() < 2 * QUEUE_S
    for _ in range(500):
        pace.answered(logged=True)
    pace.turn(now_s + WINDOW_S)
    assert before / 2 <= pace.rate_per_s < before


def test_only_what_the_log_answered_counts_for_the_rate() -> None:
    """Broken: a tracker without a leader takes its own refusals for work done."""
    pace = Pace(20_000)
    pace.turn(0.0)
    for _ in range(5_000):
        pace.taken()
        pace.answered(logged=False)
    pace.turn(WINDOW_S)
    assert (pace.limit, pace.under_way) == (LEAST, 0)


def test_who_is_refused_comes_back_when_there_is_room_for_all_who_will() -> None:
    """Broken: all that were refused come back at once, to be refused again."""
    pace, now_s = settled(1_000, refused=1)
    for _ in range(pace.limit):
        pace.taken()
    little = pace.refusal(pace.limit)
    assert little.retry_after_s == pytest.approx(QUEUE_S, rel=0.05)
    assert pace.refusal(pace.limit) is little, "made once for a window"
    assert f"limit {pace.limit}" in str(little) and "not run" in str(little)
    window(pace, now_s, logged=1_000, refused=1_000)
    much = pace.refusal(pace.limit)
    assert much is not little
    assert much.retry_after_s is not None and little.retry_after_s is not None
    assert much.retry_after_s > 3 * little.retry_after_s


@pytest.mark.parametrize(("refused", "expected"), [(0, RETRY_MIN_S), (100_000, RETRY_MAX_S)])
def test_the_time_to_come_back_has_bounds(refused: int, expected: float) -> None:
    """Broken: a client is told to come back at once, or never."""
    pace, now_s = settled(1_000, refused=0)
    window(pace, now_s, logged=1_000, refused=refused)
    assert pace.retry_after_s() == expected
