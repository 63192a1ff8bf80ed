"""One peer of a simulated swarm: the real brain, contacts, choice and slots, and lines to others.

What the shells of the product do (:mod:`peer.crew`, :mod:`peer.source`, :mod:`peer.upload`,
:mod:`peer.offers`) is done here on a virtual clock, as far as it decides what happens when. Left
out: the manifest (everybody has it from the start), hashing, disks and the processor, the size of
requests and news, wrong bytes.
"""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING

from bench.swarm_links import Link
from bench.swarm_pipe import LOOK_AT_LEAST_S, LOOK_EARLY_S, LOOK_S, Line, Pipe
from peer.choice import Candidate, NearFirst, PeerChoice
from peer.contacts import FRUITLESS_MAX, Contact, Contacts
from peer.decisions import Ask, Done, GiveUp, Rest, Wait
from peer.messages import OTHERS_MAX
from peer.offers import START_STEP
from peer.pieces import Run
from peer.ranges import Ranges
from peer.slots import Slots
from peer.swarm import Swarm
from peer.trackers import PeerFinder
from peer.upload import CONNECT_AGAIN_S

if TYPE_CHECKING:
    from bench.swarm_world import World

TICK_S = 0.25
"""How often a download looks for places to fill. The product: 0.1 s."""


class Node:
    """``brain`` is None for who has everything."""

    def __init__(
        self, world: World, name: str, up: Link, down: Link, rack: int, *, complete: bool
    ) -> None:
        self.world, self.name, self.up, self.down, self.rack = world, name, up, down, rack
        self.random = random.Random(f"{world.seed} {name}")
        self.alive = self.joined = self.done = False
        self.ups = [(0.0, up.capacity)]
        """What it could send from each time on."""
        self.complete = complete
        self.here = Ranges((0, world.pieces.count)) if complete else Ranges()
        self.mask = (1 << world.pieces.count) - 1 if complete else 0
        """The same as a number: what one has and another lacks is one operation."""
        self.slots = Slots(world.limits)
        self.line = Line(world)
        self.followers: dict[Pipe, None] = {}
        """Who fetches from here."""
        self.gained: list[int] = []
        """Not told yet."""
        self.starts = 0
        self.sent_bytes = 0
        self.began_s = 0.0
        self.ended_s: float | None = None
        self.brain: Swarm | None = None
        self.idle: dict[Pipe, None] = {}
        self.asked: dict[int, int] = {}
        """How often each piece is asked for at the moment."""
        self.looking = self.ticking = False

    # -- fetching ---------------------------------------------------------------------------------

    def begin(self, choice: PeerChoice) -> None:
        """Start, or come back with what is here."""
        world = self.world
        self.alive = True
        self.brain = Swarm(world.limits, self.random)
        self.brain.described(world.pieces)
        for first, end in self.here:
            self.brain.verified(first, end - first)
        zone = world.zone_of(self)
        self.contacts: Contacts[Pipe] = Contacts(self.name, zone, world.limits, self.random)
        self.choice = NearFirst(choice, world.limits.far_peers_min)
        self.finder = PeerFinder(world.tracker, world.content, random_source=self.random)
        self.ask_interval_s = world.limits.ask_interval_min_s
        self.rechoose_at_s = world.now_s + world.limits.rechoose_s
        self.pipes: dict[Pipe, None] = {}
        world.tracker.looked_up()
        self.ask_tracker(self.brain)
        if not self.ticking:
            self.ticking = True
            world.after(TICK_S * self.random.random(), self.tick, None)

    def ask_tracker(self, brain: Swarm) -> None:
        """Ask for peers, again and again until the download ends."""
        if brain is not self.brain or not self.alive:
            return
        for record in self.finder():
            self.contacts.learn(record)
        self.connect()
        limits = self.world.limits
        self.world.after(min(self.ask_interval_s, limits.ask_interval_s), self.ask_tracker, brain)
        self.ask_interval_s *= 2

    def tick(self, _: None) -> None:
        if self.brain is None or not self.alive:
            self.ticking = False
            return
        self.connect()
        self.world.after(TICK_S, self.tick, None)

    def connect(self) -> None:
        """Fill the places, and make room at times: as :meth:`peer.crew.Crew.connect`."""
        brain, now_s, limits = self.brain, self.world.now_s, self.world.limits
        if brain is None or not self.alive:
            return
        places = limits.fetch_peers_max - len(self.pipes)
        if places <= 0 and now_s < self.rechoose_at_s:
            return
        useless = {*brain.banned, *brain.given_up}
        candidates = self.contacts.candidates(useless, now_s)
        for peer in self.choice.choose(candidates, places) if places > 0 else ():
            self._open(self.contacts[peer])
        if now_s >= self.rechoose_at_s:
            self.rechoose_at_s = now_s + limits.rechoose_s
            waiting = [one for one in candidates if not one.connected]
            if waiting and places <= 0:
                self._make_room(waiting)

    def _make_room(self, waiting: list[Candidate]) -> None:
        for pipe in self.pipes:
            self._measure(pipe)
        connected = [self.contacts.candidate(self.contacts[one.source.name]) for one in self.pipes]
        released = self.choice.release(connected, waiting)
        for pipe in [one for one in self.pipes if one.source.name == released]:
            self.close(pipe, "was let go", rested=True)

    def _open(self, contact: Contact[Pipe]) -> None:
        world = self.world
        source = world.nodes[contact.peer]
        pipe = Pipe(self, source, world.flow(source, self))
        contact.live.add(pipe)
        self.pipes[pipe] = None
        world.after(4 * world.scenario.latency_s, self._greet, pipe)  # connect, then hello

    def _greet(self, pipe: Pipe) -> None:
        brain, source, limits = self.brain, pipe.source, self.world.limits
        if pipe.closed or brain is None:
            return
        if not source.alive:
            self.close(pipe, "is gone")
        elif len(source.followers) >= limits.serve_connections_max:
            self.close(pipe, "is busy", retry_s=CONNECT_AGAIN_S)
        else:
            pipe.open = True
            source.followers[pipe] = None
            if source.complete:
                source.starts += 1
                start = int(source.starts * START_STEP % 1.0 * self.world.pieces.count)
                brain.connected(source.name, start_at=start)
            else:
                brain.connected(source.name, source.here.copy())
            self._introduce(source)
            self.look(pipe)

    def _introduce(self, source: Node) -> None:
        """Those who fetch from one peer hear of each other, as by :class:`peer.offers.Offers`."""
        world = self.world
        others = [one.node for one in source.followers if one.node is not self]
        for other in others[-OTHERS_MAX:]:
            self.contacts.hear_of(world.record(other))
        if source.brain is not None:
            source.contacts.hear_of(world.record(self))

    def look(self, pipe: Pipe) -> None:
        """Ask for what the brain decides; as :meth:`peer.source.Source.transfer`."""
        brain, now_s = self.brain, self.world.now_s
        if brain is None or pipe.closed or not pipe.open:
            return
        if len(pipe.queue) > 1 and (brain.pieces_stolen or brain.pieces_doubled):
            self._cancel(pipe, brain)
        while True:
            decision = brain.next(pipe.source.name, now_s)
            if not isinstance(decision, Ask):
                break
            pipe.queue.append((decision.run, 0))
            for piece in range(decision.run.first, decision.run.end):
                self.asked[piece] = self.asked.get(piece, 0) + 1
            if not pipe.starting and not pipe.active:
                pipe.starting = True
                self.world.after(2 * self.world.scenario.latency_s, self._start, pipe)
        if isinstance(decision, Wait):
            if not pipe.queue:
                self.idle[pipe] = None
                pipe.look_at_s = now_s + LOOK_AT_LEAST_S
                if not self.looking:
                    self.looking = True
                    wait_s = LOOK_EARLY_S if brain.free_count else LOOK_S
                    self.world.after(wait_s, self._look_again, brain)
            return
        self.idle.pop(pipe, None)
        if isinstance(decision, Done):
            self._finish()
        elif isinstance(decision, Rest | GiveUp):
            self.close(pipe, "", rested=isinstance(decision, Rest))

    def _cancel(self, pipe: Pipe, brain: Swarm) -> None:
        head, *rest = pipe.queue
        kept = [one for one in rest if not brain.unneeded(pipe.source.name, one[0])]
        if len(kept) < len(rest):
            for run, _ in rest:
                if (run, 0) not in kept:
                    self._ended(pipe, run, brain)
            pipe.queue = deque([head, *kept])

    def _ended(self, pipe: Pipe, run: Run, brain: Swarm) -> None:
        """A run that was asked for is over, however."""
        brain.ended(pipe.source.name, run)
        for piece in range(run.first, run.end):
            self.asked[piece] -= 1
            if not self.asked[piece]:
                del self.asked[piece]

    def _look_again(self, brain: Swarm) -> None:
        self.looking = False
        if brain is self.brain and self.alive:
            self.wake()

    def wake(self) -> None:
        """Everybody without work looks again, if there is anything to be had from its source."""
        lacks, now_s = ~self.mask, self.world.now_s
        for pipe in list(self.idle):
            if pipe.source.mask & lacks or now_s >= pipe.look_at_s:
                self.idle.pop(pipe, None)
                self.look(pipe)

    # -- what comes -------------------------------------------------------------------------------

    def _start(self, pipe: Pipe) -> None:
        """A request has arrived, and nothing is under way."""
        pipe.starting = False
        if not pipe.closed and pipe.queue and self._served(pipe):
            pipe.source.line.join(pipe)

    def _served(self, pipe: Pipe) -> bool:
        """Whether the source has a slot for us; if not, it is asked again when it said."""
        source, brain, now_s = pipe.source, self.brain, self.world.now_s
        if len(source.followers) <= self.world.limits.upload_slots_max or brain is None:
            return True
        wait_s = source.slots.take(pipe, now_s)
        if wait_s <= 0:
            return True
        brain.busy(source.name, now_s + wait_s)
        for run, _ in pipe.queue:
            self._ended(pipe, run, brain)
        pipe.queue.clear()
        self.world.after(wait_s, self.look, pipe)
        self.wake()
        return False

    def arrived(self, pipe: Pipe) -> None:
        """The piece that was under way is here."""
        brain, world = self.brain, self.world
        if brain is None:
            return
        run, got = pipe.queue[0]
        piece, size = run.first + got, world.pieces.bytes_of(run.first + got, 1)
        pipe.bytes += size
        pipe.source.sent_bytes += size
        brain.arrived(pipe.source.name, run, piece, 1, world.now_s)
        if piece not in self.here:
            self.here.add(piece, piece + 1)
            self.mask |= 1 << piece
            self._tell(piece)
        if got + 1 < run.count:
            pipe.queue[0] = (run, got + 1)
        else:
            pipe.queue.popleft()
            self._ended(pipe, run, brain)
        if got + 1 < run.count:
            world.next_piece(pipe)
        else:
            pipe.source.line.leave(pipe)
            if pipe.queue and self._served(pipe):
                pipe.source.line.join(pipe)
            elif pipe.active:
                world.stop(pipe)
            pipe.source.line.go_on()
        if not self.joined:
            world.join(self)
        self.look(pipe)

    def _finish(self) -> None:
        world = self.world
        self.done, self.ended_s = True, world.now_s
        for pipe in list(self.pipes):
            self.close(pipe, "")
        self.brain = None
        self.complete = True
        world.finished(self)

    def close(
        self, pipe: Pipe, trouble: str, *, rested: bool = False, retry_s: float = 0.0
    ) -> None:
        """A connection is over; as the end of :meth:`peer.crew.Crew._use`."""
        brain, world = self.brain, self.world
        if pipe.closed or brain is None:
            return
        self._measure(pipe)
        contact = self.contacts[pipe.source.name]
        for run, _ in pipe.queue:
            self._ended(pipe, run, brain)
        self._drop(pipe)
        contact.live.discard(pipe)
        brain.lost(pipe.source.name)
        if pipe.bytes:
            self.contacts.delivered(contact)
        if trouble and not rested:
            self.contacts.broke(contact, trouble, world.now_s, fruitless=False)
            contact.retry_at_s = max(contact.retry_at_s, world.now_s + retry_s)
            if contact.fruitless >= FRUITLESS_MAX:
                brain.refused(pipe.source.name, trouble)
        elif rested:
            self.contacts.rest(contact, world.now_s)
        if not brain.done:
            self.wake()

    def _drop(self, pipe: Pipe) -> None:
        pipe.closed = True
        if pipe.active:
            self.world.stop(pipe)
        pipe.queue.clear()
        self.pipes.pop(pipe, None)
        self.idle.pop(pipe, None)
        pipe.source.followers.pop(pipe, None)
        pipe.source.slots.leave(pipe)
        pipe.source.line.leave(pipe)
        pipe.source.line.go_on()

    def _measure(self, pipe: Pipe) -> None:
        if self.brain is not None:
            contact = self.contacts[pipe.source.name]
            rate = self.brain.rate_of(pipe.source.name, self.world.now_s)
            contact.rate_bytes_s = contact.rate_bytes_s if rate is None else rate

    # -- serving ----------------------------------------------------------------------------------

    def _tell(self, piece: int) -> None:
        if not self.gained:
            self.world.after(self.world.limits.tell_interval_s, self._tell_all, None)
        self.gained.append(piece)

    def _tell_all(self, _: None) -> None:
        """News of pieces to all that lack them, as :class:`peer.offers.Offers`."""
        news = Ranges(*((piece, piece + 1) for piece in self.gained))
        self.gained.clear()
        if self.alive:
            for pipe in list(self.followers):
                pipe.node.hear(pipe, news)

    def hear(self, pipe: Pipe, news: Ranges) -> None:
        """``pipe`` brings news: its source has got these pieces."""
        if self.brain is None or pipe.closed:
            return
        lacks = news.minus(self.here)
        unasked = False
        for first, end in lacks:
            self.brain.told(pipe.source.name, first, end - first)
            unasked = unasked or any(piece not in self.asked for piece in range(first, end))
        # What others were asked for is nothing to do; it is not worth a decision.
        if unasked and pipe in self.idle:
            del self.idle[pipe]
            self.look(pipe)

    def leave(self) -> None:
        """Go, without a word to other peers: their connections break."""
        self.alive = self.joined = False
        if self.brain is not None:
            for pipe in list(self.pipes):
                self._drop(pipe)
            self.brain = None
        self.idle.clear()
        self.asked.clear()
        for pipe in list(self.followers):
            pipe.node.close(pipe, "broke off")

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.here.count} pieces, {self.brain!r}>"
