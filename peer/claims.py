"""Who was asked for what: the claims of one peer, and what may be taken over from it. Pure.

A *claim* is a request that was sent: its run is what the wire says. Its pieces belong to one claim
each, but the end of a claim may be taken over by another peer (*stolen*), and near the end of a
download a claim may be an *extra* one: of pieces that belong to another claim.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from peer.pieces import PieceMap, Run
from peer.ranges import Ranges
from peer.rates import Rate


@dataclass(slots=True, eq=False)
class Claim:
    """One request that was sent and is not answered to its end."""

    run: Run
    end: int
    """The pieces from here on were taken over."""
    extra: bool = False
    """Its pieces belong to another claim."""
    got: int = 0
    """Pieces of the run that came, from its first one on."""

    @property
    def owned(self) -> tuple[int, int]:
        """The pieces that belong to it, those that came included."""
        return (self.run.first, self.run.first) if self.extra else (self.run.first, self.end)


@dataclass(slots=True)
class PeerState:
    """What the brain knows of one connected peer."""

    has: Ranges | None
    """None: all pieces."""
    start_at: int | None = None
    claims: list[Claim] = field(default_factory=list)
    """In the order in which they were sent."""
    go_on_at: int | None = None
    rate: Rate = field(default_factory=Rate)
    busy_until_s: float = 0.0
    idle_since_s: float | None = None
    bytes: int = 0

    def has_all(self, first: int, end: int) -> bool:
        return self.has is None or self.has.covers(first, end)

    def claim_of(self, run: Run) -> Claim | None:
        return next((claim for claim in self.claims if claim.run == run), None)

    def bytes_ahead(self, pieces: PieceMap) -> int:
        """Asked for and not here yet; about, where the last pieces of files are short."""
        count = sum(claim.run.count - claim.got for claim in self.claims)
        return count * pieces.piece_bytes


def not_here(claim: Claim, verified: Ranges) -> list[tuple[int, int]]:
    """What a claim is to bring yet, without what was taken over."""
    missing: list[tuple[int, int]] = []
    start = claim.run.first
    for first, after in [*verified.within(claim.run.first, claim.end), (claim.end, claim.end)]:
        if start < first:
            missing.append((start, first))
        start = max(start, after)
    return missing
