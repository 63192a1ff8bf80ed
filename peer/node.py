"""One peer: composition root of everything it does.

::

    with Peer(["127.0.0.1:7001"]) as peer:
        shared = peer.share("model.bin", name="models/a")     # served until the block ends
        peer.fetch("data/b", "b.bin")
"""

from __future__ import annotations

import dataclasses
import glob
import io
import logging
import os
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from peer import hash_cache, scan
from peer.destination import part_path, place_in, require_directory
from peer.downloader import Download
from peer.lease import LEASE_S
from peer.limits import PeerLimits
from peer.manifest import content_id
from peer.partial import remove_left
from peer.progress import Fetched, Progress
from peer.reader import BUFFER_BYTES, ContentReader
from peer.serving import Serving
from peer.sharing import Shared, publish_each, publish_one
from peer.trackers import PeerFinder, Trackers
from peer.watch import INTERVAL_S
from tracker_raft.client import TrackerClient
from tracker_raft.commands import FileRecord, check_name, check_peer, parse_content_hex
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, NotFound, P2PError

ANY_PORT = "127.0.0.1:0"
COPIES_POLL_S = 0.5
COPIES_DEADLINE_S = 5.0
PEERS_ASKED = 200
"""As many as the trackers name at once, complete ones first."""
_log = logging.getLogger(__name__)


class Peer:
    """Shares and fetches. A context manager; any thread may use it.

    ``trackers``: their addresses as ``host:port``; the first that lives is used.
    ``bind``: where it listens once it shares, ``host:port``, port 0 for a free one.
    ``advertise``: what other peers are told, ``host`` or ``host:port``; None: where it listens.
    ``peer_id``: who it is in every swarm; None makes one up.
    ``zone``: a label, told to the trackers: peers of the same zone are preferred.
    ``insecure``: allow to listen beyond this machine, to anybody.
    Raises :class:`BadRequest` for what of these is not valid; nothing was started.
    ``up_bytes_s``, ``down_bytes_s``: send and receive pieces at these rates at most.
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
        watch_s: float = INTERVAL_S,
        up_bytes_s: int | None = None,
        down_bytes_s: int | None = None,
    ) -> None:
        self.id = check_peer(peer_id) if peer_id is not None else _new_peer_id()
        rates = {"up_bytes_s": up_bytes_s, "down_bytes_s": down_bytes_s}
        given: dict[str, Any] = {name: rate for name, rate in rates.items() if rate is not None}
        self._limits = dataclasses.replace(limits or PeerLimits(), **given)
        self._zone = zone
        self._owns_trackers = client is None
        self._trackers: Trackers = TrackerClient(trackers) if client is None else client
        try:
            self._serving = Serving(
                self._trackers,
                self.id,
                bind,
                advertise,
                zone=zone,
                insecure=insecure,
                limits=self._limits,
                lease_s=lease_s,
                watch_s=watch_s,
            )
        except BadRequest:
            self._close_trackers()
            raise

    def share(
        self,
        path: str | os.PathLike[str],
        name: str | None = None,
        *,
        replace: bool = False,
        follow_links: bool = False,
        rehash: bool = False,
        progress: scan.Progress | None = None,
        on_withdrawn: Callable[[str], object] | None = None,
    ) -> Shared:
        """Hash ``path``, serve it until :meth:`close`, and publish it as ``name``.

        ``name``: None is the last segment of the path. ``replace``: make a new version when the
        name is bound to other content. ``rehash``: read all of it, whatever is remembered from
        an earlier share (:mod:`peer.hash_cache`). ``progress`` gets bytes hashed and in all.
        ``on_withdrawn`` is called, in another thread, with the reason when a file is not what was
        shared any more: it is then not served, and this peer has left the swarm.

        Raises :class:`BadRequest`, :class:`LocalError` (see :func:`peer.scan.scan`),
        :class:`~tracker_raft.errors.Conflict`, and what the trackers raise. The content is served
        and published when it returns; else neither, but for an unknown outcome.
        """
        name = check_name(scan.share_name(path) if name is None else name)
        _, _, address = self._serving.start()  # known before hashing, which takes long
        cache = hash_cache.from_environment()
        scanned = scan.scan(
            path, follow_links=follow_links, progress=progress, cache=cache, rehash=rehash
        )
        to = self._trackers, self._serving, name, scanned
        record = publish_one(*to, replace=replace, on_withdrawn=on_withdrawn)
        return Shared(record, Path(path), address)

    def share_each(
        self,
        directory: str | os.PathLike[str],
        prefix: str = "",
        *,
        replace: bool = False,
        follow_links: bool = False,
        rehash: bool = False,
        progress: scan.Progress | None = None,
        on_withdrawn: Callable[[str], object] | None = None,
    ) -> list[Shared]:
        """Share each file of ``directory`` as a content of its own, under ``prefix`` and its path
        inside, and publish them by one operation: all of them, 1,000 at most, or none.

        The rest is as in :meth:`share`; ``on_withdrawn`` is called for each that is not served any
        more. Raises :class:`~tracker_raft.errors.Unsupported` at cluster version 1.
        """
        _, _, address = self._serving.start()
        cache = hash_cache.from_environment()
        tree = scan.scan(
            directory, follow_links=follow_links, progress=progress, cache=cache, rehash=rehash
        )
        to = self._trackers, self._serving, prefix, tree
        records = publish_each(*to, replace=replace, on_withdrawn=on_withdrawn)
        inside = [Path(directory, record.name.removeprefix(prefix)) for record in records]
        return [Shared(record, path, address) for record, path in zip(records, inside, strict=True)]

    def wait_for_copies(
        self,
        content: bytes,
        copies: int,
        *,
        poll_s: float = COPIES_POLL_S,
        stop: Callable[[float], bool] | None = None,
    ) -> bool:
        """Wait until ``copies`` other peers were seen to have all of ``content``.

        A peer counts once it was seen complete, also when it has left since. ``stop`` waits for
        so many seconds and says whether to give up; False is returned then. Trackers that are
        away are asked again.
        """
        wait = stop or threading.Event().wait
        seen: set[str] = set()
        while True:
            try:
                found = self._trackers.peers(
                    content, limit=PEERS_ASKED, deadline_s=COPIES_DEADLINE_S
                )
                seen.update(peer.peer for peer in found.peers if peer.complete)
            except P2PError as error:
                _log.info("the trackers were not asked for copies: %s", error)
            if len(seen - {self.id}) >= copies:
                return True
            if wait(poll_s):
                return False

    def fetch(
        self,
        name_or_id: str,
        dest: str | os.PathLike[str] | None = None,
        *,
        include: Sequence[str] = (),
        update: bool = False,
        sequential: bool = False,
        seed: bool = False,
        progress: Callable[[Progress], None] | None = None,
        durable: bool = False,
        timeout_s: float | None = None,
        on_start: Callable[[Download], None] | None = None,
        on_withdrawn: Callable[[str], object] | None = None,
    ) -> Fetched:
        """Download a name, ``name@vN``, ``name@tag`` or content id to ``dest``.

        ``dest``: None is the last segment of the name, in the current directory; one that ends
        with a slash is a directory to put that in, made if need be. When it exists
        and holds this content, nothing is done; when it holds anything else that is an error, or
        with ``update`` what it holds is used and replaced in one step at the end. What an earlier
        fetch to ``dest`` has left is used.

        ``include``: patterns of the files of a directory that are to appear
        (:mod:`peer.selection`). ``sequential``: from the first piece to the last. ``seed``: serve
        it afterwards, until :meth:`close`. ``progress`` is called in this thread. ``durable``:
        sync to disk before the final name is given. ``timeout_s``: fail after this long without a
        byte from any peer. ``on_start`` is handed the download, which can be cancelled from
        another thread. ``on_withdrawn``: as for :meth:`share`, of what is served by ``seed``.

        Raises :class:`~tracker_raft.errors.NotFound`, :class:`LocalError`,
        :class:`~peer.downloader.NoSource`, and what the trackers raise.
        """
        if seed and include:
            raise BadRequest("a part of a directory cannot be served as the whole of it")
        content, record = self._look_up(name_or_id)
        path = _destination(dest, name_or_id, record)
        if not include and (there := self._already(path, content, record)) is not None:
            if seed:
                self._serving.offer(there[0], on_withdrawn)
            return there[1]
        download = self._download(
            content,
            record,
            path,
            include=include,
            update=update,
            sequential=sequential,
            seed=seed,
            progress=progress,
            durable=durable,
            timeout_s=timeout_s,
        )
        if on_start is not None:
            on_start(download)
        fetched = download.run()
        if seed and download.store is not None:
            self._serving.offer(download.store.scanned(), on_withdrawn)
        return fetched

    def _already(
        self, path: Path, content: bytes, record: FileRecord | None
    ) -> tuple[scan.Scanned, Fetched] | None:
        """What lies at ``path`` if it is this very content, and what is told of it then."""
        started_s = time.monotonic()
        there = _content_at(path, content, record)
        if there is None:
            return None
        remove_left(part_path(path, content))
        size, seconds = there.manifest.size, time.monotonic() - started_s
        return there, Fetched(path, content, size, seconds, 0, kept=size, already_there=True)

    def open(
        self,
        name_or_id: str,
        path: str = "",
        *,
        timeout_s: float | None = None,
        on_close: Callable[[], object] | None = None,
    ) -> BinaryIO:
        """A content as a seekable file object that fetches first what is read first.

        ``path``: which file of a directory. ``on_close`` is called when it is closed. What is
        fetched lies in the directory for temporary files until then. Raises what :meth:`fetch`
        raises, and so do its reads.
        """
        content, record = self._look_up(name_or_id)

        def start(destination: Path) -> Download:
            return self._download(
                content,
                record,
                destination,
                include=(f"/{glob.escape(path)}",) if path else (),
                timeout_s=timeout_s,
            )

        reader = ContentReader(start, path, Path(tempfile.mkdtemp(prefix="p2p-open-")))
        if on_close is not None:
            reader.on_close(on_close)
        return io.BufferedReader(reader, BUFFER_BYTES)

    def _download(
        self,
        content: bytes,
        record: FileRecord | None,
        path: Path,
        *,
        timeout_s: float | None,
        **options: Any,
    ) -> Download:
        limits = self._limits
        if timeout_s is not None:
            limits = dataclasses.replace(limits, patience_s=timeout_s)
        seeder, lease, address = self._serving.start()
        return Download(
            content,
            path,
            PeerFinder(self._trackers, content),
            own_peer=self.id,
            zone=self._zone,
            seeder=seeder,
            lease=lease,
            address=str(address),
            manifest_bytes=record.manifest_bytes if record else None,
            limits=limits,
            **options,
        )

    @property
    def address(self) -> Address | None:
        """What other peers are told; None before the first :meth:`share`."""
        return self._serving.address

    @property
    def bytes_served(self) -> int:
        """Payload bytes sent to other peers so far."""
        return self._serving.bytes_sent

    def close(self) -> None:
        """Leave the swarms and stop serving. Idempotent."""
        self._serving.close()
        self._close_trackers()

    def _close_trackers(self) -> None:
        if self._owns_trackers:
            self._owns_trackers = False
            self._trackers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Peer {self.id} at {self.address}, {len(self._serving.contents)} contents>"

    def _look_up(self, name_or_id: str) -> tuple[bytes, FileRecord | None]:
        content = parse_content_hex(name_or_id)
        if content is None:
            record = self._trackers.lookup(name_or_id)
            return record.content, record
        try:
            return content, self._trackers.lookup(content)
        except NotFound:
            return content, None  # it may be served without a name


def _destination(
    dest: str | os.PathLike[str] | None, name_or_id: str, record: FileRecord | None
) -> Path:
    """Where to write it. Raises :class:`BadRequest` when nothing says so."""
    if dest is None or os.fspath(dest).endswith("/"):
        if record is None:
            raise BadRequest(
                f"the trackers know no name for content {name_or_id}: say where to write it"
            )
        name = record.name.rpartition("/")[2]
        if dest is not None:
            require_directory(Path(dest))
        dest = name if dest is None else place_in(dest, name)
    return Path(os.path.abspath(dest))  # noqa: PTH100  # resolve() would follow links


def _content_at(path: Path, content: bytes, record: FileRecord | None) -> scan.Scanned | None:
    """What lies at ``path`` if it is this very content; None for anything else."""
    try:
        if record is not None and path.is_file() and path.stat().st_size != record.size:
            return None  # told without reading it
        if not path.exists():
            return None
        found = scan.scan(path, piece_bytes=record.piece_bytes if record else None)
        return found if content_id(found.manifest.encode()) == content else None
    except (OSError, P2PError):
        return None  # what cannot be read or shared is not a content


def _new_peer_id() -> str:
    host = "".join(c for c in socket.gethostname() if c.isascii() and c.isprintable())
    return f"{host[:64]}-{os.getpid()}-{secrets.token_hex(4)}"
