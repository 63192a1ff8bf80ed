"""The brain of a download: facts in, decisions out. Pure; the file to read first.

It knows no socket, thread, clock or file. Its shell (:mod:`peer.downloader`) calls it under one
lock: it says what happened, and asks what a connection that has room should do next.

Rules, each tested by its name (``tests/unit/test_swarm.py``,
``tests/property/test_swarm_properties.py``):

* **manifest first**: until the content is described, one peer at a time is asked for its
  manifest, and the next one when that one did not deliver;
* **once**: no piece is asked for while it is asked for elsewhere, nor after it is verified;
* **nothing is lost**: what a peer was asked for and did not deliver, for whatever reason, is free
  again at once, but for the pieces of it that were verified;
* **eight in flight**: at most ``requests_in_flight_max`` runs are asked of one peer, over all
  connections to it;
* **who sends wrong bytes is banned**: the peer is never asked again in this download, and the
  reason is kept;
* **a refusal ends a source**: a peer that answers a request with an error is left alone, like
  one that is banned, but it is not called a liar;
* **progress**: while a connected peer has a free piece and room, it is told to ask;
* **done**: the download is done when every piece is verified; a content without pieces is
  done from the start.

Which pieces: :mod:`peer.picker`. What to re-check when you change it: the property test keeps a
model of who was asked for what and compares after every step.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from peer.limits import PeerLimits
from peer.picker import pick
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges


@dataclass(frozen=True, slots=True)
class AskManifest:
    """Ask the peer for the manifest now, and report :meth:`Swarm.described`, or how it ended."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the peer for this run now, and report how it ended."""

    run: Run


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to ask of this peer now; ask again after the next fact."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Close all connections to this peer; it is of no use to this download."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Every piece is verified."""


Decision = AskManifest | Ask | Wait | GiveUp | Done


@dataclass(slots=True)
class _Peer:
    has: Ranges | None
    """None: all pieces."""
    asked: list[Run] = field(default_factory=list)
    go_on_at: int | None = None


class Swarm:
    """The state of one download. ``random_source`` alone decides what is left to chance."""

    def __init__(self, limits: PeerLimits, random_source: random.Random) -> None:
        self._limits = limits
        self._random = random_source
        self._pieces: PieceMap | None = None
        self._manifest_asked_of: str | None = None
        self._free = Ranges()
        self._verified = Ranges()
        self._peers: dict[str, _Peer] = {}
        self._given_up: dict[str, str] = {}
        self._banned: dict[str, str] = {}

    # -- facts ------------------------------------------------------------------------------------

    def connected(self, peer: str, has: Ranges | None = None) -> None:
        """``peer`` can be asked. ``has``: the pieces it has, None for all; also news of them."""
        state = self._peers.get(peer)
        if state is None:
            self._peers[peer] = _Peer(has)
        else:
            state.has = has

    def described(self, pieces: PieceMap) -> None:
        """The manifest is here and right. Once."""
        self._pieces = pieces
        self._manifest_asked_of = None
        self._free.add(0, pieces.count)

    def manifest_ended(self, peer: str) -> None:
        """``peer`` was asked for the manifest and did not deliver it."""
        if self._manifest_asked_of == peer:
            self._manifest_asked_of = None

    def lost(self, peer: str) -> None:
        """No connection to ``peer`` is left. It may connect again."""
        self.manifest_ended(peer)
        state = self._peers.pop(peer, None)
        for run in state.asked if state else ():
            self._free_again(run)

    def verified(self, first: int, count: int) -> None:
        """These pieces are on disk and right."""
        self._free.remove(first, first + count)
        self._verified.add(first, first + count)

    def ended(self, peer: str, run: Run) -> None:
        """A run asked of ``peer`` is over: delivered, or broken off. What of it is not verified
        is free again."""
        state = self._peers.get(peer)
        if state is not None and run in state.asked:
            state.asked.remove(run)
            self._free_again(run)

    def ban(self, peer: str, reason: str) -> None:
        """``peer`` sent wrong bytes or broke the protocol; ``reason`` reads on after its name."""
        self._banned.setdefault(peer, reason)
        self.lost(peer)

    def refused(self, peer: str, reason: str) -> None:
        """``peer`` does not serve what it said it would; ``reason`` reads on after its name."""
        self._given_up.setdefault(peer, reason)
        self.lost(peer)

    # -- decisions --------------------------------------------------------------------------------

    def next(self, peer: str) -> Decision:
        """What a connection to ``peer`` with room for one more request should do now."""
        if self.done:
            return Done()
        if (reason := self.useless(peer)) is not None:
            return GiveUp(reason)
        state = self._peers.get(peer)
        if state is None:
            return Wait()
        if self._pieces is None:
            if self._manifest_asked_of is not None:
                return Wait()
            self._manifest_asked_of = peer
            return AskManifest()
        if len(state.asked) >= self._limits.requests_in_flight_max:
            return Wait()
        run = pick(self._free, state.has, state.go_on_at, self._pieces, self._limits, self._random)
        if run is None:
            return Wait()
        self._free.remove(run.first, run.end)
        state.asked.append(run)
        state.go_on_at = run.end
        return Ask(run)

    def useless(self, peer: str) -> str | None:
        """Why ``peer`` is not to be asked again, or None."""
        return self._banned.get(peer) or self._given_up.get(peer)

    @property
    def done(self) -> bool:
        return self._pieces is not None and self._verified.count == self._pieces.count

    # -- for people -------------------------------------------------------------------------------

    @property
    def banned(self) -> Mapping[str, str]:
        """Banned peers and why."""
        return MappingProxyType(self._banned)

    def missing(self) -> Ranges:
        """The pieces that are not verified; none while the content is not described."""
        missing = Ranges((0, self._pieces.count if self._pieces else 0))
        for start, end in self._verified:
            missing.remove(start, end)
        return missing

    def _free_again(self, run: Run) -> None:
        self._free.add(run.first, run.end)
        for start, end in self._verified.overlap(Ranges((run.first, run.end))):
            self._free.remove(start, end)

    def __repr__(self) -> str:
        asked = {peer: [str(run) for run in state.asked] for peer, state in self._peers.items()}
        count = self._pieces.count if self._pieces else "?"
        return (
            f"<Swarm {self._verified.count}/{count} verified, "
            f"{self._free.count} free, asked={asked}, banned={sorted(self._banned)}>"
        )
