"""Swarms of a given shape, ours and the rival's: S seeders and L peers that fetch, each a process.

All that fetch begin together. Counted from the first beginning until the last has everything;
MB/s is the sum over all that fetch. Those that are done serve on until all are.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import harness
from bench.children import End
from bench.memory import WarmMemory
from bench.rival_rqbit import Tracker

RIVAL = "libtorrent"
RIVAL_MODULE = "bench.rival_libtorrent"
RQBIT = "rqbit"
RQBIT_MODULE = "bench.rival_rqbit"
SHAPES = ("1to1", "4to1", "8to1", "1to4", "1to8")


@dataclass(frozen=True, slots=True)
class Shape:
    seeders: int
    fetchers: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``4to1``."""
        seeders, _, fetchers = text.partition("to")
        return cls(int(seeders), int(fetchers))


@dataclass(frozen=True, slots=True)
class Contender:
    """How the ends of one contender are made, and how its seeders' bytes are counted."""

    name: str
    seeders: Sequence[End]
    fetcher: Callable[[int], End]
    outputs: Sequence[Path]
    sent: Callable[[Sequence[dict[str, Any]]], float] | None
    """Bytes that the seeders sent so far; it is given what the fetching ends said. None: it does
    not tell."""


def rival_absent() -> str | None:
    """Why the rival cannot run here; None when it can."""
    code = "import libtorrent"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if run.returncode == 0:
        return None
    return f"pip install libtorrent: {run.stderr.strip().splitlines()[-1]}"


def ours(
    stack: ExitStack, folder: Path, source: Path, shape: Shape, name: str, trackers: str
) -> Contender:
    """Start our seeders on ``stack``."""
    seeders = [
        stack.enter_context(End("share", str(source), name, trackers)) for _ in range(shape.seeders)
    ]
    ids = [seeder.said["peer"] for seeder in seeders]
    outputs = [folder / f"arrived-{number}" for number in range(shape.fetchers)]
    return Contender(
        "peer",
        seeders,
        lambda number: End("fetch", name, str(outputs[number]), trackers),
        outputs,
        lambda said: sum(one["taken"].get(peer, 0) for one in said for peer in ids),
    )


def _torrent(folder: Path, source: Path, *tracker: str) -> Path:
    torrent = folder / "source.torrent"
    command = [sys.executable, "-m", RIVAL_MODULE, "torrent", str(source), str(torrent), *tracker]
    subprocess.run(command, cwd=harness.ROOT, check=True)
    return torrent


def _folders(folder: Path, shape: Shape) -> list[Path]:
    folders = [folder / f"rival-{number}" for number in range(shape.fetchers)]
    for one in folders:
        one.mkdir()
    return folders


def libtorrent(stack: ExitStack, folder: Path, source: Path, shape: Shape) -> Contender:
    """Make the torrent and start its seeders on ``stack``."""
    torrent, folders = _torrent(folder, source), _folders(folder, shape)
    seeders = [
        stack.enter_context(End("seed", str(torrent), str(source.parent), module=RIVAL_MODULE))
        for _ in range(shape.seeders)
    ]

    def sent(_: Sequence[dict[str, Any]]) -> float:
        for seeder in seeders:
            seeder.tell("sent")
        return float(sum(seeder.hear()["sent"] for seeder in seeders))

    return Contender(
        RIVAL,
        seeders,
        lambda number: End("fetch", str(torrent), str(folders[number]), module=RIVAL_MODULE),
        [one / source.name for one in folders],
        sent,
    )


def rqbit(stack: ExitStack, folder: Path, source: Path, shape: Shape) -> Contender:
    """The same; its peers find each other through a tracker of their own."""
    tracker = stack.enter_context(Tracker())
    torrent, folders = _torrent(folder, source, tracker.url), _folders(folder, shape)
    size = str(source.stat().st_size)

    def end(role: str, directory: Path) -> End:
        return End(role, str(torrent), str(directory), size, module=RQBIT_MODULE)

    seeding_from = folder / "seeding"  # it opens what it seeds for writing, so it gets its own
    seeding_from.mkdir()
    shutil.copy(source, seeding_from)
    seeders = [stack.enter_context(end("seed", seeding_from)) for _ in range(shape.seeders)]
    seeding = set(tracker.ports)

    def fetcher(number: int) -> End:
        if number == 0:  # a new round: nobody else is there any more
            for port in set(tracker.ports) - seeding:
                del tracker.ports[port]
        return end("fetch", folders[number])

    return Contender(RQBIT, seeders, fetcher, [one / source.name for one in folders], None)


def run(contender: Contender, source: Path, size: int, memory: WarmMemory) -> dict[str, float]:
    """One counted run; every copy is compared in the end, and removed."""
    sent_before = contender.sent([]) if contender.sent else 0.0
    # Lent until the copies are removed: what they free is the next to go cold.
    with ExitStack() as lent:
        with ExitStack() as stack:
            ends = [
                stack.enter_context(contender.fetcher(number))
                for number in range(len(contender.outputs))
            ]
            everybody = [*contender.seeders, *ends]
            cpu_before = [end.cpu_s() for end in everybody]
            ports = [end.said.get("port", 0) for end in everybody]
            lent.enter_context(memory.lend())
            for number, end in enumerate(ends, len(contender.seeders)):
                end.tell(ports[:number])  # each is told of those before it
            said = [end.hear() for end in ends]
            cpu_s = [end.cpu_s() - old for end, old in zip(everybody, cpu_before, strict=True)]
            resident = [end.memory_mib() for end in ends]
            sent = contender.sent(said) - sent_before if contender.sent else None
        for out in contender.outputs:
            harness.same_and_remove(source, out)
    seconds = max(one["ended"] for one in said) - min(one["begun"] for one in said)
    moved_gib = size * len(ends) / 1024**3
    seeders = len(contender.seeders)
    values = {
        "mb_per_s": size * len(ends) / 1e6 / seconds,
        "sender_cpu_s_per_gib": sum(cpu_s[:seeders]) / moved_gib,
        "receiver_cpu_s_per_gib": sum(cpu_s[seeders:]) / moved_gib,
        "cpu_s_per_gib": sum(cpu_s) / moved_gib,
        "peak_mib": max(one["peak"] for one in resident),
        "own_mib": max(one["own"] for one in resident),
    }
    return values if sent is None else {**values, "copies_from_seeders": sent / size}
