"""Which of the known peers to be connected to. Pure; the random source is handed in.

The seam is :class:`PeerChoice`. Whoever is connected is asked as fast as it delivers (its runs and
the requests ahead grow with its rate), so the choice is about places: a download holds at most
``fetch_peers_max`` of them.

* :class:`RoundRobin`, the baseline: everybody in turn, whatever he was good for.
* :class:`ByRate`: who delivered fast is likely to be chosen again, and a part of all places goes
  to peers that were never tried, or else nobody would learn that they are faster.
* :class:`Learning`, the default, a bandit: each peer is an arm, each round shows what those
  connected deliver, and what was seen fades, because peers get slower and faster.

All keep who is connected until :meth:`PeerChoice.release`, and all go by zone through
:class:`NearFirst`. Which one is best was measured: docs/fetching.md, "Which peer to ask".
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

EXPLORE = 0.25
"""The part of free places that peers without a known rate get, as long as there are any."""
FLOOR = 0.1
"""The slowest peer still weighs this much of the fastest."""
SLOW = 0.25
"""Who delivers less than this part of the median makes room for somebody new."""
FADE = 0.8
"""What was seen one round ago counts this much. Rounds are ``rechoose_s`` apart, so half of it is
forgotten in three of them."""
CURIOSITY = 0.25
"""The bonus for what was seen little, in parts of the fastest peer's rate."""
FORGOTTEN = 0.01
"""An arm of which less than this part of a round is remembered counts as never tried."""


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

    def release(self, connected: Sequence[Candidate], waiting: Sequence[Candidate]) -> str | None:
        """The connected peer that may make room for one of those ``waiting``; None: nobody.

        Asked once a round, when all places are taken and somebody waits.
        """


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

    def release(self, connected: Sequence[Candidate], waiting: Sequence[Candidate]) -> str | None:
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

    def release(self, connected: Sequence[Candidate], waiting: Sequence[Candidate]) -> str | None:
        if all(one.rate_bytes_s is not None for one in waiting):
            return None
        measured = sorted(
            (one.rate_bytes_s, one.peer) for one in connected if one.rate_bytes_s is not None
        )
        if len(measured) < 2:
            return None
        median = measured[len(measured) // 2][0]
        slowest, peer = measured[0]
        return peer if slowest < SLOW * median else None


class Learning:
    """Discounted UCB (Garivier and Moulines, "On upper-confidence bound policies for switching
    bandit problems", ALT 2011), with as many arms played at a time as there are places.

    An arm is worth its mean rate, past rounds fading by :data:`FADE`, and a bonus that grows the
    less of it is remembered. The paper's bonus is made for a regret bound and explores for far
    longer than a download lasts; ours is :data:`CURIOSITY` of the best mean. Who was never tried
    is worth the mean of all and the bonus of one round.
    """

    def __init__(self, random_source: random.Random) -> None:
        self._random = random_source
        self._rounds: dict[str, float] = {}
        self._rates: dict[str, float] = {}

    def choose(self, candidates: Sequence[Candidate], places: int) -> list[str]:
        free = [one for one in candidates if not one.connected]
        self._random.shuffle(free)
        worth = self._worth()
        best = heapq.nlargest(max(places, 0), free, key=lambda one: worth(one.peer))
        return [one.peer for one in best]

    def release(self, connected: Sequence[Candidate], waiting: Sequence[Candidate]) -> str | None:
        self._see(connected)
        if not connected or not waiting:
            return None
        worth = self._worth()
        worst = min(connected, key=lambda one: worth(one.peer))
        best = max(worth(one.peer) for one in waiting)
        return worst.peer if best > worth(worst.peer) else None

    def _see(self, connected: Sequence[Candidate]) -> None:
        """One round more: the older ones fade, and what is forgotten is dropped."""
        for peer in list(self._rounds):
            self._rounds[peer] *= FADE
            self._rates[peer] *= FADE
            if self._rounds[peer] < FORGOTTEN:
                del self._rounds[peer], self._rates[peer]
        for one in connected:
            if one.rate_bytes_s is not None:
                self._rounds[one.peer] = self._rounds.get(one.peer, 0.0) + 1.0
                self._rates[one.peer] = self._rates.get(one.peer, 0.0) + one.rate_bytes_s

    def _worth(self) -> Callable[[str], float]:
        means = {peer: self._rates[peer] / rounds for peer, rounds in self._rounds.items()}
        best = max(means.values(), default=1.0)
        typical = sum(means.values()) / len(means) if means else 0.0
        surprise = math.log(1.0 + sum(self._rounds.values()))

        def worth(peer: str) -> float:
            bonus = math.sqrt(surprise / self._rounds.get(peer, 1.0))
            return means.get(peer, typical) + CURIOSITY * best * bonus

        return worth


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

    def release(self, connected: Sequence[Candidate], waiting: Sequence[Candidate]) -> str | None:
        return self._choice.release(connected, waiting)
