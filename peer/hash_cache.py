"""Piece hashes remembered from one share of a path to the next: sharing again reads nothing.

Rules
-----
* Hashes are used only for a file whose path, size, modification time, change time, inode and
  device are all what they were. The change time is what makes it safe: no program can set it, so
  a file rewritten in place by something that puts size and modification time back is hashed anew.
* **A young file is not remembered.** Time stamps have a granularity: two writes within one tick
  of the clock give the same stamps, and hashes read between the two would be taken for those of
  the second. So a file is remembered only when its stamps were older than that *before* its bytes
  were read; whatever is written from then on gets a later stamp.
* It is a convenience. Whatever is wrong with it (damaged, of another version, not ours, not
  readable, disk full) is the same as remembering nothing, and no share fails by it.
* One file for each path that was shared, replaced in one step: two processes that share at once
  both have a whole one, the later wins. The folder is bounded; what was not used for longest goes.

What none of these stamps tell: a program that writes through a mapping of the file and goes on
(only its first write to a page changes them, until that page has gone to disk); a raw write to the
disk below the file system; a server of files whose clock stands still. Peers verify each piece they
get, so wrong bytes are refused, never taken. ``share --rehash`` mends it.

Layout: a line that names the version, the SHA-256 of the rest, and one msgpack map: ``top``, and
``files``: from path inside the tree to stamps and joined hashes in one. The size of the pieces is
not in it: the number of hashes tells it, but of a single piece, whose hash is the same for all.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import platformdirs

from peer.pieces import HASH_BYTES
from tracker_raft.config import MIB

ENVIRONMENT = "P2P_HASH_CACHE"
"""Names the folder; ``off`` turns it off."""
APP = "p2p-cluster"
HEADER = b"p2p-cluster hashes 1\n"
SUFFIX = ".hashes"

CONTENT_BYTES_MIN = 8 * MIB
"""Smaller contents are hashed faster than their hashes are found."""
FILE_BYTES_MAX = 128 * MIB
"""One remembered path: the largest manifest there can be, and its stamps."""
FOLDER_BYTES_MAX = 256 * MIB
FOLDER_FILES_MAX = 4096

COARSE_NS = 10_000_000
"""A change time that is a multiple of this comes from a file system that counts seconds, or pairs
of them (FAT); elsewhere stamps are those of the kernel's tick, at most 10 ms apart."""
YOUNG_COARSE_NS = 3_000_000_000
YOUNG_NS = 100_000_000

_STAMPS = struct.Struct(">QqqQQ")
_log = logging.getLogger(__name__)


def stamps_of(status: os.stat_result) -> bytes:
    """What must be the same for a file to be taken for the one that was hashed."""
    return _STAMPS.pack(
        status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev
    )


def is_settled(stamps: bytes, now_ns: int) -> bool:
    """Whether every write from ``now_ns`` on is sure to change the stamps. On the wall clock."""
    _, mtime_ns, ctime_ns, _, _ = _STAMPS.unpack(stamps)
    if ctime_ns % COARSE_NS:  # fine stamps: the change time alone tells, the other is settable
        return bool(now_ns - ctime_ns > YOUNG_NS)
    return bool(now_ns - max(mtime_ns, ctime_ns) > YOUNG_COARSE_NS)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is known of the files of one path. Made before any of them is read."""

    files: dict[str, bytes]
    """By path inside the tree: stamps and joined hashes."""
    piece_bytes: int
    read_from_ns: int
    """On the wall clock: no file was read for this share before it."""

    def find(self, path: str, stamps: bytes) -> bytes | None:
        """The joined piece hashes of a file that is what it was; None for any other."""
        found = self.files.get(path)
        if type(found) is not bytes or not found.startswith(stamps):
            return None
        size = _STAMPS.unpack(stamps)[0]
        hashes = found[_STAMPS.size :]
        return hashes if len(hashes) == -(-size // self.piece_bytes) * HASH_BYTES else None


class HashCache:
    """The folder of all remembered paths. Any thread, any number of processes.

    ``now_ns``: the wall clock.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        folder_bytes_max: int = FOLDER_BYTES_MAX,
        folder_files_max: int = FOLDER_FILES_MAX,
    ) -> None:
        self.folder = folder
        self._now_ns = now_ns
        self._folder_bytes_max = folder_bytes_max
        self._folder_files_max = folder_files_max

    def recall(self, top: str, piece_bytes: int, *, rehash: bool = False) -> Remembered:
        """What is known of the absolute path ``top``; with ``rehash`` it is forgotten first."""
        if rehash:
            with contextlib.suppress(OSError):  # a folder that cannot be written is none of ours
                self._place(top).unlink(missing_ok=True)
        files = {} if rehash else self._read(top)
        return Remembered(files, piece_bytes, self._now_ns())

    def keep(
        self, top: str, remembered: Remembered, files: Iterable[tuple[str, bytes, bytes]]
    ) -> None:
        """Remember path, stamps and joined hashes of ``files``, and nothing else, for ``top``.

        What is not settled is left out. Never raises for what the disk does.
        """
        settled = {
            path: stamps + hashes
            for path, stamps, hashes in files
            if is_settled(stamps, remembered.read_from_ns)
        }
        place = self._place(top)
        try:
            if settled == remembered.files:
                if settled:
                    os.utime(place)  # used now: the last to be forgotten
                return
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(place, _encode(top, settled))
            self._prune()
        except OSError as error:
            _log.info("hashes of %s are not remembered: %s", top, error)

    def _place(self, top: str) -> Path:
        return self.folder / (hashlib.sha256(os.fsencode(top)).hexdigest()[:32] + SUFFIX)

    def _read(self, top: str) -> dict[str, bytes]:
        place = self._place(top)
        try:
            with place.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            _log.info("%s is not used: %s", place, error)
            return {}
        try:
            return _decode(data, top)
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            _log.info("%s is not used: %s", place, error)
            return {}

    def _write(self, place: Path, data: bytes) -> None:
        if len(data) > FILE_BYTES_MAX:
            raise OSError(f"{len(data)} bytes of hashes, limit {FILE_BYTES_MAX}")
        part = place.with_name(f"{place.stem}-{secrets.token_hex(8)}{SUFFIX}")
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            part.replace(place)  # not synced: what a power cut leaves of it fails its checksum
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _prune(self) -> None:
        """Remove what was not used for longest until the folder is within its limits."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        found.sort(reverse=True)
        total = 0
        for count, (_, size, path) in enumerate(found, 1):
            total += size
            if total > self._folder_bytes_max or count > self._folder_files_max:
                Path(path).unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<HashCache {self.folder}>"


def from_environment() -> HashCache | None:
    """The cache of this user, where :data:`ENVIRONMENT` places it; None when it is off."""
    named = os.environ.get(ENVIRONMENT, "")
    if named == "off":
        return None
    return HashCache(Path(named) if named else platformdirs.user_cache_path(APP) / "hashes")


def _encode(top: str, files: dict[str, bytes]) -> bytes:
    body: bytes = msgpack.packb({"top": os.fsencode(top), "files": files})
    return HEADER + hashlib.sha256(body).digest() + body


def _decode(data: bytes, top: str) -> dict[str, bytes]:
    """Raises ValueError, or what msgpack raises, saying why it is of no use."""
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"it is larger than {FILE_BYTES_MAX} bytes")
    if not data.startswith(HEADER):
        raise ValueError(f"it begins with {data[: len(HEADER)]!r}, expected {HEADER!r}")
    start = len(HEADER) + hashlib.sha256().digest_size
    body = memoryview(data)[start:]
    if hashlib.sha256(body).digest() != data[len(HEADER) : start]:
        raise ValueError("it is damaged: its SHA-256 does not match")
    value: Any = msgpack.unpackb(body)
    match value:
        case {"top": of, "files": dict(files)}:
            if of == os.fsencode(top):
                return files
            raise ValueError(f"it is of another path: {of!r}")
        case _:
            raise ValueError("it is not a map of top and files")
