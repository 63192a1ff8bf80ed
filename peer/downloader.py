"""Carries out a download: finds peers, keeps connections, ends in a file or a clear error.

Three kinds of thread: the caller's (starts connections, watches the time, reports progress), one
that talks to the trackers, and one for each connection (:mod:`peer.crew`, :mod:`peer.source`).
All share one lock, the condition ``changed``, for the swarm brain and the tables; no piece is
touched under it. Trackers that are away cost nothing but news of further peers.

Nobody waits for ever: a source that sends too little is closed by its progress deadline, tried
again after a back-off, and left alone after some connections that brought nothing; a download
that got no byte of content for ``patience_s`` fails and says what is missing, and it does so
after ``grace_s`` when every peer it knows was given up and the trackers name no other.

A download with a :class:`Serving` serves what it has while it fetches: others are told of it once
there is a piece to give.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peer.choice import Learning, NearFirst, PeerChoice
from peer.contacts import Contacts
from peer.crew import Crew
from peer.destination import FreeBytes, check_destination, free_bytes
from peer.limits import PeerLimits
from peer.manifest import check_encoded_size, content_id, decode
from peer.progress import Fetched, Progress, RateMeter
from peer.ranges import Ranges
from peer.seams import Announcing, FindPeers, Serving
from peer.store import Store
from peer.swarm import Swarm
from peer.task import Waiting
from peer.throttle import Throttle
from tracker_raft.commands import INTEGER_MAX, PeerRecord, check_int
from tracker_raft.errors import BadRequest, P2PError, Unavailable

TICK_S = 0.1
"""How often the time is looked at and progress reported."""
TROUBLES_SHOWN_MAX = 5


class NoSource(Unavailable):
    """No peer served what is missing. What came is kept for the next fetch."""

    code = "no_source"


class Cancelled(P2PError):
    """The download was stopped from outside. What came is kept for the next fetch."""

    code = "cancelled"


class Download:
    """One download; :meth:`run` is called once."""

    def __init__(
        self,
        content: bytes,
        destination: Path,
        find_peers: FindPeers,
        *,
        own_peer: str,
        manifest_bytes: int | None = None,
        durable: bool = False,
        include: Sequence[str] = (),
        update: bool = False,
        limits: PeerLimits | None = None,
        progress: Callable[[Progress], None] | None = None,
        sequential: bool = False,
        zone: str = "",
        choice: PeerChoice | None = None,
        seeder: Serving | None = None,
        lease: Announcing | None = None,
        address: str = "",
        seed: bool = False,
        random_source: random.Random | None = None,
        free: FreeBytes = free_bytes,
    ) -> None:
        """``manifest_bytes``: its size as the trackers know it, None if they do not.

        ``progress`` is called in the thread of :meth:`run`, about ten times a second.
        ``sequential``: fetch from the start on. ``zone``: peers with the same label come first.
        ``choice``: who gets a place, None: it learns. ``seeder`` serves what is there meanwhile
        and ``lease`` tells of it; with ``seed`` both go on after the download is done. ``address``:
        where the seeder is reached, told to the peers that are asked; empty: not told.
        """
        self.content = content
        self.changed = threading.Condition()
        self.stopped = False
        self.store: Store | None = None
        self._limits = limits or PeerLimits()
        self._random = random_source or random.Random()
        self.swarm = Swarm(self._limits, self._random, sequential=sequential)
        self._destination, self._find_peers = destination, find_peers
        self._manifest_bytes = manifest_bytes
        self._include, self._update, self._durable = include, update, durable
        self._checking = False
        self._progress, self._free = progress, free
        self._seeder, self._lease, self._seed = seeder, lease, seed
        self.down = Throttle(self._limits.down_bytes_s)
        self.waiting: set[Waiting] = set()
        self.served_at = (address, zone) if address and seeder is not None else ("", "")
        self._crew = Crew(
            self,
            Contacts(own_peer, zone, self._limits, self._random),
            NearFirst(choice or Learning(self._random), self._limits.far_peers_min),
            self._limits,
            own_peer,
            self._fail,
        )
        self._failure: P2PError | None = None
        self._tracker_trouble = ""
        self._asked_at_s = -1.0
        self._hopeless_since_s: float | None = None
        self._announced = False

    def run(self) -> Fetched:
        """Download. The destination is there and complete, or an error is raised and it is not.

        Raises :class:`NoSource`, :class:`LocalError` (this machine), :class:`BadRequest` (the
        content itself is not valid), :class:`Cancelled`.
        """
        check_destination(self._destination, update=self._update)
        started_s = time.monotonic()
        if self._seeder is not None:
            self._seeder.expect(self.content, self._met)
        finder = threading.Thread(target=self._find_all, name="fetch-find", daemon=True)
        finder.start()
        try:
            try:
                self._supervise(RateMeter(started_s))
            finally:
                with self.changed:
                    self.stopped = True
                    self.wake()
                self._crew.stop()
            store = self.store
            if store is None:
                raise AssertionError("a download is done before it is described")
            store.finish()
        finally:
            self._stop_serving()
            if self.store is not None:
                self.store.close()
            # It may be waiting for a tracker that is away; it holds nothing of this download.
            finder.join(TICK_S)
        return Fetched(
            path=self._destination,
            content=self.content,
            bytes=store.selected.size,
            seconds=time.monotonic() - started_s,
            peers=len(self._crew.taken),
            banned=tuple(f"{peer} {reason}" for peer, reason in self.swarm.banned.items()),
            taken=self._crew.taken,
            kept=store.bytes_at_start,
        )

    def cancel(self) -> None:
        """Make :meth:`run` raise :class:`Cancelled` soon; from any thread."""
        kept = self.store.what_is_kept() if self.store else ""
        self._fail(Cancelled(f"stopped; {self._destination} was not made{kept}"))

    def prefer(self, first: int, count: int) -> None:
        """Fetch these pieces before all others: somebody reads them. Any thread, any time."""
        with self.changed:
            self.swarm.prefer(first, count)
            self.wake()

    def snapshot(self) -> dict[str, Any]:
        """Where it stands: bytes, rate and state of each peer, who was banned and why, what is
        missing. Any thread."""
        with self.changed:
            moment = self._moment()
            return {
                "content": self.content.hex(),
                "destination": str(self._destination),
                "bytes_done": moment.bytes_done,
                "bytes_total": moment.bytes_total,
                "peers": self._crew.snapshot(time.monotonic()),
                "banned": dict(self.swarm.banned),
                "missing": list(self.swarm.missing()),
                "pieces_stolen": self.swarm.pieces_stolen,
                "pieces_doubled": self.swarm.pieces_doubled,
            }

    # -- what connections need (peer.task.Task) ---------------------------------------------------

    def wake(self) -> None:
        self.changed.notify_all()
        self._crew.wake()

    def pause(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.stopped, seconds)

    def gained(self, first: int, count: int) -> None:
        if self._seeder is not None:
            self._seeder.gained(self.content, first, count)
            if not self._announced:
                with self.changed:
                    self.changed.notify_all()

    def manifest_size(self, announced: object) -> int:
        size = check_int("bytes", announced, 1, INTEGER_MAX)
        if self._manifest_bytes not in (None, size):
            raise BadRequest(
                f"a manifest of {size} bytes announced, the trackers know {self._manifest_bytes}"
            )
        return check_encoded_size(size)

    def describe(self, encoded: bytearray) -> None:
        if content_id(encoded) != self.content:
            raise BadRequest("sent a manifest that is not that of the content")
        with self.changed:
            if self._checking or self.store is not None:
                return  # a second peer was asked because the first one was slow
            self._checking = True
        try:
            # Right by its hash, so every peer would send the same: what fails now fails for good.
            manifest = decode(encoded)
            store = Store(
                manifest,
                self.content,
                self._destination,
                encoded=bytes(encoded),
                include=self._include,
                update=self._update,
                durable=self._durable,
                stopped=lambda: self.stopped,
                open_files_max=self._limits.open_files_max,
                free=self._free,
            )
        except P2PError as error:
            self._fail(error)
            return
        finally:
            self._checking = False
        here = store.verified
        with self.changed:
            self.store = store
            self.swarm.described(manifest.pieces, store.wanted)
            for start, end in here:
                self.swarm.verified(start, end - start)
            self.wake()
        if self._seeder is not None:
            self._seeder.add(store, here, self._knows)

    def _met(self, record: PeerRecord) -> None:
        """A peer that fetches the same has asked this one."""
        with self.changed:
            self._crew.hear_of((record,))

    def _knows(self, peer: str) -> Ranges:
        """What another peer has, so that it is not told of it."""
        with self.changed:
            return self.swarm.has_of(peer)

    # -- the caller's thread ----------------------------------------------------------------------

    def _supervise(self, meter: RateMeter) -> None:
        """Until everything is verified. Raises what ended the download otherwise."""
        alive_at_s = reported_at_s = time.monotonic()
        payload_bytes = 0
        while True:
            with self.changed:
                if self._failure is not None:
                    raise self._failure
                if not self.swarm.done:
                    self._crew.connect(time.monotonic())
                    self.changed.wait(TICK_S)
                done = self.swarm.done and self._failure is None
                moment = self._moment()
                now_payload_bytes = self._crew.payload_bytes
                hopeless = self._is_hopeless(time.monotonic())
            now_s = time.monotonic()
            if done or now_s - reported_at_s >= TICK_S:
                reported_at_s = now_s
                self._report(moment, meter.update(now_s, moment.bytes_done))
            if done:
                return
            if now_payload_bytes != payload_bytes or self._checking:  # what is here is hashed
                payload_bytes, alive_at_s = now_payload_bytes, now_s
            if hopeless or now_s - alive_at_s > self._limits.patience_s:
                raise NoSource(self._what_is_missing(now_s - alive_at_s))

    def _is_hopeless(self, now_s: float) -> bool:
        """Whether all peers were given up, and the trackers, asked since, name no other."""
        if not self._crew.hopeless or self._checking:
            self._hopeless_since_s = None
            return False
        if self._hopeless_since_s is None:
            self._hopeless_since_s = now_s
        asked_since = self._asked_at_s > self._hopeless_since_s
        return asked_since and now_s - self._hopeless_since_s >= self._limits.grace_s

    def _moment(self) -> Progress:
        return Progress(
            bytes_done=self.swarm.bytes_verified,
            bytes_total=self.store.selected.size if self.store else 0,
            peers=self._crew.connected,
            rate_bytes_s=0.0,
        )

    def _report(self, moment: Progress, rate_bytes_s: float) -> None:
        if self._progress is not None:
            self._progress(
                Progress(moment.bytes_done, moment.bytes_total, moment.peers, rate_bytes_s)
            )

    def _fail(self, error: P2PError) -> None:
        with self.changed:
            self._failure = self._failure or error
            self.wake()

    # -- the thread that talks to the trackers ----------------------------------------------------

    def _find_all(self) -> None:
        interval_s = self._limits.ask_interval_min_s
        while not self.stopped:
            started_s = time.monotonic()
            try:
                records, trouble = list(self._find_peers()), ""
            except P2PError as error:
                records, trouble = [], str(error)
            with self.changed:
                self._tracker_trouble = trouble
                if not trouble:
                    self._asked_at_s = started_s
                self._crew.learn(records)
                self.changed.notify_all()
                wait_s = min(interval_s, self._limits.ask_interval_s)
                self.changed.wait_for(lambda: self.stopped or self._can_announce(), wait_s)
                interval_s *= 2
            if not self.stopped and self._can_announce():
                self._announce()

    def _can_announce(self) -> bool:
        """Whether there is something to serve that nobody was told of."""
        serves = self._seeder is not None and self._lease is not None and self.store is not None
        return serves and not self._announced and self.swarm.bytes_verified > 0

    def _announce(self) -> None:
        if self._lease is None:
            return
        with contextlib.suppress(P2PError):  # it is tried again; the download does not depend on it
            self._lease.join(self.content, complete=False)
            self._announced = True

    def _stop_serving(self) -> None:
        """After the end: go on as a seeder when that is wished for and everything is here."""
        if self._seeder is None:
            return
        if self.store is None:
            self._seeder.remove(self.content)
            return
        if self._seed and self._failure is None and self.store.complete:
            if self._lease is not None:
                with contextlib.suppress(P2PError):
                    self._lease.join(self.content, complete=True)
            return
        self._seeder.remove(self.content)
        if self._announced and self._lease is not None:
            self._lease.leave(self.content)

    # -- for people -------------------------------------------------------------------------------

    def _what_is_missing(self, silent_s: float) -> str:
        with self.changed:
            kept = self.store.what_is_kept() if self.store else ""
            if self.store is None:
                missing = "its manifest and all pieces are missing"
            else:
                pieces, ranges = self.store.manifest.pieces, self.swarm.missing()
                missing = f"{ranges.count} of {pieces.count} pieces are missing (numbers {ranges})"
            troubles = self._crew.troubles()
            if self._tracker_trouble:
                troubles.append(f"trackers: {self._tracker_trouble}")
        shown = "; ".join(troubles[:TROUBLES_SHOWN_MAX]) or "the trackers know no peer that has it"
        return (
            f"no peer sent anything for {silent_s:.1f} s: {missing}; "
            f"{self._destination} was not made{kept}. {shown}"
        )

    def __repr__(self) -> str:
        return f"<Download {self.content.hex()[:8]} to {self._destination}, {self.swarm!r}>"
