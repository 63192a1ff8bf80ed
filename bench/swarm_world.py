"""A simulated swarm: peers, links and events on a virtual clock. The same run for a seed.

One heap of events; whatever happens at one time happens in the order in which it was put there.
Nothing here reads a clock, and chance comes from the seed alone.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.swarm_links import Flow, Link, Network
from bench.swarm_node import Node
from bench.swarm_pipe import Pipe
from bench.swarm_scenario import Kind, Scenario
from bench.swarm_tracker import RENEW_S, Tracker
from peer.choice import ByRate, Learning, PeerChoice, RoundRobin
from peer.pieces import PieceMap
from tracker_raft.commands import PeerRecord

SETTLE_S = 0.005
"""Links are shared anew on this grid. Shorter than any piece takes, about the time in which TCP
finds its rate in a data centre."""
CONTENT = bytes(32)

CHOICES: dict[str, Callable[[random.Random], PeerChoice]] = {
    "turn": lambda chance: RoundRobin(),
    "rate": ByRate,
    "learning": Learning,
}


class Stuck(RuntimeError):
    """A run did not end within its limit."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave. ``times_s`` and ``arrivals_s``: of each peer that got everything."""

    scenario: Scenario
    seed: int
    nodes: tuple[Node, ...]
    """The seeders first."""
    times_s: tuple[float, ...]
    """From its arrival to its last piece, shortest first."""
    ends_s: tuple[float, ...]
    """On the clock of the run, first one first."""
    seeder_copies: float
    sent_copies: float
    """Everything that was sent, in copies for each peer that is done: 1.0 is the least."""
    tracker: Tracker
    events: int
    uplinks: tuple[float, ...]
    """Of each rack."""

    @property
    def last_s(self) -> float:
        return self.ends_s[-1]


class World:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario, seed: int, told: Callable[[World], object]) -> None:
        """``told`` hears of the run after each second of its clock."""
        self.scenario, self.seed, self._told = scenario, seed, told
        self.now_s = 0.0
        self.limits = scenario.limits
        self.pieces = PieceMap([scenario.size], scenario.piece_bytes)
        self.content = CONTENT
        self.tracker = Tracker(CONTENT, lambda: self.now_s)
        self.network = Network()
        self.chance = random.Random(f"{scenario.name} {seed}")
        self._events: list[tuple[float, int, Callable[[Any], object], Any]] = []
        self._order = itertools.count()
        self._settling = False
        self._records: dict[str, PeerRecord] = {}
        self._racks = self._make_racks()
        self.nodes: dict[str, Node] = {}
        self.seeders = [self._make(f"seeder{n}", k, True) for n, k in enumerate(self._seeding())]
        self.fetchers = self._make_fetchers()
        self.left = len(self.fetchers)
        """Peers that are to get everything and have not."""
        self._schedule()

    # -- the cast ---------------------------------------------------------------------------------

    def _seeding(self) -> list[Kind]:
        scenario = self.scenario
        if scenario.seeder_kinds:
            return self._drawn(scenario.seeder_kinds, scenario.seeders)
        return [scenario.seeder] * scenario.seeders

    def _drawn(self, kinds: tuple[Kind, ...], count: int) -> list[Kind]:
        """``count`` of the kinds in their parts, shuffled."""
        drawn: list[Kind] = []
        for kind in kinds:
            drawn += [kind] * round(kind.part * count)
        drawn = (drawn + [kinds[-1]] * count)[:count]
        self.chance.shuffle(drawn)
        return drawn

    def _make_racks(self) -> list[tuple[Link, Link]]:
        scenario = self.scenario
        if not scenario.racks:
            return []
        mean = sum(kind.part * kind.up_bytes_s for kind in scenario.kinds)
        uplink = mean * (scenario.peers / scenario.racks) / scenario.oversubscribed
        return [
            (Link(uplink, f"rack{number} out"), Link(uplink, f"rack{number} in"))
            for number in range(scenario.racks)
        ]

    def _make(self, name: str, kind: Kind, complete: bool) -> Node:
        number = len(self.nodes)
        rack = number % len(self._racks) if self._racks else 0
        up, down = Link(kind.up_bytes_s, f"{name} up"), Link(kind.down_bytes_s, f"{name} down")
        node = self.nodes[name] = Node(self, name, up, down, rack, complete=complete)
        return node

    def _make_fetchers(self) -> list[Node]:
        scenario = self.scenario
        names = [f"p{self.chance.randrange(16**8):08x}{n}" for n in range(scenario.peers)]
        kinds = self._drawn(scenario.kinds, scenario.peers)
        return [self._make(*one, False) for one in zip(names, kinds, strict=True)]

    def _schedule(self) -> None:
        scenario = self.scenario
        for node in self.seeders:
            node.alive = True
            self.join(node)
        for node in self.fetchers:
            self.after(scenario.arrive_s * self.chance.random(), self._arrive, node)
            if scenario.lifetime_s is not None:
                self._doom(node, scenario.arrive_s)
        worse = scenario.degrading
        everybody = [*self.fetchers, *(self.seeders if len(self.seeders) > 1 else ())]
        for node in self.chance.sample(everybody, round(worse.part * len(everybody))):
            at_s = self.chance.uniform(0.0, worse.until_s)
            good = node.up.capacity
            self.after(at_s, self._change, (node, good * worse.factor))
            if worse.for_s:
                self.after(at_s + worse.for_s, self._change, (node, good))

    def zone_of(self, node: Node) -> str:
        return f"rack{node.rack}" if self._racks and self.scenario.zones else ""

    def record(self, node: Node) -> PeerRecord:
        """What others are told of ``node`` by peers, not by trackers."""
        found = self._records.get(node.name)
        if found is None:
            found = PeerRecord(node.name, f"{node.name}:1", False, self.zone_of(node))
            self._records[node.name] = found
        return found

    def flow(self, source: Node, target: Node) -> Flow:
        """From ``source`` to ``target``, through the uplinks of their racks."""
        if self._racks and source.rack != target.rack:
            out, into = self._racks[source.rack][0], self._racks[target.rack][1]
            return Flow((source.up, out, into, target.down))
        return Flow((source.up, target.down))

    # -- who comes and goes -----------------------------------------------------------------------

    def _arrive(self, node: Node) -> None:
        if not node.began_s:
            node.began_s = self.now_s
        node.begin(CHOICES[self.scenario.choice](node.random))
        if node.here and not node.joined:
            self.join(node)

    def _doom(self, node: Node, after_s: float) -> None:
        lifetime_s = self.scenario.lifetime_s
        if lifetime_s is not None:
            self.after(after_s + self.chance.expovariate(1.0 / lifetime_s), self._break_off, node)

    def _break_off(self, node: Node) -> None:
        if not node.alive or node.done:
            return
        back_s = self.scenario.back_s
        node.leave()
        if back_s is None:
            self.left -= 1
        else:
            self.after(back_s, self._arrive, node)
            self._doom(node, back_s)

    def _change(self, what: tuple[Node, float]) -> None:
        node, capacity = what
        node.ups.append((self.now_s, capacity))
        self.network.change(node.up, capacity)
        self._settle(None)

    def join(self, node: Node) -> None:
        node.joined = True
        self.tracker.join(node.name, complete=node.complete, zone=self.zone_of(node))
        self.after(RENEW_S, self._renew, node)

    def _renew(self, node: Node) -> None:
        if node.alive and node.joined:
            self.tracker.renew(node.name)
            self.after(RENEW_S, self._renew, node)

    def finished(self, node: Node) -> None:
        self.left -= 1
        if self.scenario.stay:
            self.tracker.join(node.name, complete=True, zone=self.zone_of(node))
            return
        self.tracker.leave(node.name)
        node.leave()

    # -- what flows -------------------------------------------------------------------------------

    def start(self, pipe: Pipe) -> None:
        pipe.flow.owner = pipe
        pipe.left, pipe.since_s = self._piece_bytes(pipe), self.now_s
        self.network.start(pipe.flow)
        self._await(pipe)
        self._settle_soon()

    def stop(self, pipe: Pipe) -> None:
        pipe.version += 1
        self.network.stop(pipe.flow)
        self._settle_soon()

    def next_piece(self, pipe: Pipe) -> None:
        pipe.left, pipe.since_s = self._piece_bytes(pipe), self.now_s
        self._await(pipe)

    def _piece_bytes(self, pipe: Pipe) -> float:
        run, got = pipe.queue[0]
        return float(self.pieces.bytes_of(run.first + got, 1))

    def _await(self, pipe: Pipe) -> None:
        """The end of the piece, at the rate that it has now."""
        pipe.version += 1
        if pipe.flow.rate > 0:
            self.after(pipe.left / pipe.flow.rate, self._sent, (pipe, pipe.version))

    def _sent(self, what: tuple[Pipe, int]) -> None:
        pipe, version = what
        if version == pipe.version:
            pipe.node.arrived(pipe)

    def _settle_soon(self) -> None:
        if not self._settling:
            self._settling = True
            turns = int(self.now_s / SETTLE_S) + 1
            self.after(turns * SETTLE_S - self.now_s, self._settle_in_turn, None)

    def _settle_in_turn(self, _: None) -> None:
        self._settling = False
        self._settle(None)

    def _settle(self, _: None) -> None:
        now_s = self.now_s
        for flow, rate in self.network.settle():
            pipe = flow.owner
            assert isinstance(pipe, Pipe)
            pipe.left = max(pipe.left - flow.rate * (now_s - pipe.since_s), 0.0)
            pipe.since_s = now_s
            self.network.grant(flow, rate)
            self._await(pipe)
        if not self.network.settled:
            self._settle_soon()

    # -- the clock --------------------------------------------------------------------------------

    def after(self, seconds: float, what: Callable[[Any], object], about: Any) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), what, about))

    def run(self) -> Outcome:
        """Until everybody that did not leave has everything. Raises :class:`Stuck`."""
        count, second, events = 0, 1.0, self._events
        while self.left:
            at_s, _, what, about = heapq.heappop(events)
            if at_s > self.scenario.limit_s or not events:
                late = [node for node in self.fetchers if not node.done]
                raise Stuck(f"after {at_s:.0f} s {self.left} peers are not done: {late[:3]}")
            while at_s >= second:
                self._told(self)
                second += 1.0
            self.now_s = at_s
            what(about)
            count += 1
        return self._outcome(count)

    def _outcome(self, events: int) -> Outcome:
        done = [node for node in self.fetchers if node.ended_s is not None]
        ends = sorted(node.ended_s or 0.0 for node in done)
        sent = sum(node.sent_bytes for node in self.nodes.values())
        size = self.scenario.size
        return Outcome(
            self.scenario,
            self.seed,
            tuple(self.nodes.values()),
            tuple(sorted((node.ended_s or 0.0) - node.began_s for node in done)),
            tuple(ends),
            sum(node.sent_bytes for node in self.seeders) / size,
            sent / size / max(len(done), 1),
            self.tracker,
            events,
            tuple(out.capacity for out, _ in self._racks),
        )


def simulate(
    scenario: Scenario, seed: int, told: Callable[[World], object] = lambda world: None
) -> Outcome:
    """One run."""
    return World(scenario, seed, told).run()
