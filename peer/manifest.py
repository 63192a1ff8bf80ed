"""What a file or a tree is. The SHA-256 of an encoded manifest is the content id. Pure.

Format 1, one msgpack map, keys in this order, every value in its smallest form::

    {"format": 1,
     "kind": "file" | "tree",
     "piece_bytes": int,                             a power of two, 16 KiB to 4 MiB
     "files": [[path, size, executable, hashes]...]  hashes: SHA-256 of each piece, joined
     "directories": [path...]                        those that are empty
     "links": [[path, target]...]}                   symbolic links, kept as links

Rules
-----
* One content has one encoding: decoding encodes again and compares, byte for byte. Paths are
  relative, ``/`` between segments, each list sorted by its UTF-8 bytes.
* No times, no owners, and no name of the content itself: a single file has the path ``""``.
* Each file starts its own piece, so equal files have equal pieces. An empty file has none.
* No path stands twice, and none lies below another listed path: nothing can be written through
  a link of the same tree, and a directory is listed only when it is empty.
* A link's target is relative and does not leave the tree. ``..`` may stand at its start only:
  the directory of a link is a real one, so leading ``..`` segments mean what they say, whereas
  ``a/..`` leads anywhere when ``a`` is itself a link.
* A manifest that exists is a valid one: the checks run when it is made.

The format is final: any change here changes the id of every content
(``tests/interop/test_golden_manifests.py``, ``docs/manifest.md``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

import msgpack

from peer.limits import ManifestLimits
from peer.pieces import HASH_BYTES, PieceMap
from tracker_raft.commands import check_int
from tracker_raft.errors import BadRequest, TooLarge

FORMAT = 1
LIMITS = ManifestLimits()
_KEYS = ("format", "kind", "piece_bytes", "files", "directories", "links")


class Kind(StrEnum):
    FILE = "file"
    TREE = "tree"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file. ``hashes`` holds the 32-byte SHA-256 of each of its pieces, joined."""

    path: str
    size: int
    executable: bool
    hashes: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link, kept as a link."""

    path: str
    target: str


@dataclass(frozen=True)
class Manifest:
    """A valid description of one content. Raises :class:`BadRequest` when it would not be one."""

    kind: Kind
    piece_bytes: int
    files: tuple[FileEntry, ...]
    directories: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    pieces: PieceMap = field(init=False, compare=False, repr=False)
    """Numbers all pieces of all files, in order."""

    def __post_init__(self) -> None:
        _check_shape(self)
        _check_files(self.files, self.piece_bytes)
        _check_paths(self)
        for link in self.links:
            check_target(link.path, link.target)
        sizes = [entry.size for entry in self.files]
        object.__setattr__(self, "pieces", PieceMap(sizes, self.piece_bytes))

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return self.pieces.size

    def hash_of(self, file: int, piece_of_file: int) -> bytes:
        """The SHA-256 of one piece, by file index and the piece's place in that file."""
        start = piece_of_file * HASH_BYTES
        return self.files[file].hashes[start : start + HASH_BYTES]

    def encode(self) -> bytes:
        """The canonical bytes. Raises :class:`TooLarge` beyond the limit."""
        packed: bytes = msgpack.packb(
            {
                "format": FORMAT,
                "kind": str(self.kind),
                "piece_bytes": self.piece_bytes,
                "files": [[e.path, e.size, e.executable, e.hashes] for e in self.files],
                "directories": self.directories,
                "links": [[link.path, link.target] for link in self.links],
            },
            use_bin_type=True,
        )
        check_encoded_size(len(packed))
        return packed

    def __str__(self) -> str:
        return (
            f"{self.kind} of {len(self.files)} files, {self.size} bytes in "
            f"{self.pieces.count} pieces of {self.piece_bytes}"
        )


def content_id(encoded: bytes | bytearray) -> bytes:
    """The content id of an encoded manifest: 32 bytes."""
    return hashlib.sha256(encoded).digest()


def check_encoded_size(size: int) -> int:
    """Raises :class:`TooLarge` when a manifest of ``size`` bytes is beyond the limit."""
    if size > LIMITS.manifest_bytes_max:
        raise TooLarge(f"manifest of {size} bytes, limit {LIMITS.manifest_bytes_max}")
    return size


def piece_bytes_for(largest_file_bytes: int) -> int:
    """512 KiB, doubled while the largest file has more than 4,096 pieces, up to 4 MiB."""
    piece_bytes = 512 * 1024
    while piece_bytes < LIMITS.piece_bytes_max and largest_file_bytes > 4096 * piece_bytes:
        piece_bytes *= 2
    return piece_bytes


# -- checks ---------------------------------------------------------------------------------------


def check_path(path: object) -> str:
    """A relative path that stays where it is put. Raises :class:`BadRequest`, naming it."""
    if type(path) is not str:
        raise BadRequest(f"path is {type(path).__name__}, expected text")
    _check_text("path", path, LIMITS.path_bytes_max)
    for segment in path.split("/"):
        if segment in ("", ".", ".."):
            raise BadRequest(f"path {path!r} has an empty, '.' or '..' segment")
        if len(segment) * 4 > LIMITS.segment_bytes_max:
            size = len(segment.encode())
            if size > LIMITS.segment_bytes_max:
                raise BadRequest(
                    f"path {path!r} has a name of {size} bytes, limit {LIMITS.segment_bytes_max}"
                )
    return path


def check_target(path: str, target: object) -> str:
    """A link's target that stays inside the tree. Raises :class:`BadRequest`, naming both."""
    if type(target) is not str:
        raise BadRequest(f"link {path!r}: target is {type(target).__name__}, expected text")
    _check_text(f"link {path!r}: target", target, LIMITS.target_bytes_max)
    if target.startswith("/"):
        raise BadRequest(f"link {path!r} points to the absolute path {target!r}")
    ups_left = path.count("/")
    descended = False
    for segment in target.split("/"):
        if segment in ("", "."):
            continue
        if segment != "..":
            descended = True
        elif descended:
            raise BadRequest(f"link {path!r}: target {target!r} has a '..' after a name")
        elif not ups_left:
            raise BadRequest(f"link {path!r} leads out of the tree: {target!r}")
        else:
            ups_left -= 1
    return target


def _check_text(what: str, text: str, bytes_max: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"{what} {text!a} is not valid UTF-8") from None
    if not 0 < size <= bytes_max:
        raise BadRequest(f"{what} has {size} bytes, expected 1 to {bytes_max}: {text[:64]!r}")
    if "\0" in text:
        raise BadRequest(f"{what} {text!r} has a NUL character")


def _check_shape(manifest: Manifest) -> None:
    piece_bytes = manifest.piece_bytes
    check_int("piece_bytes", piece_bytes, LIMITS.piece_bytes_min, LIMITS.piece_bytes_max)
    if piece_bytes & (piece_bytes - 1):
        raise BadRequest(f"piece_bytes is {piece_bytes}, expected a power of two")
    entries = len(manifest.files) + len(manifest.directories) + len(manifest.links)
    if entries > LIMITS.entries_max:
        raise TooLarge(f"manifest of {entries} entries, limit {LIMITS.entries_max}")
    if manifest.kind is Kind.FILE and (
        entries != 1 or len(manifest.files) != 1 or manifest.files[0].path != ""
    ):
        raise BadRequest("a manifest of kind 'file' has exactly one file, with an empty path")


def _check_files(files: Iterable[FileEntry], piece_bytes: int) -> None:
    total = 0
    for entry in files:
        check_int("size", entry.size, 0, LIMITS.size_max)
        if type(entry.executable) is not bool:
            raise BadRequest(f"file {entry.path!r}: executable is not true or false")
        pieces = -(-entry.size // piece_bytes)
        if type(entry.hashes) is not bytes or len(entry.hashes) != pieces * HASH_BYTES:
            raise BadRequest(
                f"file {entry.path!r} of {entry.size} bytes has {pieces} pieces of {piece_bytes}, "
                f"but its hashes do not have {pieces} × {HASH_BYTES} bytes"
            )
        total += entry.size
    check_int("size of all files", total, 0, LIMITS.size_max)


def _check_paths(manifest: Manifest) -> None:
    if manifest.kind is Kind.FILE:
        return
    listed: set[str] = set()
    for what, paths in (
        ("files", [entry.path for entry in manifest.files]),
        ("directories", list(manifest.directories)),
        ("links", [link.path for link in manifest.links]),
    ):
        before = b""
        for path in paths:
            now = check_path(path).encode()
            if now <= before:
                raise BadRequest(f"{what}: {path!r} stands twice or is not in byte order")
            before = now
        listed.update(paths)
    if len(listed) != len(manifest.files) + len(manifest.directories) + len(manifest.links):
        raise BadRequest("a path stands twice among files, directories and links")
    for parent in parents_of(listed):
        if parent in listed:
            raise BadRequest(f"path {parent!r} is listed, but others lie below it")


def parents_of(paths: Iterable[str]) -> set[str]:
    """All directories that must exist above ``paths``; each is looked at once."""
    parents: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in parents:
            parents.add(parent)
            parent = parent.rpartition("/")[0]
    return parents


# -- decoding -------------------------------------------------------------------------------------


def decode(data: bytes | bytearray) -> Manifest:
    """Read an encoded manifest. Raises :class:`BadRequest`, :class:`TooLarge`.

    Read item by item, containers by their headers alone, so that no nesting makes a small input
    large in memory.
    """
    check_encoded_size(len(data))
    try:
        manifest = _read(data)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise BadRequest(f"manifest is not msgpack: {type(error).__name__}: {error}") from None
    if manifest.encode() != data:
        raise BadRequest("manifest is not in its canonical form")
    return manifest


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def _read(data: bytes | bytearray) -> Manifest:
    unpacker = msgpack.Unpacker(
        raw=False,
        max_buffer_size=len(data) or 1,
        max_array_len=0,
        max_map_len=0,
        max_ext_len=0,
        ext_hook=_refuse_extension,
    )
    unpacker.feed(data)
    scalar: Callable[[], Any] = unpacker.unpack
    header: Callable[[], int] = unpacker.read_array_header

    def array(what: str) -> range:
        length = header()
        if length > LIMITS.entries_max:
            raise TooLarge(f"manifest of {length} {what}, limit {LIMITS.entries_max}")
        return range(length)

    def row(length: int) -> None:
        if header() != length:
            raise BadRequest(f"manifest row does not have {length} items")

    def key(expected: str) -> None:
        found = scalar()
        if found != expected:
            raise BadRequest(f"manifest key {found!r}, expected {expected!r}")

    def read_file(_: int) -> FileEntry:
        row(4)
        return FileEntry(scalar(), scalar(), scalar(), scalar())

    def read_link(_: int) -> Link:
        row(2)
        return Link(scalar(), scalar())

    keys = unpacker.read_map_header()
    if keys:
        key("format")
        if (version := scalar()) != FORMAT:  # told first: another format may have other keys
            raise BadRequest(f"manifest of format {version!r}, this version reads {FORMAT}")
    if keys != len(_KEYS):
        raise BadRequest(f"manifest does not have the {len(_KEYS)} keys {', '.join(_KEYS)}")
    key("kind")
    kind = Kind(scalar())
    key("piece_bytes")
    piece_bytes = scalar()
    key("files")
    files = tuple(map(read_file, array("files")))
    key("directories")
    directories = tuple(scalar() for _ in array("directories"))
    key("links")
    links = tuple(map(read_link, array("links")))
    return Manifest(kind, piece_bytes, files, directories, links)
