"""A cluster of simulated nodes: real replicas on virtual clocks, links and disks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pysyncobj.syncobj

from tests.sim.disk import SimDisk, SimWriter
from tests.sim.network import Network, SimLinks
from tests.sim.world import Process, World
from tracker_raft.config import Address, Member, NodeConfig, RaftTiming, SnapshotPolicy
from tracker_raft.errors import Damaged
from tracker_raft.raft.hello import Hello
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.replica import Replica
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.trust import STALL_S

SEGMENT_BYTES = 16 * 1024
CLUSTER = "sim"
STOPS_FOR_S = 0.05
SPARES = ("m1", "m2", "m3")
"""Nodes that are no members at first."""
SNAPSHOTS = SnapshotPolicy(
    log_bytes_min=8 * 1024,
    entries_kept=20,
    slice_rows=7,
    slice_pause_s=0.01,
    part_bytes=700,
    offer_period_s=0.1,
)
"""Small, so that every run takes and sends many."""


class SimNode:
    """One member: a disk that stays, and now and then a process."""

    def __init__(self, cluster: SimCluster, node: str) -> None:
        self.cluster = cluster
        self.node = node
        self.disk = SimDisk(cluster.world)
        self.rate, self.offset_s = 1.0, 0.0
        self.process: Process | None = None
        self.replica: Replica | None = None
        self.links: SimLinks | None = None
        self.runs = 0
        self.quarantined: str | None = None
        self.fatal: str | None = None
        self.removed = False
        """Its process stopped because it was removed."""
        self.joining = False
        self.births = 1
        self.port = 1
        """It never matters where a node is; it matters what is written down of it."""
        self.met: dict[str, str] = {}

    @property
    def birth(self) -> str:
        return f"birth {self.births} of {self.node}"

    @property
    def raft(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def up(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def answers(self) -> bool:
        if self.process is None or not self.process.alive or self.process.paused:
            return False
        return self.process.busy_until_s < self.cluster.world.now_s + STALL_S

    def start(self) -> None:
        """Start a process, unless one runs. A damaged journal keeps the node down for good."""
        if self.up or self.quarantined or self.fatal or self.removed:
            return
        world = self.cluster.world
        self.runs += 1
        process = Process(
            world, self.node, self.rate, self.offset_s, around=self._globals, stops=self._stops
        )
        self.process = process
        process.run(self._build, process)

    def _build(self, process: Process) -> None:
        cluster = self.cluster
        identity = Identity(CLUSTER, self.node, self.birth)
        try:
            recovered = recover(self.disk, identity, segment_bytes=SEGMENT_BYTES)
        except Damaged as damage:
            self.quarantined = str(damage)
            process.kill()
            return
        config = cluster.config(self)
        birth = recovered.journal.identity.birth
        me = Hello(self.node, f"{self.runs}", "127.0.0.1:1", birth, (), raft=self.raft)
        links = SimLinks(cluster.network, process, self.runs, me, self.met)
        self.links = links
        links.hints = [node for node in (*cluster.ids, *SPARES) if node != self.node]
        self.replica = Replica(
            config,
            recovered=recovered,
            storage=self.disk,
            writer=SimWriter(cluster.world, process, self.disk, cluster.at_once),
            links=links,
            scheduler=process,
            on_fatal=self._failed,
        )
        links.owner = self.replica
        if not self.disk.full:
            recovered.journal.sync()
        cluster.network.join(links)

    def _globals(self, process: Process) -> None:
        """What the library keeps as globals of its module belongs to whoever runs now."""
        pysyncobj.syncobj.monotonicTime = process.time
        pysyncobj.syncobj.random = self.cluster.world.random

    def _failed(self, reason: str) -> None:
        if "was removed from the cluster" in reason:
            self.removed = True
            self.cluster.was_removed(self)
        else:
            self.fatal = reason
        self.cluster.world.after(0.0, None, self.kill)

    def kill(self) -> None:
        """SIGKILL: the process is gone, what it wrote is in the kernel's hands."""
        if self.process is None or not self.process.alive:
            return
        self.process.kill()
        if self.links is not None:
            self.cluster.network.leave(self.links)
        self.replica = self.links = None

    def move(self) -> None:
        """Stopped, and started again elsewhere."""
        self.kill()
        self.port += 1
        self.start()

    def join_anew(self) -> None:
        """An empty directory, and a process that waits to be made a member."""
        self.kill()
        self.disk = SimDisk(self.cluster.world)
        self.births += 1
        self.met = {}
        self.joining, self.removed = True, False
        self.start()

    def empty(self) -> None:
        """Its directory is made anew, and it is started as before."""
        self.kill()
        self.disk = SimDisk(self.cluster.world)
        self.births += 1
        self.met = {}
        self.start()

    def power_loss(self) -> None:
        """The machine stops: what was not synced meets its fate."""
        self.kill()
        self.disk.crash()

    def _stops(self) -> None:
        self.power_loss()
        self.cluster.world.after(STOPS_FOR_S, None, self.start)

    def __repr__(self) -> str:
        state = "up" if self.answers else "paused" if self.up else "down"
        return f"<SimNode {self.node} {state} {self.replica.status() if self.replica else ''}>"


class SimCluster:
    """All nodes of one run."""

    def __init__(
        self,
        world: World,
        ids: list[str],
        timing: RaftTiming | None = None,
        *,
        at_once: float = 0.0,
    ) -> None:
        """``at_once``: the share of syncs that the loop of a node waits for."""
        self.world = world
        self.at_once = at_once
        self.timing = timing or RaftTiming()
        self.ids = ids
        self.network = Network(world)
        self.handed_over_s = float("-inf")
        """When a leader was last told to hand over."""
        self.nodes = {node: SimNode(self, node) for node in self.ids}
        self.was_removed: Callable[[SimNode], None] = lambda node: None

    def spare(self, node: str) -> SimNode:
        """A machine that is no member, made when it is needed."""
        if node not in self.nodes:
            self.nodes[node] = SimNode(self, node)
        return self.nodes[node]

    def config(self, node: SimNode) -> NodeConfig:
        names = [node.node] if node.joining else self.ids
        members = tuple(Member(name, Address("127.0.0.1", 1)) for name in names)
        here = Address("127.0.0.1", 1)
        return NodeConfig(
            node.node,
            Path(),
            members,
            here,
            here,
            here,
            cluster=CLUSTER,
            timing=self.timing,
            snapshots=SNAPSHOTS,
            joining=node.joining,
        )

    def start(self) -> None:
        for node in self.nodes.values():
            node.start()

    def heal(self) -> None:
        """End every fault: all nodes run, all links may come up, disks have room."""
        self.heal_all_but(set())

    def heal_all_but(self, dead: set[str]) -> None:
        """The same, but that these nodes stay as they are."""
        network = self.network
        for pair in sorted(network.cut):
            network.heal(pair)
        network.delay_s = (0.0001, 0.0005)
        for node in self.nodes.values():
            if node.node in dead:
                continue
            node.disk.full = False
            node.disk.latency_s = (0.0001, 0.0004)
            if node.process is not None and node.process.paused:
                node.process.resume()
            node.start()
