"""One peer: composition root of everything it does.

::

    with Peer(["127.0.0.1:7001"]) as peer:
        shared = peer.share("model.bin", name="models/a")     # served until the block ends
        peer.fetch("data/b", "b.bin")
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from peer import scan
from peer.downloader import Download
from peer.files import OpenFiles
from peer.lease import LEASE_S, Lease
from peer.limits import PeerLimits
from peer.progress import Fetched, Progress
from peer.seeder import Seeder
from peer.shared import Content, SharedFiles
from peer.trackers import PeerFinder, Trackers
from tracker_raft.client import TrackerClient
from tracker_raft.commands import FileRecord, check_name, check_peer, parse_content_hex
from tracker_raft.config import Address, require_loopback
from tracker_raft.errors import BadRequest, LocalError, NotFound

ANY_PORT = "127.0.0.1:0"
_WILDCARDS = ("0.0.0.0", "::")  # compared with, not bound to


@dataclass(frozen=True, slots=True)
class Shared:
    """A content that is served and published."""

    record: FileRecord
    path: Path
    address: Address
    """Where other peers are told to fetch it."""

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def content(self) -> str:
        """The content id as 64 hexadecimal digits."""
        return self.record.content.hex()


class Peer:
    """Shares and fetches. A context manager; any thread may use it.

    ``trackers``: their addresses as ``host:port``; the first that lives is used.
    ``bind``: where it listens once it shares, ``host:port``, port 0 for a free one.
    ``advertise``: what other peers are told, ``host`` or ``host:port``; None: where it listens.
    ``peer_id``: who it is in every swarm; None makes one up.
    ``zone``: a label, told to the trackers.
    ``insecure``: allow to listen beyond this machine, to anybody.
    Raises :class:`BadRequest` for what of these is not valid; nothing was started.
    ``client``: the trackers as an object that the caller keeps and closes; ``trackers`` is then
    not used.
    """

    def __init__(
        self,
        trackers: Sequence[str] = (),
        *,
        bind: str = ANY_PORT,
        advertise: str | None = None,
        peer_id: str | None = None,
        zone: str = "",
        insecure: bool = False,
        client: Trackers | None = None,
        limits: PeerLimits | None = None,
        lease_s: float = LEASE_S,
    ) -> None:
        self.id = check_peer(peer_id) if peer_id is not None else _new_peer_id()
        self._bind = _parse_bind(bind)
        require_loopback("peer address", self._bind, insecure)
        if advertise is None and self._bind.host in _WILDCARDS:
            raise BadRequest(
                f"listening on {self._bind} leaves open what other peers are told: "
                f"give the address to advertise"
            )
        _advertised(advertise, Address(self._bind.host, 1))
        self._advertise = advertise
        self._zone = zone
        self._insecure = insecure
        self._limits = limits or PeerLimits()
        self._lease_s = lease_s
        self._owns_trackers = client is None
        self._trackers: Trackers = TrackerClient(trackers) if client is None else client
        self._contents: dict[bytes, Content] = {}
        self._open_files = OpenFiles(self._limits.open_files_max)
        self._lock = threading.Lock()
        self._serving: tuple[Seeder, Lease, Address] | None = None
        self._closed = False

    def share(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        replace: bool = False,
        follow_links: bool = False,
        progress: scan.Progress | None = None,
    ) -> Shared:
        """Hash ``path``, serve it until :meth:`close`, and publish it as ``name``.

        ``name``: None is the last segment of the path. ``replace``: make a new version when the
        name is bound to other content. ``progress`` gets bytes hashed and bytes in all.

        Raises :class:`BadRequest`, :class:`LocalError` (see :func:`peer.scan.scan`),
        :class:`~tracker_raft.errors.Conflict`, and what the trackers raise. The content is served
        and published when it returns; else neither, but for an unknown outcome.
        """
        name = check_name(scan.share_name(path) if name is None else name)
        self._serve()  # an address that cannot be had is known before hashing, which takes long
        scanned = scan.scan(path, follow_links=follow_links, progress=progress)
        content = SharedFiles(scanned, self._open_files)
        _, lease, address = self._serve()
        known = content.id in self._contents
        self._contents[content.id] = content
        try:
            lease.join(content.id, complete=True)
            published = self._trackers.publish(
                name,
                content=content.id,
                size=content.manifest.size,
                manifest_bytes=len(content.encoded),
                piece_bytes=content.manifest.piece_bytes,
                replace=replace,
            )
        except BaseException:
            if not known:
                self._contents.pop(content.id, None)
                lease.leave(content.id)
            raise
        return Shared(published.file, Path(path), address)

    def fetch(
        self,
        name_or_id: str,
        dest: str | os.PathLike[str] | None = None,
        *,
        progress: Callable[[Progress], None] | None = None,
        durable: bool = False,
        timeout_s: float | None = None,
        on_start: Callable[[Download], None] | None = None,
    ) -> Fetched:
        """Download a name, ``name@vN`` or content id to ``dest``, which must not exist.

        ``dest``: None is the last segment of the name, in the current directory. ``progress`` is
        called in this thread. ``durable``: sync to disk before the final name is given.
        ``timeout_s``: fail after this long without a byte from any peer. ``on_start`` is handed
        the download, which can be cancelled from another thread.

        Raises :class:`~tracker_raft.errors.NotFound`, :class:`LocalError`,
        :class:`~peer.downloader.NoSource`, and what the trackers raise.
        """
        content, record = self._look_up(name_or_id)
        if dest is None:
            if record is None:
                raise BadRequest(
                    f"the trackers know no name for content {name_or_id}: say where to write it"
                )
            dest = record.name.rpartition("/")[2]
        limits = self._limits
        if timeout_s is not None:
            limits = dataclasses.replace(limits, patience_s=timeout_s)
        download = Download(
            content,
            Path(os.path.abspath(dest)),  # noqa: PTH100  # resolve() would follow links
            PeerFinder(self._trackers, content),
            own_peer=self.id,
            manifest_bytes=record.manifest_bytes if record else None,
            durable=durable,
            limits=limits,
            progress=progress,
        )
        if on_start is not None:
            on_start(download)
        return download.run()

    @property
    def address(self) -> Address | None:
        """What other peers are told; None before the first :meth:`share`."""
        return self._serving[2] if self._serving else None

    @property
    def bytes_served(self) -> int:
        """Payload bytes of connections that have ended."""
        return self._serving[0].bytes_sent if self._serving else 0

    def close(self) -> None:
        """Leave the swarms and stop serving. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._serving is not None:
            seeder, lease, _ = self._serving
            lease.close()
            seeder.close()
        self._open_files.close()
        if self._owns_trackers:
            self._trackers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Peer {self.id} at {self.address}, {len(self._contents)} contents>"

    def _look_up(self, name_or_id: str) -> tuple[bytes, FileRecord | None]:
        content = parse_content_hex(name_or_id)
        if content is None:
            record = self._trackers.lookup(name_or_id)
            return record.content, record
        try:
            return content, self._trackers.lookup(content)
        except NotFound:
            return content, None  # it may be served without a name

    def _serve(self) -> tuple[Seeder, Lease, Address]:
        """Listen, from the first call on."""
        with self._lock:
            if self._closed:
                raise LocalError("this peer is closed")
            if self._serving is None:
                seeder = Seeder(
                    self.id,
                    self._contents,
                    self._bind,
                    insecure=self._insecure,
                    limits=self._limits,
                )
                address = _advertised(self._advertise, seeder.address)
                lease = Lease(
                    self._trackers,
                    self.id,
                    str(address),
                    zone=self._zone,
                    lease_s=self._lease_s,
                )
                self._serving = (seeder, lease, address)
            return self._serving


@contextmanager
def share(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    trackers: Sequence[str],
    bind: str = ANY_PORT,
    advertise: str | None = None,
    insecure: bool = False,
    replace: bool = False,
    follow_links: bool = False,
) -> Iterator[Shared]:
    """Share a file or a directory as long as the ``with`` block runs. See :meth:`Peer.share`."""
    with Peer(trackers, bind=bind, advertise=advertise, insecure=insecure) as peer:
        yield peer.share(path, name, replace=replace, follow_links=follow_links)


def fetch(
    name_or_id: str,
    dest: str | os.PathLike[str] | None = None,
    *,
    trackers: Sequence[str],
    progress: Callable[[Progress], None] | None = None,
    durable: bool = False,
    timeout_s: float | None = None,
) -> Fetched:
    """Download a name or a content id. See :meth:`Peer.fetch`."""
    with Peer(trackers) as peer:
        return peer.fetch(name_or_id, dest, progress=progress, durable=durable, timeout_s=timeout_s)


def _new_peer_id() -> str:
    host = "".join(c for c in socket.gethostname() if c.isascii() and c.isprintable())
    return f"{host[:64]}-{os.getpid()}-{secrets.token_hex(4)}"


def _parse_bind(text: str) -> Address:
    """Read ``host:port`` where port 0 is a free one."""
    host, _, port = text.rpartition(":")
    if port == "0":
        return Address(Address.parse(f"{host}:1").host, 0)
    return Address.parse(text)


def _advertised(advertise: str | None, listening: Address) -> Address:
    """What other peers are told: ``host:port``, or ``host`` with the port listened on."""
    if advertise is None:
        return listening
    if re.search(r":\d+$", advertise):
        return Address.parse(advertise)
    return Address.parse(f"{advertise}:{listening.port}")
