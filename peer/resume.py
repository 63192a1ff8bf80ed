"""Which pieces are on this disk already: in a partial that was left, or in an old destination.

Rules
-----
* The disk itself is the record. No list of pieces is kept beside a partial: what is there is
  hashed again, and only what has the right hash counts. So nothing can claim a piece that is not
  there (after SIGKILL, a power cut, a full disk, somebody's editor), a piece counts from the
  moment its last byte is written, and no write is spent on bookkeeping. It costs the hashing,
  1.5 GB/s for each thread; holes, which is what a large partial mostly consists of, are skipped.
* Memory does not grow with the content: each thread has one buffer of one piece.
"""

# pathlib costs as much as the system calls of a small file:
# ruff: noqa: PTH118, PTH208

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from peer.manifest import Manifest
from peer.pieces import Span
from peer.ranges import Ranges

THREADS_MAX = 4
"""Each has a buffer of one piece, up to 4 MiB."""
BATCH_BYTES = 16 * 1024 * 1024
BATCH_PIECES = 256
BATCHES_AHEAD = 4
"""For each thread: enough to keep it busy, few enough to leave soon."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Bytes on disk that may be a piece."""

    place: str
    offset: int
    length: int
    piece: int = -1
    """Its number, when it lies where that piece belongs."""


Found = Callable[[Candidate, memoryview, bytes], None]
"""Called by several threads with the bytes of a candidate and their SHA-256."""


class Stopped(Exception):
    """The check was told to end."""


def hash_candidates(
    candidates: Iterable[Candidate],
    piece_bytes: int,
    found: Found,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Read and hash ``candidates`` on several cores. One that cannot be read is none.

    Raises :class:`Stopped` soon after ``stopped`` says so, and what ``found`` raises.
    """
    local = threading.local()

    def work(batch: list[Candidate]) -> None:
        buffer = getattr(local, "buffer", None)
        if buffer is None:
            buffer = local.buffer = memoryview(bytearray(piece_bytes))
        _hash_batch(batch, buffer, found, stopped)

    threads = min(os.cpu_count() or 1, THREADS_MAX)
    batches = _batches(candidates)
    with ThreadPoolExecutor(threads, thread_name_prefix="resume") as pool:
        while ahead := list(islice(batches, threads * BATCHES_AHEAD)):
            for task in [pool.submit(work, batch) for batch in ahead]:
                task.result()
    if stopped():
        raise Stopped


def _batches(candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    batch: list[Candidate] = []
    size = 0
    for candidate in candidates:
        batch.append(candidate)
        size += candidate.length
        if size >= BATCH_BYTES or len(batch) >= BATCH_PIECES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _hash_batch(
    batch: list[Candidate], buffer: memoryview, found: Found, stopped: Callable[[], bool]
) -> None:
    place, fd = "", -1
    try:
        for candidate in batch:
            if stopped():
                return
            if candidate.place != place:
                if fd >= 0:
                    os.close(fd)
                fd = _open(candidate.place)
                place = candidate.place
            data = buffer[: candidate.length]
            if fd >= 0 and _read(fd, data, candidate.offset):
                found(candidate, data, hashlib.sha256(data).digest())
    finally:
        if fd >= 0:
            os.close(fd)


def _open(place: str) -> int:
    try:
        return os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return -1


def _read(fd: int, data: memoryview, offset: int) -> bool:
    filled = 0
    try:
        while filled < len(data):
            size = os.preadv(fd, [data[filled:]], offset + filled)
            if size == 0:
                return False
            filled += size
    except OSError:
        return False
    return True


# -- where to look --------------------------------------------------------------------------------


def pieces_in_partial(manifest: Manifest, prefix: str, files: Iterable[int]) -> Iterator[Candidate]:
    """What may be pieces in the files of a partial; each lies where it belongs."""
    for file in files:
        entry, first = manifest.files[file], manifest.pieces.pieces_of(file).first
        yield from pieces_with_data(prefix + entry.path, first, entry.size, manifest.piece_bytes)


def lacking_by_hash(manifest: Manifest, wanted: Ranges, have: Ranges) -> dict[bytes, list[Span]]:
    """The places of the pieces that are ``wanted`` and not here, by their hashes."""
    lacking: dict[bytes, list[Span]] = {}
    for start, end in wanted:
        for span in manifest.pieces.spans(start, end - start):
            if span.piece not in have:
                digest = manifest.hash_of(span.file, span.piece_of_file)
                lacking.setdefault(digest, []).append(span)
    return lacking


def pieces_with_data(place: str, first: int, size: int, piece_bytes: int) -> Iterator[Candidate]:
    """The pieces of a file of ``size`` bytes that are not holes; ``first`` is its first piece."""
    fd = _open(place)
    if fd < 0:
        return
    try:
        piece, end = 0, min(size, os.fstat(fd).st_size)
        while (offset := piece * piece_bytes) < end:
            start = _next_data(fd, offset)
            if start is None:
                return
            piece = max(piece, start // piece_bytes)
            offset = piece * piece_bytes
            yield Candidate(place, offset, min(piece_bytes, size - offset), first + piece)
            piece += 1
    finally:
        os.close(fd)


def _next_data(fd: int, offset: int) -> int | None:
    """The next byte from ``offset`` on that is not in a hole; None when there is none."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        return None if error.errno == errno.ENXIO else offset


def pieces_below(top: Path, piece_bytes: int) -> Iterator[Candidate]:
    """What may be pieces in an old destination, a file or a tree: no link is followed."""
    pending = [os.fspath(top)]
    while pending:
        place = pending.pop()
        try:
            status = os.lstat(place)
            if stat.S_ISDIR(status.st_mode):
                pending.extend(os.path.join(place, name) for name in os.listdir(place))
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            for offset in range(0, status.st_size, piece_bytes):
                yield Candidate(place, offset, min(piece_bytes, status.st_size - offset))
