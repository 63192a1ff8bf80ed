"""Faults of one run, drawn from its seed before it begins: printed, replayed, shrunk.

A fault is (time, kind, arguments); applying one never draws anything, so leaving some out (to
shrink a failing run) does not change what the others are.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass

from tests.sim.cluster import SPARES, SimCluster, SimNode
from tests.sim.members import KINDS as CHANGES
from tests.sim.members import Operator
from tracker_raft.errors import NoLeader
from tracker_raft.raft.engine import Role


@dataclass(frozen=True, slots=True)
class Fault:
    at_s: float
    kind: str
    node: str
    other: str = ""
    for_s: float = 0.0
    value: float = 0.0

    def __str__(self) -> str:
        parts = [f"{self.at_s:7.3f} s  {self.kind} {self.node}"]
        if self.other:
            parts.append(f"-> {self.other}")
        if self.for_s:
            parts.append(f"for {self.for_s:.3f} s")
        if self.value:
            parts.append(f"({self.value:g})")
        return " ".join(parts)


MIXED = {
    "kill": 4,
    "power": 4,
    "power all": 1,
    "leader": 3,
    "crash loop": 1,
    "pause": 3,
    "break": 5,
    "cut": 4,
    "isolate": 3,
    "isolate leader": 2,
    "slow net": 2,
    "slow disk": 2,
    "full disk": 1,
    "clock rate": 1,
    "clock jump": 1,
    "hand over": 3,
}
PROFILES: tuple[dict[str, int], ...] = (
    MIXED,
    {"cut": 8, "isolate": 3, "isolate leader": 3, "leader": 3, "break": 1, "slow net": 2},
    {"cut": 6, "break": 6, "pause": 4, "slow disk": 2, "clock rate": 2, "hand over": 2},
    {"crash loop": 8, "cut": 6, "leader": 4, "isolate": 3},
    {"cut": 4, "isolate": 4, "kill": 4, "leader": 3, "power": 3},
    {"power": 4, "power all": 3, "slow disk": 3, "leader": 2, "break": 1},
)
"""What goes wrong most: each seed has one of them."""
CRASH_LOOP_S = 0.04
HAND_OVER_S = 0.6


def draw(
    seed: int,
    ids: list[str],
    end_s: float,
    *,
    flips: bool = False,
    weights: dict[str, int] | None = None,
    members: bool = False,
) -> list[Fault]:
    """The faults of a run of ``end_s`` seconds, in order of time.

    ``weights``: how often each kind, instead of the profile that the seed draws.
    """
    chance = random.Random(f"faults of {seed}")
    drawn = chance.choice(PROFILES)
    weights = (weights or drawn) | ({"flip": 2} if flips else {})
    if members:
        weights, ids = weights | CHANGES, [*ids, *SPARES]
    faults = []
    rate = chance.choice((0.5, 1.0, 2.0, 4.0))
    at_s = 0.5
    while (at_s := at_s + chance.expovariate(rate)) < end_s:
        kind = chance.choices(list(weights), list(weights.values()))[0]
        node = chance.choice(ids)
        other = chance.choice([name for name in ids if name != node] or [""])
        for_s = round(chance.choice((0.02, 0.1, 0.4, 1.0, 3.0)) * chance.uniform(0.5, 1.5), 3)
        value = 0.0
        if kind == "clock rate":
            value = chance.choice((0.8, 0.95, 1.05, 1.25))
        elif kind == "clock jump":
            value = chance.choice((0.5, 30.0, 31_536_000.0))
        faults.append(Fault(round(at_s, 3), kind, node, other, for_s, value))
    return faults


class Applier:
    """Does what faults say to a cluster, ``operator`` what they say of its members."""

    def __init__(self, cluster: SimCluster, operator: Operator) -> None:
        self.cluster = cluster
        self.operator = operator
        self.world = cluster.world
        self.healed = False

    def schedule(self, faults: list[Fault]) -> None:
        for fault in faults:
            self.world.at(fault.at_s, None, self._apply, fault)

    def heal(self) -> None:
        self.healed = True
        self.cluster.heal()

    def _later(self, fault: Fault, work: object, *args: object) -> None:
        self.world.after(fault.for_s, None, self._unless_healed, work, args)

    def _unless_healed(self, work: object, args: tuple[object, ...]) -> None:
        if not self.healed:
            work(*args)  # type: ignore[operator]

    def _leaders(self) -> list[SimNode]:
        nodes = [node for node in self.cluster.nodes.values() if node.replica is not None]
        return [n for n in nodes if n.replica and n.replica.engine.role is Role.LEADER]

    def _isolate(self, fault: Fault, node: str) -> None:
        for name in self.cluster.nodes:
            if name != node:
                for pair in ((name, node), (node, name)):
                    self.cluster.network.begin_cut(pair)
                    self._later(fault, self.cluster.network.heal, pair)

    def _hand_over(self, leader: SimNode) -> None:
        """As SIGTERM and ``transfer-leadership`` begin it."""
        self.cluster.handed_over_s = self.world.now_s
        if leader.process is not None and leader.replica is not None and len(self.cluster.ids) > 1:
            hand_over = leader.replica.hand_over
            with suppress(NoLeader):  # it may be the only voter by now
                leader.process.run(hand_over, None, HAND_OVER_S, lambda node, error: None)

    def _crash_loop(self, node: SimNode, end_s: float) -> None:
        """Killed and started again, over and over, as a supervisor would."""
        if self.healed or self.world.now_s >= end_s:
            node.start()
            return
        node.kill()
        self.world.after(0.002, None, node.start)
        self.world.after(CRASH_LOOP_S, None, self._crash_loop, node, end_s)

    def _apply(self, fault: Fault) -> None:
        if self.healed:
            return
        if fault.kind in CHANGES:
            self.operator.apply(fault.kind, fault.node)
            return
        if fault.node not in self.cluster.nodes:
            return
        node = self.cluster.nodes[fault.node]
        network = self.cluster.network
        match fault.kind:
            case "kill":
                node.kill()
                self._later(fault, node.start)
            case "leader":
                for each in self._leaders():
                    each.kill()
                    self._later(fault, each.start)
            case "crash loop":
                self._crash_loop(node, self.world.now_s + fault.for_s)
            case "hand over":
                for each in self._leaders():
                    self._hand_over(each)
            case "power":
                node.power_loss()
                self._later(fault, node.start)
            case "power all":
                for each in self.cluster.nodes.values():
                    each.power_loss()
                    self._later(fault, each.start)
            case "pause":
                if node.process is not None and node.up and not node.process.paused:
                    node.process.paused = True
                    self._later(fault, node.process.resume)
            case "break":
                if node.links is not None and fault.other in node.links.live:
                    network.break_link(node.links.live[fault.other])
            case "cut":
                network.begin_cut((fault.node, fault.other))
                self._later(fault, network.heal, (fault.node, fault.other))
            case "isolate":
                self._isolate(fault, fault.node)
            case "isolate leader":
                for each in self._leaders():
                    self._isolate(fault, each.node)
            case "slow net":
                network.delay_s = (0.005, 0.05)
                self._later(fault, setattr, network, "delay_s", (0.0001, 0.0005))
            case "slow disk":
                node.disk.latency_s = (0.02, 0.3)
                self._later(fault, setattr, node.disk, "latency_s", (0.0001, 0.0004))
            case "full disk":
                node.disk.full = True
                self._later(fault, setattr, node.disk, "full", False)
            case "flip":
                node.power_loss()
                node.disk.flip_bit()
                self._later(fault, node.start)
            case "clock rate":
                node.rate = fault.value  # for the next process: a running one's deadlines stand
            case "clock jump":
                node.offset_s = fault.value
