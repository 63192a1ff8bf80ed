"""One simulated run: a cluster, its clients, its faults, and everything that must hold."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pysyncobj.syncobj

from tests.sim.cluster import SimCluster
from tests.sim.faults import Applier, Fault, draw
from tests.sim.invariants import Violation, Watch
from tests.sim.members import Operator
from tests.sim.workload import SimClient
from tests.sim.world import World
from tracker_raft.config import RaftTiming
from tracker_raft.versions import NEWEST

FAULTY_S = 8.0
HEALING_S = 20.0
SETTLING_S = 8.0
"""An address is written down after two of them."""
CLIENTS = 4
SMALL_BATCHES = RaftTiming(entry_bytes_max=1024, append_batch_bytes=2048)
"""Half of the seeds send a backlog in many small messages."""


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    seed: int
    faults: list[Fault]
    violation: str | None = None
    trace: str = ""
    """Hash of everything that was committed, when and where: equal for equal runs."""
    events: int = 0
    virtual_s: float = 0.0
    elections: int = 0
    acknowledged: int = 0
    unknown: int = 0
    changes: int = 0
    """Of the members."""
    details: str = field(default="", repr=False)


def nodes_of(seed: int) -> int:
    return (3, 3, 3, 5, 1)[seed % 5]


def at_once_of(seed: int) -> float:
    """The share of syncs that the loop of a node waits for: none, all while the disk is fast, or
    any."""
    return (0.0, 1.0, 0.5)[seed % 3]


def ids_of(seed: int) -> list[str]:
    return [f"n{number}" for number in range(1, nodes_of(seed) + 1)]


@contextmanager
def library_globals() -> Iterator[None]:
    """The simulation sets what the library keeps as globals; put them back afterwards."""
    module = pysyncobj.syncobj
    before = module.monotonicTime, module.random
    try:
        yield
    finally:
        module.monotonicTime, module.random = before


def run(
    seed: int,
    faults: list[Fault] | None = None,
    *,
    flips: bool = False,
    members: bool = False,
) -> Outcome:
    """Run ``seed`` with its own faults, or with those given. Never raises for a violation.

    ``members``: nodes are added and removed meanwhile.
    """
    world = World(seed)
    timing = SMALL_BATCHES if seed % 2 else None
    cluster = SimCluster(world, ids_of(seed), timing, at_once=at_once_of(seed))
    if members:
        cluster.network.version = NEWEST  # an entry of members needs it
    if faults is None:
        faults = draw(seed, cluster.ids, FAULTY_S, flips=flips, members=members)
    outcome = Outcome(seed, faults)
    with library_globals():
        watch = Watch(cluster)
        try:
            _play(world, cluster, watch, faults, outcome, flips)
        except Violation as violation:
            outcome.violation = str(violation)
            outcome.details = traceback.format_exc()
        except Exception:  # noqa: BLE001 a defect in the code under test is a finding like any other
            outcome.violation = traceback.format_exc().strip().splitlines()[-1]
            outcome.details = traceback.format_exc()
    outcome.trace = _trace(watch, world)
    outcome.events, outcome.virtual_s = world.events, world.now_s
    outcome.elections = watch.elections
    outcome.acknowledged = len(watch.acknowledged)
    return outcome


def _play(
    world: World,
    cluster: SimCluster,
    watch: Watch,
    faults: list[Fault],
    outcome: Outcome,
    flips: bool,
) -> None:
    world.after_event = watch.look
    clients = [
        SimClient(cluster, watch, f"c{number}", stop_s=FAULTY_S + 1.0) for number in range(CLIENTS)
    ]
    operator = Operator(cluster, watch.changes)
    applier = Applier(cluster, operator)
    applier.schedule(faults)
    cluster.start()
    world.run_until(FAULTY_S)
    applier.heal()
    end_s = FAULTY_S + HEALING_S
    last = SimClient(cluster, watch, "last", stop_s=end_s)
    world.run_until(end_s, stop=lambda: last.outcomes["ok"] >= 5 or _majority_quarantined(cluster))
    outcome.unknown = sum(client.outcomes["unknown"] for client in clients)
    outcome.changes = operator.done
    if operator.problem:
        raise Violation(operator.problem)
    for node in cluster.nodes.values():
        if node.quarantined and not flips:
            raise Violation(f"{node.node} found damage nobody did: {node.quarantined}")
        if node.fatal:
            raise Violation(f"{node.node} stopped: {node.fatal}")
    if _majority_quarantined(cluster):
        watch.check_history()
        return
    if last.outcomes["ok"] < 5:
        raise Violation(f"no progress {HEALING_S} s after everything was healed: {cluster.nodes}")
    last.stop_s = world.now_s
    _settle(world, cluster, watch)
    watch.check_history()


def _majority_quarantined(cluster: SimCluster) -> bool:
    """Damage on more than a minority: the cluster must stand still rather than lose anything."""
    out = sum(1 for node in cluster.nodes.values() if node.quarantined)
    return out * 2 >= len(cluster.ids)


def _settle(world: World, cluster: SimCluster, watch: Watch) -> None:
    """All members that run reach the same index with the same state; who was added votes, who was
    removed stops."""

    def equal() -> bool:
        members = [node for node in cluster.nodes.values() if watch.changes.is_member(node)]
        up = [node.replica for node in members if node.replica is not None]
        states = {(replica.machine.applied, replica.machine.state_hash) for replica in up}
        return len(states) == 1 and not watch.changes.unfinished(cluster)

    world.run_until(world.now_s + SETTLING_S, stop=equal)
    if not equal():
        if problem := watch.changes.unfinished(cluster):
            raise Violation(f"{SETTLING_S:g} s after the end: {problem}: {cluster.nodes}")
        raise Violation(f"replicas differ {SETTLING_S:g} s after the end: {cluster.nodes}")


def _trace(watch: Watch, world: World) -> str:
    digest = hashlib.sha256()
    for index in sorted(watch.committed):
        term, command = watch.committed[index]
        digest.update(f"{index} {term} {len(command)}".encode() + command)
    digest.update(f"{sorted(watch.leaders.items())} {world.events} {world.now_s:.9f}".encode())
    for done in watch.acknowledged:
        digest.update(f"{done.told_s:.9f} {done.at} {done.reply}".encode())
    return digest.hexdigest()[:16]


def shrink(
    seed: int,
    faults: list[Fault],
    fails: Callable[[Outcome], bool],
    *,
    members: bool = False,
) -> list[Fault]:
    """The smallest list of faults, found by leaving out ever smaller parts, that still fails."""
    size = max(1, len(faults) // 2)
    while faults:
        for start in range(0, len(faults), size):
            fewer = faults[:start] + faults[start + size :]
            if fails(run(seed, fewer, members=members)):
                faults = fewer
                break
        else:
            if size == 1:
                return faults
            size = max(1, size // 2)
    return faults
