"""How a benchmark runs, and what its result says.

Rules
-----
* A figure alone says little: machines differ and the same machine drifts by a fifth and more
  within the hour. So each contender is measured beside a rival or a limit in the same run, in
  alternation (A B A B), and a ratio is taken within each round; the median of those is the
  figure to quote.
* Every sample is kept in the result, with the machine, the commit and the settings, so that a
  figure can be doubted later.
* A contender that cannot run is said to be absent, with the reason. It is never left out.

Traps that were met, and what is done about them
------------------------------------------------
* TCP congestion control: where the default is ``bbr``, it paces even loopback and costs half of
  the rate. :mod:`bench.isolation` gives everybody the same; :func:`set_congestion` gives the
  limits what the peer gives itself.
* Cold memory: a virtual machine that gives free pages back to its host pays 2 to 3 s per GiB on
  the next touch. :mod:`bench.memory` keeps as much as a run needs touched, and hands it over
  while the run goes on, so that every contender finds warm pages.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
MIB = 1024 * 1024

Measure = Callable[[], Mapping[str, float]]
"""One counted run of one contender: named values, units in the names."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one contender gave in one round."""

    contender: str
    round: int
    values: dict[str, float]


@dataclass(slots=True)
class Result:
    """One benchmark's outcome. ``figures`` is what a reader wants first; the rest proves it."""

    name: str
    settings: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Contenders that could not run, each with the reason."""
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    commit: dict[str, Any] = field(default_factory=lambda: commit())
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=False)

    def save(self, folder: Path) -> Path:
        """Write ``NAME-<time>.json`` into ``folder`` and return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        stamp = self.started.replace("-", "").replace(":", "")
        path = folder / f"{self.name}-{stamp}.json"
        path.write_text(self.to_json() + "\n", encoding="utf-8")
        return path

    def values(self, contender: str, key: str) -> list[float]:
        """The values of ``key`` of one contender, in the order of the rounds."""
        return [s.values[key] for s in self.samples if s.contender == contender and key in s.values]


def alternate(
    rounds: int,
    contenders: Mapping[str, Measure],
    told: Callable[[Sample], None] = lambda sample: None,
) -> list[Sample]:
    """Run every contender once in each round, in the order given: A B A B, never A A B B.

    ``told`` hears of each sample as it comes, for a progress line.
    """
    samples = []
    for number in range(1, rounds + 1):
        for name, measure in contenders.items():
            sample = Sample(name, number, dict(measure()))
            samples.append(sample)
            told(sample)
    return samples


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least, most and count. Raises ValueError when there is nothing to sum up."""
    if not values:
        raise ValueError("no samples to sum up")
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "n": len(values),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the least value that ``percent`` % of all do not exceed.

    No interpolation: with 20 samples p99 is the worst one, and says so by being equal to it.
    """
    if not values:
        raise ValueError("no samples to rank")
    rank = max(1, math.ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]


def spread(values: Sequence[float]) -> dict[str, float]:
    """What is told of a latency: p50, p90, p99, worst and count."""
    return {
        "p50": percentile(values, 50),
        "p90": percentile(values, 90),
        "p99": percentile(values, 99),
        "worst": max(values),
        "n": len(values),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Ours through theirs within each round, summed up. Both need the same number of rounds."""
    return summary([a / b for a, b in zip(ours, theirs, strict=True)])


# -- the machine ----------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What this was measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // MIB,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": sys.version,  # by whom: one without profile guidance is slower
        "load_1min": os.getloadavg()[0],
        "congestion_default": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
    }


def commit(root: Path = ROOT) -> dict[str, Any]:
    """Which version was measured: commit, and whether files differed from it.

    Both are None where this is no git checkout.
    """

    def git(*arguments: str) -> str | None:
        try:
            run = subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30
            )
        except OSError:
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"id": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _cpu_model() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


# -- the traps ------------------------------------------------------------------------------------


def set_congestion(connection: socket.socket, names: Sequence[str] = ("cubic", "reno")) -> str:
    """Take the first congestion control of ``names`` this process may use; return the one in force.

    An unprivileged process may not choose all of them, so a refusal is no error.
    """
    for name in names:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
        except OSError:
            continue
        break
    raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return raw.partition(b"\0")[0].decode()


def random_file(path: Path, size: int) -> None:
    """A file nothing on the way can compress or skip."""
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))


def same_and_remove(source: Path, out: Path) -> None:
    """Compare a copy, a file or a tree, and remove it. Raises when it differs."""
    if out.is_dir():
        subprocess.run(["diff", "-rq", str(source), str(out)], check=True)
        shutil.rmtree(out)
    else:
        subprocess.run(["cmp", str(source), str(out)], check=True)
        out.unlink()


# -- telling --------------------------------------------------------------------------------------


def progress(sample: Sample) -> None:
    """One line on standard error for each sample as it comes."""
    values = "  ".join(f"{key} {value:.4g}" for key, value in sample.values.items())
    print(f"{sample.round:3}  {sample.contender:10} {values}", file=sys.stderr, flush=True)


_Function = TypeVar("_Function", bound=Callable[..., Any])


def common_options(function: _Function) -> _Function:
    """What every benchmark takes: ``as_json`` and ``out``, both for :func:`finish`."""
    to_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    out = click.option(
        "--out",
        type=Path,
        default=RESULTS,
        metavar="DIR",
        help="Where the result is kept. Default: bench/results.",
    )
    return to_json(out(function))


def finish(result: Result, lines: Sequence[str], *, as_json: bool, out: Path) -> None:
    """Keep the result, and print it: as JSON alone, or as a table with the place it was kept."""
    path = result.save(out)
    if as_json:
        print(result.to_json())
        return
    print("\n".join(lines))
    print(f"kept in {path}")
