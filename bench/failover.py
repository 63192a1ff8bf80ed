"""``failover``: milliseconds from a fault of the leader to the next acknowledged write.

How it is measured is said in :mod:`bench.faults`; whom, in :mod:`bench.fleets`. Here is what is
run, in which order, and what is told of it.

Contenders take turns by blocks of :data:`BLOCK`: only the fleet whose turn it is runs, so that it
has the machine to itself, and each turn begins with a new one. Rivals may be struck less often; so
a ratio is one of medians here, and says of how many.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench import etcd, faults, harness, namespaces, stock
from bench.faults import Fault
from bench.fleets import Fleet, OurFleet, keep_logs
from bench.load import Generator, Writes, sessions
from tracker_raft.errors import P2PError

OURS, ETCD, ETCD_TUNED, STOCK = "tracker-raft", "etcd", "etcd 50/5", "pysyncobj"
RIVALS = (ETCD, ETCD_TUNED, STOCK)
ROLL, IDLE, LOAD = "roll", "idle", "load"
KINDS = (*map(str, Fault), ROLL, IDLE, LOAD)
KINDS_BY_DEFAULT = ("kill", "term", "stop", "drop", ROLL)
BLOCK = 10
"""Faults of one contender before the next one's turn."""
BROKEN_MAX = 3
"""Turns of a contender that broke off, after which it is struck no more."""
LOAD_CONNECTIONS = 6
LOAD_UNDER_WAY = 64
BUCKETS_MS = (5, 10, 20, 40, 60, 100, 200, 300, 600, 1000, 2000)
NODES = ("n1", "n2", "n3")

Measure = Callable[[Fleet], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Settings:
    """How often and how long, from the command line."""

    faults: int
    rival_faults: int
    idle_s: float
    load_s: float
    logs: Path | None

    def rounds(self, contender: str, kind: str) -> int:
        """How many samples a contender gives of a kind."""
        if kind in (IDLE, LOAD):
            return 1
        count = self.faults if contender == OURS else self.rival_faults
        return -(-count // BLOCK) if kind == ROLL else count


def make_fleet(contender: str, folder: Path, network: namespaces.Network | None) -> Any:
    """A context manager that gives a :class:`Fleet`."""
    if contender == OURS:
        return OurFleet(folder, network)
    if contender == STOCK:
        return stock.StockFleet(folder, network)
    return etcd.EtcdFleet(folder, network, etcd.TUNED if contender == ETCD_TUNED else ())


@contextmanager
def running(contender: str, kind: str, folder: Path, logs: Path | None) -> Iterator[Fleet]:
    """A new fleet of its own, in namespaces where the fault needs them; its logs kept if asked."""
    with ExitStack() as stack:
        network = None
        if needs_network(kind):
            network = stack.enter_context(namespaces.Network(NODES))
        fleet: Fleet = stack.enter_context(make_fleet(contender, folder, network))
        try:
            yield fleet
        finally:
            if logs is not None:
                keep_logs(fleet, logs / folder.name)


def needs_network(kind: str) -> bool:
    return kind in tuple(Fault) and Fault(kind).needs_network


def load(fleet: Fleet, seconds: float) -> dict[str, float]:
    """Elections while pipelined clients publish as fast as the trackers take it."""
    assert isinstance(fleet, OurFleet), "it speaks our protocol only"
    fleet.wait_ready()
    term = fleet.term()
    endpoints = fleet.endpoints

    async def publish() -> float:
        generator = Generator(endpoints, LOAD_CONNECTIONS)
        await generator.connect()
        try:
            writes = Writes(await sessions(endpoints[0], LOAD_CONNECTIONS), seconds)
            counted = await generator.closed_loop(writes, LOAD_UNDER_WAY, seconds)
        finally:
            generator.close()
        return counted.good / seconds

    rate = asyncio.run(publish())
    return {"elections": float(fleet.term() - term), "writes_per_s": rate, "seconds": seconds}


def measure_of(kind: str, settings: Settings) -> Measure:
    """What is done to a fleet for one sample of ``kind``."""
    prefixes = (f"{kind}-{time.time_ns()}-{number}" for number in itertools.count())
    if kind == IDLE:
        return functools.partial(faults.idle, seconds=settings.idle_s)
    if kind == LOAD:
        return functools.partial(load, seconds=settings.load_s)
    if kind == ROLL:
        return lambda fleet: faults.rolling_restart(fleet, next(prefixes))
    return lambda fleet: faults.one_fault(fleet, Fault(kind), next(prefixes))


def run_kind(kind: str, contenders: list[str], settings: Settings, result: harness.Result) -> None:
    """Take all samples of one kind, the contenders by turns.

    A turn that breaks off, because somebody was not served again in time, is told among what is
    absent; its contender goes on with a new fleet, and is given up after :data:`BROKEN_MAX`.
    """
    measure = measure_of(kind, settings)
    left = {name: settings.rounds(name, kind) for name in contenders}
    numbers = {name: itertools.count(1) for name in contenders}
    broken: Counter[str] = Counter()
    for block in itertools.count(1):
        for name in filter(left.get, contenders):
            count = min(left[name], 1 if kind == ROLL else BLOCK)
            left[name] -= count
            subject = f"{name} {kind}"
            with tempfile.TemporaryDirectory(prefix="bench-") as folder:
                place = Path(folder) / f"{subject} {block}".translate(
                    {ord(" "): "-", ord("/"): "-"}
                )
                try:
                    with running(name, kind, place, settings.logs) as fleet:
                        for number in itertools.islice(numbers[name], count):
                            sample = harness.Sample(subject, number, measure(fleet))
                            result.samples.append(sample)
                            told(sample, settings.logs, place.name)
                except (OSError, P2PError) as error:  # TimeoutError is an OSError
                    broken[name] += 1
                    result.absent[f"{subject}, turn {block}"] = f"broken off: {error}"
                    left[name] = 0 if broken[name] == BROKEN_MAX else left[name]
        if not any(left.values()):
            return


def told(sample: harness.Sample, logs: Path | None, place: str) -> None:
    """A progress line; with kept logs also a line in ``faults.jsonl``, to find it in them."""
    shown = {key: value for key, value in sample.values.items() if key != "struck_at"}
    harness.progress(harness.Sample(sample.contender, sample.round, shown))
    if logs is None:
        return
    moment = sample.values.get("struck_at", time.time())
    clock = time.strftime("%H:%M:%S", time.localtime(moment)) + f",{int(moment % 1 * 1000):03}"
    line = {"at": clock, "logs": place, "contender": sample.contender, "round": sample.round}
    with (logs / "faults.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, **shown}) + "\n")


# -- what is told ---------------------------------------------------------------------------------


def figures(result: harness.Result) -> dict[str, Any]:
    """Of every contender and kind what a reader wants; of each rival and fault the ratio."""
    found: dict[str, Any] = {}
    for subject in dict.fromkeys(sample.contender for sample in result.samples):
        found[subject] = figure(result, subject)
    for kind in Fault:
        ours = result.values(f"{OURS} {kind}", "attached_ms")
        for rival in RIVALS:
            theirs = result.values(f"{rival} {kind}", "attached_ms")
            if ours and theirs:
                medians = statistics.median(ours), statistics.median(theirs)
                found[f"ours_to_{rival} {kind}"] = {
                    "of_medians": medians[0] / medians[1],
                    "n": [len(ours), len(theirs)],
                }
    return found


def figure(result: harness.Result, subject: str) -> dict[str, Any]:
    """Latencies as a spread, counts as sums, elections by how many there were in a sample."""
    samples = [sample.values for sample in result.samples if sample.contender == subject]
    found: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key == "struck_at":
            continue
        if key == "elections":
            counted = sorted(Counter(map(int, values)).items())
            found[key] = {str(number): count for number, count in counted}
        elif key in ("failed_calls", "calls"):
            found[key] = int(sum(values))
        elif key.endswith("_ms"):
            found[key] = harness.spread(values)
        else:
            found[key] = harness.summary(values)
    return found


def lines(result: harness.Result) -> list[str]:
    """The tables a reader sees, one of each kind that was run."""
    shown: list[str] = []
    for kind in KINDS:
        subjects = [name for name in result.figures if name.endswith(f" {kind}")]
        subjects = [name for name in subjects if not name.startswith("ours_to_")]
        if not subjects:
            continue
        shown += ["", *kind_lines(kind, {name: result.figures[name] for name in subjects})]
        for name in subjects:
            if kind in tuple(Fault):
                shown.append(f"{name:28}" + histogram(result.values(name, "attached_ms")))
        for rival in RIVALS:
            if one := result.figures.get(f"ours_to_{rival} {kind}"):
                shown.append(f"ours / {rival}: {one['of_medians']:.3f} (of the medians)")
    shown += [f"{name}: absent, {why}" for name, why in result.absent.items()]
    return shown[1:]


def kind_lines(kind: str, found: dict[str, dict[str, Any]]) -> list[str]:
    """The table of one kind."""
    if kind == IDLE:
        table = [f"{'idle':28}{'elections':>12}{'CPU %':>8}{'worst':>8}"]
        for name, one in found.items():
            cpu = f"{one['cpu_percent']['median']:8.2f}{one['cpu_percent_worst']['max']:8.2f}"
            table.append(f"{name:28}{elections(one):>12}{cpu}")
        return table
    if kind == LOAD:
        return [
            f"{name}: {one['writes_per_s']['median']:.0f} writes/s, elections {elections(one)}"
            for name, one in found.items()
        ]
    key = "longest_silence_ms" if kind == ROLL else "attached_ms"
    head = f"{'p50':>8}{'p90':>8}{'p99':>8}{'worst':>8}{'n':>5}{'failed':>8}  elections"
    table = [f"{f'{kind}: ms without an ack':28}{head}"]
    rows = [(name, one, key) for name, one in found.items()]
    if kind != ROLL:
        rows += [(f"{name}, at a follower", one, "follower_ms") for name, one in found.items()]
    for name, one, which in rows:
        cells = "".join(f"{one[which][cell]:8.1f}" for cell in ("p50", "p90", "p99", "worst"))
        counts = f"{one[which]['n']:5}{one['failed_calls']:8}  {elections(one)}"
        table.append(f"{name:28}{cells}{counts}" if which == key else f"{name:28}{cells}")
    if kind in tuple(Fault):
        table.append(f"{'how many within ms':28}" + "".join(f"{at:>6}" for at in BUCKETS_MS))
    return table


def elections(one: dict[str, Any]) -> str:
    """``1×98 2×2``: two samples with two elections, all others with one."""
    return " ".join(f"{number}×{count}" for number, count in one["elections"].items())


def histogram(values: list[float]) -> str:
    """How many of ``values`` lie in each of the buckets, and how many beyond the last."""
    limits = (0.0, *BUCKETS_MS, float("inf"))
    counts = [
        sum(low < value <= high for value in values) for low, high in itertools.pairwise(limits)
    ]
    return "".join(f"{count or '.':>6}" for count in counts)


# -- the command ----------------------------------------------------------------------------------


@click.command()
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    default=KINDS_BY_DEFAULT,
    show_default=True,
    help="kill, term, stop: SIGKILL, SIGTERM, SIGSTOP to the leader; drop: its packets are dropped;"
    " split: those between the nodes; roll: a rolling restart under load for every ten faults;"
    " idle, load: elections with nothing to do, and with all it can do. May be given again.",
)
@click.option(
    "--faults",
    "--runs",
    "count",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="How often the leader is struck.",
)
@click.option(
    "--rival-faults",
    type=click.IntRange(1),
    help="The same for each rival. Default: as ours.",
)
@click.option(
    "--rival",
    "rivals",
    multiple=True,
    type=click.Choice(["auto", "none", *RIVALS]),
    default=("auto",),
    show_default=True,
    help="auto: all that are installed. May be given again.",
)
@click.option("--idle-seconds", default=60.0, show_default=True, type=click.FloatRange(0.1))
@click.option("--load-seconds", default=20.0, show_default=True, type=click.FloatRange(0.1))
@click.option(
    "--keep-logs",
    type=Path,
    metavar="DIR",
    help="Keep what the nodes said, and faults.jsonl, which says when they were struck.",
)
@harness.common_options
def failover(
    kinds: tuple[str, ...],
    count: int,
    rival_faults: int | None,
    rivals: tuple[str, ...],
    idle_seconds: float,
    load_seconds: float,
    keep_logs: Path | None,
    as_json: bool,
    out: Path,
) -> None:
    """A fault of the leader to the next acknowledged write of a client attached to it."""
    settings = Settings(count, rival_faults or count, idle_seconds, load_seconds, keep_logs)
    result = harness.Result(
        "failover",
        {
            "kinds": list(kinds),
            "faults": settings.faults,
            "rival_faults": settings.rival_faults,
            "rivals": list(rivals),
            "idle_s": idle_seconds,
            "load_s": load_seconds,
            "nodes": len(NODES),
        },
    )
    contenders = [OURS, *rivals_found(rivals, result)]
    unavailable = namespaces.why_unavailable() if any(map(needs_network, kinds)) else None
    if keep_logs is not None:
        keep_logs.mkdir(parents=True, exist_ok=True)
    try:
        for kind in dict.fromkeys(kinds):
            if needs_network(kind) and unavailable is not None:
                result.absent[kind] = unavailable
                continue
            run_kind(kind, contenders if kind != LOAD else [OURS], settings, result)
    except KeyboardInterrupt:
        result.absent["the rest"] = "interrupted"
    result.figures = figures(result)
    harness.finish(result, lines(result), as_json=as_json, out=out)


def rivals_found(asked: tuple[str, ...], result: harness.Result) -> list[str]:
    """The rivals to run; what was left out is said in ``result``. UsageError for one in vain."""
    versions = {ETCD: etcd.version(), STOCK: stock.version()}
    versions[ETCD_TUNED] = versions[ETCD]
    found = []
    for rival in RIVALS:
        named = rival in asked
        if not named and ("auto" not in asked or "none" in asked):
            result.absent[rival] = "not asked for"
        elif versions[rival] is not None:
            found.append(rival)
            result.settings[rival] = versions[rival]
        elif named:
            raise click.UsageError(f"--rival {rival}: there is no etcd in PATH")
        else:
            result.absent[rival] = "no etcd in PATH"
    return found
