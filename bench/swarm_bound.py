"""What a swarm is compared with: the bound that nothing can beat, one server, a tree. Pure.

**The bound** is the fluid one of Kumar and Ross ("Peer-assisted file distribution: the minimum
distribution time", IEEE HotWeb 2006); for equal links and whole pieces Mundinger, Weber and Weiss
("Optimal scheduling of peer-to-peer file dissemination", Journal of Scheduling 11, 2008) show how
close to it one can come. The last peer has everything no earlier than the largest of

* size / uploads of the seeders: each byte leaves them at least once;
* size / the slowest download;
* size x peers / all uploads together: each copy is sent by somebody.

Three things are added, each of them makes it lower or keeps it a bound: peers that arrive later
and uploads that change count with what they can send *from then on*, peers that leave with all
they could have sent had they stayed; and racks bound what enters and leaves them in the same way.

**One server**: the same without the uploads of those who fetch; reached in the fluid model.
**A tree**: each peer passes pieces on to ``k`` others as they come. Rates are the max-min ones of
all edges at once, a path is as fast as its slowest edge, and every level adds one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.swarm_links import Flow, Link, Network

ARITIES = (1, 2, 4, 8)
STEPS = 100


@dataclass(frozen=True, slots=True)
class Member:
    """A peer as the bound sees it. ``ups``: its upload from each time on, (seconds, bytes a
    second), in order; the first is its arrival."""

    ups: tuple[tuple[float, float], ...]
    down_bytes_s: float
    rack: int = 0

    @property
    def arrived_s(self) -> float:
        return self.ups[0][0]

    def could_send(self, until_s: float) -> float:
        """Bytes until then."""
        ends = [at_s for at_s, _ in self.ups[1:]] + [float("inf")]
        return sum(
            rate * max(min(end_s, until_s) - at_s, 0.0)
            for (at_s, rate), end_s in zip(self.ups, ends, strict=True)
        )


def soonest(enough: Callable[[float], bool], limit_s: float = 1e9) -> float:
    """The least time that is enough, by bisection; it is never told too late."""
    low, high = 0.0, 1.0
    while not enough(high) and high < limit_s:
        low, high = high, high * 2
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return low


def bound_s(
    size: float,
    seeders: Sequence[Member],
    fetchers: Sequence[Member],
    done: Sequence[Member],
    uplinks: Sequence[float] = (),
) -> float:
    """When the last of ``done`` can have everything, at the earliest. ``fetchers``: everybody who
    ever fetched, ``done`` among them. ``uplinks``: of each rack, in and out, bytes a second."""
    everybody = [*seeders, *fetchers]
    times = [
        soonest(lambda at: sum(one.could_send(at) for one in seeders) >= size),
        max(one.arrived_s + size / one.down_bytes_s for one in done),
        soonest(lambda at: sum(one.could_send(at) for one in everybody) >= size * len(done)),
    ]
    for rack, uplink in enumerate(uplinks):
        inside = [one for one in everybody if one.rack == rack]
        need = size * sum(one.rack == rack for one in done)
        seeded = any(one.rack == rack for one in seeders)
        times.append(
            soonest(
                lambda at, inside=inside, need=need, uplink=uplink: (  # type: ignore[misc]
                    uplink * at + sum(one.could_send(at) for one in inside) >= need
                )
            )
        )
        if need and not seeded:
            times.append(size / uplink)
    return max(times)


def one_server_s(size: float, seeders: Sequence[Member], done: Sequence[Member]) -> float:
    """When the last one has everything from the seeders alone."""
    total = size * len(done)
    return max(
        soonest(lambda at: sum(one.could_send(at) for one in seeders) >= total),
        max(one.arrived_s + size / one.down_bytes_s for one in done),
    )


def tree_s(
    size: float,
    piece_bytes: float,
    seeder: Member,
    fetchers: Sequence[Member],
    arity: int,
    uplinks: Sequence[float] = (),
) -> list[float]:
    """When each has everything in a tree below one seeder, shortest first. Peers take their places
    in the order given; nobody leaves, and links stay as they are at first."""
    members = [seeder, *fetchers]
    ups = [Link(one.ups[0][1]) for one in members]
    downs = [Link(one.down_bytes_s) for one in members]
    racks = [(Link(rate), Link(rate)) for rate in uplinks]
    network = Network(tolerance=0.0, rounds=10_000)
    edges = []
    for number in range(1, len(members)):
        parent = (number - 1) // arity
        here, there = members[parent].rack, members[number].rack
        between = (racks[here][0], racks[there][1]) if racks and here != there else ()
        edges.append(Flow((ups[parent], *between, downs[number])))
        network.start(edges[-1])
    for flow, rate in network.settle():
        network.grant(flow, rate)
    first_s, slowest = [0.0], [float("inf")]
    for number, edge in enumerate(edges, 1):
        parent = (number - 1) // arity
        first_s.append(first_s[parent] + piece_bytes / edge.rate)
        slowest.append(min(slowest[parent], edge.rate))
    rest = size - piece_bytes
    return sorted(a + rest / b for a, b in zip(first_s[1:], slowest[1:], strict=True))


def best_tree(times: Callable[[int], list[float]]) -> tuple[int, list[float]]:
    """The arity, and the times, of the tree whose last peer is first; ``times`` by arity."""
    return min(((arity, times(arity)) for arity in ARITIES), key=lambda one: one[1][-1])
