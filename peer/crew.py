"""The connections of one download: who is connected, and what becomes of a connection.

Each connection is a :class:`~peer.source.Source` in a thread of its own. All tables here are
guarded by the lock of the download, ``task.changed``; methods say who holds it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from peer.choice import Candidate, PeerChoice
from peer.contacts import FRUITLESS_MAX, Contact, Contacts
from peer.limits import PeerLimits
from peer.link import Lost
from peer.messages import Answered
from peer.source import Source
from peer.task import Task
from tracker_raft.commands import PeerRecord
from tracker_raft.errors import BadRequest, LocalError, P2PError, Unavailable

JOIN_S = 0.1
"""For a thread that still connects; it sees the end before it does anything else."""


class Crew:
    """``fail`` is told of an error that ends the download."""

    def __init__(
        self,
        task: Task,
        contacts: Contacts[Source],
        choice: PeerChoice,
        limits: PeerLimits,
        own_peer: str,
        fail: Callable[[P2PError], None],
    ) -> None:
        self._task = task
        self._contacts = contacts
        self._choice = choice
        self._limits = limits
        self._own_peer = own_peer
        self._fail = fail
        self._threads: dict[Source, threading.Thread] = {}
        self._ended_payload_bytes = 0
        self._rechoose_at_s = time.monotonic() + limits.rechoose_s

    # -- under the lock of the download -----------------------------------------------------------

    def learn(self, records: Iterable[PeerRecord]) -> None:
        """The trackers know these."""
        for record in records:
            self._contacts.learn(record)

    def hear_of(self, records: Iterable[PeerRecord]) -> None:
        """Peers say that these fetch as well."""
        for record in records:
            self._contacts.hear_of(record)
        self._task.changed.notify_all()

    def connect(self, now_s: float) -> None:
        """Start what connections are wanted and may be tried now."""
        useless = {one.peer for one in self._contacts if self._useless(one)}
        candidates = self._contacts.candidates(useless, now_s)
        known = len(self._contacts) - len(useless)
        wanted = self._connections_wanted(known) if self._task.store else 1
        held = sum(one.connected for one in candidates)
        places = self._limits.fetch_peers_max - held
        for peer in self._choice.choose(candidates, places) if places > 0 else ():
            self._start(self._contacts[peer], known)
        for one in candidates:
            contact = self._contacts[one.peer]
            while contact.live and len(contact.live) < wanted and now_s >= contact.retry_at_s:
                self._start(contact, known)
            if len(contact.live) > wanted:
                # Begun before there was a crowd. The younger ones stay: nothing tells them apart.
                for source in list(contact.live)[wanted:]:
                    source.retire()
        if now_s >= self._rechoose_at_s:
            self._rechoose_at_s = now_s + self._limits.rechoose_s
            waiting = [one for one in candidates if not one.connected]
            if waiting and places <= 0:
                self._make_room(waiting, now_s)

    def wake(self) -> None:
        """Let connections that wait look again."""
        for source in self._task.waiting:
            source.wake()
        self._task.waiting.clear()

    @property
    def payload_bytes(self) -> int:
        """Bytes of content that came, right or wrong: a sign of life."""
        return self._ended_payload_bytes + sum(one.bytes_payload for one in self._threads)

    @property
    def connected(self) -> int:
        return sum(1 for contact in self._contacts if contact.live)

    @property
    def taken(self) -> tuple[tuple[str, int], ...]:
        """Peers that gave at least one piece, and how many bytes."""
        return tuple((one.peer, one.gave_bytes) for one in self._contacts if one.gave_bytes)

    @property
    def hopeless(self) -> bool:
        """Whether there were peers, and all were given up."""
        return len(self._contacts) > 0 and all(map(self._useless, self._contacts))

    def troubles(self) -> list[str]:
        """What became of each peer."""
        return [
            f"{contact.peer} at {contact.record.address} "
            f"{self._useless(contact) or contact.trouble or 'sent nothing'}"
            for contact in self._contacts
        ]

    def snapshot(self, now_s: float) -> list[dict[str, Any]]:
        """One map for each peer."""
        found = []
        for contact in self._contacts:
            self._measure(contact, now_s)
            useless = self._useless(contact)
            state = "given up" if useless else "connected" if contact.live else "waiting"
            bytes_given = contact.gave_bytes + sum(one.bytes_verified for one in contact.live)
            found.append(
                {
                    "peer": contact.peer,
                    "address": contact.record.address,
                    "zone": contact.record.zone,
                    "complete": contact.record.complete,
                    "state": state,
                    "bytes": bytes_given,
                    "rate_bytes_s": contact.rate_bytes_s,
                    "trouble": useless or contact.trouble,
                }
            )
        return found

    def _useless(self, contact: Contact[Source]) -> str | None:
        return self._task.swarm.useless(contact.peer)

    def _connections_wanted(self, peers: int) -> int:
        return self._limits.connections_per_peer if peers < self._limits.many_peers else 1

    def _depth(self, peers: int) -> int:
        """Requests sent ahead on one connection, so that all to a peer keep its limit."""
        return max(self._limits.requests_in_flight_max // self._connections_wanted(peers), 1)

    def _start(self, contact: Contact[Source], peers: int) -> None:
        source = Source(self._task, contact.record, self._limits, self._own_peer)
        thread = threading.Thread(
            target=self._use,
            args=(contact, source, self._depth(peers)),
            name="fetch-source",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise LocalError(f"this machine has no thread for a connection: {error}") from error
        contact.live.add(source)
        self._threads[source] = thread

    def _make_room(self, waiting: Sequence[Candidate], now_s: float) -> None:
        """Let a peer go, for one of those ``waiting``."""
        connected = [one for one in self._contacts if one.live]
        for contact in connected:
            self._measure(contact, now_s)
        held = [self._contacts.candidate(one) for one in connected]
        released = self._choice.release(held, waiting)
        if released is not None:
            contact = self._contacts[released]
            self._contacts.rest(contact, now_s)
            for source in contact.live:
                source.abort()

    def _measure(self, contact: Contact[Source], now_s: float) -> None:
        rate = self._task.swarm.rate_of(contact.peer, now_s)
        contact.rate_bytes_s = contact.rate_bytes_s if rate is None else rate

    # -- without it -------------------------------------------------------------------------------

    def stop(self) -> None:
        """End all connections; afterwards nothing is written any more. The task has stopped."""
        with self._task.changed:
            threads = dict(self._threads)
        for source in threads:
            source.abort()
        for source, thread in threads.items():
            thread.join(None if source.is_open else JOIN_S)

    def _use(self, contact: Contact[Source], source: Source, depth: int) -> None:
        """The life of one connection."""
        swarm, peer = self._task.swarm, contact.peer
        trouble, retry_s = "", 0.0
        ban = refusal = fruitless = False
        try:
            source.open()
            if self._task.stopped:
                return
            fruitless = True
            greeting = source.greet()
            fruitless = False
            with self._task.changed:
                swarm.connected(peer, greeting.has, start_at=greeting.start_at)
                if greeting.others:
                    self.hear_of(greeting.others)
            source.transfer(depth)
        except Lost as error:
            trouble = str(error)
            fruitless = fruitless or source.asked
        except Answered as error:
            trouble = str(error)
            fruitless = refusal = not isinstance(error.error, Unavailable)
            retry_s = error.error.retry_after_s or 0.0
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
            with self._task.changed:
                self._ended(contact, source, trouble, fruitless=fruitless, retry_s=retry_s)
                if ban:
                    swarm.ban(peer, trouble)
                elif refusal:
                    swarm.refused(peer, trouble)
                elif contact.fruitless >= FRUITLESS_MAX:
                    swarm.refused(peer, f"{trouble}, {FRUITLESS_MAX} times in a row")
                if self._useless(contact) is not None:
                    for other in contact.live:
                        other.abort()
                self._task.wake()

    def _ended(
        self,
        contact: Contact[Source],
        source: Source,
        trouble: str,
        *,
        fruitless: bool,
        retry_s: float,
    ) -> None:
        now_s = time.monotonic()
        self._measure(contact, now_s)
        contact.live.discard(source)
        self._threads.pop(source, None)
        self._ended_payload_bytes += source.bytes_payload
        contact.gave_bytes += source.bytes_verified
        if not contact.live:
            self._task.swarm.lost(contact.peer)
        if source.bytes_verified:
            self._contacts.delivered(contact)
        if trouble:
            fruitless = fruitless and not source.bytes_verified
            self._contacts.broke(contact, trouble, now_s, fruitless=fruitless)
            contact.retry_at_s = max(contact.retry_at_s, now_s + retry_s)
        elif source.rested:
            self._contacts.rest(contact, now_s)

    def __repr__(self) -> str:
        return f"<Crew {self.connected} of {len(self._contacts)} peers connected>"
