"""``publish``: durable operations a second, beside etcd and stock PySyncObj.

Three nodes each, all on this machine, and clients in a closed loop (:mod:`bench.clients`) spread
evenly over the nodes: one (at the leader, and at another node), 64, 256 and a thousand, each with a
connection of its own; and a few
that send many operations at once, to us as one operation of so many files (and, under another name,
as that many frames written together), to etcd as one transaction, to PySyncObj as one update of its
dictionary. An operation binds a name never used
before; it is acknowledged when a majority has it on its disk, but for PySyncObj, which never syncs.

The contenders take turns, and all fleets run all the time: an idle one costs the others the same.
What the clients take of the machine is told (``client_cores``): it is missing to the servers.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import clients, etcd, fleets, harness, stock
from bench.clients import Client, Place, Tally
from bench.clients_ours import OurBatches, OurPublishes, our_publishes
from bench.clients_rivals import EtcdPuts, StockPuts

OURS, ETCD, STOCK = "ours", "etcd", "stock"
FRAMES = "ours in frames"
SIZES = (1, 64, 256, 1000)
BATCHERS = (4, 16)
"""So many clients send many operations at once. In frames only the first number of them: a tracker
that was not busy yet refuses what is beyond a thousand operations."""
QUIET_S, QUIET_SHARE, QUIET_MAX_S = 0.3, 0.15, 30.0
"""A fleet that took no more of one core for so long has nothing to do; beyond the last it is
measured all the same."""
COLUMNS = ("per_s", "p50_ms", "p99_ms", "cpu_us", "client_cores", "failed")


class Contender:
    """One fleet, and what makes clients of it."""

    def __init__(
        self,
        fleet: Any,
        make: Callable[[Tally, int], Client] | None,
        many: Callable[[Tally, int, int], Client] = OurBatches,
    ) -> None:
        """``make(tally, operations)``; None: ours, whose clients need a session first, and are of
        kind ``many`` when they send many operations at once."""
        self._fleet = fleet
        self._make = make
        self._many = many

    @property
    def places(self) -> list[Place]:
        """Where its nodes serve clients, the leader first."""
        leader = self._fleet.wait_ready()
        return [self.place(node) for node in sorted(self._fleet.nodes, key=lambda n: n != leader)]

    def place(self, node: str) -> Place:
        if isinstance(self._fleet, fleets.OurFleet):
            host, _, port = self._fleet.endpoint_of(node).rpartition(":")
            return host, int(port)
        found: Place = self._fleet.client_place[node]
        return found

    def _wait_quiet(self) -> None:
        """What the run before left to be done (a snapshot, above all) is not counted here."""
        until_s, before_s = time.monotonic() + QUIET_MAX_S, self._cpu_s()
        while time.monotonic() < until_s:
            time.sleep(QUIET_S)
            now_s = self._cpu_s()
            if now_s - before_s < QUIET_SHARE * QUIET_S:
                break
            before_s = now_s

    def _cpu_s(self) -> float:
        return sum(fleets.cpu_s(self._fleet).values())

    def measure(
        self, count: int, operations: int, seconds: float, first: int = 0
    ) -> dict[str, float]:
        """``count`` clients, so many operations in each of their requests. The first of them is at
        the leader, or so many nodes further."""
        found = self.places
        self._wait_quiet()

        async def run() -> dict[str, float]:
            tally, places, make = Tally(), found[first:] + found[:first], self._make
            made: clients.Made
            if make is None:
                kind = self._many if operations > 1 else OurPublishes
                made = await our_publishes(tally, places, count, operations, kind)
            else:
                one = partial(make, tally, operations)
                made = [(places[number % len(places)], one) for number in range(count)]
            return await clients.closed_loop(tally, made, seconds, self._cpu_s)

        return asyncio.run(run())


@click.command()
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=3.0, show_default=True, help="For each figure of each run.")
@click.option(
    "--clients",
    "sizes",
    default=SIZES,
    multiple=True,
    type=click.IntRange(1, 5000),
    help="May be given several times. Default: 1, 64, 256 and 1000.",
)
@click.option(
    "--batch",
    default=256,
    show_default=True,
    type=click.IntRange(0, 256),
    help="Operations sent at once, by {} clients and by {}; 0: not measured.".format(*BATCHERS),
)
@click.option("--without", multiple=True, type=click.Choice([ETCD, STOCK]), help="Leave it out.")
@harness.common_options
def publish(
    runs: int,
    seconds: float,
    sizes: tuple[int, ...],
    batch: int,
    without: tuple[str, ...],
    as_json: bool,
    out: Path,
) -> None:
    """Durable operations a second, beside etcd and stock PySyncObj."""
    settings = {"runs": runs, "seconds": seconds, "clients": list(sizes), "batch": batch}
    settings["etcd"], settings["stock"] = etcd.version(), stock.version()
    result = harness.Result("publish", settings)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        found = _contenders(Path(folder), without, result, stack)
        shapes = [(f"{size} clients", size, 1, 0) for size in sizes if size > 1]
        if 1 in sizes:
            shapes[:0] = [("1 client at the leader", 1, 1, 0), ("1 client at another", 1, 1, 1)]
        if batch:
            shapes += [(f"{count} x {batch} at once", count, batch, 0) for count in BATCHERS]
        measures: dict[str, harness.Measure] = {
            f"{name}, {shape}": partial(contender.measure, count, operations, seconds, first)
            for shape, count, operations, first in shapes
            for name, contender in found.items()
        }
        if batch:
            frames = Contender(found[OURS]._fleet, None, OurPublishes)
            few = BATCHERS[0]
            measures[f"{FRAMES}, {few} x {batch} at once"] = partial(
                frames.measure, few, batch, seconds
            )
        result.samples = harness.alternate(runs, measures, harness.progress)
    result.figures = figures(result, [shape for shape, *_ in shapes], list(found))
    harness.finish(result, lines(result), as_json=as_json, out=out)


def _contenders(
    folder: Path, without: tuple[str, ...], result: harness.Result, stack: ExitStack
) -> dict[str, Contender]:
    """Those that can run, started; the others are told in ``result``."""
    found = {OURS: Contender(stack.enter_context(fleets.OurFleet(folder / OURS)), None)}
    if etcd.version() is None:
        result.absent[ETCD] = "etcd is not installed (Debian: etcd-server)"
    elif ETCD not in without:
        options = ("--max-txn-ops", "256")
        rival = stack.enter_context(etcd.EtcdFleet(folder / ETCD, options=options))
        found[ETCD] = Contender(rival, EtcdPuts)
    if STOCK not in without:
        found[STOCK] = Contender(stack.enter_context(stock.StockFleet(folder / STOCK)), StockPuts)
    result.absent.update(dict.fromkeys(without, "left out by --without"))
    for contender in found.values():
        contender._fleet.wait_ready()
    return found


def figures(result: harness.Result, shapes: list[str], names: list[str]) -> dict[str, Any]:
    """Medians; and for each rival what ours is of it, within each round."""
    found: dict[str, Any] = {}
    for shape in shapes:
        ours = f"{OURS}, {shape}"
        for name in (*names, FRAMES):
            key = f"{name}, {shape}"
            if name == FRAMES and not result.values(key, COLUMNS[0]):
                continue
            found[key] = {column: harness.summary(result.values(key, column)) for column in COLUMNS}
            if name != OURS:
                for column in ("per_s", "p50_ms", "p99_ms", "cpu_us"):
                    pair = result.values(ours, column), result.values(key, column)
                    found[key][f"ours_to_it_{column}"] = harness.ratio(*pair)
    return found


def lines(result: harness.Result) -> list[str]:
    """The table a reader sees."""
    ratios = ("ours/it per_s", "p50", "p99", "cpu")
    shown = [f"{'':30}" + "".join(f"{column:>14}" for column in (*COLUMNS, *ratios))]
    for name, values in result.figures.items():
        cells = "".join(f"{values[column]['median']:14.4g}" for column in COLUMNS)
        if "ours_to_it_per_s" in values:
            columns = ("per_s", "p50_ms", "p99_ms", "cpu_us")
            cells += "".join(f"{values[f'ours_to_it_{c}']['median']:14.3g}" for c in columns)
        shown.append(f"{name:30}{cells}")
    shown += [f"{name} is absent: {reason}" for name, reason in result.absent.items()]
    return shown
