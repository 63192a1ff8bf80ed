"""Which pieces next. Pure; the random source is handed in.

Rules, each tested by its name (``tests/unit/test_swarm.py``):

* **only what is free**: never a piece that is verified or asked for elsewhere;
* **only what the peer has**;
* **runs have bounds**: at most ``run_pieces_max`` pieces and about ``run_bytes_target`` bytes,
  never more than ``run_bytes_max``; at least one piece;
* **go on where the last run ended**, as long as that is free: consecutive reads and writes at
  both ends;
* **else start anywhere**: at the start of a random free range, or inside it when it is long, so
  that several peers work in different places and several downloads begin with different pieces.
"""

from __future__ import annotations

import random

from peer.limits import PeerLimits
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges


def pick(
    free: Ranges,
    has: Ranges | None,
    go_on_at: int | None,
    pieces: PieceMap,
    limits: PeerLimits,
    random_source: random.Random,
) -> Run | None:
    """The next run to ask of one peer, or None when it has nothing that is free.

    ``has``: the pieces the peer has, None for all. ``go_on_at``: the piece after its last run.
    """
    usable = free if has is None else free.overlap(has)
    if not usable:
        return None
    part = usable.at(go_on_at) if go_on_at is not None else None
    if part is None:
        part = _start_anywhere(usable, limits, random_source)
    first, end = part
    bytes_max = min(limits.run_bytes_target, limits.run_bytes_max)
    count = pieces.fitting(first, min(end - first, limits.run_pieces_max), bytes_max)
    return Run(first, count)


def _start_anywhere(
    usable: Ranges, limits: PeerLimits, random_source: random.Random
) -> tuple[int, int]:
    first, end = usable.nth(random_source.randrange(len(usable)))
    if end - first > 2 * limits.run_pieces_max:
        first = random_source.randrange(first, end - limits.run_pieces_max)
    return first, end
