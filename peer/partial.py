"""The place where a content lies until it is complete: one process at a time, nothing foreign.

For a file it is a file, for a tree a directory. The lock is on it and not on a file beside it, so
that it goes with it: whoever comes after the final name was given finds no lock, and no partial.
"""

# pathlib costs as much as the system calls of a small file:
# ruff: noqa: PTH102, PTH108, PTH208

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from pathlib import Path

from peer import destination
from peer.manifest import Kind, Manifest, parents_of
from peer.selection import Selection
from tracker_raft.errors import LocalError


class Partial:
    """The partial at ``part``. Its methods raise :class:`OSError`."""

    def __init__(self, part: Path, final: Path, manifest: Manifest, selected: Selection) -> None:
        self._part = part
        self._final = final
        self._manifest = manifest
        self._selected = selected
        self._tree = manifest.kind is Kind.TREE
        self._fd = -1

    def allocated(self) -> int:
        """Bytes on disk that an earlier fetch has left."""
        if not self._tree:
            with contextlib.suppress(FileNotFoundError):
                return self._part.lstat().st_blocks * 512
            return 0
        total = 0
        for directory, _, names in os.walk(self._part):
            total += sum(os.lstat(f"{directory}/{name}").st_blocks * 512 for name in names)
        return total

    def lock(self) -> None:
        """Open and lock it, making it when it is not there.

        Raises :class:`LocalError` when another fetch has it.
        """
        while self._fd < 0:
            try:
                fd = self._open()
            except (NotADirectoryError, IsADirectoryError):
                destination.remove(self._part)  # an old content that was replaced by this one
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever held the lock may have finished and moved the partial away meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.lstat(self._part)):
                        self._fd = fd
            except BlockingIOError:
                raise LocalError(
                    f"{self._final} is being fetched already, into {self._part}"
                ) from None
            finally:
                if self._fd < 0:
                    os.close(fd)

    def _open(self) -> int:
        if not self._tree:
            return create(str(self._part), self._manifest.files[0].executable, os.O_RDWR)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._part)
        return os.open(self._part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def prepare(self) -> None:
        """Remove what does not belong into it, then make the directories."""
        manifest, selected = self._manifest, self._selected
        if not self._tree:
            entry = manifest.files[0]
            if os.fstat(self._fd).st_size > entry.size:
                os.ftruncate(self._fd, entry.size)
            set_executable(self._fd, entry.executable)
            return
        paths = [manifest.files[file].path for file in selected.files]
        paths += [link.path for link in selected.links]
        directories = parents_of([*paths, *selected.directories]).union(selected.directories)
        if os.listdir(self._part):
            files = {manifest.files[file].path: file for file in selected.files}
            self._clear("", files, directories)
        # A parent sorts before what lies in it.
        for directory in sorted(directories):
            with contextlib.suppress(FileExistsError):
                os.mkdir(f"{self._part}/{directory}")

    def _clear(self, inside: str, files: dict[str, int], directories: set[str]) -> None:
        with os.scandir(f"{self._part}/{inside}") as entries:
            for found in entries:
                path = inside + found.name
                if found.is_dir(follow_symlinks=False):
                    if path in directories:
                        self._clear(f"{path}/", files, directories)
                    else:
                        shutil.rmtree(found.path)
                elif path not in files or not self._fits(found, files[path]):
                    os.unlink(found.path)

    def _fits(self, found: os.DirEntry[str], file: int) -> bool:
        """Whether a file can be gone on with; one that is too long cannot."""
        entry, status = self._manifest.files[file], found.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size > entry.size:
            return False
        fd = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            set_executable(fd, entry.executable)
        finally:
            os.close(fd)
        return True

    def remove(self) -> None:
        """Remove it, if it is locked by this one. Raises nothing."""
        # While the lock is held: who waits for it must not have his partial removed.
        if self._fd >= 0:
            destination.remove(self._part)

    def unlock(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        return f"<Partial {self._part}{' locked' if self._fd >= 0 else ''}>"


def remove_left(part: Path) -> None:
    """Remove what a fetch that was killed in its last moment left; not one that runs."""
    try:
        fd = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        destination.remove(part)
    except OSError:
        return  # another fetch has it
    finally:
        os.close(fd)


def create(place: str, executable: bool, flags: int) -> int:
    """Open or make a file; the umask applies as it does to any new file."""
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(place, flags, 0o777 if executable else 0o666)


def set_executable(fd: int, executable: bool) -> None:
    """Let those run a file who may read it, or nobody."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    wanted = (mode | (mode & 0o444) >> 2) if executable else mode & ~0o111
    if wanted != mode:
        os.fchmod(fd, wanted)
