"""Whatever a disk does: how often a stall may meet the loop, and when nothing may."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracker_raft.raft.away import MIN_S as AWAY_MIN_S
from tracker_raft.raft.trust import BYTES_MAX, RUN_MIN, STALL_S, DiskTrust

SYNCS = st.lists(
    st.tuples(
        st.sampled_from((0.0001, 0.001, 0.003, 0.009, STALL_S, 0.3)),
        st.sampled_from((100, BYTES_MAX, BYTES_MAX + 1)),
        st.sampled_from((0.0, 0.001, 0.1, 2.0, 400.0)),
        st.integers(1, 2 * RUN_MIN),
    ),
    max_size=60,
)
"""(how long each took, its size, the pause behind each, how many of them)."""


@given(SYNCS)
def test_no_stall_meets_the_loop_without_a_run_and_a_pause_behind_the_last(
    syncs: list[tuple[float, int, float, int]],
) -> None:
    """Broken: a disk in trouble holds the loop again and again, and the node is deposed."""
    trust, now_s, last_s, run = DiskTrust(), 0.0, -AWAY_MIN_S, 0
    for seconds, size, pause_s, count in syncs:
        for _ in range(count):
            if trust.allows(size, now_s):
                assert size <= BYTES_MAX
                assert run >= RUN_MIN
                assert now_s >= last_s + AWAY_MIN_S
            now_s += seconds
            trust.took(seconds, size, now_s)
            if size <= BYTES_MAX:
                run += 1
                if seconds >= STALL_S:
                    last_s, run = now_s, 0
            now_s += pause_s


@given(st.floats(0.01, 4.0), st.floats(STALL_S, 1.0))
def test_a_disk_that_stalls_regularly_is_soon_left_to_the_thread(
    period_s: float, stall_s: float
) -> None:
    """Broken: of the stalls of a bad hour more than a few meet the loop."""
    trust, now_s, met = DiskTrust(), 0.0, 0
    for _ in range(RUN_MIN):
        trust.took(0.0002, 100, now_s)
    while now_s < 600.0:
        for _ in range(2 * RUN_MIN):
            trust.took(0.0002, 100, now_s)
        met += trust.allows(100, now_s)
        now_s += stall_s
        trust.took(stall_s, 100, now_s)
        now_s += period_s
    assert met <= 4


@given(SYNCS)
def test_a_disk_that_is_fast_again_is_trusted_again(
    syncs: list[tuple[float, int, float, int]],
) -> None:
    """Broken: one bad day costs every write of the rest of the year two hand-overs."""
    trust, now_s = DiskTrust(), 0.0
    for seconds, size, pause_s, count in syncs:
        for _ in range(count):
            now_s += seconds
            trust.took(seconds, size, now_s)
            now_s += pause_s
    for _ in range(4 * RUN_MIN):
        now_s += 3.0
        trust.took(0.0001, 100, now_s)
    assert trust.allows(100, now_s)
