"""The brain of a download: facts in, decisions out. Pure; the file to read first.

It knows no socket, thread, clock or file. Its shell (:mod:`peer.downloader`) calls it under one
lock: it says what happened and when, and asks what a connection that has room should do next.

Rules, each tested by its name (``tests/unit/test_swarm.py``,
``tests/property/test_swarm_properties.py``):

* **manifest first**: until the content is described, one peer is asked for its manifest; the
  next one when that one did not deliver, or did not within ``manifest_wait_s``;
* **once**: no piece is asked for while it is asked for elsewhere, nor after it is verified, but
  for the two exceptions below, which are counted;
* **stealing**: a peer with nothing else to do takes over what another one would deliver later by
  ``steal_factor``: the end of its last run first, and never the piece that is under way unless
  that peer has fallen silent;
* **endgame, the last resort**: when nothing is free and nothing to be stolen, a piece may be
  asked of a second peer, ``endgame_bytes_max`` in all at any moment;
* **nothing is lost**: what a peer was asked for and did not deliver, for whatever reason, is free
  again at once, but for the pieces of it that were verified or taken over;
* **eight in flight**: at most ``requests_in_flight_max`` runs are asked of one peer, over all
  connections to it, ``requests_in_flight_crowd`` in a crowd, and no more than it delivers in
  ``ahead_s`` beyond the second;
* **the seeder is spared**: while partial peers enough are asked for pieces, a complete one is
  asked for one run at a time: it goes on giving all that its link can give, because many ask it,
  and where the link is not what lacks, the partial peers do most of the work;
* **runs by rate and time**: a run is what the peer delivers in ``run_s``;
* **who sends wrong bytes is banned**: the peer is never asked again in this download, and the
  reason is kept;
* **no tall tales**: a peer that tells of pieces which do not exist breaks the protocol;
* **a refusal ends a source**: a peer that answers a request with an error is left alone, like
  one that is banned, but it is not called a liar; a busy one is asked again when it said;
* **idle ones rest**: a peer that had nothing to give for ``idle_close_s`` is let go for a while;
* **progress**: while a connected peer has a free piece and room, it is told to ask;
* **done**: the download is done when every wanted piece is verified; a content without pieces
  is done from the start.

Which pieces: :mod:`peer.picker`. What to re-check when you change it: the property test keeps a
model of who was asked for what and compares after every step.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from types import MappingProxyType

from peer.availability import Availability
from peer.claims import Claim, PeerState, not_here
from peer.decisions import Ask, AskManifest, Decision, Done, GiveUp, Rest, Wait
from peer.limits import PeerLimits
from peer.picker import Asked, Wishes, pick
from peer.pieces import PieceMap, Run
from peer.ranges import Ranges
from peer.rates import run_bytes
from peer.rescue import Surroundings, double, steal
from tracker_raft.errors import BadRequest

PREFERENCES_MAX = 8


class Swarm:
    """The state of one download. ``random_source`` alone decides what is left to chance."""

    def __init__(
        self, limits: PeerLimits, random_source: random.Random, *, sequential: bool = False
    ) -> None:
        self._limits = limits
        self._random = random_source
        self._sequential = sequential
        self._pieces: PieceMap | None = None
        self._manifest_asked: dict[str, float] = {}
        self._wanted = Ranges()
        self._free = Ranges()
        self._started = Ranges()
        self._preferred: list[Run] = []
        self._verified = Ranges()
        self._availability = Availability(0)
        self._peers: dict[str, PeerState] = {}
        self._given_up: dict[str, str] = {}
        self._banned: dict[str, str] = {}
        self.bytes_verified = 0
        """Of wanted pieces."""
        self.pieces_stolen = 0
        """Taken over from slow peers."""
        self.pieces_doubled = 0
        """Asked of a second peer in the endgame."""

    # -- facts ------------------------------------------------------------------------------------

    def connected(
        self, peer: str, has: Ranges | None = None, *, start_at: int | None = None
    ) -> None:
        """``peer`` can be asked. ``has``: the pieces it has, None for all.

        A second connection to it changes nothing but what it has, and only to more of it.
        """
        state = self._peers.get(peer)
        if state is None:
            state = self._peers[peer] = PeerState(self._clipped(has), start_at)
            self._count_in(state.has)
        elif state.has is not None:
            before, now = state.has, self._clipped(has)
            self._count_out(before)
            state.has = None if now is None else before.plus(now)
            self._count_in(state.has)

    def told(self, peer: str, first: int, count: int) -> None:
        """``peer`` has got these pieces as well. Raises :class:`BadRequest` when they do not
        exist. Over two connections one hears everything twice."""
        state = self._peers.get(peer)
        if state is None:
            return
        if self._pieces is not None and first + count > self._pieces.count:
            raise BadRequest(f"told of pieces {first}+{count} of {self._pieces.count}")
        if state.has is None:
            return
        news = Ranges(*state.has.gaps(first, first + count))
        self._count_in(news)
        state.has.add(first, first + count)
        if self._pieces is not None and state.has.count == self._pieces.count:
            self._count_out(state.has)
            state.has = None
            self._count_in(None)

    def described(self, pieces: PieceMap, wanted: Ranges | None = None) -> None:
        """The manifest is here and right. Once. ``wanted``: None for all pieces."""
        self._pieces = pieces
        self._manifest_asked.clear()
        self._wanted = Ranges((0, pieces.count)) if wanted is None else wanted.copy()
        self._free = self._wanted.copy()
        self._availability = Availability(pieces.count)
        for state in self._peers.values():
            state.has = self._clipped(state.has)
            self._count_in(state.has)

    def manifest_ended(self, peer: str) -> None:
        """``peer`` was asked for the manifest and did not deliver it."""
        self._manifest_asked.pop(peer, None)

    def lost(self, peer: str) -> None:
        """No connection to ``peer`` is left. It may connect again."""
        self.manifest_ended(peer)
        state = self._peers.pop(peer, None)
        if state is not None:
            self._count_out(state.has)
            for claim in state.claims:
                self._free_again(claim)

    def verified(self, first: int, count: int) -> None:
        """These pieces are on disk and right."""
        self._free.remove(first, first + count)
        self._started.remove(first, first + count)
        for start, end in self._wanted.within(first, first + count):
            new = self._verified.gaps(start, end)
            self._verified.add(start, end)
            if self._pieces is not None:
                self.bytes_verified += sum(self._pieces.bytes_of(a, b - a) for a, b in new)

    def arrived(self, peer: str, run: Run, first: int, count: int, now_s: float) -> None:
        """``peer`` brought these pieces of a run that it was asked for; they are verified."""
        self.verified(first, count)
        state = self._peers.get(peer)
        if state is None or self._pieces is None:
            return
        size = self._pieces.bytes_of(first, count)
        state.bytes += size
        state.rate.delivered(size, now_s)
        if (claim := state.claim_of(run)) is not None:
            claim.got = first + count - run.first

    def ended(self, peer: str, run: Run) -> None:
        """A run asked of ``peer`` is over: delivered, or broken off. What of it is not verified
        is free again."""
        state = self._peers.get(peer)
        claim = state.claim_of(run) if state is not None else None
        if state is None or claim is None:
            return
        state.claims.remove(claim)
        if not state.claims:
            state.rate.rested()
        self._free_again(claim)

    def busy(self, peer: str, until_s: float) -> None:
        """``peer`` has no room for us before ``until_s``."""
        if (state := self._peers.get(peer)) is not None:
            state.busy_until_s = max(state.busy_until_s, until_s)

    def ban(self, peer: str, reason: str) -> None:
        """``peer`` sent wrong bytes or broke the protocol; ``reason`` reads on after its name."""
        self._banned.setdefault(peer, reason)
        self.lost(peer)

    def refused(self, peer: str, reason: str) -> None:
        """``peer`` does not serve what it said it would; ``reason`` reads on after its name."""
        self._given_up.setdefault(peer, reason)
        self.lost(peer)

    def prefer(self, first: int, count: int) -> None:
        """Somebody waits for these pieces: they go before all others, newest wish first."""
        run = Run(first, count)
        self._preferred = [run, *(old for old in self._preferred if old != run)][:PREFERENCES_MAX]

    # -- decisions --------------------------------------------------------------------------------

    def next(self, peer: str, now_s: float) -> Decision:
        """What a connection to ``peer`` with room for one more request should do now."""
        if self.done:
            return Done()
        if (reason := self.useless(peer)) is not None:
            return GiveUp(reason)
        state = self._peers.get(peer)
        if state is None:
            return Wait()
        if now_s < state.busy_until_s:
            return Wait(min(state.busy_until_s - now_s, 1.0))
        if self._pieces is None:
            return self._next_for_manifest(peer, now_s)
        if not self._has_room(state, now_s, self._pieces):
            return Wait()
        claim = self._pick(state, now_s, self._pieces) or self._rescue(peer, now_s, self._pieces)
        if claim is None:
            return self._rest_or_wait(state, now_s)
        state.claims.append(claim)
        state.rate.asked(now_s)
        state.idle_since_s = None
        return Ask(claim.run)

    def useless(self, peer: str) -> str | None:
        """Why ``peer`` is not to be asked again, or None."""
        return self._banned.get(peer) or self._given_up.get(peer)

    def unneeded(self, peer: str, run: Run) -> bool:
        """Whether nothing of a run that ``peer`` was asked for is waited for any more."""
        state = self._peers.get(peer)
        claim = state.claim_of(run) if state is not None else None
        if claim is None or claim.got:
            return False
        return self._verified.covers(claim.run.first, claim.end)  # asked before every request

    @property
    def done(self) -> bool:
        return self._pieces is not None and self._verified.count == self._wanted.count

    def _next_for_manifest(self, peer: str, now_s: float) -> Decision:
        newest_s = max(self._manifest_asked.values(), default=None)
        waiting = newest_s is not None and now_s - newest_s < self._limits.manifest_wait_s
        has = self._peers[peer].has
        nothing = has is not None and not has  # who has no piece has no manifest yet
        if waiting or nothing or peer in self._manifest_asked:
            return Wait()
        self._manifest_asked[peer] = now_s
        return AskManifest()

    def _has_room(self, state: PeerState, now_s: float, pieces: PieceMap) -> bool:
        limits = self._limits
        flight_max = limits.requests_in_flight_max
        if len(self._peers) >= limits.many_peers:
            flight_max = min(flight_max, limits.requests_in_flight_crowd)
            if state.claims and state.has is None:
                partial = sum(1 for one in self._peers.values() if one.claims and one.has)
                if partial >= limits.many_peers - 1:
                    flight_max = min(flight_max, limits.requests_in_flight_spared)
        if len(state.claims) >= flight_max:
            return False
        if len(state.claims) < 2 or (rate := state.rate.bytes_s(now_s)) is None:
            return True
        return state.bytes_ahead(pieces) < rate * limits.ahead_s

    def _run_bytes(self, state: PeerState, now_s: float) -> int:
        limits = self._limits
        return run_bytes(
            state.rate.bytes_s(now_s),
            run_s=limits.run_s,
            first_bytes=limits.run_bytes_first,
            bytes_max=limits.run_bytes_target,
        )

    def _pick(self, state: PeerState, now_s: float, pieces: PieceMap) -> Claim | None:
        asked = Asked(state.has, state.go_on_at, state.start_at, self._run_bytes(state, now_s))
        preferred = [Ranges((wish.first, wish.end)) for wish in self._preferred]
        wishes = Wishes(preferred, self._started, self._sequential)
        run = pick(
            self._free, asked, self._availability, pieces, self._limits, self._random, wishes
        )
        if run is None:
            return None
        self._free.remove(run.first, run.end)
        self._started.remove(run.first, run.end)
        state.go_on_at = run.end
        return Claim(run, run.end)

    def _rescue(self, peer: str, now_s: float, pieces: PieceMap) -> Claim | None:
        """Take over from others, or double what they are late with: the two exceptions."""
        around = Surroundings(self._peers, peer, self._verified, pieces, self._limits, now_s)
        claim = steal(around, self._run_bytes(self._peers[peer], now_s))
        if claim is not None:
            self.pieces_stolen += claim.run.count
        elif not self._free and (claim := double(around)) is not None:
            self.pieces_doubled += claim.run.count
        return claim

    def _rest_or_wait(self, state: PeerState, now_s: float) -> Decision:
        if state.claims:
            return Wait()
        if state.idle_since_s is None:
            state.idle_since_s = now_s
        if now_s - state.idle_since_s >= self._limits.idle_close_s:
            return Rest()
        # Only a claim of another peer can become mine by the mere passing of time.
        others = any(other.claims for other in self._peers.values())
        return Wait() if others else Wait(min(self._limits.idle_close_s, 1.0))

    # -- for people and for others ----------------------------------------------------------------

    @property
    def banned(self) -> Mapping[str, str]:
        """Banned peers and why."""
        return MappingProxyType(self._banned)

    @property
    def given_up(self) -> Mapping[str, str]:
        """Peers that refused, and why."""
        return MappingProxyType(self._given_up)

    @property
    def free_count(self) -> int:
        """Pieces that nobody was asked for."""
        return self._free.count

    def missing(self) -> Ranges:
        """The wanted pieces that are not verified; none while the content is not described."""
        return self._wanted.minus(self._verified)

    def availability(self, piece: int) -> int:
        """How many connected peers have ``piece``, as far as is known."""
        return self._availability.of(piece)

    def has_of(self, peer: str) -> Ranges:
        """The pieces that ``peer`` is known to have; none when it is not connected."""
        state = self._peers.get(peer)
        if state is None:
            return Ranges()
        if state.has is None:
            return Ranges((0, self._pieces.count if self._pieces else 0))
        return state.has.copy()

    def rate_of(self, peer: str, now_s: float) -> float | None:
        """Bytes a second while it was asked; None while it brought nothing."""
        state = self._peers.get(peer)
        return state.rate.bytes_s(now_s) if state is not None else None

    # -- the books --------------------------------------------------------------------------------

    def _clipped(self, has: Ranges | None) -> Ranges | None:
        """Without what does not exist: bitmaps are padded. None when nothing lacks."""
        if has is None or self._pieces is None:
            return has
        clipped = has.overlap(Ranges((0, self._pieces.count)))
        return None if clipped.count == self._pieces.count else clipped

    def _count_in(self, has: Ranges | None) -> None:
        if self._pieces is None:
            return
        if has is None:
            self._availability.complete_peers += 1
        else:
            self._availability.gained(has)

    def _count_out(self, has: Ranges | None) -> None:
        if self._pieces is None:
            return
        if has is None:
            self._availability.complete_peers -= 1
        else:
            self._availability.dropped(has)

    def _free_again(self, claim: Claim) -> None:
        """What belongs to a claim that is over is free, and goes first."""
        if claim.extra:
            return
        for start, end in not_here(claim, self._verified):
            self._free.add(start, end)
            self._started.add(start, end)

    def __repr__(self) -> str:
        asked = {
            peer: [str(claim.run) for claim in state.claims] for peer, state in self._peers.items()
        }
        count = self._wanted.count if self._pieces else "?"
        return (
            f"<Swarm {self._verified.count}/{count} verified, "
            f"{self._free.count} free, asked={asked}, banned={sorted(self._banned)}>"
        )
