"""``download``: files through swarms, beside rivals and what ``sendfile`` can do.

Shapes: ``1to1`` one seeder and one that fetches, ``4to1``, ``8to1``, ``1to4``, ``1to8``. Each end
is a process of its own; the same file for all, all in the same run, in alternation, in a network
namespace where everybody has the same congestion control (:mod:`bench.isolation`).

* ``peer``: ours, with trackers, manifest, piece exchange and all checks.
* ``libtorrent``: the rival, driven at its best (:mod:`bench.rival_libtorrent`); where it is not
  installed the result says so.
* ``rqbit``: another one (:mod:`bench.rival_rqbit`).
* ``curl``, ``aria2``, ``rsync``: one server, a command for each copy
  (:mod:`bench.rival_commands`); of shapes with one seeder.
* ``copy``: one connection, ``sendfile`` to receive and write. Nothing is verified. Of 1to1 only.
* ``verified``: two connections, a thread each, every piece hashed and written in place. What is
  left to gain is the distance to this. Of 1to1 only.

Counted from the first connection until the last copy is verified and complete; MB/s is the sum
over all that fetch. MB are 10^6 bytes; CPU seconds are per GiB that arrived. ``copies`` is what
the seeders sent, in copies of the file: 1 is the least a swarm can do with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import harness, rival_commands, rival_rqbit, swarms
from bench.children import End, receive
from bench.harness import MIB
from bench.isolation import own_network
from bench.memory import WarmMemory
from bench.swarms import RIVAL, RQBIT, SHAPES, Shape
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

SWARM_RIVALS = {RIVAL: swarms.libtorrent, RQBIT: swarms.rqbit}
RIVALS = (*SWARM_RIVALS, *(one.name for one in rival_commands.RIVALS))

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
    name: str, runs: int, folder: Path, source: Path, trackers: str, rivals: Sequence[str]
) -> list[harness.Sample]:
    """All rounds of one shape; contenders are named ``peer 1to4`` and so on."""
    shape, size = Shape.parse(name), source.stat().st_size
    with ExitStack() as stack:
        memory = stack.enter_context(WarmMemory(size * shape.fetchers + EXTRA_BYTES))
        measured: Measured = limits(stack, folder, source, size, memory) if name == "1to1" else {}
        contenders = [swarms.ours(stack, folder, source, shape, f"{NAME}/{name}", trackers)]
        for rival, start in SWARM_RIVALS.items():
            if rival in rivals:
                place = folder / f"{rival}-{name}"
                place.mkdir()
                contenders.append(start(stack, place, source, shape))
        for one in contenders:
            measured[f"{one.name} {name}"] = partial(swarms.run, one, source, size, memory)
        for other in rival_commands.RIVALS if shape.seeders == 1 else ():
            if other.name in rivals:
                place = folder / f"{other.name}-{name}"
                server = stack.enter_context(rival_commands.serving(other, place, source.parent))
                outputs = [place / f"arrived-{number}" for number in range(shape.fetchers)]
                measured[f"{other.name} {name}"] = partial(
                    rival_commands.run, server, other, source, outputs, memory
                )
        return harness.alternate(runs, measured, harness.progress)


def absent_rivals(rivals: Sequence[str]) -> dict[str, str]:
    """Those that cannot run here, and why; those that were not asked for too."""
    found = {RIVAL: swarms.rival_absent, RQBIT: rival_rqbit.absent}
    found |= {one.name: one.absent for one in rival_commands.RIVALS}
    reasons = {name: look() if name in rivals else "not asked for" for name, look in found.items()}
    return {name: why for name, why in reasons.items() if why is not None}


def figures(result: harness.Result) -> dict[str, Any]:
    """Medians of every contender, and ours through the others' within each round."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(sample.contender for sample in result.samples):
        values = {key: result.values(name, key) for key in KEYS}
        found[name] = {key: harness.summary(some) for key, some in values.items() if some}
    for shape in result.settings["shapes"]:
        ours = result.values(f"peer {shape}", "mb_per_s")
        others = [f"{rival} {shape}" for rival in RIVALS]
        others += LIMITS if shape == "1to1" else ()
        for other in others:
            theirs = result.values(other, "mb_per_s")
            if theirs:
                found[f"peer_to_{other.split()[0]} {shape}"] = harness.ratio(ours, theirs)
    return found


@click.command()
@click.option("--mib", default=1024, show_default=True, type=click.IntRange(1))
@click.option(
    "--swarm-mib",
    default=256,
    show_default=True,
    type=click.IntRange(1),
    help="At most so much where several fetch: all copies together must stay in memory.",
)
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--trackers", default=3, show_default=True, type=click.IntRange(1))
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    type=click.Choice(SHAPES),
    help="Seeders and those that fetch; may be given again. Default: all.",
)
@click.option(
    "--rival",
    "rivals",
    multiple=True,
    type=click.Choice((*RIVALS, "none")),
    help="May be given again. Default: all.",
)
@click.option("--dir", "base", type=Path, metavar="DIR", help="Where the files lie.")
@harness.common_options
def download(
    mib: int,
    swarm_mib: int,
    runs: int,
    trackers: int,
    shapes: tuple[str, ...],
    rivals: tuple[str, ...],
    base: Path | None,
    as_json: bool,
    out: Path,
) -> None:
    """Files through swarms, beside other programs and a plain sendfile copy."""
    network = own_network()
    shapes, rivals = shapes or SHAPES, rivals or RIVALS
    swarm_mib = min(mib, swarm_mib)
    settings = {"mib": mib, "swarm_mib": swarm_mib, "runs": runs, "trackers": trackers}
    result = harness.Result("download", {**settings, "shapes": list(shapes), "network": network})
    result.absent = absent_rivals(rivals)
    present = [name for name in rivals if name not in result.absent]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base) as name:
        folder = Path(name)
        with Cluster.up(trackers) as cluster:
            endpoints = ",".join(cluster.endpoints)
            for shape in shapes:
                size = (mib if Shape.parse(shape).fetchers == 1 else swarm_mib) * MIB
                source = folder / "files" / f"source-{size}.bin"
                if not source.exists():
                    source.parent.mkdir(exist_ok=True)
                    harness.random_file(source, size)
                result.samples += measure_shape(shape, runs, folder, source, endpoints, present)
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
        for key, form in (
            ("peak_mib", "11.0f"),
            ("own_mib", "6.0f"),
            ("copies_from_seeders", "8.2f"),
        ):
            line += format(one[key]["median"], form) if key in one else " " * int(float(form[:-1]))
        shown.append(line)
    for name, one in result.figures.items():
        if name.startswith("peer_to_"):
            words = name.replace("peer_to_", "peer / ")
            shown.append(f"{words}: {one['median']:.2f} ({one['min']:.2f} to {one['max']:.2f})")
    shown += [f"{name}: absent: {why}" for name, why in result.absent.items()]
    return shown
