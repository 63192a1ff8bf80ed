"""``overload``: what a cluster gets done when it is asked for more than it can do.

First the capacity: many pipelined connections, so many writes under way at all times. Then an
open loop: writes are due at a fixed rate, a half, one, two and four times that capacity, whether
earlier ones are answered or not. A write counts (*goodput*) when it is acknowledged within its
deadline of the time it was due. ``busy`` is final here, nothing is sent again: who comes back
later offers a load of its own, and that is one of these.

The limit beside it: the best goodput of the same round at any rate. Generator and trackers share
the machine, so what the generator takes at four times the capacity is missing to the trackers.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import click
import psutil

from bench import harness
from bench.load import Counted, Generator, Writes, sessions
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster

FACTORS = (0.5, 1.0, 2.0, 4.0)
SESSIONS = 900
CLOSED = "closed loop"


class Shop:
    """A cluster under load, asked at all of its trackers or at one."""

    def __init__(self, cluster: Cluster, connections: int, deadline_s: float) -> None:
        self._cluster = cluster
        self._connections = connections
        self._deadline_s = deadline_s
        self.capacity = 0.0

    def closed(self, seconds: float, under_way: int) -> dict[str, float]:
        """The peak: ``under_way`` writes on all connections together."""

        async def run(generator: Generator, requests: Writes) -> Counted:
            each = max(1, under_way // self._connections)
            return await generator.closed_loop(requests, each, seconds)

        values = self._with_generator(run)
        self.capacity = values["goodput_per_s"]
        return values

    def open(self, factor: float, seconds: float) -> dict[str, float]:
        async def run(generator: Generator, requests: Writes) -> Counted:
            rate = factor * self.capacity
            return await generator.open_loop(requests, rate, seconds, self._deadline_s)

        return self._with_generator(run)

    def _with_generator(self, run: Any) -> dict[str, float]:
        elections = self._terms()

        async def main() -> Counted:
            numbers = await sessions(self._cluster.endpoints[0], SESSIONS)
            generator = Generator(self._cluster.endpoints, self._connections)
            try:
                await generator.connect()
                counted: Counted = await run(generator, Writes(numbers, self._deadline_s))
                return counted
            finally:
                generator.close()

        before = self._cpu_s()
        values = asyncio.run(main()).values()
        after = self._cpu_s()
        values["trackers_cpu_s"] = after[0] - before[0]
        values["generator_cpu_s"] = after[1] - before[1]
        values["elections"] = float(self._terms() - elections)
        values["memory_mib"] = max(self._memory_mib())
        return values

    def _terms(self) -> int:
        self._cluster.wait_ready()
        with TrackerClient(self._cluster.endpoints) as client:
            return int(client.status()["term"])

    def _cpu_s(self) -> tuple[float, float]:
        """CPU seconds used so far by all trackers, and by this process."""
        pids = [self._cluster.pid(node) for node in self._cluster.nodes]
        times = [psutil.Process(pid).cpu_times() for pid in pids if pid]
        own = psutil.Process().cpu_times()
        return sum(t.user + t.system for t in times), own.user + own.system

    def _memory_mib(self) -> list[float]:
        pids = [self._cluster.pid(node) for node in self._cluster.nodes]
        return [psutil.Process(pid).memory_info().rss / harness.MIB for pid in pids if pid]


@click.command()
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, help="For each rate of each run.")
@click.option(
    "--deadline", "deadline_s", default=1.0, show_default=True, help="Of a write, seconds."
)
@click.option("--connections", default=96, show_default=True, type=click.IntRange(1, 5000))
@click.option("--under-way", default=1920, show_default=True, help="Writes in the closed loop.")
@click.option("--nodes", default=3, show_default=True, help="Trackers.")
@harness.common_options
def overload(
    runs: int,
    seconds: float,
    deadline_s: float,
    connections: int,
    under_way: int,
    nodes: int,
    as_json: bool,
    out: Path,
) -> None:
    """Goodput at a half, one, two and four times the capacity."""
    settings = {
        "runs": runs,
        "seconds": seconds,
        "deadline_s": deadline_s,
        "connections": connections,
        "under_way": under_way,
        "nodes": nodes,
    }
    result = harness.Result("overload", settings)
    with Cluster.up(nodes) as cluster:
        shop = Shop(cluster, connections, deadline_s)
        shop.closed(min(seconds, 2.0), under_way)  # so that nothing is cold
        contenders: dict[str, harness.Measure] = {
            CLOSED: lambda: shop.closed(seconds, under_way),
            **{f"{factor:g} x": partial(shop.open, factor, seconds) for factor in FACTORS},
        }
        result.samples = harness.alternate(runs, contenders, harness.progress)
    result.figures = figures(result, list(contenders))
    harness.finish(result, lines(result, list(contenders)), as_json=as_json, out=out)


def figures(result: harness.Result, names: list[str]) -> dict[str, Any]:
    """Medians; and what each rate's goodput is of the best in the same round."""
    runs = len(result.values(CLOSED, "goodput_per_s"))
    best = [
        max(result.values(name, "goodput_per_s")[number] for name in names)
        for number in range(runs)
    ]
    found: dict[str, Any] = {}
    for name in names:
        keys = {key for s in result.samples if s.contender == name for key in s.values}
        found[name] = {key: harness.summary(result.values(name, key)) for key in sorted(keys)}
        found[name]["of_peak"] = harness.ratio(result.values(name, "goodput_per_s"), best)
    return found


def lines(result: harness.Result, names: list[str]) -> list[str]:
    """The table a reader sees."""
    columns = (
        "offered_per_s",
        "goodput_per_s",
        "of_peak",
        "busy_per_s",
        "p50_ms",
        "p99_ms",
        "busy_p50_ms",
        "late",
        "unanswered",
        "elections",
        "generator_cpu_s",
        "trackers_cpu_s",
        "memory_mib",
    )
    shown = [f"{'':12}" + "".join(f"{column:>15}" for column in columns)]
    for name in names:
        row = [result.figures[name].get(column, {}).get("median") for column in columns]
        cells = "".join(f"{'':>15}" if value is None else f"{value:15.4g}" for value in row)
        shown.append(f"{name:12}{cells}")
    return shown
