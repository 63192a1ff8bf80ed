"""How many of the connected peers have each piece. Pure.

Pieces lie in *levels*: level k holds those that k partial peers have. Complete peers have every
piece, so they are only counted and change no order. What a peer gains moves a few ranges up one
level; what is rarest is found by looking at the levels from below, without a walk over pieces.

To keep when you change it: the levels are disjoint and together hold every piece, and level k
holds exactly the pieces that k of the sets put in cover (``tests/property/test_swarm_properties``).
"""

from __future__ import annotations

from collections.abc import Iterator

from peer.ranges import Ranges

FEW_RANGES = 16
"""Up to this many ranges are moved one by one; more in one walk over both sets."""


class Availability:
    """Counts for pieces 0 to ``count - 1``."""

    def __init__(self, count: int) -> None:
        self.complete_peers = 0
        self._levels = [Ranges((0, count))]

    def gained(self, pieces: Ranges) -> None:
        """One more partial peer has ``pieces``. None of them was counted for it before."""
        if len(pieces) == 1:
            # News is one run mostly, whose pieces equally many have: one level holds it all.
            start, end = pieces.nth(0)
            for number, whole in enumerate(self._levels):
                if whole.covers(start, end):
                    whole.remove(start, end)
                    self._level(number + 1).add(start, end)
                    return
        for level in reversed(range(len(self._levels))):
            self._move(pieces, level, level + 1)

    def dropped(self, pieces: Ranges) -> None:
        """One partial peer less has ``pieces``; all of them were counted for it."""
        for level in range(1, len(self._levels)):
            self._move(pieces, level, level - 1)
        while len(self._levels) > 1 and not self._levels[-1]:
            self._levels.pop()

    def of(self, piece: int) -> int:
        """How many connected peers have it, complete ones included."""
        for level, pieces in enumerate(self._levels):
            if piece in pieces:
                return level + self.complete_peers
        raise IndexError(f"piece {piece} is none of this content")

    def rarest_first(self) -> Iterator[Ranges]:
        """The pieces by how many have them, fewest first. Not to be changed meanwhile."""
        return (level for level in self._levels if level)

    def _move(self, pieces: Ranges, source: int, target: int) -> None:
        if len(pieces) > FEW_RANGES:
            moved = self._levels[source].overlap(pieces)
            if moved:
                self._levels[source] = self._levels[source].minus(moved)
                self._levels[target] = self._level(target).plus(moved)
            return
        for start, end in pieces:
            for first, after in self._levels[source].within(start, end):
                self._levels[source].remove(first, after)
                self._level(target).add(first, after)

    def _level(self, number: int) -> Ranges:
        if number == len(self._levels):
            self._levels.append(Ranges())
        return self._levels[number]

    def __repr__(self) -> str:
        levels = ", ".join(f"{number}: {level}" for number, level in enumerate(self._levels))
        return f"<Availability {self.complete_peers} complete, {levels}>"
