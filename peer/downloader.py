"""Carries out a download: finds peers, keeps connections, ends in a file or a clear error.

Three kinds of thread: the caller's (starts connections, watches the time, reports progress), one
that asks the trackers for peers, and one for each connection (:mod:`peer.source`). All share one
lock, the condition ``changed``, for the swarm brain and the tables here; no piece is touched
under it. Trackers that are away cost nothing but news of further peers.

Nobody waits for ever: a source that sends too little is closed by its progress deadline, tried
again after a back-off, and left alone after ``FRUITLESS_MAX`` connections that brought nothing;
a download that got no byte of content for ``patience_s`` fails and says what is missing.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peer.destination import FreeBytes, check_destination, free_bytes
from peer.limits import PeerLimits
from peer.link import Lost
from peer.manifest import check_encoded_size, content_id, decode
from peer.messages import Answered
from peer.progress import Fetched, Progress, RateMeter
from peer.ranges import Ranges
from peer.source import Source
from peer.store import Store
from peer.swarm import Swarm
from tracker_raft.commands import INTEGER_MAX, PeerRecord, check_int
from tracker_raft.errors import BadRequest, LocalError, P2PError, Unavailable

FRUITLESS_MAX = 5
"""Connections to one peer that brought no piece, one after the other, before it is given up."""
TICK_S = 0.1
"""How often the time is looked at and progress reported."""
TROUBLES_SHOWN_MAX = 5

FindPeers = Callable[[], Iterable[PeerRecord]]
"""Asks the trackers. May raise :class:`P2PError`; it is asked again."""


class NoSource(Unavailable):
    """No peer served what is missing. What came is kept for the next fetch."""

    code = "no_source"


class Cancelled(P2PError):
    """The download was stopped from outside. What came is kept for the next fetch."""

    code = "cancelled"


@dataclass(slots=True)
class _Known:
    """What is known of one peer. Guarded by ``changed``."""

    record: PeerRecord
    live: set[Source] = field(default_factory=set)
    failures: int = 0
    """Connections that broke, one after the other."""
    fruitless: int = 0
    """Connections that came about and brought nothing, one after the other."""
    retry_at_s: float = 0.0
    trouble: str = ""
    gave_bytes: int = 0


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
        sequential: bool = False,
        limits: PeerLimits | None = None,
        progress: Callable[[Progress], None] | None = None,
        random_source: random.Random | None = None,
        free: FreeBytes = free_bytes,
    ) -> None:
        """``manifest_bytes``: its size as the trackers know it, None if they do not.

        ``progress`` is called in the thread of :meth:`run`, about ten times a second.
        """
        self.content = content
        self.changed = threading.Condition()
        self.stopped = False
        self.store: Store | None = None
        self._limits = limits or PeerLimits()
        self._random = random_source or random.Random()
        self.swarm = Swarm(self._limits, self._random)
        self._destination = destination
        self._find_peers = find_peers
        self._own_peer = own_peer
        self._manifest_bytes = manifest_bytes
        self._durable = durable
        self._include = include
        self._update = update
        self._checking = False
        self._progress = progress
        self._free = free
        self._known: dict[str, _Known] = {}
        self._threads: dict[Source, threading.Thread] = {}
        self._failure: P2PError | None = None
        self._tracker_trouble = ""
        self._ended_bytes = 0
        self._ended_payload_bytes = 0

    def run(self) -> Fetched:
        """Download. The destination is there and complete, or an error is raised and it is not.

        Raises :class:`NoSource`, :class:`LocalError` (this machine), :class:`BadRequest` (the
        content itself is not valid), :class:`Cancelled`.
        """
        check_destination(self._destination, update=self._update)
        started_s = time.monotonic()
        finder = threading.Thread(target=self._find_all, name="fetch-find", daemon=True)
        finder.start()
        try:
            try:
                self._supervise(RateMeter(started_s))
            finally:
                self._stop()
            store = self.store
            if store is None:
                raise AssertionError("a download is done before it is described")
            store.finish()
        finally:
            if self.store is not None:
                self.store.close()
            # It may be waiting for a tracker that is away; it holds nothing of this download.
            finder.join(TICK_S)
        return Fetched(
            path=self._destination,
            content=self.content,
            bytes=store.selected.size,
            seconds=time.monotonic() - started_s,
            peers=sum(1 for known in self._known.values() if known.gave_bytes),
            banned=tuple(f"{peer} {reason}" for peer, reason in self.swarm.banned.items()),
            taken=tuple(
                (p, known.gave_bytes) for p, known in self._known.items() if known.gave_bytes
            ),
            kept=store.bytes_at_start,
        )

    def cancel(self) -> None:
        """Make :meth:`run` raise :class:`Cancelled` soon; from any thread."""
        kept = self.store.what_is_kept() if self.store else ""
        self._fail(Cancelled(f"stopped; {self._destination} was not made{kept}"))

    def prefer(self, first: int, count: int) -> None:
        """Pieces that are waited for; any thread."""

    # -- what connections need (peer.source.Task) -------------------------------------------------

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
        try:
            # Right by its hash, so every peer would send the same: what fails now fails for good.
            manifest = decode(encoded)
            self._checking = True
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
        with self.changed:
            self.store = store
            self.swarm.described(manifest.pieces)
            # What is not wanted is left alone like what is here already.
            done = Ranges((0, manifest.pieces.count))
            for start, end in store.wanted:
                done.remove(start, end)
            for start, end in (*done, *store.verified):
                self.swarm.verified(start, end - start)
            self.changed.notify_all()

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
                    self._connect_all(time.monotonic())
                    self.changed.wait(TICK_S)
                done = self.swarm.done and self._failure is None
                moment = self._moment()
                now_payload_bytes = self._ended_payload_bytes + sum(
                    source.bytes_payload for source in self._threads
                )
            now_s = time.monotonic()
            if done or now_s - reported_at_s >= TICK_S:
                reported_at_s = now_s
                self._report(moment, meter.update(now_s, moment.bytes_done))
            if done:
                return
            if now_payload_bytes != payload_bytes or self._checking:  # what is here is hashed
                payload_bytes, alive_at_s = now_payload_bytes, now_s
            if now_s - alive_at_s > self._limits.patience_s:
                raise NoSource(self._what_is_missing())

    def _moment(self) -> Progress:
        total = self.store.manifest.size if self.store else 0
        done = self._ended_bytes + sum(source.bytes_verified for source in self._threads)
        return Progress(
            # A peer banned by one connection may have given a piece twice over another.
            bytes_done=min(done, total),
            bytes_total=total,
            peers=sum(1 for known in self._known.values() if known.live),
            rate_bytes_s=0.0,
        )

    def _report(self, moment: Progress, rate_bytes_s: float) -> None:
        if self._progress is not None:
            self._progress(
                Progress(moment.bytes_done, moment.bytes_total, moment.peers, rate_bytes_s)
            )

    def _connect_all(self, now_s: float) -> None:
        """Start what connections are wanted and may be tried now."""
        useful = [known for peer, known in self._known.items() if self.swarm.useless(peer) is None]
        wanted = self._connections_wanted(len(useful)) if self.store else 1
        connected = sum(1 for known in useful if known.live)
        for known in useful:
            if known.live or connected < self._limits.fetch_peers_max:
                connected += not known.live
                while len(known.live) < wanted and now_s >= known.retry_at_s:
                    self._start(known, self._depth(len(useful)))

    def _connections_wanted(self, peers: int) -> int:
        return self._limits.connections_per_peer if peers < self._limits.many_peers else 1

    def _depth(self, peers: int) -> int:
        """Requests sent ahead on one connection, so that all to a peer keep its limit."""
        return max(self._limits.requests_in_flight_max // self._connections_wanted(peers), 1)

    def _start(self, known: _Known, depth: int) -> None:
        source = Source(self, known.record, self._limits, self._own_peer)
        thread = threading.Thread(
            target=self._use, args=(known, source, depth), name="fetch-source", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise LocalError(f"this machine has no thread for a connection: {error}") from error
        known.live.add(source)
        self._threads[source] = thread

    def _stop(self) -> None:
        """End all connections; afterwards nothing is written any more."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
            threads = dict(self._threads)
        for source in threads:
            source.abort()
        for source, thread in threads.items():
            # One that still connects sees the flag before it does anything else.
            thread.join(None if source.is_open else TICK_S)

    def _fail(self, error: P2PError) -> None:
        with self.changed:
            self._failure = self._failure or error
            self.changed.notify_all()

    # -- threads ----------------------------------------------------------------------------------

    def _find_all(self) -> None:
        while not self.stopped:
            try:
                records, trouble = list(self._find_peers()), ""
            except P2PError as error:
                records, trouble = [], str(error)
            with self.changed:
                self._tracker_trouble = trouble
                for record in records:
                    self._learn(record)
                self.changed.notify_all()
                self.changed.wait_for(lambda: self.stopped, self._limits.ask_interval_s)

    def _learn(self, record: PeerRecord) -> None:
        if record.peer == self._own_peer:
            return
        known = self._known.get(record.peer)
        if known is None:
            self._known[record.peer] = _Known(record)
        elif known.record != record:
            moved = known.record.address != record.address
            known.record = record
            if moved:  # started again elsewhere: what went wrong there says nothing
                known.failures, known.retry_at_s = 0, 0.0

    def _use(self, known: _Known, source: Source, depth: int) -> None:
        """The life of one connection."""
        peer = known.record.peer
        trouble, ban, refusal, fruitless = "", False, False, False
        try:
            source.open()
            if self.stopped:
                return
            fruitless = True
            has = source.greet()
            fruitless = False
            with self.changed:
                self.swarm.connected(peer, has)
                self.changed.notify_all()
            source.transfer(depth)
        except Lost as error:
            trouble = str(error)
            fruitless = fruitless or source.asked
        except Answered as error:
            trouble = str(error)
            fruitless = refusal = not isinstance(error.error, Unavailable)
        except LocalError as error:
            self._fail(error)
        except BadRequest as error:
            trouble, ban = str(error), True
        except BaseException as error:
            # A defect must end the download with its traceback, not leave it waiting.
            self._fail(P2PError(f"defect in a connection to {peer}: {error!r}"))
            raise
        finally:
            source.close()
            with self.changed:
                self._ended(known, source, trouble, fruitless)
                if ban:
                    self.swarm.ban(peer, trouble)
                elif refusal:
                    self.swarm.refused(peer, trouble)
                elif known.fruitless >= FRUITLESS_MAX:
                    self.swarm.refused(peer, f"{trouble}, {FRUITLESS_MAX} times in a row")
                if self.swarm.useless(peer) is not None:
                    for other in known.live:
                        other.abort()
                self.changed.notify_all()

    def _ended(self, known: _Known, source: Source, trouble: str, fruitless: bool) -> None:
        peer = known.record.peer
        known.live.discard(source)
        self._threads.pop(source, None)
        self._ended_bytes += source.bytes_verified
        self._ended_payload_bytes += source.bytes_payload
        known.gave_bytes += source.bytes_verified
        if not known.live:
            self.swarm.lost(peer)
        if source.bytes_verified:
            known.failures = known.fruitless = 0
        if trouble:
            known.trouble = trouble
            known.failures += 1
            known.fruitless += fruitless and not source.bytes_verified
            limits = self._limits
            doublings = min(known.failures - 1, 16)
            longest_s = min(limits.retry_max_s, limits.retry_min_s * 2**doublings)
            known.retry_at_s = time.monotonic() + longest_s * self._random.uniform(0.5, 1.0)

    def _what_is_missing(self) -> str:
        with self.changed:
            kept = self.store.what_is_kept() if self.store else ""
            if self.store is None:
                missing = "its manifest and all pieces are missing"
            else:
                pieces, ranges = self.store.manifest.pieces, self.swarm.missing()
                missing = f"{ranges.count} of {pieces.count} pieces are missing (numbers {ranges})"
            troubles = [
                f"{peer} at {known.record.address} "
                f"{self.swarm.useless(peer) or known.trouble or 'sent nothing'}"
                for peer, known in self._known.items()
            ]
            if self._tracker_trouble:
                troubles.append(f"trackers: {self._tracker_trouble}")
        shown = "; ".join(troubles[:TROUBLES_SHOWN_MAX]) or "the trackers know no peer that has it"
        return (
            f"no peer sent anything for {self._limits.patience_s:g} s: {missing}; "
            f"{self._destination} was not made{kept}. {shown}"
        )

    def __repr__(self) -> str:
        return f"<Download {self.content.hex()[:8]} to {self._destination}, {self.swarm!r}>"
