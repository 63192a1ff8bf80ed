"""Pieces on disk: verify, then write, then tell.

Rules
-----
* A content appears under its final name only when it is complete. Until then it lies beside it,
  on the same file system, as ``.<name>.<first 8 of the content id>.part``: a name that the next
  fetch of the same content finds again. A lock on it keeps a second fetch out.
* Nothing is written that does not have the hash its manifest gives it.
* Nothing is written outside: all directories are made here, in a directory that is new; links
  come last, and nothing is opened through one.
* Empty files, links and the final name are made by :meth:`Store.finish` alone.

By default nothing is synced: the kernel writes back when it likes, as it does after ``cp``. With
``durable`` every file and directory is synced before the final name is given, and the directory
of that name after, so that the content survives a power cut under that name; this costs what the
disk takes to write it all (a second or more for each GiB).
"""

# pathlib costs as much as the system calls of a small file:
# ruff: noqa: PTH102, PTH104, PTH108, PTH211

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from peer.files import OpenFiles
from peer.manifest import Kind, Manifest, parents_of
from peer.pieces import Span
from tracker_raft.errors import LocalError

PART_NAME_BYTES_MAX = 200
"""Of the final name in the partial one, which must stay below 255 bytes."""

FreeBytes = Callable[[Path], int]


def free_bytes(directory: Path) -> int:
    """Bytes that an unprivileged user may still write there."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def check_destination(destination: Path) -> None:
    """Refuse, before anything is fetched, what could not be written in the end.

    Raises :class:`LocalError`: the destination exists, or its directory is missing or read-only.
    """
    parent = destination.parent
    with _explained(f"write {destination}"):
        if not parent.is_dir():
            raise LocalError(f"{parent} is not a directory; nothing was fetched")
        if _exists(destination):
            raise LocalError(f"{destination} exists; nothing was fetched")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise LocalError(f"{parent} is not writable; nothing was fetched")


def _exists(path: Path) -> bool:
    """Whether something has this name, be it a broken link. OSError: the name is impossible."""
    with contextlib.suppress(FileNotFoundError):
        path.lstat()
        return True
    return False


def part_path(destination: Path, content: bytes) -> Path:
    """Where the content lies until it is complete."""
    name = os.fsencode(destination.name)[:PART_NAME_BYTES_MAX]
    # A name cut inside a character would not be text any more.
    text = name.decode(errors="ignore")
    return destination.with_name(f".{text}.{content.hex()[:8]}.part")


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what the system refuses into a :class:`LocalError` that says what was wanted."""
    try:
        yield
    except OSError as error:
        where = f" {os.fsdecode(error.filename)}" if error.filename else ""
        raise LocalError(f"cannot {what}:{where} {error.strerror or error}") from error


class Store:
    """Takes the pieces of one content. :meth:`put` may be called by any thread.

    Ends with :meth:`finish` or :meth:`discard`.
    """

    def __init__(
        self,
        manifest: Manifest,
        content: bytes,
        destination: Path,
        *,
        durable: bool = False,
        open_files_max: int = 128,
        free: FreeBytes = free_bytes,
    ) -> None:
        """Make the partial, empty. Raises :class:`LocalError`; then nothing is left behind."""
        self.manifest = manifest
        self.destination = destination
        self.part = part_path(destination, content)
        self._durable = durable
        self._tree = manifest.kind is Kind.TREE
        self._prefix = f"{self.part}/" if self._tree else str(self.part)
        self._files = OpenFiles(open_files_max)
        self._lock_fd = -1
        check_destination(destination)
        with _explained(f"write {destination}"):
            have, need = free(destination.parent), manifest.size
            if have < need:
                raise LocalError(
                    f"no space for {destination}: it has {need} bytes, "
                    f"{have} are free in {destination.parent}; nothing was fetched"
                )
            self._lock_fd = self._lock_part()
            try:
                self._clear_part()
            except BaseException:
                self.discard()
                raise

    def put(self, span: Span, data: memoryview) -> bool:
        """Write one piece when ``data`` is right; False, with nothing written, when it is not.

        Raises :class:`LocalError` when it cannot be written.
        """
        expected = self.manifest.hash_of(span.file, span.piece_of_file)
        if hashlib.sha256(data).digest() != expected:
            return False
        entry = self.manifest.files[span.file]
        place = self._prefix + entry.path
        with _explained(f"write {self.destination}"):
            if self._tree and entry.size == span.length:
                fd = _create(place, entry.executable, os.O_WRONLY)
                try:
                    _write_all(fd, data, 0)
                finally:
                    os.close(fd)
            else:
                with self._files.use(span.file, lambda: self._open_large(span.file)) as fd:
                    _write_all(fd, data, span.offset)
        return True

    def finish(self) -> None:
        """Give the final name. Every piece must have been put.

        Raises :class:`LocalError`; the partial is then still there.
        """
        self._files.close()
        with _explained(f"write {self.destination}"):
            if self._tree:
                for entry in self.manifest.files:
                    if not entry.size:
                        place = self._prefix + entry.path
                        os.close(_create(place, entry.executable, os.O_WRONLY))
                for link in self.manifest.links:
                    os.symlink(link.target, self._prefix + link.path)
            if self._durable:
                self._sync()
            if _exists(self.destination):
                raise LocalError(
                    f"{self.destination} appeared while it was fetched; it was left as it is"
                )
            os.rename(self.part, self.destination)
            if self._durable:
                _sync_path(self.destination.parent)
        os.close(self._lock_fd)
        self._lock_fd = -1

    def discard(self) -> None:
        """Remove the partial; without effect after :meth:`finish`. Raises nothing."""
        self._files.close()
        if self._lock_fd < 0:
            return
        # While the lock is held: who waits for it must not have his partial removed.
        with contextlib.suppress(OSError):
            if self._tree:
                shutil.rmtree(self.part)
            else:
                os.unlink(self.part)
        os.close(self._lock_fd)
        self._lock_fd = -1

    # -- the partial ------------------------------------------------------------------------------

    def _lock_part(self) -> int:
        """Open and lock the partial, making it when it is not there."""
        while True:
            if self._tree:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self.part)
                fd = os.open(self.part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            else:
                fd = _create(str(self.part), self.manifest.files[0].executable, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held the lock may have finished and moved the partial away meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.lstat(self.part)):
                        return fd
            except BlockingIOError:
                os.close(fd)
                raise LocalError(
                    f"{self.destination} is being fetched already, into {self.part}"
                ) from None
            os.close(fd)

    def _clear_part(self) -> None:
        """Empty what an earlier fetch left, then make the directories."""
        if not self._tree:
            os.ftruncate(self._lock_fd, 0)
            _set_executable(self._lock_fd, self.manifest.files[0].executable)
            return
        with os.scandir(self.part) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
        manifest = self.manifest
        paths = [entry.path for entry in manifest.files]
        paths += [link.path for link in manifest.links]
        above = parents_of([*paths, *manifest.directories])
        # A parent sorts before what lies in it.
        for directory in sorted(above.union(manifest.directories)):
            os.mkdir(self._prefix + directory)

    def _open_large(self, file: int) -> int:
        """Open a file of several pieces, with its full size reserved on disk."""
        entry = self.manifest.files[file]
        fd = _create(self._prefix + entry.path, entry.executable, os.O_RDWR)
        try:
            if os.fstat(fd).st_size != entry.size:
                _reserve(fd, entry.size)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _sync(self) -> None:
        for entry in self.manifest.files:
            _sync_path(self._prefix + entry.path)
        if self._tree:
            for directory, _, _ in os.walk(self.part):
                _sync_path(directory)

    def __repr__(self) -> str:
        return f"<Store {self.destination} {self.manifest}>"


def _create(place: str, executable: bool, flags: int) -> int:
    """Open or make a file; the umask applies as it does to any new file."""
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(place, flags, 0o777 if executable else 0o666)


def _set_executable(fd: int, executable: bool) -> None:
    """Let those run a file who may read it, or nobody."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    wanted = (mode | (mode & 0o444) >> 2) if executable else mode & ~0o111
    if wanted != mode:
        os.fchmod(fd, wanted)


def _reserve(fd: int, size: int) -> None:
    """Give a file its size, with the space for it where the file system can promise that."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(fd, size)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def _sync_path(place: str | Path) -> None:
    fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
