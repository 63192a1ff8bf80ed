"""What a download knows of the peers it may connect to: addresses, troubles, when to try again.

Pure: the clock and the random source are handed in. ``Connection`` is whatever its user keeps for
one connection; here it is only counted.

Rules, each tested by its name (``tests/unit/test_contacts.py``):

* **back-off**: a peer whose connection broke is tried again later and later, with jitter;
* **fruitless**: after :data:`FRUITLESS_MAX` connections in a row that brought nothing it is worth
  no more;
* **moved**: a peer with a new address starts anew;
* **hearsay**: what peers tell of others counts where the trackers have said nothing, and up to
  :data:`HEARSAY_MAX` contacts;
* **bounded**: at most :data:`CONTACTS_MAX` peers are remembered.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from peer.choice import Candidate
from peer.limits import PeerLimits
from tracker_raft.commands import PeerRecord

FRUITLESS_MAX = 5
"""Connections to one peer that brought no piece, one after the other, before it is given up."""
CONTACTS_MAX = 2048
HEARSAY_MAX = 256
"""Contacts beyond which peers are not believed that there are more: only trackers are."""

Connection = TypeVar("Connection")


@dataclass(slots=True)
class Contact(Generic[Connection]):
    """One peer."""

    record: PeerRecord
    live: set[Connection] = field(default_factory=set)
    failures: int = 0
    """Connections that broke, one after the other."""
    fruitless: int = 0
    """Connections that came about and brought nothing, one after the other."""
    retry_at_s: float = 0.0
    trouble: str = ""
    gave_bytes: int = 0
    rate_bytes_s: float | None = None
    """When it was asked last."""

    @property
    def peer(self) -> str:
        return self.record.peer


class Contacts(Generic[Connection]):
    """All peers of one download, by name."""

    def __init__(
        self, own_peer: str, zone: str, limits: PeerLimits, random_source: random.Random
    ) -> None:
        self._own_peer = own_peer
        self._zone = zone
        self._limits = limits
        self._random = random_source
        self._contacts: dict[str, Contact[Connection]] = {}

    def learn(self, record: PeerRecord) -> None:
        """The trackers know this peer."""
        if record.peer == self._own_peer:
            return
        contact = self._contacts.get(record.peer)
        if contact is None:
            if len(self._contacts) < CONTACTS_MAX:
                self._contacts[record.peer] = Contact(record)
        elif contact.record != record:
            moved = contact.record.address != record.address
            contact.record = record
            if moved:  # started again elsewhere: what went wrong there says nothing
                contact.failures, contact.retry_at_s = 0, 0.0

    def hear_of(self, record: PeerRecord) -> None:
        """A peer says that this one fetches as well."""
        if record.peer not in self._contacts and len(self._contacts) < HEARSAY_MAX:
            self.learn(record)

    def candidate(self, contact: Contact[Connection]) -> Candidate:
        near = not self._zone or contact.record.zone == self._zone
        return Candidate(contact.peer, bool(contact.live), near, contact.rate_bytes_s)

    def candidates(self, useless: Collection[str], now_s: float) -> list[Candidate]:
        """Who is connected, and who may be tried now."""
        return [
            self.candidate(contact)
            for peer, contact in self._contacts.items()
            if peer not in useless and (contact.live or now_s >= contact.retry_at_s)
        ]

    def broke(
        self, contact: Contact[Connection], trouble: str, now_s: float, *, fruitless: bool
    ) -> None:
        """A connection ended with ``trouble``."""
        contact.trouble = trouble
        contact.failures += 1
        contact.fruitless += fruitless
        limits = self._limits
        doublings = min(contact.failures - 1, 16)
        longest_s = min(limits.retry_max_s, limits.retry_min_s * 2**doublings)
        # Whoever was let go has a later time already: that its connection broke is our doing.
        retry_at_s = now_s + longest_s * self._random.uniform(0.5, 1.0)
        contact.retry_at_s = max(contact.retry_at_s, retry_at_s)

    def delivered(self, contact: Contact[Connection]) -> None:
        """A connection brought something: what went wrong before is forgiven."""
        contact.failures = contact.fruitless = 0

    def rest(self, contact: Contact[Connection], now_s: float) -> None:
        """It had nothing to give; try again much later."""
        contact.retry_at_s = now_s + self._limits.retry_max_s * self._random.uniform(1.0, 2.0)

    def __getitem__(self, peer: str) -> Contact[Connection]:
        return self._contacts[peer]

    def __iter__(self) -> Iterator[Contact[Connection]]:
        return iter(self._contacts.values())

    def __len__(self) -> int:
        return len(self._contacts)
