"""Pieces on disk: verify, then write, then tell; and what is here is served while it is fetched.

Rules
-----
* A content appears under its final name only when it is complete. Until then it lies beside it,
  on the same file system, as ``.<name>.<first 8 of the content id>.part``: a name that the next
  fetch of the same content finds again. A lock on it keeps a second fetch out.
* Nothing is written that does not have the hash its manifest gives it.
* What a fetch that was killed or stopped has left is hashed again and used
  (:mod:`peer.resume` says why); all else in the partial is removed.
* Nothing is written outside: directories are made here, and nothing is opened through a link.
* Empty files, links and the final name are made by :meth:`Store.finish` alone.

By default nothing is synced: the kernel writes back when it likes, as it does after ``cp``. With
``durable`` every file and directory is synced before the final name is given, and the directory
of that name after, so that the content survives a power cut under that name; this costs what the
disk takes to write it all (a second or more for each GiB).
"""

# pathlib costs as much as the system calls of a small file:
# ruff: noqa: PTH211

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peer import failpoints
from peer.destination import (
    FreeBytes,
    check_destination,
    check_kind,
    check_names,
    exists,
    explained,
    free_bytes,
    give_name,
    part_path,
    remove,
)
from peer.files import OpenFiles, fill, reserve, sync_path, write_all
from peer.manifest import Kind, Manifest
from peer.partial import Partial, create
from peer.pieces import Span
from peer.ranges import Ranges
from peer.resume import (
    Candidate,
    Stopped,
    hash_candidates,
    lacking_by_hash,
    pieces_below,
    pieces_in_partial,
)
from peer.scan import Scanned, SourceFile
from peer.selection import select
from tracker_raft.errors import BadRequest, Damaged, LocalError, NotFound

FEW_FILES = 1000
"""Up to so many are looked at once more when they are all there."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """Takes the pieces of one content, and serves those it has. Any thread may use it.

    Ends with :meth:`finish` and then :meth:`close`, or with one of the two others:
    :meth:`close` keeps the partial for the next fetch, :meth:`discard` removes it.
    """

    def __init__(
        self,
        manifest: Manifest,
        content: bytes,
        destination: Path,
        *,
        encoded: bytes | None = None,
        include: Sequence[str] = (),
        update: bool = False,
        durable: bool = False,
        open_files_max: int = 128,
        free: FreeBytes = free_bytes,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the partial, or take up the one that an earlier fetch left.

        ``encoded``: the manifest as it came, None encodes it. ``include``: patterns of what is
        wanted of a tree (:mod:`peer.selection`). ``update``: replace what is at the destination,
        and take from it the pieces that are the same. ``stopped``: ends the hashing of what is
        there.

        Raises :class:`LocalError`, :class:`BadRequest` for ``include``; then nothing new is left.
        """
        self.manifest = manifest
        self.id = content
        self.encoded = manifest.encode() if encoded is None else encoded
        self.destination = destination
        self.part = part_path(destination, content)
        self.selected = select(manifest, include)
        self._update = update
        self._durable = durable
        self._tree = manifest.kind is Kind.TREE
        self._prefix = f"{self.part}/" if self._tree else str(self.part)
        self._files = OpenFiles(open_files_max)
        self._lock = threading.Lock()
        self._have = Ranges()
        self._finished_ns: int | None = None
        self._unwritable = False
        check_destination(destination, update=update)
        check_kind(destination, tree=self._tree)
        check_names(manifest, self.part)
        self.bytes_at_start = 0
        """Of the pieces that were here already."""
        self._partial = Partial(self.part, destination, manifest, self.selected)
        with explained(f"write {destination}"):
            found = self._partial.allocated()
            self._check_space(free, found)
            self._partial.lock()
            try:
                self._partial.prepare()
                failpoints.reach("partial.made")
                self._take_up(bool(found), stopped)
                failpoints.reach("resume.checked")
                pieces = manifest.pieces
                self.bytes_at_start = sum(pieces.bytes_of(a, b - a) for a, b in self._have)
            except BaseException as error:
                self._end(keep=bool(found))
                if isinstance(error, Stopped):
                    raise LocalError(f"stopped; {destination} was not made") from None
                raise

    # -- pieces -----------------------------------------------------------------------------------

    @property
    def verified(self) -> Ranges:
        """The pieces that are on disk and right: at the start those of an earlier fetch."""
        with self._lock:
            return self._have.copy()

    @property
    def wanted(self) -> Ranges:
        """The pieces that are to be fetched in all."""
        return self.selected.pieces

    def has(self, first: int, count: int = 1) -> bool:
        """Whether these consecutive pieces are all here."""
        with self._lock:
            found = self._have.at(first)
        return found is not None and found[1] >= first + count

    def put(self, spans: Sequence[Span], data: memoryview) -> int:
        """Write consecutive pieces, back to back in ``data``, up to the first that is not right, of
        which nothing is written; how many they were. Raises :class:`LocalError` when one cannot
        be written; those before it count.
        """
        write = self._put_in_steps if failpoints.ARMED else self._write
        hash_of, place, right = self.manifest.hash_of, 0, 0
        try:  # no context and no call more than needed for each piece: small files are many
            for span in spans:
                piece = data[place : place + span.length]
                if hashlib.sha256(piece).digest() != hash_of(span.file, span.piece_of_file):
                    break
                write(span, piece)
                right += 1
                place += span.length
        except OSError as error:
            self._unwritable = self._unwritable or error.errno in _NO_SPACE
            with explained(f"write {self.destination}"):
                raise
        finally:
            if right:
                self._add(spans[0].piece, right)
        return right

    def _put_in_steps(self, span: Span, data: memoryview) -> None:
        """As :meth:`put`, of one piece, where the process may be killed at each step."""
        failpoints.reach("piece.verified")
        if failpoints.due("piece.half"):
            self._write(span, data[: len(data) // 2])
            failpoints.die()
        self._write(span, data)
        failpoints.reach("piece.written")
        self._add(span.piece)
        failpoints.reach("piece.told")

    def _write(self, span: Span, data: memoryview) -> None:
        entry = self.manifest.files[span.file]
        if self._tree and entry.size == span.length:
            fd = create(self._prefix + entry.path, entry.executable, os.O_WRONLY)
            try:
                if (written := os.write(fd, data)) < span.length:
                    write_all(fd, data[written:], written)
            finally:
                os.close(fd)
            return
        with self._files.use(span.file, lambda: self._open_large(span.file)) as fd:
            failpoints.reach("file.made")
            write_all(fd, data, span.offset)

    # -- served while it is fetched (peer.shared.Content) -----------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every piece of the content is here, the unwanted ones too."""
        return self._have.count == self.manifest.pieces.count

    def check(self, file: int) -> None:
        """Raises :class:`Damaged` when somebody changed a file since it got its final name."""
        if self._finished_ns is None:
            return  # a partial is locked, and hidden
        entry = self.manifest.files[file]
        try:
            status = os.lstat(self._prefix + entry.path)
        except OSError as error:
            raise Damaged(f"{entry.path or 'it'} is not there any more") from error
        if status.st_size != entry.size or status.st_mtime_ns > self._finished_ns:
            raise Damaged(f"{entry.path or 'it'} is not what was fetched any more")

    @contextmanager
    def open(self, file: int) -> Iterator[int]:
        """The descriptor of a file of which pieces are here, valid inside the ``with``.

        Raises :class:`Damaged` when it is gone.
        """
        entry = self.manifest.files[file]
        if entry.size > self.manifest.piece_bytes:
            with self._files.use(file, lambda: self._open_to_read(file)) as fd:
                yield fd
            return
        fd = self._open_to_read(file)
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self, span: Span, view: memoryview) -> None:
        """Fill ``view`` with a piece that is here. Raises :class:`Damaged`, :class:`LocalError`."""
        with self.open(span.file) as fd:
            fill(fd, view, span.offset)

    def _open_to_read(self, file: int) -> int:
        entry = self.manifest.files[file]
        # A large file is kept open and may be written next; the lock: the name may be given now.
        writable = self._finished_ns is None and entry.size > self.manifest.piece_bytes
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with self._lock:
                return os.open(self._prefix + entry.path, flags)
        except FileNotFoundError:
            raise NotFound(f"{entry.path or 'it'} is not here") from None
        except OSError as error:
            raise Damaged(f"{entry.path or 'it'} cannot be read any more") from error

    # -- the end ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Give the final name. Every wanted piece must be here.

        Raises :class:`LocalError`; the partial is then still there.
        """
        failpoints.reach("finish.begun")
        with explained(f"write {self.destination}"):
            if self._tree:
                for file in self.selected.files:
                    entry = self.manifest.files[file]
                    if not entry.size:
                        place = self._prefix + entry.path
                        os.close(create(place, entry.executable, os.O_WRONLY))
                for link in self.selected.links:
                    os.symlink(link.target, self._prefix + link.path)
            failpoints.reach("finish.links")
            if self._durable:
                self._sync()
            failpoints.reach("finish.synced")
            with self._lock:
                old_is_left = give_name(self.part, self.destination, update=self._update)
                failpoints.reach("finish.moved")
                self._prefix = f"{self.destination}/" if self._tree else str(self.destination)
                self._finished_ns = time.time_ns()
            if self._durable:
                sync_path(self.destination.parent)
            if old_is_left:
                remove(self.part)
            failpoints.reach("finish.cleared")

    def close(self) -> None:
        """Let go of the files. Before :meth:`finish` the partial is kept for the next fetch,
        unless nothing of it is right or the disk is full. Idempotent; raises nothing."""
        self._end(keep=self.kept is not None)

    def discard(self) -> None:
        """Remove the partial; without effect after :meth:`finish`. Idempotent; raises nothing."""
        self._end(keep=False)

    def _end(self, *, keep: bool) -> None:
        self._files.close()
        if self._finished_ns is None and not keep:
            self._partial.remove()
        self._partial.unlock()

    @property
    def kept(self) -> Path | None:
        """The partial that :meth:`close` leaves for the next fetch, None if it leaves none."""
        kept = self._finished_ns is None and not self._unwritable and self._have.count
        return self.part if kept else None

    def scanned(self) -> Scanned:
        """The finished content as if it had been scanned, to be shared from where it is.

        Of many files the times are those of the first look at each, which the watch over shared
        files has within a second: here it would be a tenth of a fetch of small ones. Raises
        :class:`LocalError` when a file is gone, :class:`BadRequest` for a part of a tree.
        """
        if not self.selected.whole:
            raise BadRequest("only a part of it was fetched")
        prefix, files = self._prefix, self.manifest.files
        sources = tuple(SourceFile(prefix + entry.path, entry.size, None) for entry in files)
        if len(files) <= FEW_FILES:
            with explained(f"share {self.destination}"):
                for source in sources:
                    source.mtime_ns = os.lstat(source.path).st_mtime_ns
        return Scanned(self.manifest, sources, self.encoded)

    def what_is_kept(self) -> str:
        """To be put behind an error: what a later fetch will find, or nothing."""
        with self._lock:
            count = self._have.count
        if self.kept is None:
            return ""
        return f"; {count} verified pieces are kept in {self.part.name} and will be used"

    def _check_space(self, free: FreeBytes, allocated: int) -> None:
        have, need = free(self.destination.parent), max(self.selected.size - allocated, 0)
        if have < need:
            more = f", {need} of them are still needed" if allocated else ""
            raise LocalError(
                f"no space for {self.destination}: it has {self.selected.size} bytes{more}, "
                f"{have} are free in {self.destination.parent}; nothing was fetched"
            )

    # -- what is here already ---------------------------------------------------------------------

    def _take_up(self, found: bool, stopped: Callable[[], bool]) -> None:
        """Find the pieces that are here already, and those that the old destination has."""
        manifest, files = self.manifest, self.selected.files

        def known(candidate: Candidate, _: memoryview, digest: bytes) -> None:
            span = next(manifest.pieces.spans(candidate.piece, 1))
            if digest == manifest.hash_of(span.file, span.piece_of_file):
                self._add(span.piece)

        if found:
            left = pieces_in_partial(manifest, self._prefix, files)
            hash_candidates(left, manifest.piece_bytes, known, stopped)
        if not self._update or not exists(self.destination):
            return
        lacking = lacking_by_hash(manifest, self.selected.pieces, self._have)

        def copy(_: Candidate, data: memoryview, digest: bytes) -> None:
            with self._lock:
                spans = lacking.pop(digest, [])
            for span in spans:
                self._write(span, data)
                self._add(span.piece)
                failpoints.reach("resume.adopted")

        old = pieces_below(self.destination, manifest.piece_bytes)
        hash_candidates(old, manifest.piece_bytes, copy, stopped)

    def _add(self, first: int, count: int = 1) -> None:
        with self._lock:
            self._have.add(first, first + count)

    def _open_large(self, file: int) -> int:
        """Open a file of several pieces, with its full size reserved on disk."""
        entry = self.manifest.files[file]
        fd = create(self._prefix + entry.path, entry.executable, os.O_RDWR)
        try:
            if os.fstat(fd).st_size != entry.size:
                reserve(fd, entry.size)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _sync(self) -> None:
        for file in self.selected.files:
            sync_path(self._prefix + self.manifest.files[file].path)
        if self._tree:
            for directory, _, _ in os.walk(self.part):
                sync_path(directory)

    def __repr__(self) -> str:
        return f"<Store {self.destination} {self.manifest}, {self._have.count} verified>"
