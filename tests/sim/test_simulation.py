"""The simulation in the plain test run: seeds that must hold, and canaries that must be caught."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.sim.faults import draw  # noqa: E402 the line above finds it
from tests.sim.invariants import Violation  # noqa: E402
from tests.sim.mutants import MUTANTS, NO_TERM, hunt, mutated  # noqa: E402
from tests.sim.run import FAULTY_S, ids_of, run, shrink  # noqa: E402
from tests.sim.stale_acknowledgements import Story  # noqa: E402

FIXED_SEEDS = 40
FRESH_SEEDS = 15
FLIPPED_SEEDS = 15
MEMBER_SEEDS = 15
STORY_SEEDS = range(12)
CAUGHT_BY: dict[str, tuple[int, ...]] = {
    "the library as published": (7, 17, *range(15, 40)),
    "no trim (S1)": (1, 15, 41),
    "no clamp (S16)": (6, 5, 28),
    "snapshot installed unverified (S3)": (0, 67, 120),
    "no sync before a promise (S4)": (0, 10, 17),
    "compaction before the snapshot is durable (S6)": (0, 1, 2),
    "no checksum (S7)": (1, 5, 6),
    "reply table dropped": (39, 11, 0),
    "no stickiness": (11,),
    "a slow disk is taken for death": (0,),
    "reads on the leader's word alone": (23, 33, 47),
    "reads before their index is applied": (10, 21, 33),
    "a second change before the first is committed (S14)": (17, 48, 62),
    "members change at the commit only (S14)": (9, 5),
    "a truncated change stays in force (S14)": (21, 10, 16),
    "a snapshot without its members (S14)": (134, 50, 1),
    "any directory in a member's name": (6, 1),
}
"""Seeds that caught each mutant when it was hunted."""
FURTHER = range(40)
"""Tried when none of those does: every change of the code changes the order of events."""
FOUND = [1, 1034]
"""Seeds that failed when a defect was found. 1: an ask that leads back was undone by those behind
it, and a follower with a conflict in its log never caught up. 1034: a node that is alone committed
the no-op of its election before it was durable; what a killed process had written and not synced
counted as durable after its restart."""
FOUND_WITH_MEMBERS = [53, 1054, 1125]
"""The same, while members change. 53: who was removed before it had learned anything was not told.
1054: a snapshot was taken of what is applied, whose members were forgotten because newer ones were
committed already. 1125: a node that lagged refused the leader that was removed and added meanwhile.
"""


def simulate(*options: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.sim", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def check(done: subprocess.CompletedProcess[str], seeds: int) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["seeds"] == seeds and not report["failed"]
    assert report["acknowledged"] > 20 * seeds, "the workload did not get through"


def test_fixed_seeds_hold() -> None:
    """Broken: acknowledged writes are lost, replicas differ, or a cluster does not come back."""
    check(simulate("--seeds", str(FIXED_SEEDS), "--jobs", "2", "--json"), FIXED_SEEDS)


def test_fresh_seeds_hold() -> None:
    """Broken: the same, in histories nobody looked at before. The first seed is printed."""
    first = int.from_bytes(os.urandom(4), "big")
    print(f"seeds from {first}")
    options = ("--seeds", str(FRESH_SEEDS), "--first", str(first), "--jobs", "2", "--json")
    check(simulate(*options), FRESH_SEEDS)


def test_seeds_with_damaged_disks_hold() -> None:
    """Broken: a flipped bit is applied as data instead of stopping its node."""
    options = ("--seeds", str(FLIPPED_SEEDS), "--flips", "--jobs", "2", "--json")
    done = simulate(*options)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fresh", [False, True])
def test_seeds_with_changing_members_hold(fresh: bool) -> None:
    """Broken: S14, two majorities with nobody in common; a removed or emptied node votes; a node
    that was added never does. The first of the fresh seeds is printed."""
    seeds = FRESH_SEEDS if fresh else MEMBER_SEEDS
    first = int.from_bytes(os.urandom(4), "big") if fresh else 0
    print(f"seeds from {first}")
    options = ("--seeds", str(seeds), "--first", str(first), "--members", "--jobs", "2", "--json")
    done = simulate(*options)
    check(done, seeds)
    report = json.loads(done.stdout.strip().splitlines()[-1])
    assert report["changes"] > seeds, "the members hardly changed"


@pytest.mark.parametrize("seed", FOUND_WITH_MEMBERS)
def test_what_a_seed_found_of_members_stays_mended(seed: int) -> None:
    """Broken: a defect that the simulation found is back."""
    assert run(seed, members=True).violation is None


@pytest.mark.parametrize("seed", FOUND)
def test_what_a_seed_found_stays_mended(seed: int) -> None:
    """Broken: a defect that the simulation found is back."""
    assert run(seed).violation is None


def test_a_seed_replays_the_same_in_any_process() -> None:
    """Broken: a failing seed cannot be looked into, because it does something else each time."""
    shown = {simulate("--seed", "7", hash_seed=seed).stdout for seed in ("0", "1", "77")}
    assert len(shown) == 1 and "trace" in shown.pop()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    """Broken: the simulation does not look where this mend is needed.

    The seeds are those that caught it when it was hunted; another order of events may ask for
    others: ``python -m tests.sim --mutant NAME`` hunts.
    """
    assert hunt(MUTANTS[name], (*CAUGHT_BY[name], *FURTHER)) is not None


def test_a_late_acknowledgement_counts_only_for_a_mutant() -> None:
    """Broken: an acknowledgement of a lost leadership commits in a later one (S2)."""
    told = [Story(seed).tell() for seed in STORY_SEEDS]
    assert any(told), "no run got to the point"
    with mutated(NO_TERM), pytest.raises(Violation):
        for seed in STORY_SEEDS:
            Story(seed).tell()


def test_a_failing_run_is_shrunk_to_what_it_takes() -> None:
    """Broken: whoever looks into a failure has to read through faults that do not matter."""
    mutant = MUTANTS["reply table dropped"]
    found = hunt(mutant, CAUGHT_BY["reply table dropped"])
    assert found is not None
    with mutated(mutant):
        faults = shrink(found.seed, found.faults, lambda outcome: outcome.violation is not None)
        assert run(found.seed, faults).violation is not None
    assert len(faults) < len(found.faults)


def test_faults_do_not_depend_on_what_a_run_does() -> None:
    """Broken: leaving a fault out while shrinking changes all the others."""
    assert draw(5, ids_of(5), FAULTY_S) == draw(5, ids_of(5), FAULTY_S) == run(5).faults
