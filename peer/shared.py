"""Contents that a peer serves: what a seeder needs to know of them, and files shared in place."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from peer.files import OpenFiles, fill
from peer.manifest import Manifest, content_id
from peer.pieces import Span
from peer.scan import Scanned
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

    def read(self, span: Span, view: memoryview) -> None:
        """Fill ``view``, which is as long as ``span``, with that piece. Raises :class:`Damaged`
        when its file is not what its manifest says any more, :class:`LocalError` when it ends
        before the piece does."""


class SharedFiles:
    """A complete content, served from the files it was made of. Nothing is copied.

    Size and modification time are compared with those at hashing before anything of a file is
    sent, so that a changed file is answered with an error and not with wrong bytes.
    """

    def __init__(self, scanned: Scanned, open_files: OpenFiles) -> None:
        self.manifest = scanned.manifest
        self.encoded = scanned.encoded or scanned.manifest.encode()
        self.id = content_id(self.encoded)
        self._sources = scanned.sources
        self._open_files = open_files

    @property
    def complete(self) -> bool:
        return True

    def has(self, first: int, count: int) -> bool:
        return first + count <= self.manifest.pieces.count

    def check(self, file: int) -> None:
        source = self._sources[file]
        try:
            source.check(os.stat(source.path))  # noqa: PTH116  # a Path would double the cost
        except (LocalError, OSError) as error:
            raise self._damage(file, error) from error

    @contextmanager
    def open(self, file: int) -> Iterator[int]:
        if self._sources[file].size > self.manifest.piece_bytes:
            with self._open_files.use((self.id, file), lambda: self._open(file)) as fd:
                yield fd
            return
        fd = self._open(file)  # read once by each fetch: not worth a place among those kept open
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self, span: Span, view: memoryview) -> None:
        if self._sources[span.file].size > self.manifest.piece_bytes:
            with self.open(span.file) as fd:
                fill(fd, view, span.offset)
            return
        fd = self._open(span.file)  # no context: of a small file it would cost as much as this
        try:
            fill(fd, view, span.offset)
        finally:
            os.close(fd)

    def _open(self, file: int) -> int:
        source = self._sources[file]
        try:
            fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                source.check(os.fstat(fd))
            except BaseException:
                os.close(fd)
                raise
        except (LocalError, OSError) as error:
            raise self._damage(file, error) from error
        return fd

    def _damage(self, file: int, error: Exception) -> Damaged:
        """Other peers learn which file it is, not where it lies on this machine."""
        _log.info("not served: %s", error)  # the watch tells who shares it
        return Damaged(f"{self.manifest.files[file].path or 'it'} is not what was shared any more")

    def __repr__(self) -> str:
        return f"<SharedFiles {self.id.hex()[:8]} {self.manifest}>"
