"""``picker``: what one decision costs, and how that grows with the size of the file.

The brain of a download alone, without sockets or disks: a swarm of partial peers, each with a
part of the pieces, from the first decision to the last piece. No rival: what it is compared with
is itself, with a file a hundred times smaller. A cost that grew with the file would be seen here.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import click

from bench import harness
from bench.harness import MIB
from peer.decisions import Ask
from peer.limits import PeerLimits
from peer.manifest import FileEntry, Kind, Manifest, decode, piece_bytes_for
from peer.pieces import PieceMap
from peer.ranges import Ranges
from peer.swarm import Swarm

GIB = 1024 * MIB
STEP_S = 0.001
"""How far the swarm's clock goes between two rounds."""


def manifest_cost(size: int) -> dict[str, float]:
    """Encode and decode the manifest of one file; its hashes are made up, hashing is not it."""
    piece_bytes = piece_bytes_for(size)
    hashes = random.Random(1).randbytes(32 * -(-size // piece_bytes))
    begun = time.monotonic()
    encoded = Manifest(Kind.FILE, piece_bytes, (FileEntry("", size, False, hashes),)).encode()
    middle = time.monotonic()
    decode(encoded)
    ended = time.monotonic()
    return {
        "manifest_kib": len(encoded) / 1024,
        "encode_ms": (middle - begun) * 1e3,
        "decode_ms": (ended - middle) * 1e3,
    }


def decision_cost(size: int, peers: int, seed: int = 1) -> dict[str, float]:
    """Microseconds for each decision of a whole download, and for the slowest of them."""
    chance = random.Random(seed)
    pieces = PieceMap([size], piece_bytes_for(size))
    swarm = Swarm(PeerLimits(), chance)
    swarm.described(pieces)
    names = [f"p{number}" for number in range(peers)]
    swarm.connected(names[0], None)
    for name in names[1:]:
        starts = [chance.randrange(pieces.count) for _ in range(50)]
        has = Ranges(*((start, min(start + 40, pieces.count)) for start in starts))
        swarm.connected(name, has)
    decisions, spent_s, worst_s, now_s = 0, 0.0, 0.0, 0.0
    while not swarm.done:
        for name in names:
            begun = time.perf_counter()
            decision = swarm.next(name, now_s)
            took_s = time.perf_counter() - begun
            decisions, spent_s, worst_s = decisions + 1, spent_s + took_s, max(worst_s, took_s)
            if isinstance(decision, Ask):
                run = decision.run
                swarm.arrived(name, run, run.first, run.count, now_s)
                swarm.ended(name, run)
        now_s += STEP_S
    return {"decision_us": spent_s / decisions * 1e6, "worst_us": worst_s * 1e6}


@click.command()
@click.option("--gib", default=100, show_default=True, type=click.IntRange(1))
@click.option("--peers", default=50, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@harness.common_options
def picker(gib: int, peers: int, runs: int, as_json: bool, out: Path) -> None:
    """The cost of a decision, for a large file and a small one."""
    sizes = {f"{gib} GiB": gib * GIB, f"{gib * 10} MiB": gib * 10 * MIB}
    result = harness.Result("picker", {"gib": gib, "peers": peers, "runs": runs})
    measured = {
        name: lambda size=size: {**manifest_cost(size), **decision_cost(size, peers)}
        for name, size in sizes.items()
    }
    result.samples = harness.alternate(runs, measured, harness.progress)
    keys = tuple(result.samples[0].values)
    result.figures = {
        name: {key: harness.summary(result.values(name, key)) for key in keys} for name in sizes
    }
    large, small = (result.values(name, "decision_us") for name in sizes)
    result.figures["large_to_small"] = harness.ratio(large, small)
    shown = [f"{'':10}" + "".join(f"{key:>14}" for key in keys)]
    for name in sizes:
        values = [result.figures[name][key]["median"] for key in keys]
        shown.append(f"{name:10}" + "".join(f"{value:14.1f}" for value in values))
    ratio = result.figures["large_to_small"]
    shown.append(f"a decision, large / small: {ratio['median']:.2f}")
    harness.finish(result, shown, as_json=as_json, out=out)
