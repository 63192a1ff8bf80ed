"""Manifests made to do harm, fetched by their right id. If a test here fails, whoever publishes a
content can write outside its destination, or exhaust the machine that fetches it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from peer_world import LOOPBACK, QUICK, World, world_in

from peer import destination
from peer.manifest import Kind, Manifest, content_id
from peer.pieces import Span
from peer.seeder import Seeder
from tracker_raft.errors import BadRequest, LocalError, P2PError

PIECE = 16 * 1024


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "here").mkdir()
    with world_in(tmp_path / "here") as world:
        yield world


class Offered:
    """A content of which there is a manifest only: nobody comes to ask for a piece."""

    complete = True
    manifest = Manifest(Kind.TREE, PIECE, ())

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded
        self.id = content_id(encoded)

    def has(self, first: int, count: int) -> bool:
        raise AssertionError("a piece was asked for")

    def check(self, file: int) -> None:
        raise AssertionError("a piece was asked for")

    def open(self, file: int) -> AbstractContextManager[int]:
        raise AssertionError("a piece was asked for")

    def read(self, span: Span, view: memoryview) -> None:
        raise AssertionError("a piece was asked for")


def fetch(world: World, encoded: bytes) -> None:
    content = Offered(encoded)
    with_seeder = Seeder("hostile", {content.id: content}, LOOPBACK, limits=QUICK)
    try:
        world.announce("hostile", with_seeder.address, content.id)
        world.fetch(content.id)
    finally:
        with_seeder.close()


def tree(
    files: list[list[Any]] | None = None,
    directories: list[str] | None = None,
    links: list[list[str]] | None = None,
    **changes: Any,
) -> bytes:
    value = {
        "format": 1,
        "kind": "tree",
        "piece_bytes": PIECE,
        "files": files or [],
        "directories": directories or [],
        "links": links or [],
    }
    packed: bytes = msgpack.packb({**value, **changes})
    return packed


def empty(path: str) -> list[Any]:
    return [path, 0, False, b""]


HASH = bytes(32)
HOSTILE = {
    "traversal": (tree([empty("../outside")]), r"'..' segment"),
    "deep traversal": (tree([empty("a/../../outside")]), r"'..' segment"),
    "absolute": (tree([empty("/outside")]), "empty, '.' or '..' segment"),
    "directory out": (tree(directories=["../outside"]), r"'..' segment"),
    "NUL": (tree([empty("a\0b")]), "NUL"),
    "long name": (tree([empty("d/" + "n" * 256)]), "a name of 256 bytes, limit 255"),
    "long path": (tree([empty("/".join(["d"] * 2049))]), "has 4097 bytes, expected 1 to 4096"),
    "link to an absolute path": (tree(links=[["a", "/etc/passwd"]]), "absolute path"),
    "link out": (tree(links=[["a/b", "../../outside"]]), "leads out of the tree"),
    "link out behind a name": (tree(links=[["a", "b/../../outside"]]), "'..' after a name"),
    "through a link": (tree([empty("a/b")], links=[["a", "."]]), "others lie below it"),
    "below a file": (tree([empty("a"), empty("a/b")]), "others lie below it"),
    "twice": (tree([empty("a"), empty("a")]), "stands twice"),
    "absurd size": (tree([["a", 2**63, False, HASH]]), "size"),
    "negative size": (tree([["a", -1, False, b""]]), "size"),
    "size without hashes": (tree([["a", 2**62, False, HASH]]), "do not have"),
    "absurd sum": (tree(piece_bytes=2**62), "piece_bytes"),
    "absurd count": (b"\x86\xa6format\x01\xa4kind\xa4tree\xabpiece_bytes\xcd\x40\x00"
                     b"\xa5files\xdd\xff\xff\xff\xff", "4294967295 files, limit 1000000"),
    "nesting": (tree(files=[[["a"]] * 4]), "not|expected"),
    "no text": (tree([[b"\xff\xfe", 0, False, b""]]), "expected text"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_manifest_ends_the_fetch_and_nothing_was_written(world: World, what: str) -> None:
    """Broken if it is followed, waited for, or asked for elsewhere again and again."""
    encoded, reason = HOSTILE[what]
    started_s = time.monotonic()
    with pytest.raises(BadRequest, match=reason):
        fetch(world, encoded)
    assert time.monotonic() - started_s < 1.0
    assert [str(path) for path in world.directory.parent.rglob("*")] == [str(world.directory)]


def test_names_this_file_system_cannot_hold_are_refused_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if one file replaces another where case does not count, or a tree comes in part."""
    monkeypatch.setattr(destination, "_folds_case", lambda _: True)
    with pytest.raises(LocalError, match="'A' and 'a' are one name"):
        fetch(world, tree([empty("A"), empty("a")]))
    monkeypatch.setattr(destination.os, "pathconf", lambda *_: 100)
    with pytest.raises(LocalError, match=r"has a name of 101 bytes, the file system .* holds 100"):
        fetch(world, tree([empty("n" * 101)]))
    assert list(world.directory.iterdir()) == []


def test_a_size_beyond_any_disk_is_refused_before_a_piece_is_asked_for(world: World) -> None:
    """Broken if a terabyte is begun where a gigabyte is free."""
    huge = 2**20 * 4 * 1024 * 1024 // 4
    hashes = bytes(32 * (huge // (4 * 1024 * 1024)))
    encoded = tree([["a", huge, False, hashes]], piece_bytes=4 * 1024 * 1024)
    with pytest.raises(P2PError, match=rf"no space for .*copy: it has {huge} bytes"):
        fetch(world, encoded)
    assert list(world.directory.iterdir()) == []
