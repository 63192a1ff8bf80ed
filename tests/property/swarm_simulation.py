"""Several brains that trade in virtual time: no socket, no thread, the same run for a seed.

Each node sends with its own rate, one piece at a time, to those who asked in turn; receiving is
never the bottleneck. News of a piece reaches all others after ``NEWS_S``.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable

from peer.decisions import Ask, Done, Wait
from peer.limits import PeerLimits
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges
from peer.swarm import Swarm

NEWS_S = 0.05
LATENCY_S = 0.01
PIECE = 512 * 1024


@dataclasses.dataclass
class Request:
    """One run on its way; ``sent``: pieces of it that were sent."""

    by: Node
    run: Run
    sent: int = 0


class Node:
    """One peer: a brain, unless it is the seeder, and a line to send over."""

    def __init__(self, world: World, name: str, up_bytes_s: float, seeds: bool) -> None:
        self.world, self.name, self.up_bytes_s = world, name, up_bytes_s
        self.brain: Swarm | None = None
        if not seeds:
            self.brain = Swarm(world.limits, random.Random(f"{world.seed}{name}"))
            self.brain.described(world.pieces)
        self.queues: dict[str, deque[Request]] = {}
        self.sending = False
        self.alive = True
        self.sent_bytes = 0
        self.finished_s: float | None = None
        self.looks_again = False

    def look(self, at: Node | None = None) -> None:
        """Ask one, or everybody, for what the brain decides."""
        if self.brain is None or not self.alive:
            return
        for other in self.world.nodes if at is None else (at,):
            while other is not self and other.alive:
                decision = self.brain.next(other.name, self.world.now_s)
                if not isinstance(decision, Ask):
                    self._look_again(decision)
                    break
                request = Request(self, decision.run)
                self.world.at(LATENCY_S, lambda o=other, r=request: o.enqueue(r))

    def _look_again(self, decision: object) -> None:
        if isinstance(decision, Done) and self.finished_s is None:
            self.finished_s = self.world.now_s
        if isinstance(decision, Wait) and not self.looks_again:
            self.looks_again = True
            self.world.at(0.1, self._again)

    def _again(self) -> None:
        self.looks_again = False
        self.look()

    def enqueue(self, request: Request) -> None:
        self.queues.setdefault(request.by.name, deque()).append(request)
        if not self.sending and self.alive:
            self.send_next()

    def send_next(self) -> None:
        """The next piece of whoever's turn it is."""
        waiting = next((name for name, queue in self.queues.items() if queue), None)
        self.sending = waiting is not None
        if waiting is None or not self.alive:
            return
        queue = self.queues.pop(waiting)
        self.queues[waiting] = queue  # last in turn from now on
        request = queue[0]
        self.world.at(PIECE / self.up_bytes_s, lambda: self._sent(queue, request))

    def _sent(self, queue: deque[Request], request: Request) -> None:
        if not self.alive:
            return
        piece = request.run.first + request.sent
        request.sent += 1
        self.sent_bytes += PIECE
        whole = request.sent == request.run.count
        if whole:
            queue.popleft()
        self.world.at(LATENCY_S, lambda: request.by.receive(self, request.run, piece, whole))
        self.send_next()

    def receive(self, source: Node, run: Run, piece: int, whole: bool) -> None:
        if self.brain is None or not self.alive:
            return
        new = piece in self.brain.missing()
        self.brain.arrived(source.name, run, piece, 1, self.world.now_s)
        if whole:
            self.brain.ended(source.name, run)
        if new:
            self.world.at(NEWS_S, lambda: self.world.tell(self, piece))
        self.look(source)


class World:
    """``leechers`` nodes that begin at the same moment beside one seeder."""

    def __init__(self, seed: int, pieces: int, up_bytes_s: list[float]) -> None:
        self.seed, self.now_s = seed, 0.0
        self.limits = PeerLimits()
        self.pieces = PieceMap([pieces * PIECE], PIECE)
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self.nodes = [Node(self, f"n{i}", rate, i == 0) for i, rate in enumerate(up_bytes_s)]
        self.seeder, self.leechers = self.nodes[0], self.nodes[1:]
        for number, node in enumerate(self.leechers):
            brain = node.brain
            assert brain is not None
            brain.connected("n0", start_at=int(number * 0.618034 % 1 * pieces))
            for other in self.leechers:
                if other is not node:
                    brain.connected(other.name, Ranges())

    def at(self, after_s: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now_s + after_s, next(self._order), what))

    def tell(self, teller: Node, piece: int) -> None:
        for node in self.leechers:
            if node is not teller and node.alive and teller.alive and node.brain is not None:
                node.brain.told(teller.name, piece, 1)
                node.look(teller)

    def kill(self, node: Node) -> None:
        node.alive = False
        for other in self.leechers:
            if other.brain is not None and other.alive:
                other.brain.lost(node.name)
                other.look()

    def run(self, limit_s: float = 1000.0) -> float:
        """Until every living leecher is done; the seconds it took."""
        for node in self.leechers:
            node.look()
        while any(node.finished_s is None for node in self.leechers if node.alive):
            assert self._events, f"nobody does anything: {[n.brain for n in self.leechers]}"
            self.now_s, _, what = heapq.heappop(self._events)
            assert self.now_s < limit_s, f"not done: {[n.brain for n in self.leechers]}"
            what()
        return self.now_s
