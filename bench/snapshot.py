"""``snapshot``: how long the loop of a tracker is held while it takes a snapshot.

One tracker alone in this process, with that many files registered, publishes one operation after
the other while a ticker on the same loop notes by how much each of its turns comes late. Without
and with a snapshot under way, in turns; garbage collection as in a tracker process.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from bench import harness
from tracker_raft.commands import OpenSession
from tracker_raft.config import Address, Member, NodeConfig
from tracker_raft.entries import pack_entry, pack_operation, pack_publish
from tracker_raft.machine import TrackerMachine
from tracker_raft.node import tune_garbage_collection
from tracker_raft.raft.links import Links
from tracker_raft.raft.memory import KnownMembers
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.replica import Replica
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory, ThreadWriter
from tracker_raft.versions import NEWEST, RAISE_VERSION

TICK_S = 0.001
BATCH = 1_000


def filled(files: int) -> TrackerMachine:
    """A machine at the newest cluster version with that many names, as entries made them."""
    machine = TrackerMachine()
    rise = pack_operation(0, 0, 0, {"op": RAISE_VERSION, "version": NEWEST})
    machine.apply(1, pack_entry(1, [rise]))
    machine.apply(2, pack_entry(1, [pack_operation(0, 0, 0, OpenSession().to_wire())]))
    for start in range(0, files, BATCH):
        operations = []
        for number in range(start, min(start + BATCH, files)):
            seq = number + 1
            content = number.to_bytes(32, "big")
            row = (f"models/{number:09d}", content, 1, 100, 1 << 19, "", "", False)
            operations.append(pack_publish(1, seq, seq, row))
        machine.apply(3 + start // BATCH, pack_entry(1, operations))
    return machine


async def _measure(machine: TrackerMachine, folder: Path, *, snapshot: bool) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    here = Address("127.0.0.1", 1)
    config = NodeConfig("n1", folder, (Member("n1", here),), here, here, here)
    storage = Directory(folder)
    writer = ThreadWriter(loop.call_soon_threadsafe)
    recovered = recover(storage, Identity("bench", "n1", "bench"))
    recovered.journal.restart_at(machine.applied, 1)
    links = Links(config, "boot", "bench", KnownMembers(storage))
    replica = Replica(
        config,
        recovered=replace(recovered, machine=machine),
        storage=storage,
        writer=writer,
        links=links,
        scheduler=loop,
        on_fatal=lambda reason: loop.stop(),
    )
    links.owner = replica
    late: list[float] = []
    operations, over = 0, False

    def again(*_: object) -> None:
        nonlocal operations
        if over:
            return
        operations += 1
        row = (f"new/{time.monotonic_ns()}", bytes(32), 1, 100, 1 << 19, "", "", False)
        seq = 10_000_000_000 + time.monotonic_ns() % 10**9
        replica.submit(pack_publish(1, seq, seq, row), loop.time() + 30, again)

    while not replica.engine.leads:  # noqa: ASYNC110 it tells nobody
        await asyncio.sleep(0.01)
    again()
    begun = time.monotonic()
    if snapshot:
        replica.keeper.consider(force=True)
    while (replica.keeper.made == 0) if snapshot else (time.monotonic() - begun < 3.0):
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append((time.perf_counter() - due) * 1e3)
    took_s = time.monotonic() - begun
    over = True
    replica.close()
    writer.close()
    storage.close()
    return {
        "late_p50_ms": harness.percentile(late, 50),
        "late_p99_ms": harness.percentile(late, 99),
        "late_worst_ms": max(late),
        "took_s": took_s,
        "operations_s": operations / took_s,
    }


@click.command()
@click.option("--files", default=1_000_000, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=3, show_default=True, type=click.IntRange(1))
@harness.common_options
def snapshot(files: int, runs: int, as_json: bool, out: Path) -> None:
    """How long a snapshot holds the loop of a tracker."""
    result = harness.Result("snapshot", {"files": files, "runs": runs})
    machine = filled(files)
    tune_garbage_collection()

    def one(*, taken: bool) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(_measure(machine, Path(folder), snapshot=taken))

    contenders = {"without": lambda: one(taken=False), "with": lambda: one(taken=True)}
    result.samples = harness.alternate(runs, contenders, harness.progress)
    gc.unfreeze()
    keys = tuple(result.samples[0].values)
    result.figures = {
        name: {key: harness.summary(result.values(name, key)) for key in keys}
        for name in contenders
    }
    shown = [f"{'':8}" + "".join(f"{key:>15}" for key in keys)]
    for name in contenders:
        values = [result.figures[name][key]["median"] for key in keys]
        shown.append(f"{name:8}" + "".join(f"{value:15.2f}" for value in values))
    harness.finish(result, shown, as_json=as_json, out=out)
