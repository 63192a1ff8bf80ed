"""``one`` and ``small``: a single small file, and a tree of many.

* ``one``: milliseconds from the call (for programs: from their start) until a file of 1 MiB is
  verified and stands under its final name. What a transfer costs beside its bytes.
* ``small``: a tree of 10,000 files of 10 KiB in memory (tmpfs; on a disk the making of files soon
  after others were deleted measures the file system). Beside it ``rsync`` from its daemon, and
  what the machine does with ``cp -r`` and with ``tar`` through a pipe, which verify nothing.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import harness, rival_commands, swarms
from bench.harness import MIB
from bench.isolation import own_network
from bench.memory import WarmMemory
from bench.rival_commands import RIVALS, Rival, serving
from bench.swarms import RIVAL, Shape
from tracker_raft.cluster import Cluster

ONE_TO_ONE = Shape(1, 1)
EXTRA_BYTES = 512 * MIB
TMPFS = Path("/dev/shm")
FILES_PER_DIRECTORY = 100
RSYNC = next(one for one in RIVALS if one.name == "rsync")

Measured = dict[str, Callable[[], dict[str, float]]]


def make_tree(root: Path, files: int, size: int) -> int:
    """``files`` random files of ``size`` bytes in directories of a hundred; all their bytes."""
    for number in range(files):
        directory = root / f"{number // FILES_PER_DIRECTORY:04}"
        if number % FILES_PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        (directory / f"{number:06}").write_bytes(os.urandom(size))
    return files * size


def copied(commands: Sequence[str], source: Path, out: Path, size: int) -> dict[str, float]:
    """Run a shell line that copies the tree; compare and remove what it made."""
    begun = time.monotonic()
    subprocess.run([*commands, str(source), str(out)], check=True)
    seconds = time.monotonic() - begun
    harness.same_and_remove(source, out)
    return {"mb_per_s": size / 1e6 / seconds}


COPIES = {
    "cp -r": ("cp", "-r"),
    "tar": ("sh", "-c", 'mkdir "$2" && tar -C "$1" -cf - . | tar -C "$2" -xf -', "sh"),
}


def rsync(
    stack: ExitStack, folder: Path, source: Path, size: int
) -> Callable[[], dict[str, float]]:
    """Its daemon is started on ``stack``."""
    server = stack.enter_context(serving(RSYNC, folder / "rsync", source.parent))
    out = folder / "rsync-out"
    command = RSYNC.client(server.port, f"{source.name}/", out)

    def run() -> dict[str, float]:
        values = rival_commands.timed(server, [command], size)
        harness.same_and_remove(source, out)
        return values

    return run


@click.command()
@click.option("--files", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--kib", default=10, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--dir", "base", type=Path, metavar="DIR", help="Where the files lie.")
@harness.common_options
def small(files: int, kib: int, runs: int, base: Path | None, as_json: bool, out: Path) -> None:
    """A tree of many small files, beside rsync, cp and tar."""
    network = own_network()
    if base is None and TMPFS.is_dir():
        base = TMPFS
    result = harness.Result(
        "small", {"files": files, "kib": kib, "runs": runs, "dir": str(base), "network": network}
    )
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=base) as name,
        Cluster.up(3) as cluster,
        ExitStack() as stack,
    ):
        folder = Path(name)
        source = folder / "files" / "tree"
        size = make_tree(source, files, kib * 1024)
        memory = stack.enter_context(WarmMemory(2 * size + EXTRA_BYTES))
        endpoints = ",".join(cluster.endpoints)
        ours = swarms.ours(stack, folder, source, ONE_TO_ONE, "bench/small", endpoints)
        measured: Measured = {"peer": partial(swarms.run, ours, source, size, memory)}
        if (why := RSYNC.absent()) is None:
            measured["rsync"] = rsync(stack, folder, source, size)
        else:
            result.absent["rsync"] = why
        for kind, commands in COPIES.items():
            measured[kind] = partial(copied, commands, source, folder / "copied", size)
        result.samples = harness.alternate(runs, measured, harness.progress)
    result.figures = figures(result, "mb_per_s")
    harness.finish(result, lines(result, "mb_per_s", "MB/s"), as_json=as_json, out=out)


def in_ms(run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a run of 1 MiB took."""
    return {"ms": MIB / 1e6 / run()["mb_per_s"] * 1e3}


@click.command()
@click.option("--runs", default=11, show_default=True, type=click.IntRange(1))
@click.option("--rival", default="all", type=click.Choice(("all", "none")), show_default=True)
@harness.common_options
def one(runs: int, rival: str, as_json: bool, out: Path) -> None:
    """One file of 1 MiB from the start to verified, beside other programs."""
    network = own_network()
    result = harness.Result("one", {"runs": runs, "network": network})
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        Cluster.up(3) as cluster,
        ExitStack() as stack,
    ):
        folder = Path(name)
        source = folder / "files" / "one.bin"
        source.parent.mkdir()
        harness.random_file(source, MIB)
        memory = stack.enter_context(WarmMemory(EXTRA_BYTES))
        endpoints = ",".join(cluster.endpoints)
        contenders = [swarms.ours(stack, folder, source, ONE_TO_ONE, "bench/one", endpoints)]
        why = swarms.rival_absent() if rival == "all" else "not asked for"
        if why is None:
            contenders.append(swarms.libtorrent(stack, folder, source, ONE_TO_ONE))
        else:
            result.absent[RIVAL] = why
        measured: Measured = {
            each.name: partial(in_ms, partial(swarms.run, each, source, MIB, memory))
            for each in contenders
        }
        for other in RIVALS:
            why = other.absent() if rival == "all" else "not asked for"
            if why is None:
                measured[other.name] = command(stack, folder, source, other, memory)
            else:
                result.absent[other.name] = why
        result.samples = harness.alternate(runs, measured, harness.progress)
    result.figures = figures(result, "ms")
    harness.finish(result, lines(result, "ms", "ms"), as_json=as_json, out=out)


def command(
    stack: ExitStack, folder: Path, source: Path, rival: Rival, memory: WarmMemory
) -> Callable[[], dict[str, float]]:
    server = stack.enter_context(serving(rival, folder / rival.name, source.parent))
    outputs = [folder / f"{rival.name}.out"]
    return partial(in_ms, partial(rival_commands.run, server, rival, source, outputs, memory))


def figures(result: harness.Result, key: str) -> dict[str, Any]:
    """Medians, and ours through the others' within each round."""
    names = dict.fromkeys(sample.contender for sample in result.samples)
    found: dict[str, Any] = {
        name: {key: harness.summary(result.values(name, key))} for name in names
    }
    ours = result.values("peer", key)
    for name in list(names)[1:]:
        found[f"peer_to_{name}"] = harness.ratio(ours, result.values(name, key))
    return found


def lines(result: harness.Result, key: str, unit: str) -> list[str]:
    """The table a reader sees."""
    shown = [f"{'':14}{unit:>8}{'min':>8}{'max':>8}   peer / it"]
    for name, value in result.figures.items():
        if not name.startswith("peer_to_"):
            one_line = f"{name:14}" + "".join(
                f"{value[key][part]:8.1f}" for part in ("median", "min", "max")
            )
            if (ratio := result.figures.get(f"peer_to_{name}")) is not None:
                one_line += f"   {ratio['median']:.2f}"
            shown.append(one_line)
    return shown + [f"{name}: absent: {why}" for name, why in result.absent.items()]
