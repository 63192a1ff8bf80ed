"""``reads``: what each level of reading costs, at the leader and at a follower.

Latency: one look-up after the other on one connection. Rate: many pipelined connections to one
tracker. The limit beside them is ``local``, a look-up that waits for nothing: what the other levels
take beyond it is the price of freshness.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import click

from bench import harness
from bench.load import Generator, Reads
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster
from tracker_raft.commands import Level, Lookup

NAME = "models/read"


def measure(
    endpoint: str, level: Level, seen: int, connections: int, under_way: int, seconds: float
) -> dict[str, float]:
    """One level at one tracker."""
    requests = Reads(Lookup(NAME), level, seen)

    async def run() -> dict[str, float]:
        one, many = Generator([endpoint], 1), Generator([endpoint], connections)
        try:
            await one.connect()
            await many.connect()
            alone = (await one.closed_loop(requests, 1, seconds)).values()
            together = (await many.closed_loop(requests, under_way, seconds)).values()
        finally:
            one.close()
            many.close()
        return {
            "p50_us": alone["p50_ms"] * 1e3,
            "p99_us": alone["p99_ms"] * 1e3,
            "reads_per_s": together["goodput_per_s"],
            "loaded_p50_ms": together["p50_ms"],
            "errors": alone["other_errors"] + together["other_errors"],
        }

    return asyncio.run(run())


def prepare(cluster: Cluster) -> tuple[dict[str, str], int]:
    """A name to look up; who is asked, by place; and the position of what was written."""
    leader = cluster.wait_ready()
    follower = next(node for node in cluster.nodes if node != leader)
    with TrackerClient(cluster.endpoints) as client:
        client.publish(NAME, content=bytes(32), size=1, manifest_bytes=1, piece_bytes=1 << 19)
        seen = client.seen
    places = {"leader": cluster.endpoint(leader), "follower": cluster.endpoint(follower)}
    return places, seen


@click.command()
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=2.0, show_default=True, help="For each figure of each run.")
@click.option("--connections", default=16, show_default=True, type=click.IntRange(1, 5000))
@click.option("--under-way", default=32, show_default=True, help="Reads on each connection.")
@harness.common_options
def reads(
    runs: int, seconds: float, connections: int, under_way: int, as_json: bool, out: Path
) -> None:
    """Latency and rate of reads at each level, at leader and follower."""
    settings = {
        "runs": runs,
        "seconds": seconds,
        "connections": connections,
        "under_way": under_way,
    }
    result = harness.Result("reads", settings)
    with Cluster.up(3) as cluster:
        places, seen = prepare(cluster)
        contenders: dict[str, harness.Measure] = {
            f"{level} at the {place}": partial(
                measure, endpoint, level, seen, connections, under_way, seconds
            )
            for place, endpoint in places.items()
            for level in Level
        }
        result.samples = harness.alternate(runs, contenders, harness.progress)
    keys = tuple(result.samples[0].values)
    for name in contenders:
        limit = f"{Level.LOCAL} at the {name.rpartition(' ')[2]}"
        pair = [result.values(each, "reads_per_s") for each in (name, limit)]
        result.figures[name] = {
            **{key: harness.summary(result.values(name, key)) for key in keys},
            "to_local": harness.ratio(*pair),
        }
    columns = (*keys, "to_local")
    shown = [f"{'':26}" + "".join(f"{column:>15}" for column in columns)]
    for name in contenders:
        cells = [result.figures[name][column]["median"] for column in columns]
        shown.append(f"{name:26}" + "".join(f"{cell:15.4g}" for cell in cells))
    harness.finish(result, shown, as_json=as_json, out=out)
