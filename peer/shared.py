"""Contents that a peer serves: what a seeder needs to know of them, and files shared in place."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from peer.files import OpenFiles
from peer.manifest import Manifest, content_id
from peer.scan import Scanned, SourceFile
from tracker_raft.errors import Damaged, LocalError

_log = logging.getLogger(__name__)


class Content(Protocol):
    """One content that can be served, whole or in part. Used by many threads at once."""

    @property
    def id(self) -> bytes: ...

    @property
    def manifest(self) -> Manifest: ...

    @property
    def encoded(self) -> bytes:
        """The encoded manifest."""

    @property
    def complete(self) -> bool:
        """Whether every piece is here."""

    def has(self, first: int, count: int) -> bool:
        """Whether these pieces are all here, verified; they are pieces of this content."""

    def check(self, file: int) -> None:
        """Raises :class:`Damaged` when a file is not what its manifest says any more."""

    def open(self, file: int) -> AbstractContextManager[int]:
        """The descriptor of a file, valid inside the ``with``. Raises :class:`Damaged`."""


class SharedFiles:
    """A complete content, served from the files it was made of. Nothing is copied.

    Size and modification time are compared with those at hashing before anything of a file is
    sent, so that a changed file is answered with an error and not with wrong bytes.
    """

    def __init__(self, scanned: Scanned, open_files: OpenFiles) -> None:
        self.manifest = scanned.manifest
        self.encoded = scanned.manifest.encode()
        self.id = content_id(self.encoded)
        self._sources = scanned.sources
        self._open_files = open_files

    @property
    def complete(self) -> bool:
        return True

    def has(self, first: int, count: int) -> bool:
        return first + count <= self.manifest.pieces.count

    def check(self, file: int) -> None:
        with self._as_damage(file):
            source = self._sources[file]
            source.check(os.stat(source.path))  # noqa: PTH116  # a Path would double the cost

    @contextmanager
    def open(self, file: int) -> Iterator[int]:
        source = self._sources[file]

        def opener() -> int:
            with self._as_damage(file):
                return _open(source)

        if source.size > self.manifest.piece_bytes:
            with self._open_files.use((self.id, file), opener) as fd:
                yield fd
            return
        fd = opener()  # read once by each fetch: not worth a place among those kept open
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _as_damage(self, file: int) -> Iterator[None]:
        """Other peers learn which file it is, not where it lies on this machine."""
        try:
            yield
        except (LocalError, OSError) as error:
            _log.info("not served: %s", error)  # the watch tells who shares it
            name = self.manifest.files[file].path or "it"
            raise Damaged(f"{name} is not what was shared any more") from error

    def __repr__(self) -> str:
        return f"<SharedFiles {self.id.hex()[:8]} {self.manifest}>"


def _open(source: SourceFile) -> int:
    fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        source.check(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd
