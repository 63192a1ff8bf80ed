"""From a path on this machine to a manifest: walk, then hash on all cores.

Rules
-----
* Nothing is skipped in silence: what a manifest cannot hold (a pipe, a socket, a device, a name
  that is not UTF-8, a link that leads out) is refused by name.
* A file that changes while it is hashed is an error: size and modification time are those of the
  walk before and after its bytes are read.
* Files are hashed in slices of whole pieces, so one huge file uses every core; each thread reads
  into one buffer that it keeps.
* What :mod:`peer.hash_cache` remembers of a file is taken instead of reading it.
"""

# pathlib costs as much as the system calls of a small file, and its readlink rewrites the target:
# ruff: noqa: PTH100, PTH115, PTH116

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from peer.hash_cache import CONTENT_BYTES_MIN, HashCache, stamps_of
from peer.manifest import (
    LIMITS,
    FileEntry,
    Kind,
    Link,
    Manifest,
    check_path,
    check_target,
    piece_bytes_for,
)
from tracker_raft.errors import BadRequest, LocalError, TooLarge

SLICE_BYTES = 16 * 1024 * 1024
"""Hashed by one task; many small files are put together to about this."""
SLICE_FILES = 256

Progress = Callable[[int, int], None]
"""Called with bytes hashed and bytes in all, from any thread, one call at a time."""


@dataclass(slots=True)
class SourceFile:
    """A file on this machine and what it looked like when it was hashed."""

    path: str
    size: int
    mtime_ns: int | None
    """None: what it is at the first :meth:`check`."""

    def check(self, found: os.stat_result) -> None:
        """Raises :class:`LocalError` when ``found`` is not what was hashed."""
        if self.mtime_ns is None:
            self.mtime_ns = found.st_mtime_ns
        if found.st_size != self.size or found.st_mtime_ns != self.mtime_ns:
            raise LocalError(
                f"{self.path} changed: it has {found.st_size} bytes, modified at "
                f"{found.st_mtime_ns} ns; it had {self.size}, modified at {self.mtime_ns} ns"
            )


@dataclass(frozen=True, slots=True)
class Scanned:
    """A manifest with the file that each of its entries was read from, in the same order."""

    manifest: Manifest
    sources: tuple[SourceFile, ...]
    encoded: bytes | None = None
    """The encoded manifest where it is at hand."""


class _FoundFile(NamedTuple):  # quicker to make than a dataclass, and there may be a million
    source: SourceFile
    executable: bool
    stamps: bytes


@dataclass(slots=True)
class _Found:
    """What a walk has seen, by path inside the tree."""

    files: dict[str, _FoundFile]
    directories: list[str]
    links: list[Link]

    def count(self) -> int:
        return len(self.files) + len(self.directories) + len(self.links)


def scan(
    path: str | os.PathLike[str],
    *,
    follow_links: bool = False,
    piece_bytes: int | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    cache: HashCache | None = None,
    rehash: bool = False,
) -> Scanned:
    """Walk and hash ``path``, a file or a directory. A link given as ``path`` itself is followed.

    ``follow_links``: what links inside a directory point to is taken in their place.
    ``piece_bytes``: a power of two; None chooses by the largest file. ``cache``: hashes that it
    remembers are taken, new ones remembered; with ``rehash`` all are made anew.
    Raises :class:`BadRequest` for what a manifest cannot hold, :class:`LocalError` for what
    cannot be read or changed meanwhile. Only reads, but for the cache.
    """
    top = os.path.abspath(path)  # it is read again after the caller has gone elsewhere
    try:
        found_top = os.stat(top)
        if stat.S_ISREG(found_top.st_mode):
            kind, found = Kind.FILE, _Found({"": _file(top, found_top)}, [], [])
        elif stat.S_ISDIR(found_top.st_mode):
            kind, found = Kind.TREE, _walk(top, follow_links)
        else:
            raise BadRequest(f"{top} is {_type_name(found_top.st_mode)}; it cannot be shared")
    except OSError as error:
        raise LocalError(f"cannot read {error.filename or top}: {error.strerror}") from error
    names = sorted(found.files, key=str.encode)
    each = [found.files[name] for name in names]
    sources = tuple(file.source for file in each)
    if piece_bytes is None:
        piece_bytes = piece_bytes_for(max((source.size for source in sources), default=0))
    hasher = _Hasher(sources, piece_bytes, progress)
    threads = threads or os.cpu_count() or 1
    if cache is None or sum(source.size for source in sources) < CONTENT_BYTES_MIN:
        hashes = hasher.run(threads)
    else:
        remembered = cache.recall(top, piece_bytes, rehash=rehash)
        stamps = [file.stamps for file in each]
        hashes = hasher.run(threads, map(remembered.find, names, stamps))
        cache.keep(top, remembered, zip(names, stamps, hashes, strict=True))
    files = tuple(
        FileEntry(name, file.source.size, file.executable, joined)
        for name, file, joined in zip(names, each, hashes, strict=True)
    )
    directories = tuple(sorted(found.directories, key=str.encode))
    links = tuple(sorted(found.links, key=lambda link: link.path.encode()))
    return Scanned(Manifest(kind, piece_bytes, files, directories, links), sources)


# -- the walk -------------------------------------------------------------------------------------


def _walk(top: str, follow_links: bool) -> _Found:
    found = _Found({}, [], [])
    root = os.stat(top)
    stack = [("", top, frozenset({(root.st_dev, root.st_ino)}))]
    while stack:
        inside, directory, above = stack.pop()
        empty = True
        with os.scandir(directory) as entries:
            for entry in entries:
                empty = False
                path = _inside(inside, entry)
                if found.count() >= LIMITS.entries_max:
                    raise TooLarge(f"{top} has more than {LIMITS.entries_max} entries; not shared")
                if entry.is_symlink() and not follow_links:
                    found.links.append(_link(path, entry.path))
                    continue
                status = _follow(entry.path) if entry.is_symlink() else entry.stat()
                if stat.S_ISDIR(status.st_mode):
                    identity = (status.st_dev, status.st_ino)
                    if identity in above:
                        raise BadRequest(f"{entry.path} leads back to a directory above it")
                    stack.append((path, entry.path, above | {identity}))
                elif stat.S_ISREG(status.st_mode):
                    found.files[path] = _file(entry.path, status)
                else:
                    raise BadRequest(
                        f"{entry.path} is {_type_name(status.st_mode)}; it cannot be shared"
                    )
        if empty and inside:
            found.directories.append(inside)
    return found


def _inside(parent: str, entry: os.DirEntry[str]) -> str:
    name = entry.name
    path = f"{parent}/{name}" if parent else name
    if len(path) <= LIMITS.segment_bytes_max and path.isascii():
        return path  # a name that a directory gives has nothing else that could be wrong with it
    try:
        return check_path(path)
    except BadRequest as error:
        raise BadRequest(f"cannot share {entry.path!a}: {error}") from None


def _file(path: str, status: os.stat_result) -> _FoundFile:
    source = SourceFile(path, status.st_size, status.st_mtime_ns)
    return _FoundFile(source, bool(status.st_mode & stat.S_IXUSR), stamps_of(status))


def _link(path: str, place: str) -> Link:
    try:
        return Link(path, check_target(path, os.readlink(place)))
    except BadRequest as error:
        raise BadRequest(
            f"cannot share {place}: {error}; nothing was shared. "
            f"Use --follow-links to share what links point to"
        ) from None


def _follow(place: str) -> os.stat_result:
    try:
        return os.stat(place)
    except OSError as error:
        raise LocalError(f"link {place} cannot be followed: {error.strerror}") from error


def _type_name(mode: int) -> str:
    names = (
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISBLK, "a block device"),
        (stat.S_ISCHR, "a character device"),
    )
    return next((name for test, name in names if test(mode)), "neither a file nor a directory")


# -- hashing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Slice:
    """Whole pieces of one file: ``size`` bytes from ``offset``."""

    file: int
    offset: int
    size: int


class _Hasher:
    """Hashes the pieces of ``sources``. Used once."""

    def __init__(
        self, sources: tuple[SourceFile, ...], piece_bytes: int, progress: Progress | None
    ) -> None:
        self._sources = sources
        self._piece_bytes = piece_bytes
        self._progress = progress
        self._total = sum(source.size for source in sources)
        self._done = 0
        self._stopped = False
        self._lock = threading.Lock()
        self._local = threading.local()

    def run(self, threads: int, known: Iterable[bytes | None] = ()) -> list[bytes]:
        """The joined piece hashes of each source. ``known``: None for those to be read."""
        parts: list[list[bytes]] = [[] for _ in self._sources]
        todo = set(range(len(self._sources)))
        for file, joined in enumerate(known):
            if joined is not None:
                parts[file].append(joined)
                todo.remove(file)
                self._done += self._sources[file].size
        if len(todo) < len(self._sources):
            self._report(0)
        self._hash(sorted(todo), threads, parts)
        return [b"".join(part) for part in parts]

    def _hash(self, files: list[int], threads: int, parts: list[list[bytes]]) -> None:
        if not files:
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
            tasks: list[tuple[list[_Slice], Future[list[bytes]]]] = []
            try:
                tasks.extend(
                    (batch, pool.submit(self._hash_batch, batch)) for batch in self._batches(files)
                )
                for batch, task in tasks:
                    for part, joined in zip(batch, task.result(), strict=True):
                        parts[part.file].append(joined)
            except BaseException:  # also Ctrl-C: leave without hashing the rest
                self._stopped = True
                raise

    def _batches(self, files: list[int]) -> Iterator[list[_Slice]]:
        slice_bytes = max(SLICE_BYTES // self._piece_bytes, 1) * self._piece_bytes
        batch: list[_Slice] = []
        batch_bytes = 0
        for file in files:
            source = self._sources[file]
            for offset in range(0, source.size, slice_bytes):
                size = min(slice_bytes, source.size - offset)
                batch.append(_Slice(file, offset, size))
                batch_bytes += size
                if batch_bytes >= slice_bytes or len(batch) >= SLICE_FILES:
                    yield batch
                    batch, batch_bytes = [], 0
        if batch:
            yield batch

    def _hash_batch(self, batch: list[_Slice]) -> list[bytes]:
        buffer = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = memoryview(bytearray(self._piece_bytes))
        return [] if self._stopped else [self._hash_slice(part, buffer) for part in batch]

    def _hash_slice(self, part: _Slice, buffer: memoryview) -> bytes:
        source = self._sources[part.file]
        digests = []
        try:
            fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                end = part.offset + part.size
                if part.size > self._piece_bytes:  # else the check behind it comes as soon
                    source.check(os.fstat(fd))
                for offset in range(part.offset, end, self._piece_bytes):
                    if self._stopped:
                        break
                    piece = buffer[: min(self._piece_bytes, end - offset)]
                    read_exactly(fd, piece, offset, source)
                    digests.append(hashlib.sha256(piece).digest())
                source.check(os.fstat(fd))
            finally:
                os.close(fd)
        except OSError as error:
            raise LocalError(f"cannot read {source.path}: {error.strerror}") from error
        self._report(part.size)
        return b"".join(digests)

    def _report(self, size: int) -> None:
        if self._progress is not None:
            with self._lock:
                self._done += size
                self._progress(self._done, self._total)


def read_exactly(fd: int, view: memoryview, offset: int, source: SourceFile) -> None:
    """Fill ``view`` from ``offset`` of an open file. :class:`LocalError` when it is too short."""
    filled = os.preadv(fd, [view], offset)  # nearly always all of it
    while filled < len(view):
        size = os.preadv(fd, [view[filled:]], offset + filled)
        if size == 0:
            raise LocalError(f"{source.path} changed: it ends at {offset + filled} bytes")
        filled += size


def share_name(path: str | os.PathLike[str]) -> str:
    """The name a path is shared under when none is given: its last segment."""
    return Path(os.path.abspath(path)).name
