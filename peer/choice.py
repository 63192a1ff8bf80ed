"""Which of the known peers to be connected to. Pure; the random source is handed in.

The seam is :class:`PeerChoice`. Whoever is connected is asked as fast as it delivers (its runs and
the requests ahead grow with its rate), so the choice is about places: a download holds at most
``fetch_peers_max`` of them.

* :class:`RoundRobin`, the baseline: everybody in turn, whatever he was good for.
* :class:`ByRate`, the default: who delivered fast is likely to be chosen again, and a part of all
  places goes to peers that were never tried, or else nobody would learn that they are faster.

Both keep who is connected, and both go by zone through :class:`NearFirst`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

EXPLORE = 0.25
"""The part of free places that peers without a known rate get, as long as there are any."""
FLOOR = 0.1
"""The slowest peer still weighs this much of the fastest."""
SLOW = 0.25
"""Who delivers less than this part of the median makes room for somebody new."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer that may be connected to now, or is."""

    peer: str
    connected: bool = False
    near: bool = True
    rate_bytes_s: float | None = None
    """What it delivered when it was asked last; None: it was never asked."""


class PeerChoice(Protocol):
    """Decides who gets a place."""

    def choose(self, candidates: Sequence[Candidate], places: int) -> list[str]:
        """Up to ``places`` peers out of those that are not connected, in order of preference."""

    def release(self, connected: Sequence[Candidate]) -> str | None:
        """The connected peer that may make room for one that was not tried; None: nobody."""


class RoundRobin:
    """Everybody in turn."""

    def __init__(self) -> None:
        self._last = ""

    def choose(self, candidates: Sequence[Candidate], places: int) -> list[str]:
        names = sorted(one.peer for one in candidates if not one.connected)
        after = [name for name in names if name > self._last]
        chosen = [*after, *(name for name in names if name <= self._last)][: max(places, 0)]
        if chosen:
            self._last = chosen[-1]
        return chosen

    def release(self, connected: Sequence[Candidate]) -> str | None:
        return min((one.peer for one in connected), default=None)


class ByRate:
    """Weighed by measured rate, with a floor for exploration."""

    def __init__(self, random_source: random.Random) -> None:
        self._random = random_source

    def choose(self, candidates: Sequence[Candidate], places: int) -> list[str]:
        fresh = [one for one in candidates if not one.connected and one.rate_bytes_s is None]
        known = [one for one in candidates if not one.connected and one.rate_bytes_s is not None]
        self._random.shuffle(fresh)
        fastest = max((one.rate_bytes_s or 0.0 for one in known), default=0.0)
        chosen: list[str] = []
        while len(chosen) < places and (fresh or known):
            if fresh and (not known or self._random.random() < EXPLORE):
                chosen.append(fresh.pop().peer)
                continue
            weights = [max(one.rate_bytes_s or 0.0, FLOOR * fastest, 1.0) for one in known]
            place = self._random.choices(range(len(known)), weights)[0]
            chosen.append(known.pop(place).peer)
        return chosen

    def release(self, connected: Sequence[Candidate]) -> str | None:
        measured = sorted(
            (one.rate_bytes_s, one.peer) for one in connected if one.rate_bytes_s is not None
        )
        if len(measured) < 2:
            return None
        median = measured[len(measured) // 2][0]
        slowest, peer = measured[0]
        return peer if slowest < SLOW * median else None


class NearFirst:
    """Peers of the own zone first; ``far_min`` places are for others as long as there are any,
    so that a zone is never cut off from what only others have."""

    def __init__(self, choice: PeerChoice, far_min: int) -> None:
        self._choice = choice
        self._far_min = far_min

    def choose(self, candidates: Sequence[Candidate], places: int) -> list[str]:
        far = [one for one in candidates if not one.near]
        near = [one for one in candidates if one.near]
        far_connected = sum(one.connected for one in far)
        for_far = min(max(self._far_min - far_connected, 0), places)
        chosen = self._choice.choose(far, for_far) if far and for_far else []
        chosen = self._choice.choose(near, places - len(chosen)) + chosen
        if len(chosen) < places and far:
            rest = [one for one in far if one.peer not in chosen]
            chosen += self._choice.choose(rest, places - len(chosen))
        return chosen

    def release(self, connected: Sequence[Candidate]) -> str | None:
        return self._choice.release(connected)
