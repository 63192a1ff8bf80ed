"""``scale``: what grows: clients connected, a log to catch up with, files.

* ``connected``: that many clients ask one look-up a second each (level ``session``), evenly spread
  over time and trackers; latency counts from when a request was due. Beside it: a hundred clients.
* ``catch-up``: a follower is killed, so many operations are published, it is started again; the
  time from its start until it has applied all that the leader had. Its start alone is beside it.
* ``files``: resident memory and CPU of a publish, in a state machine with many files, beside one
  with few. The machine alone, in this process: it is what grows, the rest of a tracker does not.
* ``registered``: CPU of a whole publish of 256 clients, all trackers together, in a cluster with
  many files, beside one with few; and the memory of the largest tracker.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import psutil

from bench import clients, fleets, harness
from bench.clients import Client, Tally
from bench.clients_ours import OurLookups, our_publishes
from bench.publish import Contender
from bench.snapshot import filled
from tracker_raft.client import TrackerClient
from tracker_raft.client.backup import take_snapshot
from tracker_raft.commands import BATCH_FILES_MAX, Level, NewFile
from tracker_raft.config import Address
from tracker_raft.entries import pack_entry, pack_publish
from tracker_raft.machine import TrackerMachine
from tracker_raft.node import tune_garbage_collection

NAME = "scale/one"
FEW_CLIENTS = 100
FEW_FILES = 10_000
CLIENTS = 256
MORE = 20_000
"""Publishes that are timed."""
ENTRY = 50
WRITERS, BATCH = 4, 64
PUBLISH_S = 0.5
POLL_S = 0.02
CATCH_UP_S = 120.0


def connected(fleet: fleets.OurFleet, count: int, seconds: float) -> dict[str, float]:
    """That many clients, a look-up a second each."""
    places = Contender(fleet, None).places
    with TrackerClient(fleet.endpoints) as client:
        client.publish(NAME, content=bytes(32), size=1, manifest_bytes=1, piece_bytes=1 << 19)
        seen = client.seen

    async def run() -> dict[str, float]:
        tally = Tally()

        def make() -> Client:
            return OurLookups(tally, 1, NAME, Level.SESSION, seen)

        made = [(places[number % len(places)], make) for number in range(count)]
        return await clients.paced(tally, made, seconds, lambda: sum(fleets.cpu_s(fleet).values()))

    return asyncio.run(run())


def catch_up(fleet: fleets.OurFleet, operations: int) -> dict[str, float]:
    """Seconds from the start of a follower that lacks so many operations until it has them."""
    leader = fleet.wait_ready()
    follower = next(node for node in fleet.nodes if node != leader)
    endpoint = fleet.endpoint_of(follower)
    with TrackerClient([endpoint]) as client:  # else it begins with what its own log has
        take_snapshot(client, Address.parse(endpoint), deadline_s=CATCH_UP_S)
    os.kill(fleet.pid(follower), signal.SIGKILL)
    first = _applied(fleet, leader)
    contender = Contender(fleet, None)
    places = [contender.place(node) for node in fleet.nodes if node != follower]
    published = 0

    async def some() -> int:
        tally = Tally()
        made = await our_publishes(tally, places, WRITERS, BATCH)
        await clients.closed_loop(tally, made, PUBLISH_S, lambda: 0.0, warm_s=0.0)
        return tally.operations

    while published < operations:
        published += asyncio.run(some())
    last = _applied(fleet, leader)
    begun_s = time.perf_counter()
    fleet.start(follower)
    started_s = time.perf_counter() - begun_s
    with TrackerClient([fleet.endpoint_of(follower)]) as client:
        while int(client.status()["applied"]) < last:
            if time.perf_counter() - begun_s > CATCH_UP_S:
                raise TimeoutError(f"{follower} has not caught up within {CATCH_UP_S} s")
            time.sleep(POLL_S)
    return {
        "caught_up_s": time.perf_counter() - begun_s,
        "cpu_s": fleets.cpu_s(fleet)[follower],
        "start_s": started_s,
        "operations": float(published),
        "entries": float(last - first),
    }


def _applied(fleet: fleets.OurFleet, node: str) -> int:
    with TrackerClient([fleet.endpoint_of(node)]) as client:
        return int(client.status()["applied"])


def files(count: int) -> dict[str, float]:
    """Memory of a machine with that many files, and the CPU of one more publish."""
    before = psutil.Process().memory_info().rss
    machine = filled(count)
    gc.collect()
    mib = (psutil.Process().memory_info().rss - before) / harness.MIB
    entries = []
    for start in range(0, MORE, ENTRY):
        packed = []
        for number in range(start + 1, start + ENTRY + 1):
            name = f"models/{random.randrange(count):09d}/{number}"  # anywhere among the others
            row = (name, random.randbytes(32), 1, 100, 1 << 19, "", "", False)
            packed.append(pack_publish(1, count + number, count + number, row))
        entries.append(pack_entry(1, packed))
    tune_garbage_collection()
    used_s = _apply(machine, entries)
    gc.unfreeze()
    return {"resident_mib": mib, "cpu_us": used_s / MORE * 1e6}


def _apply(machine: TrackerMachine, entries: list[bytes]) -> float:
    begun_s = time.process_time()
    for index, entry in enumerate(entries, machine.applied + 1):
        machine.apply(index, entry)
    return time.process_time() - begun_s


class Registered:
    """A cluster with that many files; a context manager."""

    def __init__(self, folder: Path, count: int) -> None:
        self._fleet = fleets.OurFleet(folder)
        self._count = count

    def __enter__(self) -> Registered:
        self._fleet.__enter__()
        self._fleet.wait_ready()
        with TrackerClient(self._fleet.endpoints) as client:
            for start in range(0, self._count, BATCH_FILES_MAX):
                numbers = range(start, min(start + BATCH_FILES_MAX, self._count))
                files = [
                    NewFile(f"models/{n:09d}", n.to_bytes(32, "big"), 1, 100, 1 << 19)
                    for n in numbers
                ]
                client.publish_many(files, deadline_s=60)
        return self

    def __exit__(self, *exc: object) -> None:
        self._fleet.__exit__(*exc)

    def measure(self, seconds: float) -> dict[str, float]:
        found = Contender(self._fleet, None).measure(CLIENTS, 1, seconds)
        largest = max(
            psutil.Process(self._fleet.pid(node)).memory_info().rss for node in self._fleet.nodes
        )
        return {**found, "resident_mib": largest / harness.MIB}


@click.command()
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=5.0, show_default=True, help="Counted, of connected clients.")
@click.option(
    "--clients", "sizes", multiple=True, default=(1000, 5000), type=click.IntRange(1, 9000)
)
@click.option("--operations", default=100_000, show_default=True, help="To catch up; 0: none.")
@click.option("--files", "many", default=1_000_000, show_default=True, help="0: not measured.")
@harness.common_options
def scale(
    runs: int,
    seconds: float,
    sizes: tuple[int, ...],
    operations: int,
    many: int,
    as_json: bool,
    out: Path,
) -> None:
    """Connected clients, catching up, and a million files."""
    settings = {"runs": runs, "clients": list(sizes), "operations": operations, "files": many}
    result = harness.Result("scale", settings)
    with tempfile.TemporaryDirectory() as folder, fleets.OurFleet(Path(folder) / "ours") as fleet:
        fleet.wait_ready()
        measures: dict[str, Callable[[], dict[str, float]]] = {
            f"{size} connected": partial(connected, fleet, size, seconds)
            for size in (FEW_CLIENTS, *sizes)
        }
        if operations:
            measures["catch-up"] = partial(catch_up, fleet, operations)
        result.samples = harness.alternate(runs, measures, harness.progress)
        if many:
            with ExitStack() as stack:
                clusters = {
                    f"{size} registered": Registered(Path(folder) / str(size), size)
                    for size in (FEW_FILES, many)
                }
                measures = {
                    name: partial(stack.enter_context(cluster).measure, seconds)
                    for name, cluster in clusters.items()
                }
                result.samples += harness.alternate(runs, measures, harness.progress)
    if many:
        grown = {f"{size} files": partial(files, size) for size in (FEW_FILES, many)}
        result.samples += harness.alternate(1, grown, harness.progress)
    for name in dict.fromkeys(sample.contender for sample in result.samples):
        keys = next(s.values for s in result.samples if s.contender == name)
        result.figures[name] = {key: harness.summary(result.values(name, key)) for key in keys}
    shown = []
    for name, values in result.figures.items():
        cells = "  ".join(f"{key} {value['median']:.4g}" for key, value in values.items())
        shown.append(f"{name:18} {cells}")
    harness.finish(result, shown, as_json=as_json, out=out)
