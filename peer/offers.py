"""What a seeder tells: the contents it serves, who is to hear of new pieces, and of each other.

A peer that asks ``have`` with its address hears of the others that did and are still connected;
where the content is under download, that download hears of the peer. So of any two that fetch from
the same peer the later one knows the earlier at once, and the earlier one learns of the later when
that one asks it.

A peer that asks ``have`` with ``follow`` hears of every piece that comes after, several at a time
and only what it lacks, as far as is known here. What is untold of a listener is one set of ranges,
so a slow listener costs no more memory than a fast one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from peer.messages import OTHERS_MAX
from peer.pieces import Run
from peer.ranges import Ranges
from peer.shared import Content
from tracker_raft.commands import PeerRecord
from tracker_raft.errors import NotFound

RUNS_PER_FRAME_MAX = 1000
"""Two numbers each: far below the 64 KiB of a frame."""
START_STEP = 0.6180339887498949
"""The golden ratio: any number of starts, one such step apart, lie evenly spread."""

Knows = Callable[[str], Ranges]
"""The pieces that the peer with this name is known to have."""
Met = Callable[[PeerRecord], object]
"""Told of a peer that fetches as well. Called without any lock held."""


class Listener(Protocol):
    """A connection that hears of new pieces. It is called without any lock held."""

    @property
    def peer(self) -> str: ...

    def tell(self) -> bool:
        """Send what is untold; False: it could not now, and is to be called again."""

    def abort(self) -> None: ...


class _Offer:
    def __init__(self, met: Met | None = None) -> None:
        self.content: Content | None = None
        """None: its manifest is not here yet."""
        self.here: Ranges | None = Ranges()
        """None: all pieces."""
        self.knows: Knows | None = None
        self.met = met
        self.untold: dict[Listener, Ranges] = {}


class Offers:
    """The contents of one seeder. Any thread.

    ``shared`` are complete ones that its owner keeps; others are put in by :meth:`add`. What is
    in both is served from ``shared``.
    """

    def __init__(self, shared: Mapping[bytes, Content]) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._offers: dict[bytes, _Offer] = {}
        self._asking: dict[bytes, dict[Listener, PeerRecord]] = {}
        self._starts = 0
        self.changed = threading.Event()
        """Set when somebody is to be told something."""

    def expect(self, content: bytes, met: Met) -> None:
        """``content`` will be put in by :meth:`add` as soon as its manifest is here; until then
        who asks is told that no piece is. ``met`` hears of who asks, until :meth:`remove`."""
        with self._lock:
            if content not in self._offers:
                self._offers[content] = _Offer(met)

    def add(self, content: Content, here: Ranges | None, knows: Knows | None) -> None:
        """Serve ``content``, of which the pieces ``here`` (None: all) are there."""
        with self._lock:
            offer = self._offers.setdefault(content.id, _Offer())
            offer.content, offer.knows = content, knows
            offer.here = here.copy() if here is not None else None
            if offer.untold:  # they asked while it was expected
                news = Ranges((0, content.manifest.pieces.count)) if here is None else here
                offer.untold = {listener: news.copy() for listener in offer.untold}
                self.changed.set()

    def gained(self, content: bytes, first: int, count: int) -> None:
        """These pieces are there as well."""
        with self._lock:
            offer = self._offers.get(content)
            if offer is None or offer.here is None:
                return
            offer.here.add(first, first + count)
            for untold in offer.untold.values():
                untold.add(first, first + count)
            if offer.untold:
                self.changed.set()

    def remove(self, content: bytes) -> list[Listener]:
        """Serve it no more; who listened to news of it."""
        with self._lock:
            offer = self._offers.pop(content, None)
            return list(offer.untold) if offer is not None else []

    def others(self, content: bytes, listener: Listener, record: PeerRecord) -> list[PeerRecord]:
        """``listener`` belongs to the peer of ``record``, which fetches as well: who else does,
        the latest ones, each peer once."""
        with self._lock:
            asking = self._asking.setdefault(content, {})
            asking[listener] = record
            found = {one.peer: one for one in asking.values() if one.peer != record.peer}
            offer = self._offers.get(content)
        if offer is not None and offer.met is not None:
            offer.met(record)
        return list(found.values())[-OTHERS_MAX:]

    def find(self, content: bytes) -> Content:
        """Raises :class:`NotFound`."""
        found = self._shared.get(content)
        if found is None:
            with self._lock:
                offer = self._offers.get(content)
            found = offer.content if offer is not None else None
        if found is None:
            raise NotFound(f"content {content.hex()} is not served here")
        return found

    def here(self, content: bytes, listener: Listener | None) -> Ranges | None:
        """The pieces that are there now, None for all; ``listener`` hears of all that follow.

        Raises :class:`NotFound`.
        """
        with self._lock:
            offer, shared = self._offers.get(content), self._shared.get(content)
            if offer is not None and offer.here is not None and shared is None:
                if offer.content is not None and offer.content.complete:
                    return None
                if listener is not None:
                    offer.untold[listener] = Ranges()
                return offer.here.copy()
        if shared is None and offer is None:
            raise NotFound(f"content {content.hex()} is not served here")
        if shared is None or shared.complete:
            return None
        count = shared.manifest.pieces.count
        return Ranges(*((piece, piece + 1) for piece in range(count) if shared.has(piece, 1)))

    def start(self, pieces: int) -> int:
        """Where the next newcomer may begin, apart from the others."""
        with self._lock:
            self._starts += 1
            return int(self._starts * START_STEP % 1.0 * pieces)

    def news(self, content: bytes, listener: Listener) -> list[Run]:
        """What ``listener`` is to be told now: what it lacks, one frame at most."""
        with self._lock:
            offer = self._offers.get(content)
            untold = offer.untold.get(listener) if offer is not None else None
            if offer is None or untold is None or not untold:
                return []
            knows = offer.knows
        # Not under the lock: it asks a download, which has its own.
        has = knows(listener.peer) if knows is not None else Ranges()
        with self._lock:
            untold = offer.untold.get(listener)
            if untold is None:
                return []
            lacks = untold.minus(has)
            runs = [Run(start, end - start) for start, end in lacks][:RUNS_PER_FRAME_MAX]
            left = Ranges(*((run.first, run.end) for run in runs))
            offer.untold[listener] = lacks.minus(left)
            return runs

    def behind(self) -> list[Listener]:
        """Who is to be told something."""
        with self._lock:
            self.changed.clear()
            return [
                listener
                for offer in self._offers.values()
                for listener, untold in offer.untold.items()
                if untold
            ]

    def forget(self, listener: Listener) -> None:
        """It has gone."""
        with self._lock:
            for offer in self._offers.values():
                offer.untold.pop(listener, None)
            for content in list(self._asking):
                self._asking[content].pop(listener, None)
                if not self._asking[content]:
                    del self._asking[content]
