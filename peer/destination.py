"""Where a content goes: what is refused before anything is fetched, and how it gets its name.

Rules
-----
* What the file system there cannot hold is refused, by name, before anything is written: a name
  that is too long for it, a path that is too long, two names that are one to it (they differ in
  case only), more bytes than are free.
* A destination that exists is never touched by a fetch that was not told to replace it, and one
  that is replaced is whole at every moment: the old content, or the new one.
"""

# pathlib costs as much as the system calls of a small file:
# ruff: noqa: PTH104, PTH105, PTH108

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from peer.manifest import Manifest, parents_of
from tracker_raft.errors import LocalError

PART_NAME_BYTES_MAX = 200
"""Of the final name in the partial one, which must stay below 255 bytes."""
PATH_BYTES_MAX = 4095
"""What Linux takes as one path."""

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

FreeBytes = Callable[[Path], int]


def free_bytes(directory: Path) -> int:
    """Bytes that an unprivileged user may still write there."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what the system refuses into a :class:`LocalError` that says what was wanted."""
    try:
        yield
    except OSError as error:
        where = f" {os.fsdecode(error.filename)}" if error.filename else ""
        raise LocalError(f"cannot {what}:{where} {error.strerror or error}") from error


def exists(path: Path) -> bool:
    """Whether something has this name, be it a broken link. OSError: the name is impossible."""
    with contextlib.suppress(FileNotFoundError):
        path.lstat()
        return True
    return False


def place_in(dest: str | os.PathLike[str], name: str) -> Path:
    """Where a content called ``name`` goes: ``dest`` itself, or a place in it if it ends with a
    slash, as a directory is written."""
    return Path(dest, name) if os.fspath(dest).endswith("/") else Path(dest)


def require_directory(path: Path) -> None:
    """Make this directory unless it is there; not those above. Raises :class:`LocalError`."""
    try:
        path.mkdir(exist_ok=True)
    except FileExistsError:
        raise LocalError(f"{path} is not a directory; nothing was fetched") from None
    except OSError as error:
        reason = error.strerror or error
        raise LocalError(f"cannot make {path}: {reason}; nothing was fetched") from error


def check_destination(destination: Path, *, update: bool = False) -> None:
    """Refuse, before anything is fetched, what could not be written in the end.

    Raises :class:`LocalError`: the destination exists (with ``update`` that is no obstacle, unless
    this process works in it), or its directory is missing or read-only.
    """
    parent = destination.parent
    with explained(f"write {destination}"):
        if not parent.is_dir():
            raise LocalError(f"{parent} is not a directory; nothing was fetched")
        if exists(destination) and not update:
            raise LocalError(f"{destination} exists; nothing was fetched")
        # Who says "." means "in here", as with cp; all that lies here would be replaced.
        if update and _is_directory(destination) and _works_in(destination):
            raise LocalError(
                f"{destination} is the directory this runs in, or one above it, and would be "
                f"replaced as a whole; nothing was fetched"
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise LocalError(f"{parent} is not writable; nothing was fetched")


def check_kind(destination: Path, *, tree: bool) -> None:
    """Refuse to replace a directory with a file: who names one most often means a place in it.

    Raises :class:`LocalError`.
    """
    if not tree and _is_directory(destination):
        raise LocalError(
            f"{destination} is a directory and would be replaced by a single file; nothing was "
            f"fetched. Name the file itself, or remove the directory first"
        )


def part_path(destination: Path, content: bytes) -> Path:
    """Where the content lies until it is complete."""
    name = os.fsencode(destination.name)[:PART_NAME_BYTES_MAX]
    # A name cut inside a character would not be text any more.
    text = name.decode(errors="ignore")
    return destination.with_name(f".{text}.{content.hex()[:8]}.part")


# -- what the file system can hold ----------------------------------------------------------------


def check_names(
    manifest: Manifest,
    part: Path,
    *,
    name_bytes_max: int | None = None,
    folds_case: Callable[[Path], bool] | None = None,
) -> None:
    """Raises :class:`LocalError` for a name that cannot be beside ``part``, before it is made.

    ``name_bytes_max`` and ``folds_case`` stand in for what the file system says of itself.
    """
    if name_bytes_max is None:
        name_bytes_max = os.pathconf(part.parent, "PC_NAME_MAX")
    room = PATH_BYTES_MAX - len(os.fsencode(part)) - 1
    paths = [entry.path for entry in manifest.files]
    paths += [*manifest.directories, *(link.path for link in manifest.links)]
    for path in paths:
        encoded = path.encode()
        if len(encoded) > room:
            raise LocalError(
                f"{path[:64]!r}... has {len(encoded)} bytes, a path in {part.parent} may have "
                f"{room}; nothing was fetched"
            )
        if len(encoded) > name_bytes_max:  # else none of its segments can be
            for segment in encoded.split(b"/"):
                if len(segment) > name_bytes_max:
                    raise LocalError(
                        f"{path!r} has a name of {len(segment)} bytes, the file system of "
                        f"{part.parent} holds {name_bytes_max}; nothing was fetched"
                    )
    pair = case_collision(paths)
    if pair is not None and (folds_case or _folds_case)(part.parent):
        raise LocalError(
            f"{pair[0]!r} and {pair[1]!r} are one name to the file system of {part.parent}; "
            f"nothing was fetched"
        )


def case_collision(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths, or directories above them, that differ in case only."""
    paths = list(paths)
    seen: dict[str, str] = {}
    for path in (*paths, *parents_of(paths)):
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            return other, path
    return None


def _folds_case(directory: Path) -> bool:
    """Whether two names that differ in case only are one there: tried out."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".P2P-", suffix=".part") as probe:
        return Path(probe.name.swapcase()).name != Path(probe.name).name and exists(
            directory / Path(probe.name).name.swapcase()
        )


# -- the final name -------------------------------------------------------------------------------


def give_name(part: Path, destination: Path, *, update: bool) -> bool:
    """Move ``part`` to ``destination`` in one step; True when the old content now lies at ``part``.

    Raises :class:`LocalError` when it exists and is not to be replaced, :class:`OSError`.
    """
    if not update:
        _move_to_new(part, destination)
        return False
    if not exists(destination) or not (_is_directory(part) or _is_directory(destination)):
        os.replace(part, destination)
        return False
    try:
        _rename(part, destination, RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # This file system cannot swap two names: for a moment there is none.
        aside = part.with_name(part.name + ".old")
        remove(aside)
        os.rename(destination, aside)
        os.rename(part, destination)
        os.rename(aside, part)
    return True


def _move_to_new(part: Path, destination: Path) -> None:
    """Give a name that nothing has, not even since a moment ago."""
    taken = False
    try:
        _rename(part, destination, RENAME_NOREPLACE)
    except FileExistsError:
        taken = True
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        taken = exists(destination)
        if not taken:
            os.rename(part, destination)
    if taken:
        raise LocalError(
            f"{destination} appeared while it was fetched; it was left as it is, "
            f"and what was fetched is kept in {part}"
        )


def _works_in(directory: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(directory.resolve())
    except FileNotFoundError:
        return False  # the working directory has been removed


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _rename(one: Path, other: Path, flags: int) -> None:
    """The system's rename with flags. Raises :class:`OSError`."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, "no renameat2 in this C library")
    at_cwd = -100
    if renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(other))


def remove(path: Path) -> None:
    """Remove a file or a tree, or nothing. Raises nothing."""
    with contextlib.suppress(OSError):
        if _is_directory(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
