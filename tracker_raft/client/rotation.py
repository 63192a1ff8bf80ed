"""Which tracker to ask next. Pure but for its lock: time and the random source are handed in.

Rules
-----
* **Sticky**: a tracker that answers is asked again. The ring is shuffled once, so that many
  clients spread over the trackers, and spread again over the others when one is lost.
* **A round** asks each endpoint at most once, in ring order from the current one, leaving out
  those whose breaker is open and those that asked for rest (``retry_after``).
* When no endpoint may be asked, the one whose breaker lets through soonest is asked all the same:
  a breaker saves time when there is a choice and must not cost any when there is none. A rest
  that a tracker asked for is kept, for it is alive and knows.
* Endpoints of nodes that were removed are forgotten, or asked last if they were given.
* Endpoints told by a tracker are learned, up to :data:`ENDPOINTS_MAX` with those given; given ones
  are never dropped, learned ones give way to newer ones.
"""

from __future__ import annotations

import math
import random as random_module
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tracker_raft.client.breaker import Breaker
from tracker_raft.config import Address, ClientConfig
from tracker_raft.errors import BadRequest

ENDPOINTS_MAX = 16


@dataclass(slots=True, eq=False)
class _Endpoint:
    address: Address
    given: bool
    breaker: Breaker
    gone: bool = False
    """It is no member any more, as far as the members say: asked when no other answers."""
    rest_until: float = -math.inf
    """Not to be asked before this time: it said so itself."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One endpoint to ask, and whether this attempt is its breaker's probe."""

    address: Address
    probe: bool = field(default=False)


class Rotation:
    """The endpoints of one client. Thread-safe; no method blocks."""

    def __init__(
        self, given: Sequence[Address], config: ClientConfig, random: random_module.Random
    ) -> None:
        given = list(dict.fromkeys(given))
        if not 1 <= len(given) <= ENDPOINTS_MAX:
            raise BadRequest(f"{len(given)} trackers given, expected 1 to {ENDPOINTS_MAX}")
        self._config = config
        self._random = random
        self._lock = threading.Lock()
        self._ring = [self._endpoint(address, given=True) for address in given]
        random.shuffle(self._ring)
        self._current = self._ring[0]
        self._answered = False
        self._index = 0
        """Of the newest entry that says who all the members are."""

    @property
    def in_use(self) -> Address | None:
        """The endpoint that answered last, None before the first and after it was lost."""
        with self._lock:
            return self._current.address if self._answered else None

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All endpoints known, in ring order."""
        with self._lock:
            return tuple(endpoint.address for endpoint in self._ring)

    def choose(self, tried: Collection[Address], now: float) -> Choice | None:
        """The next endpoint of a round that asked ``tried`` already, or None: the round is over.

        The caller reports each choice by exactly one of :meth:`answered`, :meth:`failed` and
        :meth:`abandoned`.
        """
        with self._lock:
            at = self._ring.index(self._current)
            order = [e for e in self._ring[at:] + self._ring[:at] if e.address not in tried]
            order.sort(key=lambda endpoint: endpoint.gone)
            awake = [e for e in order if e.rest_until <= now]
            for endpoint in awake:
                if endpoint.breaker.admits(now):
                    return self._enter(endpoint)
            if tried or not awake:
                return None
            return self._enter(min(awake, key=lambda e: e.breaker.retry_at or now))

    def wake_in_s(self, now: float) -> float:
        """Seconds until some endpoint is not resting by its own wish; 0 when one is awake."""
        with self._lock:
            return max(0.0, min(e.rest_until for e in self._ring) - now)

    def answered(self, choice: Choice) -> None:
        """It gave a reply that settles a call: stay with it."""
        with self._lock:
            if endpoint := self._find(choice.address):
                endpoint.breaker.succeeded()
                self._current, self._answered = endpoint, True

    def declined(self, choice: Choice, rest_until: float) -> None:
        """It is alive and cannot serve now: leave it alone until ``rest_until``, move on."""
        with self._lock:
            if endpoint := self._find(choice.address):
                endpoint.breaker.succeeded()
                endpoint.rest_until = max(endpoint.rest_until, rest_until)
                self._move_on(endpoint)

    def failed(self, choice: Choice, now: float) -> None:
        """It did not answer: count it, move on."""
        with self._lock:
            if endpoint := self._find(choice.address):
                endpoint.breaker.failed(now, choice.probe)
                self._move_on(endpoint)

    def abandoned(self, choice: Choice) -> None:
        """The attempt ended for a reason that says nothing about the endpoint."""
        with self._lock:
            if endpoint := self._find(choice.address):
                endpoint.breaker.abandoned(choice.probe)

    def learn(self, addresses: Collection[Address], index: int = 0) -> None:
        """Add endpoints that a tracker told; in a full ring they replace learned ones not told.

        ``index``: of the entry of the log that says that these are all, 0 if they are only some.
        Of two such lists the newer one counts; others than those in it are *gone*.
        """
        with self._lock:
            if index < self._index:
                return
            self._index = index
            if index and addresses:
                self._leave_out(addresses)
            known = {endpoint.address for endpoint in self._ring}
            for address in dict.fromkeys(addresses):
                if address in known or not self._make_room(addresses):
                    continue
                place = self._random.randint(0, len(self._ring))
                self._ring.insert(place, self._endpoint(address, given=False))

    def state(self, address: Address, now: float) -> str:
        """``closed``, ``open`` or ``half-open``: the breaker of an endpoint, for texts."""
        with self._lock:
            endpoint = self._find(address)
            return endpoint.breaker.state(now) if endpoint else "closed"

    def __repr__(self) -> str:
        with self._lock:
            current = self._current.address
            others = [str(e.address) for e in self._ring if e is not self._current]
        return f"<Rotation current={current} others={others}>"

    # -- under the lock ---------------------------------------------------------------------------

    def _endpoint(self, address: Address, *, given: bool) -> _Endpoint:
        config = self._config
        breaker = Breaker(
            config.breaker_failures, config.breaker_open_min_s, config.breaker_open_max_s
        )
        return _Endpoint(address, given, breaker)

    def _find(self, address: Address) -> _Endpoint | None:
        return next((e for e in self._ring if e.address == address), None)

    def _enter(self, endpoint: _Endpoint) -> Choice:
        return Choice(endpoint.address, endpoint.breaker.enter())

    def _move_on(self, endpoint: _Endpoint) -> None:
        if endpoint is self._current:
            at = self._ring.index(endpoint)
            self._current = self._ring[(at + 1) % len(self._ring)]
            self._answered = False

    def _leave_out(self, told: Collection[Address]) -> None:
        """Forget the learned endpoints that are gone; a given one may have another name for a
        member, and is kept for when nothing else is left."""
        for endpoint in list(self._ring):
            endpoint.gone = endpoint.address not in told
            if endpoint.gone and not endpoint.given:
                self._move_on(endpoint)
                self._ring.remove(endpoint)

    def _make_room(self, told: Collection[Address]) -> bool:
        if len(self._ring) < ENDPOINTS_MAX:
            return True
        for endpoint in self._ring:
            stays = endpoint.given or endpoint.address in told or endpoint is self._current
            if not stays:
                self._ring.remove(endpoint)
                return True
        return False
