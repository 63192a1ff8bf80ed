"""``swarm``: how long a swarm takes past this machine, simulated, beside what bounds it.

The brain of a download, its picker, its contacts, the choice of peers, the upload slots and the
tracker's table of swarms are the real ones; the clock, the links and the peers are not
(:mod:`bench.swarm_world`). Beside it, for the same peers and links: the bound that nothing can
beat, one server, and a tree (:mod:`bench.swarm_bound`). A seed replays a run exactly.

Read the figures with what the model leaves out in mind: processors, disks, hashing, the manifest,
TCP's start and losses. What it is good for: how cost grows with the number of peers, and which of
two designs is the better one.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from bench import harness
from bench.harness import Sample
from bench.swarm_bound import Member, best_tree, bound_s, one_server_s, tree_s
from bench.swarm_node import Node
from bench.swarm_picture import Chart, svg
from bench.swarm_scenario import SCENARIOS, Scenario
from bench.swarm_world import CHOICES, Outcome, World, simulate

PEERS_PER_RACK = 40
TOLD_S = 5.0
"""Seconds of real time between two lines of progress."""


def member(node: Node) -> Member:
    """A node as the bound sees it."""
    now_bytes_s, later = node.ups[0][1], []
    for at_s, rate in node.ups[1:]:
        if at_s <= node.began_s:
            now_bytes_s = rate
        else:
            later.append((at_s, rate))
    return Member(((node.began_s, now_bytes_s), *later), node.down.capacity, node.rack)


class Rivals:
    """What one outcome is compared with; times are on the clock of the run."""

    def __init__(self, outcome: Outcome) -> None:
        scenario, nodes = outcome.scenario, outcome.nodes
        seeders = [member(node) for node in nodes[: scenario.seeders]]
        fetchers = [member(node) for node in nodes[scenario.seeders :]]
        done = [member(node) for node in nodes[scenario.seeders :] if node.done]
        self.bound_s = bound_s(scenario.size, seeders, fetchers, done, outcome.uplinks)
        self.server_s = one_server_s(scenario.size, seeders, done)
        fast_first = sorted(fetchers, key=lambda one: -one.ups[0][1])
        self.arity, self.tree_s = best_tree(
            lambda arity: tree_s(
                scenario.size,
                scenario.piece_bytes,
                seeders[0],
                fast_first,
                arity,
                outcome.uplinks,
            )
        )


def measure(scenario: Scenario, seed: int) -> tuple[dict[str, float], Outcome, Rivals]:
    """One run, its figures, and what it is compared with."""
    begun = told_s = time.monotonic()

    def told(world: World) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TOLD_S:
            told_s = time.monotonic()
            print(
                f"{scenario.name} {scenario.peers} seed {seed}: {world.now_s:.0f} s simulated in "
                f"{told_s - begun:.0f} s, {world.left} peers not done",
                file=sys.stderr,
                flush=True,
            )

    gc.disable()  # millions of small objects, nearly none of them in cycles
    try:
        outcome = simulate(scenario, seed, told)
    finally:
        gc.enable()
    rivals = Rivals(outcome)
    by_second = outcome.tracker.by_second()
    values = {
        "last_s": outcome.last_s,
        "median_s": harness.percentile(outcome.times_s, 50),
        "p99_s": harness.percentile(outcome.times_s, 99),
        "bound_s": rivals.bound_s,
        "last_to_bound": outcome.last_s / rivals.bound_s,
        "tree_s": rivals.tree_s[-1],
        "server_s": rivals.server_s,
        "done": float(len(outcome.times_s)),
        "seeder_copies": outcome.seeder_copies,
        "sent_copies": outcome.sent_copies,
        "tracker_peak_per_s": float(max(by_second)),
        "tracker_total": float(sum(by_second)),
        **{
            f"tracker_{word}": float(sum(seconds.values()))
            for word, seconds in outcome.tracker.asked.items()
        },
        "events": float(outcome.events),
        "wall_s": time.monotonic() - begun,
    }
    return values, outcome, rivals


def pictures(outcome: Outcome, rivals: Rivals) -> dict[str, Chart]:
    """By file name."""
    scenario = outcome.scenario
    what = f"{scenario.name}, {scenario.peers:,} peers, {scenario.size / 2**20:,.0f} MiB"
    count = len(outcome.ends_s)
    done = {"swarm": [(0.0, 0.0)] + [(at, n / count) for n, at in enumerate(outcome.ends_s, 1)]}
    tree = [(0.0, 0.0)] + [(at, n / count) for n, at in enumerate(rivals.tree_s, 1)]
    if rivals.tree_s[-1] < 20 * outcome.last_s:
        done[f"tree of {rivals.arity}"] = tree
    asked = [(float(second), float(n)) for second, n in enumerate(outcome.tracker.by_second())]
    name = f"{scenario.name}-{scenario.peers}"
    return {
        f"{name}-done": Chart(
            f"Peers that have everything: {what}",
            "seconds",
            "part of all",
            done,
            {f"bound {rivals.bound_s:.1f} s": rivals.bound_s},
        ),
        f"{name}-tracker": Chart(
            f"What the trackers are asked: {what}", "seconds", "requests a second", {"all": asked}
        ),
    }


def growth(result: harness.Result, name: str, sizes: Sequence[int]) -> Chart:
    """How the time of the last peer grows with the number of peers."""
    lines = {
        word: [
            (float(peers), harness.summary(result.values(f"{name} {peers}", key))["median"])
            for peers in sorted(sizes)
        ]
        for word, key in (
            ("one server", "server_s"),
            ("tree", "tree_s"),
            ("swarm, last peer", "last_s"),
            ("swarm, median", "median_s"),
            ("bound", "bound_s"),
        )
    }
    return Chart(f"Until the last peer is done: {name}", "peers", "seconds", lines, {}, True)


def table(result: harness.Result) -> list[str]:
    keys = (
        "median_s", "p99_s", "last_s", "bound_s", "last_to_bound", "tree_s", "server_s",
        "seeder_copies", "tracker_peak_per_s", "wall_s",
    )  # fmt: skip
    short = [key.replace("_s", "").replace("tracker_peak_per", "asked/s") for key in keys]
    lines = [f"{'':20}" + "".join(f"{word:>14}" for word in short)]
    for name, figures in result.figures.items():
        values = [figures[key]["median"] for key in keys]
        lines.append(f"{name:20}" + "".join(f"{value:14.2f}" for value in values))
    return lines


def fitted(name: str, peers: int, pieces: int, piece_kib: int, choice: str) -> Scenario:
    """A scenario for a number of peers; racks keep their size."""
    scenario = SCENARIOS[name]
    return scenario.but(
        peers=peers,
        pieces=pieces,
        piece_bytes=piece_kib * 1024,
        racks=scenario.racks and max(peers // PEERS_PER_RACK, 2),
        choice=choice,
    )


@click.command()
@click.option("--peers", default=(1000,), multiple=True, type=click.IntRange(2), show_default=True)
@click.option(
    "--scenario", "names", default=("flash",), multiple=True, type=click.Choice([*SCENARIOS, "all"])
)
@click.option("--pieces", default=128, show_default=True, type=click.IntRange(2, 100_000))
@click.option("--piece-kib", default=4096, show_default=True, type=click.IntRange(16, 4096))
@click.option("--seed", default=1, show_default=True, help="The first one.")
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1), help="Seeds each.")
@click.option("--choice", default="learning", show_default=True, type=click.Choice([*CHOICES]))
@harness.common_options
def swarm(
    peers: tuple[int, ...],
    names: tuple[str, ...],
    pieces: int,
    piece_kib: int,
    seed: int,
    runs: int,
    choice: str,
    as_json: bool,
    out: Path,
) -> None:
    """Simulated swarms of thousands, beside the bound, a tree and one server."""
    if "all" in names:
        names = tuple(SCENARIOS)
    settings = {
        "peers": peers, "scenarios": names, "pieces": pieces, "piece_kib": piece_kib,
        "seed": seed, "runs": runs, "choice": choice,
    }  # fmt: skip
    result = harness.Result("swarm", settings)
    for name in names:
        for count in peers:
            scenario = fitted(name, count, pieces, piece_kib, choice)
            for number in range(runs):
                values, outcome, rivals = measure(scenario, seed + number)
                result.samples.append(Sample(f"{name} {count}", number + 1, values))
                harness.progress(result.samples[-1])
            save(pictures(outcome, rivals), out)
        if len(set(peers)) > 1:
            save({f"{name}-growth": growth(result, name, sorted(set(peers)))}, out)
    result.figures = {
        one: {key: harness.summary(result.values(one, key)) for key in result.samples[0].values}
        for one in dict.fromkeys(sample.contender for sample in result.samples)
    }
    harness.finish(result, table(result), as_json=as_json, out=out)


def save(charts: dict[str, Chart], out: Path) -> None:
    """Put pictures into the folder ``pictures`` below ``out``."""
    folder = out / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, chart in charts.items():
        (folder / f"{name}.svg").write_text(svg(chart), encoding="utf-8")
