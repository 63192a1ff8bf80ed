"""Patterns. If a test here fails, ``get --include`` brings other files than it was asked for."""

from __future__ import annotations

import pytest

from peer.manifest import FileEntry, Kind, Link, Manifest
from peer.selection import PATTERNS_MAX, compile_patterns, select
from tracker_raft.errors import BadRequest

PIECE = 16 * 1024

MATCHES = [
    ("*.bin", ["a.bin", "deep/er/b.bin", "x.bin/in it"], ["a.bins", "abin"]),
    ("/a.bin", ["a.bin"], ["deep/a.bin"]),
    ("train/*.csv", ["train/1.csv"], ["train/deep/1.csv", "other/train/1.csv"]),
    ("train/**/*.csv", ["train/1.csv", "train/a/b/1.csv"], ["train/a/b/1.txt", "1.csv"]),
    ("**/notes", ["notes", "a/notes", "a/b/notes/today"], ["a/notes.txt"]),
    ("train/**", ["train/1", "train/a/b"], ["train", "trains/1"]),
    ("train", ["train/1", "a/train/b/c", "train"], ["trains", "a/train2"]),
    ("train/", ["train/1"], ["trains/1"]),
    ("?.[0-9]", ["a.1", "d/é.9"], ["ab.1", "a.x", "./.1"]),
    ("[!a]b", ["cb", "d/xb"], ["ab"]),
    ("[[]x]", ["[x]"], ["x"]),
    ("a[", ["a["], ["a"]),
    ("(1|2)+.$", ["(1|2)+.$"], ["1"]),
    ("*", ["a", "a/b", "new\nline"], []),
]


@pytest.mark.parametrize(("pattern", "yes", "no"), MATCHES, ids=[case[0] for case in MATCHES])
def test_what_a_pattern_means(pattern: str, yes: list[str], no: list[str]) -> None:
    """Broken if a pattern takes what its user did not mean, or leaves out what was meant."""
    wanted = compile_patterns([pattern])
    assert [path for path in yes if not wanted.fullmatch(path)] == []
    assert [path for path in no if wanted.fullmatch(path)] == []


@pytest.mark.parametrize("pattern", ["", "/", "..", "a/../b", ".", "[z-a]"])
def test_patterns_that_cannot_be_are_refused(pattern: str) -> None:
    """Broken if a typing error fetches everything or ends in a traceback."""
    with pytest.raises(BadRequest, match="pattern"):
        compile_patterns([pattern])
    with pytest.raises(BadRequest, match=f"limit {PATTERNS_MAX}"):
        compile_patterns(["a"] * (PATTERNS_MAX + 1))


def manifest() -> Manifest:
    files = tuple(
        FileEntry(path, size, False, bytes(32) * -(-size // PIECE))
        for path, size in (("a/1", PIECE + 1), ("a/2", 0), ("b", 3 * PIECE))
    )
    return Manifest(Kind.TREE, PIECE, files, ("a/none", "c"), (Link("a/link", "1"),))


def test_a_selection_is_files_pieces_directories_and_links() -> None:
    """Broken if part of a tree lacks its links or empty directories, or pieces of others come."""
    chosen = select(manifest(), ["a"])
    assert (list(chosen.files), chosen.directories) == ([0, 1], ["a/none"])
    assert [link.path for link in chosen.links] == ["a/link"]
    assert (list(chosen.pieces), chosen.size, chosen.whole) == ([(0, 2)], PIECE + 1, False)
    both = select(manifest(), ["b", "/c"])
    assert (list(both.files), both.directories, list(both.pieces)) == ([2], ["c"], [(2, 5)])
    everything = select(manifest())
    assert (everything.whole, everything.size) == (True, 4 * PIECE + 1)


def test_nothing_that_matches_is_an_error_that_names_what_is_there() -> None:
    """Broken if a typing error passes for an empty download."""
    with pytest.raises(BadRequest, match=r"matches 'x', 'y/z': it has 'a/1', .*and 1 more"):
        select(manifest(), ["x", "y/z"])
    single = Manifest(Kind.FILE, PIECE, (FileEntry("", 0, False, b""),))
    with pytest.raises(BadRequest, match="a single file"):
        select(single, ["x"])
