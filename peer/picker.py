"""Which pieces next. Pure; the random source is handed in.

Rules, each tested by its name (``tests/unit/test_picker.py``):

* **only what is free**: never a piece that is verified or asked for elsewhere;
* **only what the peer has**;
* **runs have bounds**: at most ``run_pieces_max`` pieces and as many bytes as the caller allows,
  never more than ``run_bytes_max``; at least one piece;
* **whole blocks**: a run that could go on and reaches the end of a block ends there, and a start
  that is left to chance is that of a block, so that what peers have and tell each other lies in
  few ranges; a block is ``run_bytes_target`` of pieces, at most a part in :data:`BLOCKS_MIN`;
* **preferred first**: what a reader waits for goes before everything, the newest wish first,
  each in its order;
* **started first**: then what was begun elsewhere and broken off, so that no run stays half done;
* **in order, if so wished**: a sequential download takes the lowest piece then;
* **rarest first**: else the pieces that the fewest connected peers have; a run does not go on
  into pieces that more of them have;
* **go on where the last run ended** when the piece there is one of the rarest: consecutive reads
  and writes at both ends;
* **a random tie**: among equally rare pieces it starts where the seeder proposed, the first time,
  and anywhere after that: several peers work in different places, and each newcomer to a swarm
  begins with another piece, so that all have something to trade at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peer.availability import Availability
from peer.limits import PeerLimits
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges, first_common

BLOCKS_MIN = 64
"""A content of fewer pieces has blocks of one."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What goes before rarity."""

    preferred: Sequence[Ranges] = ()
    """Newest first."""
    started: Ranges | None = None
    sequential: bool = False


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class Asked:
    """The peer to ask."""

    has: Ranges | None = None
    """The pieces it has, None for all."""
    go_on_at: int | None = None
    """The piece after its last run."""
    start_at: int | None = None
    """Where it proposed to start."""
    bytes_max: int = PeerLimits().run_bytes_target
    """What it delivers in the time that a run should take."""


def pick(
    free: Ranges,
    peer: Asked,
    availability: Availability,
    pieces: PieceMap,
    limits: PeerLimits,
    random_source: random.Random,
    wishes: Wishes = NO_WISHES,
) -> Run | None:
    """The next run to ask of one peer, or None when it has nothing that is free."""
    usable = [free] if peer.has is None else [free, peer.has]
    part, block = _wished(usable, pieces.count, wishes), 1
    if part is None:
        block = _block(pieces, limits)
        start = _start(peer, pieces.count, random_source) // block * block
        part = _rarest(usable, availability.rarest_first(), peer.go_on_at, start, pieces.count)
    if part is None:
        return None
    first, end = part
    bytes_max = min(peer.bytes_max, limits.run_bytes_max)
    count = pieces.fitting(first, min(end - first, limits.run_pieces_max), bytes_max)
    over = (first + count) % block
    if over < count < end - first:
        count -= over
    return Run(first, count)


def _block(pieces: PieceMap, limits: PeerLimits) -> int:
    """Pieces of a block, many of which make up the content, so that peers can begin apart."""
    whole = min(limits.run_bytes_target // pieces.piece_bytes, limits.run_pieces_max)
    return max(min(whole, pieces.count // BLOCKS_MIN), 1)


def _wished(usable: list[Ranges], count: int, wishes: Wishes) -> tuple[int, int] | None:
    for wish in wishes.preferred:
        if (part := first_common([*usable, wish], 0, count)) is not None:
            return part
    if wishes.started and (part := first_common([*usable, wishes.started], 0, count)):
        return part
    return first_common(usable, 0, count) if wishes.sequential else None


def _start(peer: Asked, count: int, random_source: random.Random) -> int:
    if peer.go_on_at is None and peer.start_at is not None and peer.start_at < count:
        return peer.start_at
    return random_source.randrange(count) if count else 0


def _rarest(
    usable: list[Ranges],
    levels: Iterable[Ranges],
    go_on_at: int | None,
    start: int,
    count: int,
) -> tuple[int, int] | None:
    if len(usable) > 1:
        # One walk over both, not one for each level: what a partial peer has and what is free lie
        # in many short ranges that hardly meet, and that search was most of a decision.
        usable = [usable[0].overlap(usable[1])]
    if not usable[0]:
        return None
    for level in levels:
        sets = [*usable, level]
        if go_on_at is not None and all(go_on_at in ranges for ranges in sets):
            return first_common(sets, go_on_at, count)
        part = first_common(sets, start, count) or first_common(sets, 0, start)
        if part is not None:
            return part
    return None
