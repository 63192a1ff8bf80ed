"""Who sends how fast: links shared by flows, max-min fair. Pure; the bandwidth model of ``swarm``.

A *flow* is what one peer sends another; it passes some *links* (the sender's upload, perhaps the
uplinks of two racks, the receiver's download). Rates are **max-min fair**: no flow can be given
more without taking from one that has no more. That is what many TCP connections with equal round
trips come to, about, and it is the usual model of a swarm at this scale.

How
---
Each link has a *level*: the most that it grants one flow, such that it is full when each of its
flows takes the least of the levels on its way. A level depends on those of other links, so they
are worked out in rounds, only where something changed (Charny, Clark and Jain, "Congestion control
with explicit rate indication", ICC 1995: the rounds end in the max-min allocation).

* :meth:`Network.settle` is called on a grid of time, not at every change, and stops after
  ``rounds`` rounds; what is not even yet goes on at the next call.
* Between two calls a new flow gets what its links have left, and what a flow leaves lies idle.

So at a moment the rates may be off the max-min ones. What holds at **every** moment: no link
carries more than its capacity, because what would be too much is scaled down (the test by that
name). Therefore no simulated swarm can be faster than the bound (:mod:`bench.swarm_bound`).
"""

from __future__ import annotations

from collections.abc import Iterable

TOLERANCE = 0.02
"""A level that moves less than this part of itself is left as it is."""
ROUNDS = 3
INFINITE = float("inf")


class Link:
    """``capacity`` in bytes a second."""

    __slots__ = ("capacity", "flows", "level", "name", "used")

    def __init__(self, capacity: float, name: str = "") -> None:
        self.capacity = capacity
        self.name = name
        self.level = INFINITE
        self.used = 0.0
        """The sum of the rates of its flows."""
        self.flows: dict[Flow, None] = {}
        """In the order in which they came: a replay must meet them in the same order."""

    def fair_level(self) -> float:
        """The most to grant one flow so that this link is full, or all it has and some more."""
        if not self.flows:
            return INFINITE
        caps = sorted([flow.cap_without(self) for flow in self.flows])
        left, count = self.capacity, len(caps)
        for cap in caps:
            if cap * count >= left:
                return left / count
            left -= cap
            count -= 1
        return caps[-1] + left

    def __repr__(self) -> str:
        return f"<Link {self.name} {self.used:.0f} of {self.capacity:.0f}, {len(self.flows)} flows>"


class Flow:
    """What one peer sends another. ``rate`` in bytes a second."""

    __slots__ = ("links", "owner", "rate")

    def __init__(self, links: tuple[Link, ...], owner: object = None) -> None:
        self.links = links
        self.owner = owner
        self.rate = 0.0

    def cap_without(self, link: Link) -> float:
        """The least level of the other links on its way."""
        least = INFINITE
        for other in self.links:
            if other is not link and other.level < least:
                least = other.level
        return least

    def __repr__(self) -> str:
        return f"<Flow over {[link.name for link in self.links]} at {self.rate:.0f}>"


class Network:
    """The flows that are under way. A link belongs to it as soon as a flow passes it."""

    def __init__(self, tolerance: float = TOLERANCE, rounds: int = ROUNDS) -> None:
        self._tolerance = tolerance
        self._rounds = rounds
        self._unsettled: dict[Link, None] = {}

    @property
    def settled(self) -> bool:
        return not self._unsettled

    def start(self, flow: Flow) -> None:
        """``flow`` has something to send: it gets what is left, until the next settling."""
        left = min(link.capacity - link.used for link in flow.links)
        flow.rate = max(left, 0.0)
        for link in flow.links:
            link.flows[flow] = None
            link.used += flow.rate
            self._unsettled[link] = None

    def stop(self, flow: Flow) -> None:
        """``flow`` has nothing to send any more."""
        for link in flow.links:
            del link.flows[flow]
            link.used = link.used - flow.rate if link.flows else 0.0
            self._unsettled[link] = None
        flow.rate = 0.0

    def change(self, link: Link, capacity: float) -> None:
        """A link has become slower or faster. Its rates hold from the next settling on."""
        link.capacity = capacity
        self._unsettled[link] = None

    def settle(self) -> list[tuple[Flow, float]]:
        """Share anew where something changed. Returns the flows to be given another rate, each
        with it; the caller accounts for what they sent so far and then calls :meth:`grant`."""
        touched: dict[Link, None] = {}
        frontier = self._unsettled
        for _ in range(self._rounds):
            touched.update(frontier)
            frontier = self._round(frontier)
            if not frontier:
                break
        self._unsettled = frontier
        touched.update(frontier)
        return self._changes(touched)

    def grant(self, flow: Flow, rate: float) -> None:
        for link in flow.links:
            link.used += rate - flow.rate
        flow.rate = rate

    def _round(self, links: Iterable[Link]) -> dict[Link, None]:
        """New levels of ``links``; the links that have to look again because of them."""
        again: dict[Link, None] = {}
        for link in links:
            old, new = link.level, link.fair_level()
            if new == old or abs(new - old) <= self._tolerance * old < INFINITE:
                continue
            link.level = new
            lower = min(old, new)
            for flow in link.flows:
                for other in flow.links:
                    if other is not link and lower < other.level:
                        again[other] = None
        return again

    def _changes(self, touched: Iterable[Link]) -> list[tuple[Flow, float]]:
        wanted: dict[Flow, float] = {}
        for link in touched:
            for flow in link.flows:
                if flow not in wanted:
                    wanted[flow] = min([one.level for one in flow.links])
        scales = self._scales(wanted)
        changes = []
        for flow, level in wanted.items():
            rate = level * min([scales.get(link, 1.0) for link in flow.links])
            # A small gain is not worth a new event; a loss is taken, or a link would overflow.
            if rate < flow.rate or rate > flow.rate * (1.0 + self._tolerance):
                changes.append((flow, rate))
        return changes

    def _scales(self, wanted: dict[Flow, float]) -> dict[Link, float]:
        """By how much the flows of ``wanted`` are to be scaled down on links that would carry too
        much."""
        before: dict[Link, float] = {}
        after: dict[Link, float] = {}
        for flow, rate in wanted.items():
            for link in flow.links:
                before[link] = before.get(link, 0.0) + flow.rate
                after[link] = after.get(link, 0.0) + rate
        scales = {}
        for link, load in after.items():
            others = max(link.used - before[link], 0.0)
            if others + load > link.capacity:
                scales[link] = max(link.capacity - others, 0.0) / load
        return scales
