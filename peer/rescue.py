"""The two exceptions to "no piece is asked for twice": stealing and the endgame. Pure.

Both serve a peer that has nothing else to do; both look at how late what others were asked for
will come. A peer that is silent is expected to stay silent as long again.

* **stealing**: the thief takes over the end of the latest claim, when the owner would deliver it
  later than the thief by ``steal_factor`` and not within ``steal_after_s``. The piece that is
  under way is left to its owner, unless that one has fallen silent.
* **endgame**: one piece that is late is asked of a second peer, and of another one when that one
  is silent as well. The first that delivers it wins; what is asked twice of peers that
  send is ``endgame_bytes_max`` at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peer.claims import Claim, PeerState, not_here
from peer.limits import PeerLimits
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges, first_common


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a peer with nothing to do looks around."""

    peers: Mapping[str, PeerState]
    me: str
    verified: Ranges
    pieces: PieceMap
    limits: PeerLimits
    now_s: float

    @property
    def mine(self) -> PeerState:
        return self.peers[self.me]

    def others(self) -> list[PeerState]:
        return [state for peer, state in self.peers.items() if peer != self.me and state.claims]

    def lateness_s(self, owner: PeerState, ahead: int) -> float:
        """In how long ``owner`` will have delivered the next ``ahead`` bytes."""
        silent_s = owner.rate.silent_s(self.now_s)
        rate = owner.rate.bytes_s(self.now_s)
        return max(ahead / rate, silent_s) if rate else silent_s


def steal(around: Surroundings, run_bytes: int) -> Claim | None:
    """The claim of the thief, the claim of the owner shortened; None when nothing is worth it."""
    mine, pieces = around.mine, around.pieces
    rate = mine.rate.bytes_s(around.now_s)
    if mine.claims or rate is None:
        return None
    after_s = around.limits.steal_after_s
    worth_s = max(around.limits.steal_factor * pieces.piece_bytes / rate, after_s)
    latest: tuple[float, Claim, int] | None = None
    for owner in around.others():
        silent = owner.rate.silent_s(around.now_s) >= after_s
        ahead = 0
        for place, claim in enumerate(owner.claims):
            ahead += (claim.run.count - claim.got) * pieces.piece_bytes
            late_s = around.lateness_s(owner, ahead)
            first = _not_begun(claim, around.verified, under_way=place == 0 and not silent)
            if first is None or late_s < worth_s or not mine.has_all(first, claim.end):
                continue
            if latest is None or late_s >= latest[0]:
                latest = (late_s, claim, first)
    if latest is None:
        return None
    _, claim, first = latest
    count = pieces.fitting(first, claim.end - first, run_bytes)
    claim.end -= count
    return Claim(Run(claim.end, count), claim.end + count)


def _not_begun(claim: Claim, verified: Ranges, *, under_way: bool) -> int | None:
    """The first piece of the end of a claim that was not begun; None when all was."""
    missing = [] if claim.extra else not_here(claim, verified)
    if not missing or missing[-1][1] != claim.end:
        return None
    first = missing[-1][0] + (under_way and len(missing) == 1)
    return first if first < claim.end else None


def double(around: Surroundings) -> Claim | None:
    """A second claim of one piece that is late; None when there is none, or too many are."""
    if around.mine.claims:
        return None
    doubled = Ranges()
    for owner in around.others():
        if owner.rate.silent_s(around.now_s) >= around.limits.steal_after_s:
            continue  # it hangs as well: costs no bytes, and without a third peer none may come
        for claim in owner.claims:
            if claim.extra:
                doubled.add(claim.run.first, claim.run.end)
    bytes_max = around.limits.endgame_bytes_max
    if doubled.count and (doubled.count + 1) * around.pieces.piece_bytes > bytes_max:
        return None
    for owner in around.others():
        # What comes in a moment anyway is not worth its bytes.
        late_s = around.lateness_s(owner, owner.bytes_ahead(around.pieces))
        if late_s < around.limits.steal_after_s:
            continue
        for claim in owner.claims:
            if not claim.extra and (run := _one_of(claim, around, doubled)) is not None:
                return Claim(run, run.end, extra=True)
    return None


def _one_of(claim: Claim, around: Surroundings, doubled: Ranges) -> Run | None:
    """One piece of a claim that I have and that is not asked for twice yet."""
    missing = Ranges(*not_here(claim, around.verified)).minus(doubled)
    has = around.mine.has
    part = first_common([missing] if has is None else [missing, has], 0, around.pieces.count)
    return Run(part[0], 1) if part is not None else None
