"""Looks after the files that are shared: one thread, which tells when one is not what it was.

A changed file is never sent, because the seeder compares before it sends. This is for the others:
a peer that cannot serve any more leaves the swarm instead of refusing everybody who comes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from peer.manifest import Manifest
from tracker_raft.errors import Damaged

INTERVAL_S = 1.0
REST = 20
"""Looking at a million files takes seconds: after it the thread rests so many times as long."""


class Watched(Protocol):
    """What is looked after: :class:`peer.shared.Content` has it."""

    @property
    def id(self) -> bytes: ...
    @property
    def manifest(self) -> Manifest: ...
    def check(self, file: int) -> None: ...


class Watch:
    """Checks ``contents`` from the moment it is made until :meth:`close`.

    ``on_damage`` is called in the thread of the watch, with each content that is not whole any
    more and the reason; it is expected to take it out of ``contents``.
    """

    def __init__(
        self,
        contents: Mapping[bytes, Watched],
        on_damage: Callable[[bytes, str], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._contents = contents
        self._on_damage = on_damage
        self._interval_s = interval_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="peer-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        pause_s = self._interval_s
        while not self._closing.wait(pause_s):
            began_s = time.monotonic()
            for content in list(self._contents.values()):
                self._look(content)
            pause_s = max(self._interval_s, REST * (time.monotonic() - began_s))

    def _look(self, content: Watched) -> None:
        for file in range(len(content.manifest.files)):
            if self._closing.is_set():
                return
            try:
                content.check(file)
            except Damaged as error:
                # The message is for other peers; the cause names the place on this machine.
                self._on_damage(content.id, str(error.__cause__ or error))
                return

    def close(self) -> None:
        """End it. Idempotent."""
        self._closing.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
