"""Keeps this peer known to the trackers: one lease, renewed by one thread.

Trackers that are away are asked again until they are back; a lease they have forgotten meanwhile
is opened anew with everything this peer serves.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Final

from peer.trackers import Announcing
from tracker_raft.errors import NotFound, P2PError

LEASE_S: Final = 60.0
RENEWALS_PER_LEASE: Final = 3
"""Two may fail before the lease is lost."""
RETRY_S: Final = 1.0
CALL_DEADLINE_S: Final = 5.0
LEAVE_DEADLINE_S: Final = 1.0

_log = logging.getLogger(__name__)


class Lease:
    """The lease of ``peer``, opened by the first :meth:`join`, kept until :meth:`close`."""

    def __init__(
        self,
        trackers: Announcing,
        peer: str,
        address: str,
        *,
        zone: str = "",
        lease_s: float = LEASE_S,
    ) -> None:
        self._trackers = trackers
        self._peer = peer
        self._address = address
        self._zone = zone
        self._lease_s = lease_s
        self._granted_s = lease_s
        self._lock = threading.Lock()
        self._contents: dict[bytes, bool] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def join(self, content: bytes, *, complete: bool) -> None:
        """Tell the trackers that this peer serves ``content``, and go on telling them.

        What they were told already is not told again. Raises :class:`P2PError` when they cannot be
        told now; then it is not gone on with.
        """
        with self._lock:
            if self._contents.get(content) is complete:
                return
        self._join(content, complete)
        with self._lock:
            self._contents[content] = complete
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep, name="peer-lease", daemon=True)
                self._thread.start()

    def leave(self, content: bytes) -> None:
        """Stop telling of ``content``, within a second.

        Trackers that are away forget it with the lease.
        """
        with self._lock:
            self._contents.pop(content, None)
        with contextlib.suppress(P2PError):
            self._trackers.leave(self._peer, content, deadline_s=LEAVE_DEADLINE_S)

    def close(self) -> None:
        """Leave all swarms, if a tracker is there to be told within a second."""
        self._closing.set()
        if self._thread is None:
            return
        try:
            self._trackers.leave(self._peer, deadline_s=LEAVE_DEADLINE_S)
        except P2PError as error:
            _log.info("the trackers were not told that this peer leaves: %s", error)
        # At most a call that is under way; it holds nothing.
        self._thread.join(LEAVE_DEADLINE_S)

    def _join(self, content: bytes, complete: bool) -> None:
        self._granted_s = self._trackers.join(
            self._peer,
            self._address,
            content,
            complete=complete,
            zone=self._zone,
            lease_s=self._lease_s,
        )

    def _keep(self) -> None:
        wait_s = self._granted_s / RENEWALS_PER_LEASE
        while not self._closing.wait(wait_s):
            try:
                self._renew()
                wait_s = self._granted_s / RENEWALS_PER_LEASE
            except P2PError as error:
                _log.warning("the lease of %s was not renewed: %s", self._peer, error)
                wait_s = min(RETRY_S, self._granted_s / RENEWALS_PER_LEASE)

    def _renew(self) -> None:
        try:
            self._granted_s = self._trackers.renew(self._peer, deadline_s=CALL_DEADLINE_S)
        except NotFound:
            with self._lock:
                contents = dict(self._contents)
            for content, complete in contents.items():
                if self._closing.is_set():
                    return
                self._join(content, complete)
