"""If a test here fails, a manifest is accepted that could write where it must not, or one content
has two ids."""

from __future__ import annotations

import hashlib
from typing import Any

import msgpack
import pytest

from peer.manifest import (
    FileEntry,
    Kind,
    Link,
    Manifest,
    check_target,
    content_id,
    decode,
    piece_bytes_for,
)
from peer.pieces import PieceMap, Run, Span
from tracker_raft.errors import BadRequest, TooLarge

PIECE = 16 * 1024
HASH = hashlib.sha256(b"x").digest()


def tree(*files: FileEntry, directories: Any = (), links: Any = ()) -> Manifest:
    return Manifest(Kind.TREE, PIECE, files, tuple(directories), tuple(links))


def empty(path: str) -> FileEntry:
    return FileEntry(path, 0, False, b"")


def plain(**changes: Any) -> dict[str, Any]:
    """A valid manifest as plain data, with some keys changed."""
    return {
        "format": 1,
        "kind": "tree",
        "piece_bytes": PIECE,
        "files": [["a", 1, False, HASH]],
        "directories": [],
        "links": [],
        **changes,
    }


def test_another_format_is_told_by_its_number() -> None:
    """Broken: who meets a manifest of a later version, with keys that this one does not have, is
    told that it is damaged instead of what to do about it."""
    with pytest.raises(BadRequest, match="of format 2, this version reads 1"):
        decode(msgpack.packb(plain(format=2, hash="blake3")))


def test_a_manifest_survives_encoding() -> None:
    """Broken if a fetched tree would differ from the shared one."""
    manifest = tree(
        FileEntry("b/run me", PIECE + 1, True, HASH * 2),
        empty("ü"),
        directories=["empty"],
        links=[Link("b/l", "../ü")],
    )
    assert decode(manifest.encode()) == manifest
    assert content_id(manifest.encode()) == hashlib.sha256(manifest.encode()).digest()


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/..", "n\0", "x" * 256, "é" * 128],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    """Broken if a hostile manifest could write outside its destination."""
    with pytest.raises(BadRequest):
        tree(empty(path))
    with pytest.raises(BadRequest):
        decode(msgpack.packb(plain(files=[[path, 0, False, b""]])))


def test_a_path_as_long_as_it_may_be() -> None:
    """Broken if names that Linux holds cannot be shared, or longer ones are accepted."""
    longest = "/".join(["d" * 254] * 16)
    assert tree(empty(longest + "/" + "f" * 16)).files[0].path.startswith("ddd")
    with pytest.raises(BadRequest, match="4097 bytes, expected 1 to 4096"):
        tree(empty(longest + "/" + "f" * 17))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("l", "/etc/passwd"),
        ("l", ".."),
        ("l", "../x"),
        ("a/l", "../../x"),
        ("a/l", "b/../../.."),
        ("l", "a/.."),  # a may itself be a link that leads up
        ("l", ""),
        ("l", "n\0"),
        ("l", "x" * 4096),
    ],
)
def test_a_link_that_leads_out_is_refused(path: str, target: str) -> None:
    """Broken if a fetched tree could show files from outside as its own."""
    with pytest.raises(BadRequest):
        check_target(path, target)
    with pytest.raises(BadRequest):
        decode(msgpack.packb(plain(links=[[path, target]], files=[])))


@pytest.mark.parametrize(
    ("path", "target"),
    [("l", "a"), ("l", "./a//b/"), ("a/l", ".."), ("a/b/l", "../../c"), ("l", "é")],
)
def test_a_link_that_stays_inside_is_kept(path: str, target: str) -> None:
    """Broken if ordinary links cannot be shared."""
    assert check_target(path, target) == target


@pytest.mark.parametrize(
    "manifest",
    [
        plain(format=2),
        plain(format=True),
        plain(kind="disk"),
        plain(kind=None),
        plain(kind="file"),
        plain(kind="file", files=[["", 0, False, b""], ["", 0, False, b""]]),
        plain(kind="file", files=[["", 0, False, b""]], directories=["d"]),
        plain(piece_bytes=PIECE + 1),
        plain(piece_bytes=PIECE // 2),
        plain(piece_bytes=8 * 1024 * 1024),
        plain(piece_bytes=True),
        plain(files=[["a", -1, False, b""]]),
        plain(files=[["a", 2**63, False, b""]]),
        plain(files=[["a", 1, 0, HASH]]),
        plain(files=[["a", 1, False, HASH * 2]]),
        plain(files=[["a", 1, False, HASH[:-1]]]),
        plain(files=[["a", 1, False, "x" * 32]]),
        plain(files=[["a", PIECE + 1, False, HASH]]),
        plain(files=[["a", 1, False]]),
        plain(files=[["a", 1, False, HASH, 1]]),
        plain(files=[["b", 1, False, HASH], ["a", 1, False, HASH]]),
        plain(files=[["a", 1, False, HASH], ["a", 1, False, HASH]]),
        plain(files=[["a", 1, False, HASH], ["a/b", 1, False, HASH]]),
        plain(directories=["a"]),
        plain(directories=["a/b"]),
        plain(directories=["d", "d/e"]),
        plain(links=[["a", "x"]]),
        plain(links=[["d", "a"]], directories=["d/e"]),
        plain(links=[["l", 7]]),
        plain(directories=[7]),
        plain(directories=[["d"]]),
        plain(files={}),
        plain(extra=1),
        {"kind": "tree", **plain()},
        [],
        7,
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_malformed_manifest_is_refused(manifest: Any) -> None:
    """Broken if a hostile publisher can make a peer write nonsense, or crash it."""
    with pytest.raises(BadRequest):
        decode(msgpack.packb(manifest))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(plain()) + b"\0",
        msgpack.packb(plain())[:-1],
        msgpack.packb(plain(directories=msgpack.ExtType(1, b"x"))),
        b"\xde\x00\x06" + msgpack.packb(plain())[1:],
        b"\x91" * 100_000,
        msgpack.packb(plain(files=[]))[:-1] + b"\xdd\xff\xff\xff\xff",
    ],
    ids=["empty", "no type", "trailing", "cut", "extension", "long form", "nested", "huge count"],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    """Broken if one content can have two ids, or a few bytes can fill the memory."""
    with pytest.raises(BadRequest):
        decode(data)


def test_a_manifest_of_surrogates_is_refused() -> None:
    """Broken if a name that is no text reaches the wire."""
    with pytest.raises(BadRequest, match="not valid UTF-8"):
        tree(empty("\udcff"))


def test_a_manifest_beyond_the_limit_is_refused_unread() -> None:
    """Broken if a peer reads as much as a publisher likes."""
    with pytest.raises(TooLarge):
        decode(bytes(64 * 1024 * 1024 + 1))


@pytest.mark.parametrize(
    ("largest", "piece_kib"),
    [(0, 512), (2 << 30, 512), ((2 << 30) + 1, 1024), (4 << 30, 1024), (1 << 40, 4096)],
)
def test_pieces_grow_with_the_largest_file(largest: int, piece_kib: int) -> None:
    """Broken if huge files get huge manifests, or the id of a content changes."""
    assert piece_bytes_for(largest) == piece_kib * 1024


def test_pieces_are_numbered_over_all_files() -> None:
    """Broken if a piece is looked for in the wrong file."""
    pieces = PieceMap([0, 25, 0, 0, 10, 0], 10)
    assert pieces.count == 4
    assert [pieces.file_of(piece) for piece in range(4)] == [1, 1, 1, 4]
    assert pieces.pieces_of(1) == Run(0, 3)
    assert pieces.pieces_of(2).count == 0
    assert list(pieces.spans(1, 3)) == [
        Span(1, 1, 1, 10, 10),
        Span(2, 1, 2, 20, 5),
        Span(3, 4, 0, 0, 10),
    ]
    assert pieces.bytes_of(0, 4) == pieces.size == 35
    assert [pieces.fitting(0, 4, limit) for limit in (0, 10, 24, 25, 100)] == [1, 1, 2, 3, 4]
    for first, count in ((0, 5), (4, 1), (0, 0)):
        with pytest.raises(IndexError):
            list(pieces.spans(first, count))
    with pytest.raises(IndexError):
        pieces.file_of(4)
