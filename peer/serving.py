"""What a peer serves: the seeder, the lease that makes it known, the watch over shared files.

Started by the first content that is shared or fetched; until then nobody listens.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable

from peer.files import OpenFiles
from peer.lease import Lease
from peer.limits import PeerLimits
from peer.scan import Scanned
from peer.seeder import Seeder
from peer.shared import Content, SharedFiles
from peer.trackers import Announcing
from peer.watch import Watch
from tracker_raft.config import Address, require_loopback
from tracker_raft.errors import BadRequest, LocalError

_WILDCARDS = ("0.0.0.0", "::")  # compared with, not bound to

Withdrawn = Callable[[str], object]
"""Called, in another thread, with the reason why a content is not served any more."""

_log = logging.getLogger(__name__)


class Serving:
    """Serves contents until :meth:`close`. Any thread.

    Raises :class:`BadRequest` for settings that cannot be; nothing was started.
    """

    def __init__(
        self,
        trackers: Announcing,
        peer: str,
        bind: str,
        advertise: str | None,
        *,
        zone: str,
        insecure: bool,
        limits: PeerLimits,
        lease_s: float,
        watch_s: float,
    ) -> None:
        self._bind = parse_bind(bind)
        require_loopback("peer address", self._bind, insecure)
        if advertise is None and self._bind.host in _WILDCARDS:
            raise BadRequest(
                f"listening on {self._bind} leaves open what other peers are told: "
                f"give the address to advertise"
            )
        advertised(advertise, Address(self._bind.host, 1))
        self._trackers = trackers
        self._peer = peer
        self._advertise = advertise
        self._zone = zone
        self._insecure = insecure
        self._limits = limits
        self._lease_s = lease_s
        self._watch_s = watch_s
        self.contents: dict[bytes, Content] = {}
        self._tell: dict[bytes, Withdrawn] = {}
        self._open_files = OpenFiles(limits.open_files_max)
        self._lock = threading.Lock()
        self._started: tuple[Seeder, Lease, Address, Watch] | None = None
        self._closed = False

    def start(self) -> tuple[Seeder, Lease, Address]:
        """Listen, from the first call on. Raises :class:`LocalError` where that cannot be."""
        with self._lock:
            if self._closed:
                raise LocalError("this peer is closed")
            if self._started is None:
                seeder = Seeder(
                    self._peer,
                    self.contents,
                    self._bind,
                    insecure=self._insecure,
                    limits=self._limits,
                )
                address = advertised(self._advertise, seeder.address)
                lease = Lease(
                    self._trackers,
                    self._peer,
                    str(address),
                    zone=self._zone,
                    lease_s=self._lease_s,
                )
                watch = Watch(self.contents, self.withdraw, self._watch_s)
                self._started = (seeder, lease, address, watch)
            return self._started[:3]

    def offer(self, scanned: Scanned, on_withdrawn: Withdrawn | None = None) -> SharedFiles:
        """Serve a complete content and tell the trackers. Raises what they raise; then it is not
        served, if it was not before."""
        _, lease, _ = self.start()
        content = SharedFiles(scanned, self._open_files)
        known = self.contents.get(content.id)
        self.contents[content.id] = content
        if on_withdrawn is not None:
            self._tell[content.id] = on_withdrawn
        try:
            lease.join(content.id, complete=True)
        except BaseException:
            if known is None:
                self.withdraw(content.id)
            raise
        return content

    def withdraw(self, content: bytes, reason: str = "") -> None:
        """Stop serving a content; a ``reason`` is told to who offered it."""
        tell = self._tell.pop(content, None)
        if self.contents.pop(content, None) is None or self._started is None:
            return
        if tell is not None and reason:
            tell(reason)
        elif reason:
            _log.warning("content %s is not served any more: %s", content.hex()[:8], reason)
        seeder, lease, _, _ = self._started
        seeder.remove(content)  # what a download has put in, and those who listen to it
        lease.leave(content)

    @property
    def address(self) -> Address | None:
        """What other peers are told; None before :meth:`start`."""
        return self._started[2] if self._started else None

    @property
    def bytes_sent(self) -> int:
        """Payload bytes of connections that have ended."""
        return self._started[0].bytes_sent if self._started else 0

    def close(self) -> None:
        """Leave the swarms and stop serving. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._started is not None:
            seeder, lease, _, watch = self._started
            watch.close()
            lease.close()
            seeder.close()
        self._open_files.close()

    def __repr__(self) -> str:
        return f"<Serving {len(self.contents)} contents at {self.address}>"


def parse_bind(text: str) -> Address:
    """Read ``host:port`` where port 0 is a free one."""
    host, _, port = text.rpartition(":")
    if port == "0":
        return Address(Address.parse(f"{host}:1").host, 0)
    return Address.parse(text)


def advertised(advertise: str | None, listening: Address) -> Address:
    """What other peers are told: ``host:port``, or ``host`` with the port listened on."""
    if advertise is None:
        return listening
    if re.search(r":\d+$", advertise):
        return Address.parse(advertise)
    return Address.parse(f"{advertise}:{listening.port}")
