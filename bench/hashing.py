"""``hashing``: what sharing a path costs before anybody is served, beside its limits.

Two contents: one large file, and a tree of small ones (on tmpfs where there is one: what a disk
does with many files is another question). All in the page cache, in one process, in alternation.

* ``scan``: ours, a path to a manifest. ``remembered``: the same with a cache that knows it all.
* ``raw``: as many threads, each reads pieces of the same files into a buffer that it keeps, and
  hashes them: no walk, no checks, no manifest. The limit. ``raw 1``: one thread.
* ``memory``: as much, hashed from one buffer again and again: what the processor gives.
* ``sha256sum``: the command, one process.
* ``blake3``: ``raw`` with BLAKE3, where the package is installed: what another hash would bring.

MB are 10^6 bytes; CPU seconds are per GiB, of this process.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import harness
from bench.harness import MIB
from peer.hash_cache import HashCache
from peer.manifest import piece_bytes_for
from peer.scan import scan

FILES_PER_DIRECTORY = 100
SHARED_MEMORY = Path("/dev/shm")
DAY_NS = 24 * 3600 * 10**9
KEYS = ("mb_per_s", "cpu_s_per_gib", "milliseconds")

Hash = Callable[[memoryview], object]
Part = tuple[Path, int, int]
"""A file, and where in it so many bytes lie."""


def sha256(piece: memoryview) -> object:
    return hashlib.sha256(piece).digest()


def blake3() -> Hash | None:
    """None where the package is not installed; it is no dependency of ours."""
    if importlib.util.find_spec("blake3") is None:
        return None
    one = importlib.import_module("blake3").blake3
    return lambda piece: one(piece).digest()


def make_tree(top: Path, files: int, size: int) -> None:
    for number in range(files):
        directory = top / f"{number // FILES_PER_DIRECTORY:05}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number:07}").write_bytes(os.urandom(size))


def parts_of(top: Path) -> tuple[list[Part], int]:
    """All pieces of the files at ``top``, and how long the longest is."""
    files = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    piece_bytes = piece_bytes_for(max(sizes))
    parts = [
        (path, offset, min(piece_bytes, size - offset))
        for path, size in zip(files, sizes, strict=True)
        for offset in range(0, size, piece_bytes)
    ]
    return parts, piece_bytes


def in_threads(threads: int, work: Callable[[int], None]) -> None:
    """Run ``work(number)`` in so many threads."""
    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def raw(parts: Sequence[Part], piece_bytes: int, threads: int, digest: Hash) -> None:
    share = -(-len(parts) // threads)

    def work(number: int) -> None:
        buffer = memoryview(bytearray(piece_bytes))
        opened, fd = None, -1
        for path, offset, size in parts[number * share : (number + 1) * share]:
            if path is not opened:
                if fd >= 0:
                    os.close(fd)
                opened, fd = path, os.open(path, os.O_RDONLY)
            if os.preadv(fd, [buffer[:size]], offset) != size:
                raise OSError(f"{path} is not what it was")
            digest(buffer[:size])
        if fd >= 0:
            os.close(fd)

    in_threads(threads, work)


def memory(parts: Sequence[Part], piece_bytes: int, threads: int) -> None:
    share = -(-len(parts) // threads)

    def work(number: int) -> None:
        buffer = memoryview(os.urandom(piece_bytes))
        for _, _, size in parts[number * share : (number + 1) * share]:
            sha256(buffer[:size])

    in_threads(threads, work)


def sha256sum(top: Path) -> None:
    command = ["find", str(top), "-type", "f", "-exec", "sha256sum", "{}", "+"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def timed(size: int, work: Callable[[], object]) -> dict[str, float]:
    cpu, begun = _cpu_s(), time.monotonic()
    work()
    seconds = time.monotonic() - begun
    gib = size / 1024**3
    return {
        "mb_per_s": size / 1e6 / seconds,
        "cpu_s_per_gib": (_cpu_s() - cpu) / gib,
        "milliseconds": seconds * 1e3,
    }


def _cpu_s() -> float:
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def contenders(
    kind: str, top: Path, cache: HashCache, threads: int
) -> dict[str, Callable[[], dict[str, float]]]:
    """All of one content, named ``scan file`` and so on. Fills the cache."""
    parts, piece_bytes = parts_of(top)
    size = sum(part[2] for part in parts)
    works: dict[str, Callable[[], object]] = {
        "scan": partial(scan, top, threads=threads),
        "remembered": partial(scan, top, threads=threads, cache=cache),
        "raw": partial(raw, parts, piece_bytes, threads, sha256),
        "raw 1": partial(raw, parts, piece_bytes, 1, sha256),
        "memory": partial(memory, parts, piece_bytes, threads),
    }
    if shutil.which("sha256sum") is not None:
        works["sha256sum"] = partial(sha256sum, top)
    if (other := blake3()) is not None:
        works["blake3"] = partial(raw, parts, piece_bytes, threads, other)
    scan(top, threads=threads, cache=cache)
    return {f"{name} {kind}": partial(timed, size, work) for name, work in works.items()}


def figures(result: harness.Result) -> dict[str, Any]:
    """Medians of every contender, and its rate through that of ``raw`` within each round."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(sample.contender for sample in result.samples):
        one: dict[str, Any] = {key: harness.summary(result.values(name, key)) for key in KEYS}
        limit = f"raw {name.split()[-1]}"
        rates = (result.values(contender, "mb_per_s") for contender in (name, limit))
        one["to_raw"] = harness.ratio(*rates)
        found[name] = one
    return found


@click.command()
@click.option("--mib", default=1024, show_default=True, type=click.IntRange(1))
@click.option("--files", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--file-bytes", default=10_240, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=5, show_default=True, type=click.IntRange(1))
@click.option("--dir", "base", type=Path, metavar="DIR", help="Where the large file lies.")
@harness.common_options
def hashing(
    mib: int,
    files: int,
    file_bytes: int,
    runs: int,
    base: Path | None,
    as_json: bool,
    out: Path,
) -> None:
    """From a path to a manifest, beside SHA-256 alone and sha256sum."""
    threads = os.cpu_count() or 1
    settings = {"mib": mib, "files": files, "file_bytes": file_bytes, "runs": runs}
    result = harness.Result("hashing", {**settings, "threads": threads})
    if blake3() is None:
        result.absent["blake3"] = "pip install blake3"
    if shutil.which("sha256sum") is None:
        result.absent["sha256sum"] = "not installed"
    small_base = SHARED_MEMORY if base is None and SHARED_MEMORY.is_dir() else base
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=base) as name,
        tempfile.TemporaryDirectory(prefix="bench-", dir=small_base) as small_name,
    ):
        folder, tree = Path(name), Path(small_name) / "tree"
        harness.random_file(folder / "large", mib * MIB)
        make_tree(tree, files, file_bytes)
        # A day ahead: what was written just now is old enough to be remembered.
        cache = HashCache(folder / "cache", now_ns=lambda: time.time_ns() + DAY_NS)
        measured = contenders("file", folder / "large", cache, threads)
        measured |= contenders("tree", tree, cache, threads)
        result.samples = harness.alternate(runs, measured, harness.progress)
    result.figures = figures(result)
    harness.finish(result, lines(result), as_json=as_json, out=out)


def lines(result: harness.Result) -> list[str]:
    """The table a reader sees."""
    shown = [f"{'':18}{'MB/s':>8}{'ms':>10}{'CPU s/GiB':>11}{'of raw':>9}{'min':>7}{'max':>7}"]
    for name, one in result.figures.items():
        part = one["to_raw"]
        shown.append(
            f"{name:18}{one['mb_per_s']['median']:8.0f}{one['milliseconds']['median']:10.1f}"
            f"{one['cpu_s_per_gib']['median']:11.2f}{part['median']:9.2f}"
            f"{part['min']:7.2f}{part['max']:7.2f}"
        )
    shown += [f"{name}: absent: {why}" for name, why in result.absent.items()]
    return shown
