"""``choice``: which peer to ask, settled by evidence.

The choices of :mod:`peer.choice` compete for the same swarms: simulated ones, paired by seed, and
real processes on this machine whose sources send at different rates, one of which gets slower.
The figure to look at is the 99th percentile of completion, over all peers of all seeds: who chose
badly waits longest. Beside each choice stands the one that was the default before, in the same
seeds or the same round.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import harness
from bench.children import End
from bench.harness import MIB, Sample
from bench.swarm_scenario import MBIT, UNEQUAL, Degrading, Kind, Scenario
from bench.swarm_world import CHOICES, simulate
from peer.limits import PeerLimits
from tracker_raft.cluster import Cluster

ENDS = "bench.choice_ends"
NAME = "bench/choice"
REFERENCE = "rate"
FETCHER = (Kind(1.0, 10 * MBIT, 1000 * MBIT),)
FEW = PeerLimits(fetch_peers_max=6)
SWARM = Scenario("swarm", peers=40, pieces=128, kinds=UNEQUAL)
SOURCES = Scenario(
    "sources", peers=6, pieces=512, kinds=FETCHER, seeders=24, seeder_kinds=UNEQUAL, limits=FEW
)
"""Few that fetch from many unequal seeders, of which each holds a quarter."""
RATES_MB_S = (8.0, 8.0, 4.0, 2.0, 1.0, 1.0)
"""Of the real sources."""
PLACES = 2
RECHOOSE_S = 1.0
"""A fifth of the product's, because these downloads take seconds and not minutes."""
REAL = Scenario(
    "like the real ones",
    peers=1,
    pieces=96,
    piece_bytes=MIB // 2,
    kinds=FETCHER,
    seeders=len(RATES_MB_S),
    seeder_kinds=tuple(Kind(1 / len(RATES_MB_S), rate * 1e6, 1e9) for rate in RATES_MB_S),
    limits=PeerLimits(fetch_peers_max=PLACES, rechoose_s=RECHOOSE_S),
)
"""The real sources simulated: far more of them can be had."""
WORSE = Degrading(0.4, until_s=15.0)
MENDED = Degrading(0.4, until_s=15.0, for_s=8.0)
SIMULATED = {
    one.name: one
    for one in (
        SWARM.but(name="swarm"),
        SWARM.but(name="swarm, 40 % degrade", degrading=WORSE),
        SWARM.but(name="swarm, 40 % degrade and mend", degrading=MENDED),
        SWARM.but(name="swarm, peers leave", arrive_s=15.0, stay=False, lifetime_s=60.0),
        SOURCES.but(name="sources"),
        SOURCES.but(name="sources, 40 % degrade", degrading=WORSE),
        SOURCES.but(name="sources, 40 % degrade and mend", degrading=MENDED),
        REAL,
        REAL.but(name="like the real ones, two degrade", degrading=Degrading(0.3, until_s=3.0)),
    )
}
DEGRADED_MB_S = 0.5
DEGRADE_AT_S = 2.0
"""When the first source, one of the two fastest, gets slower."""
TOLD_S = 5.0


# -- simulated ------------------------------------------------------------------------------------


def simulated(
    names: Sequence[str], choices: Sequence[str], seeds: Sequence[int]
) -> tuple[list[Sample], dict[str, dict[str, list[float]]]]:
    """A sample for each run; and all times of each scenario and choice."""
    samples = []
    times: dict[str, dict[str, list[float]]] = {}
    told_s = time.monotonic()
    for name in names:
        times[name] = {choice: [] for choice in choices}
        for seed in seeds:
            for choice in choices:
                outcome = simulate(SIMULATED[name].but(choice=choice), seed)
                gc.collect()
                times[name][choice] += outcome.times_s
                values = {
                    "median_s": harness.percentile(outcome.times_s, 50),
                    "p99_s": harness.percentile(outcome.times_s, 99),
                }
                samples.append(Sample(f"{name}: {choice}", seed, values))
                if time.monotonic() - told_s >= TOLD_S:
                    told_s = time.monotonic()
                    harness.progress(samples[-1])
    return samples, times


# -- real -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sources:
    """Running sources and the file they share."""

    ends: Sequence[End]
    rates_mb_s: Sequence[float]
    file: Path
    trackers: str

    def run(self, choice: str, degrade: bool, seeds: list[int]) -> dict[str, float]:
        """One download; ``seeds`` counts them up, so that no two are alike."""
        seeds[0] += 1
        for end, rate in zip(self.ends, self.rates_mb_s, strict=True):
            end.tell(int(rate * 1e6))
        out = self.file.with_name("arrived")
        arguments = (choice, str(seeds[0]), str(PLACES), str(RECHOOSE_S), NAME, str(out))
        with End("fetch", *arguments, self.trackers, module=ENDS) as fetch:
            fetch.tell("begin")
            slow_since_s = None
            if degrade and not fetch.speaks_within(DEGRADE_AT_S):
                self.ends[0].tell(int(DEGRADED_MB_S * 1e6))
                slow_since_s = time.monotonic()
            said = fetch.hear()
        out.unlink()
        values = {"seconds": said["ended"] - said["begun"], "peers": float(len(said["taken"]))}
        if degrade:  # 0: it was over before the source got slower
            since_s = said["ended"] if slow_since_s is None else slow_since_s
            values["slow_s"] = max(0.0, said["ended"] - since_s)
        return values


def real(
    choices: Sequence[str], runs: int, mib: int, rates_mb_s: Sequence[float], seed: int
) -> list[Sample]:
    """Every choice in each round, with sources as they are and with one that gets slower."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        file = Path(folder) / "source.bin"
        harness.random_file(file, mib * MIB)
        cluster = stack.enter_context(Cluster.up(1))
        trackers = ",".join(cluster.endpoints)
        arguments = ("source", str(file), NAME, trackers)
        ends = [stack.enter_context(End(*arguments, module=ENDS)) for _ in rates_mb_s]
        sources, seeds = Sources(ends, rates_mb_s, file, trackers), [seed - 1]
        measured = {
            f"{kind}: {choice}": partial(sources.run, choice, kind != "real", seeds)
            for kind in ("real", "real, one degrades")
            for choice in choices
        }
        return harness.alternate(runs, measured, harness.progress)


# -- telling --------------------------------------------------------------------------------------


def figures(
    result: harness.Result, times: dict[str, dict[str, list[float]]], choices: Sequence[str]
) -> None:
    """For simulated swarms median and p99 of all peers of all seeds, and p99 through that of the
    reference within each seed; for real ones the same of whole downloads."""
    for name, by_choice in times.items():
        for choice in choices:
            found: dict[str, Any] = {
                "median_s": harness.percentile(by_choice[choice], 50),
                "p99_s": harness.percentile(by_choice[choice], 99),
            }
            ours = result.values(f"{name}: {choice}", "p99_s")
            if REFERENCE in choices:
                theirs = result.values(f"{name}: {REFERENCE}", "p99_s")
                found["p99_to_reference"] = harness.ratio(ours, theirs)
            result.figures[f"{name}: {choice}"] = found
    for contender in dict.fromkeys(sample.contender for sample in result.samples):
        if seconds := result.values(contender, "seconds"):
            found = {
                "median_s": harness.percentile(seconds, 50),
                "p99_s": harness.percentile(seconds, 99),
            }
            if REFERENCE in choices:
                kind = contender.partition(": ")[0]
                theirs = result.values(f"{kind}: {REFERENCE}", "seconds")
                found["p99_to_reference"] = harness.ratio(seconds, theirs)
            result.figures[contender] = found


def table(result: harness.Result) -> list[str]:
    lines = [f"{'':42}{'median s':>10}{'p99 s':>10}   p99 through that of {REFERENCE}, by seed"]
    for name, one in result.figures.items():
        line = f"{name:42}{one['median_s']:10.2f}{one['p99_s']:10.2f}"
        if ratio := one.get("p99_to_reference"):
            line += f"   {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        lines.append(line)
    return lines


@click.command()
@click.option(
    "--scenario", "names", multiple=True, type=click.Choice([*SIMULATED]), help="Default: all."
)
@click.option("--choice", "choices", multiple=True, type=click.Choice([*CHOICES]))
@click.option("--seed", default=1, show_default=True, help="The first one.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(0))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(0), help="Real rounds.")
@click.option("--mib", default=48, show_default=True, type=click.IntRange(1), help="Real files.")
@click.option(
    "--rate",
    "rates_mb_s",
    default=RATES_MB_S,
    multiple=True,
    type=click.FloatRange(0.1),
    show_default=True,
    help="MB/s of a real source, one each; the first gets slower.",
)
@harness.common_options
def choice(
    names: tuple[str, ...],
    choices: tuple[str, ...],
    seed: int,
    seeds: int,
    runs: int,
    mib: int,
    rates_mb_s: tuple[float, ...],
    as_json: bool,
    out: Path,
) -> None:
    """The ways to choose whom to ask, in simulated swarms and with real sources."""
    names, choices = names or tuple(SIMULATED), choices or tuple(CHOICES)
    settings = {
        "scenarios": names, "choices": choices, "seed": seed, "seeds": seeds, "runs": runs,
        "mib": mib, "rates_mb_s": rates_mb_s, "places": PLACES, "rechoose_s": RECHOOSE_S,
    }  # fmt: skip
    result = harness.Result("choice", settings)
    times: dict[str, dict[str, list[float]]] = {}
    if seeds:
        samples, times = simulated(names, choices, range(seed, seed + seeds))
        result.samples += samples
    if runs:
        result.samples += real(choices, runs, mib, rates_mb_s, seed)
    figures(result, times, choices)
    if not result.figures:
        print("nothing was asked for: --seeds 0 and --runs 0", file=sys.stderr)
    harness.finish(result, table(result), as_json=as_json, out=out)
