"""When the loop may wait for the disk. If a test here fails, a disk that stalls makes elections for
nothing, or a disk that is fast is never trusted and every lone write pays two hand-overs."""

from __future__ import annotations

import pytest

from tracker_raft.raft.away import MAX_S as AWAY_MAX_S
from tracker_raft.raft.away import MIN_S as AWAY_MIN_S
from tracker_raft.raft.away import OFTEN
from tracker_raft.raft.trust import (
    AWAY_SLOW_MAX_S,
    BYTES_MAX,
    FAST_S,
    RECENT,
    RUN_MIN,
    STALL_S,
    DiskTrust,
)

QUICK_S = 0.0002


def proved(now_s: float = 0.0) -> DiskTrust:
    """Of a disk that was fast for long enough."""
    trust = DiskTrust()
    run(trust, RUN_MIN, now_s)
    return trust


def run(trust: DiskTrust, count: int, now_s: float, seconds: float = QUICK_S) -> None:
    for _ in range(count):
        trust.took(seconds, 100, now_s)


def test_a_disk_is_trusted_after_a_run_of_fast_syncs_and_not_before() -> None:
    """Broken: the first syncs of a slow disk hold the loop, or a fast one never may."""
    trust = DiskTrust()
    run(trust, RUN_MIN - 1, 0.0)
    assert not trust.allows(100, 0.0)
    run(trust, 1, 0.0)
    assert trust.allows(100, 0.0)


def test_a_large_batch_never_holds_the_loop_and_says_nothing_of_small_ones() -> None:
    """Broken: a batch of megabytes holds the loop, or its time is taken for a stall."""
    trust = proved()
    assert trust.allows(BYTES_MAX, 0.0)
    assert not trust.allows(BYTES_MAX + 1, 0.0)
    trust.took(1.0, BYTES_MAX + 1, 0.0)
    assert trust.allows(100, 0.0)


def test_one_stall_ends_it_for_a_time_and_until_a_run_of_fast_syncs() -> None:
    """Broken: a disk that begins to stall holds the loop with each sync."""
    trust = proved()
    trust.took(STALL_S, 100, 10.0)
    assert not trust.allows(100, 10.0)
    run(trust, RUN_MIN, 10.0)
    assert not trust.allows(100, 10.0 + AWAY_MIN_S / 2), "not before its time"
    assert trust.allows(100, 10.0 + AWAY_MIN_S)
    trust.took(STALL_S, 100, 20.0)
    assert not trust.allows(100, 20.0 + AWAY_MAX_S), "nothing has proved it fast"


def test_stalls_that_come_often_keep_it_away_for_longer_and_longer() -> None:
    """Broken: a disk that stalls every few seconds meets the loop as often."""
    trust, now_s, times = proved(), 100.0, []
    for _ in range(12):
        trust.took(STALL_S, 100, now_s)
        run(trust, RUN_MIN + RECENT, now_s)
        away_s = AWAY_MIN_S
        while not trust.allows(100, now_s + away_s):
            away_s *= 2
        times.append(away_s)
        now_s += away_s
    assert times[:5] == [1, 2, 4, 8, 16]
    assert times[-1] == times[-2] >= AWAY_MAX_S
    run(trust, RUN_MIN, now_s + (OFTEN + 1) * AWAY_MAX_S)
    now_s += (OFTEN + 1) * AWAY_MAX_S
    trust.took(STALL_S, 100, now_s)
    run(trust, RUN_MIN + RECENT, now_s)
    assert trust.allows(100, now_s + AWAY_MIN_S), "that was long ago"


def test_a_stall_that_the_thread_met_counts_as_well() -> None:
    """Broken: while it is away nothing is learnt, and it comes back to a disk that still stalls."""
    trust = proved()
    trust.took(STALL_S, 100, 0.0)
    trust.took(STALL_S, 100, AWAY_MIN_S / 2)
    run(trust, RUN_MIN + RECENT, AWAY_MIN_S / 2)
    assert not trust.allows(100, AWAY_MIN_S)
    assert trust.allows(100, AWAY_MIN_S / 2 + AWAY_MIN_S)
    assert "Away 1s" in repr(trust), "it is the same bad moment"


@pytest.mark.parametrize("seconds", [FAST_S * 1.5, STALL_S * 0.9])
def test_a_disk_that_is_always_a_bit_slow_is_not_waited_for(seconds: float) -> None:
    """Broken: a spinning disk takes the loop's time, sync by sync, and nobody calls it a stall."""
    trust = proved()
    run(trust, 4 * RECENT, 0.0, seconds)
    assert not trust.allows(100, AWAY_MIN_S)
    run(trust, 4 * RECENT, 0.0)
    assert not trust.allows(100, AWAY_MIN_S / 2), "a machine that is busy now and then is no better"
    assert trust.allows(100, AWAY_MIN_S), "it has become fast"
    run(trust, 4 * RECENT, 2.0, seconds)
    run(trust, 4 * RECENT, 2.0)
    assert not trust.allows(100, 2.0 + AWAY_MIN_S), "that was soon"


def test_a_busy_hour_is_forgotten_within_seconds() -> None:
    """Broken: behind a load that comes and goes a lone client pays two hand-overs for minutes."""
    trust, now_s = proved(), 0.0
    for _ in range(100):
        run(trust, 4 * RECENT, now_s, FAST_S * 1.5)
        run(trust, 4 * RECENT, now_s)
        now_s += 2 * AWAY_SLOW_MAX_S
        assert trust.allows(100, now_s)
        now_s += 1.0


def test_a_few_slow_ones_among_many_do_not_matter() -> None:
    """Broken: a machine that does something else now and then is never trusted."""
    trust = proved()
    for _ in range(50):
        run(trust, 9, 0.0)
        run(trust, 1, 0.0, STALL_S * 0.9)
        assert trust.allows(100, 0.0)


def test_it_says_what_it_has_seen() -> None:
    """Broken: who debugs a slow disk sees nothing of it."""
    away = "<Away 0s until 0.000>"
    assert repr(DiskTrust()) == f"<DiskTrust slow=0% run=0 stalled={away} was_slow={away}>"
