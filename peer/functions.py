"""The package in three functions, each with a :class:`~peer.node.Peer` of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from peer.node import ANY_PORT, Peer
from peer.progress import Fetched, Progress
from peer.sharing import Shared


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
    rehash: bool = False,
    zone: str = "",
) -> Iterator[Shared]:
    """Share a file or a directory as long as the ``with`` block runs. See :meth:`Peer.share`."""
    with Peer(trackers, bind=bind, advertise=advertise, insecure=insecure, zone=zone) as peer:
        yield peer.share(path, name, replace=replace, follow_links=follow_links, rehash=rehash)


def fetch(
    name_or_id: str,
    dest: str | os.PathLike[str] | None = None,
    *,
    trackers: Sequence[str],
    include: Sequence[str] = (),
    update: bool = False,
    progress: Callable[[Progress], None] | None = None,
    durable: bool = False,
    timeout_s: float | None = None,
) -> Fetched:
    """Download a name or a content id. See :meth:`Peer.fetch`."""
    with Peer(trackers) as peer:
        return peer.fetch(
            name_or_id,
            dest,
            include=include,
            update=update,
            progress=progress,
            durable=durable,
            timeout_s=timeout_s,
        )


def open(  # meant to be used as ``peer.open``
    name_or_id: str,
    path: str = "",
    *,
    trackers: Sequence[str],
    timeout_s: float | None = None,
) -> BinaryIO:
    """A content as a seekable file object. See :meth:`Peer.open`."""
    peer = Peer(trackers)
    try:
        return peer.open(name_or_id, path, timeout_s=timeout_s, on_close=peer.close)
    except BaseException:
        peer.close()
        raise
