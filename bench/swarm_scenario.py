"""What a simulated swarm is made of: links, racks, who comes and goes. Values only.

A scenario and a seed make a run; both together replay it exactly.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from peer.limits import PeerLimits

MIB = 1024 * 1024
MBIT = 1e6 / 8
"""Bytes a second."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of peer: its part of all, and its links in bytes a second."""

    part: float
    up_bytes_s: float
    down_bytes_s: float


GIGABIT = (Kind(1.0, 1000 * MBIT, 1000 * MBIT),)
UNEQUAL = (
    Kind(0.1, 1000 * MBIT, 1000 * MBIT),
    Kind(0.4, 250 * MBIT, 500 * MBIT),
    Kind(0.5, 50 * MBIT, 250 * MBIT),
)
"""A few fast, many slow senders; everybody receives faster than it sends."""


@dataclass(frozen=True, slots=True)
class Degrading:
    """A part of the peers, drawn by the seed, whose uploads fall to ``factor`` at a time drawn
    between 0 and ``until_s``, and are mended ``for_s`` later; 0: never."""

    part: float = 0.0
    factor: float = 0.05
    until_s: float = 20.0
    for_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One swarm. Times in seconds."""

    name: str
    peers: int = 1000
    """That fetch."""
    pieces: int = 256
    piece_bytes: int = 4 * MIB
    kinds: tuple[Kind, ...] = GIGABIT
    seeders: int = 1
    seeder: Kind = GIGABIT[0]
    seeder_kinds: tuple[Kind, ...] = ()
    """Instead of ``seeder``: each seeder is one of these, in these parts."""
    racks: int = 0
    """0: no racks, only the links of the peers."""
    oversubscribed: float = 4.0
    """The links of the peers of a rack together, by the uplink of the rack."""
    zones: bool = True
    """Whether peers say in which rack they are."""
    latency_s: float = 0.001
    """One way."""
    arrive_s: float = 0.0
    """They begin evenly spread over this time; 0: all at once, a flash crowd."""
    stay: bool = True
    """Whether who is complete goes on to serve."""
    lifetime_s: float | None = None
    """Who fetches breaks off after this time on average (exponential), without a word."""
    back_s: float | None = 5.0
    """Who broke off comes back after this time, with what it had; None: never."""
    degrading: Degrading = Degrading()
    limits: PeerLimits = field(default_factory=PeerLimits)
    choice: str = "learning"
    limit_s: float = 3600.0
    """A run that is not over by then is said to be stuck."""

    @property
    def size(self) -> int:
        return self.pieces * self.piece_bytes

    def but(self, **changes: object) -> Scenario:
        """The same with some things changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]  # names are checked there


SCENARIOS = {
    one.name: one
    for one in (
        Scenario("flash"),
        Scenario("unequal", kinds=UNEQUAL),
        Scenario("racks", racks=25),
        Scenario("racks-blind", racks=25, zones=False),
        Scenario("churn", kinds=UNEQUAL, arrive_s=30.0, stay=False, lifetime_s=60.0),
        Scenario("degrading", kinds=UNEQUAL, degrading=Degrading(0.3)),
    )
}
