"""``download``: one peer to one peer, beside what ``sendfile`` over loopback can do.

Three contenders, each a sender and a receiver in processes of their own, the same file for all:

* ``copy``: one connection, ``sendfile`` to receive and write. Nothing is verified.
* ``verified``: two connections, a thread each, every piece hashed and written in place. What is
  left to gain is the distance to this.
* ``peer``: ours, with trackers, manifest, piece exchange and all checks.

Counted from the receiver's first connection until the file stands under its final name. MB are
10^6 bytes; CPU seconds are per GiB, of each end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from bench import harness
from bench.children import Sender, receive
from bench.harness import MIB
from tracker_raft.cluster import Cluster

CONTENDERS = ("copy", "verified", "peer")
NAME = "bench/download"


def contenders(
    stack: ExitStack, folder: Path, size: int, trackers: int
) -> dict[str, Callable[[], dict[str, float]]]:
    """Start the trackers and the senders on ``stack``; the measured runs are returned."""
    source, out = folder / "source.bin", folder / "arrived.bin"
    harness.random_file(source, size)
    cluster = stack.enter_context(Cluster.up(trackers))
    endpoints = ",".join(cluster.endpoints)
    raw = stack.enter_context(Sender("serve", str(source)))
    ours = stack.enter_context(Sender("share", str(source), NAME, endpoints))
    port = str(raw.said["port"])

    def run(sender: Sender, *arguments: str) -> dict[str, float]:
        values = receive(sender, out, size, *arguments)
        out.unlink()
        return values

    return {
        "copy": lambda: run(raw, "copy", port, str(size), str(out)),
        "verified": lambda: run(raw, "verified", port, str(size), str(out)),
        "peer": lambda: run(ours, "fetch", NAME, str(out), endpoints),
    }


def figures(result: harness.Result) -> dict[str, Any]:
    keys = ("mb_per_s", "sender_cpu_s_per_gib", "receiver_cpu_s_per_gib")
    found: dict[str, Any] = {
        name: {key: harness.summary(result.values(name, key)) for key in keys}
        for name in CONTENDERS
    }
    ours = result.values("peer", "mb_per_s")
    for limit in ("copy", "verified"):
        found[f"peer_to_{limit}"] = harness.ratio(ours, result.values(limit, "mb_per_s"))
    return found


@click.command()
@click.option("--mib", default=1024, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--trackers", default=3, show_default=True, type=click.IntRange(1))
@click.option("--dir", "base", type=Path, metavar="DIR", help="Where the files lie.")
@harness.common_options
def download(
    mib: int, runs: int, trackers: int, base: Path | None, as_json: bool, out: Path
) -> None:
    """One peer to one peer, beside a plain sendfile copy over loopback."""
    settings = {"mib": mib, "runs": runs, "trackers": trackers}
    result = harness.Result("download", settings)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as folder, ExitStack() as stack:
        measured = contenders(stack, Path(folder), mib * MIB, trackers)
        result.samples = harness.alternate(runs, measured, harness.progress)
    result.figures = figures(result)
    harness.finish(result, lines(result), as_json=as_json, out=out)


def lines(result: harness.Result) -> list[str]:
    """The table a reader sees."""
    shown = [f"{'':10}{'MB/s':>8}{'min':>8}{'max':>8}   CPU s/GiB sender / receiver"]
    for name in CONTENDERS:
        one = result.figures[name]
        rate = one["mb_per_s"]
        cpu = [one[f"{end}_cpu_s_per_gib"]["median"] for end in ("sender", "receiver")]
        shown.append(
            f"{name:10}{rate['median']:8.0f}{rate['min']:8.0f}{rate['max']:8.0f}"
            f"   {cpu[0]:.2f} / {cpu[1]:.2f}"
        )
    for limit in ("copy", "verified"):
        one = result.figures[f"peer_to_{limit}"]
        shown.append(f"peer / {limit}: {one['median']:.2f} ({one['min']:.2f} to {one['max']:.2f})")
    return shown
