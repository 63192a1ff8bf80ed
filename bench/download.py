"""``download``: files through swarms, beside libtorrent and what ``sendfile`` can do.

Shapes: ``1to1`` one seeder and one that fetches, ``4to1``, ``1to4``, ``1to8``. Each end is a
process of its own; the same file for all, all in the same run, in alternation.

* ``peer``: ours, with trackers, manifest, piece exchange and all checks.
* ``libtorrent``: the rival, driven at its best (:mod:`bench.rival_libtorrent`); where it is not
  installed the result says so.
* ``copy``: one connection, ``sendfile`` to receive and write. Nothing is verified. Of 1to1 only.
* ``verified``: two connections, a thread each, every piece hashed and written in place. What is
  left to gain is the distance to this. Of 1to1 only.

Counted from the first connection until the last copy is verified and complete; MB/s is the sum
over all that fetch. MB are 10^6 bytes; CPU seconds are per GiB that arrived. ``copies`` is what
the seeders sent, in copies of the file: 1 is the least a swarm can do with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import harness, swarms
from bench.children import End, receive
from bench.harness import MIB
from bench.memory import WarmMemory
from bench.swarms import RIVAL, SHAPES, Shape
from tracker_raft.cluster import Cluster

LIMITS = ("copy", "verified")
NAME = "bench/download"
EXTRA_BYTES = 1024 * MIB
"""Memory that is kept warm beyond the files of a run: what the processes themselves use."""
KEYS = (
    "mb_per_s",
    "sender_cpu_s_per_gib",
    "receiver_cpu_s_per_gib",
    "cpu_s_per_gib",
    "peak_mib",
    "own_mib",
    "copies_from_seeders",
)

Measured = dict[str, Callable[[], dict[str, float]]]


def limits(stack: ExitStack, folder: Path, source: Path, size: int, memory: WarmMemory) -> Measured:
    """The two limits of this machine; their sender is started on ``stack``."""
    out = folder / "limit.bin"
    raw = stack.enter_context(End("serve", str(source)))
    port = str(raw.said["port"])

    def run(shape: str) -> dict[str, float]:
        with memory.lend():
            values = receive(raw, out, size, shape, port, str(size), str(out))
            out.unlink()
        return values

    return {name: partial(run, name) for name in LIMITS}


def measure_shape(
    name: str, runs: int, folder: Path, source: Path, size: int, trackers: str, with_rival: bool
) -> list[harness.Sample]:
    """All rounds of one shape; contenders are named ``peer 1to4`` and so on."""
    shape = Shape.parse(name)
    with ExitStack() as stack:
        memory = stack.enter_context(WarmMemory(size * shape.fetchers + EXTRA_BYTES))
        measured: Measured = limits(stack, folder, source, size, memory) if name == "1to1" else {}
        contenders = [swarms.ours(stack, folder, source, shape, f"{NAME}/{name}", trackers)]
        if with_rival:
            rival_folder = folder / f"rival-{name}"
            rival_folder.mkdir()
            contenders.append(swarms.rival(stack, rival_folder, source, shape))
        for one in contenders:
            measured[f"{one.name} {name}"] = partial(swarms.run, one, source, size, memory)
        return harness.alternate(runs, measured, harness.progress)


def figures(result: harness.Result) -> dict[str, Any]:
    """Medians of every contender, and ours through the others' within each round."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(sample.contender for sample in result.samples):
        values = {key: result.values(name, key) for key in KEYS}
        found[name] = {key: harness.summary(some) for key, some in values.items() if some}
    for shape in result.settings["shapes"]:
        ours = result.values(f"peer {shape}", "mb_per_s")
        others = [f"{RIVAL} {shape}", *(LIMITS if shape == "1to1" else ())]
        for other in others:
            theirs = result.values(other, "mb_per_s")
            if theirs:
                found[f"peer_to_{other.split()[0]} {shape}"] = harness.ratio(ours, theirs)
    return found


@click.command()
@click.option("--mib", default=1024, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--trackers", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=click.Choice(SHAPES),
    help="Seeders and those that fetch; may be given again. Default: all.",
)
@click.option("--rival", default=RIVAL, type=click.Choice((RIVAL, "none")), show_default=True)
@click.option("--dir", "base", type=Path, metavar="DIR", help="Where the files lie.")
@harness.common_options
def download(
    mib: int,
    runs: int,
    trackers: int,
    shapes: tuple[str, ...],
    rival: str,
    base: Path | None,
    as_json: bool,
    out: Path,
) -> None:
    """Files through swarms, beside libtorrent and a plain sendfile copy."""
    shapes = shapes or SHAPES
    settings = {"mib": mib, "runs": runs, "trackers": trackers, "shapes": list(shapes)}
    result = harness.Result("download", settings)
    absent = swarms.rival_absent() if rival == RIVAL else "not asked for"
    if absent is not None:
        result.absent[RIVAL] = absent
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as name:
        folder = Path(name)
        source = folder / "source.bin"
        harness.random_file(source, mib * MIB)
        with Cluster.up(trackers) as cluster:
            endpoints = ",".join(cluster.endpoints)
            for shape in shapes:
                result.samples += measure_shape(
                    shape, runs, folder, source, mib * MIB, endpoints, absent is None
                )
    result.figures = figures(result)
    harness.finish(result, lines(result), as_json=as_json, out=out)


def lines(result: harness.Result) -> list[str]:
    """The table a reader sees."""
    shown = [
        f"{'':16}{'MB/s':>8}{'min':>8}{'max':>8}   CPU s/GiB send + receive   "
        f"{'peak MiB':>8}{'own':>6}{'copies':>8}"
    ]
    for name, one in result.figures.items():
        if name.startswith("peer_to_"):
            continue
        rate = one["mb_per_s"]
        cpu = [one[f"{end}_cpu_s_per_gib"]["median"] for end in ("sender", "receiver")]
        line = f"{name:16}{rate['median']:8.0f}{rate['min']:8.0f}{rate['max']:8.0f}"
        line += f"   {cpu[0]:10.2f} + {cpu[1]:<11.2f}"
        if "peak_mib" in one:
            line += f"   {one['peak_mib']['median']:8.0f}{one['own_mib']['median']:6.0f}"
            line += f"{one['copies_from_seeders']['median']:8.2f}"
        shown.append(line)
    for name, one in result.figures.items():
        if name.startswith("peer_to_"):
            words = name.replace("peer_to_", "peer / ")
            shown.append(f"{words}: {one['median']:.2f} ({one['min']:.2f} to {one['max']:.2f})")
    shown += [f"{name}: absent: {why}" for name, why in result.absent.items()]
    return shown
