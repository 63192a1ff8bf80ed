"""If a test here fails, what is shared is not what lies on disk, or is skipped in silence."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from peer import scan as scan_module
from peer.manifest import Kind, Link
from peer.scan import scan, share_name
from tracker_raft.errors import BadRequest, LocalError


def test_a_directory_becomes_a_manifest(tmp_path: Path) -> None:
    """Broken if files, directories or links are lost, or in the order the disk gives them."""
    (tmp_path / "z/empty/deeper").mkdir(parents=True)
    (tmp_path / "z.a").write_bytes(b"1")
    (tmp_path / "z/b").write_bytes(b"22")
    (tmp_path / "z/b").chmod(0o755)
    (tmp_path / "l").symlink_to("z/b")
    found = scan(tmp_path)
    manifest = found.manifest
    assert manifest.kind is Kind.TREE
    assert [(e.path, e.size, e.executable) for e in manifest.files] == [
        ("z.a", 1, False),
        ("z/b", 2, True),
    ]
    assert manifest.directories == ("z/empty/deeper",)
    assert manifest.links == (Link("l", "z/b"),)
    assert [Path(source.path).name for source in found.sources] == ["z.a", "b"]


def test_hashing_does_not_depend_on_the_threads(tmp_path: Path) -> None:
    """Broken if slices of large files are put together in the order they were finished."""
    (tmp_path / "large").write_bytes(os.urandom(40 * 1024 * 1024 + 1))
    for number in range(600):
        (tmp_path / f"{number}").write_bytes(b"%d" % number)
    assert scan(tmp_path, threads=1).manifest == scan(tmp_path, threads=8).manifest


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    """Broken if a progress bar stops short of the end."""
    (tmp_path / "f").write_bytes(bytes(100_000))
    (tmp_path / "g").write_bytes(bytes(5))
    seen: list[tuple[int, int]] = []
    scan(tmp_path, piece_bytes=16384, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (100_005, 100_005)
    assert seen == sorted(seen)


def test_what_is_neither_file_nor_directory_is_refused_by_name(tmp_path: Path) -> None:
    """Broken if sharing a pipe hangs, or leaves it out without a word."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadRequest, match="pipe is a named pipe"):
        scan(tmp_path)
    with pytest.raises(BadRequest, match="named pipe"):
        scan(tmp_path / "pipe")
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "sock"))
        with pytest.raises(BadRequest, match="sock is a socket"):
            scan(tmp_path)


def test_a_name_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    """Broken if such a name ends in a traceback."""
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(BadRequest, match=r"bad\\udcff.*not valid UTF-8"):
        scan(tmp_path)


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "a/.."])
def test_a_link_that_leads_out_is_refused_by_name(tmp_path: Path, target: str) -> None:
    """Broken if links are shared that nobody else can resolve, without a hint at the remedy."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(target)
    with pytest.raises(BadRequest, match=r"link.*--follow-links"):
        scan(tree)


def test_links_are_followed_when_asked(tmp_path: Path) -> None:
    """Broken if --follow-links keeps links, or shares a link to a directory as a file."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_bytes(b"f")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "directory").symlink_to(tmp_path / "outside")
    (tree / "file").symlink_to(tmp_path / "outside/f")
    manifest = scan(tree, follow_links=True).manifest
    assert [entry.path for entry in manifest.files] == ["directory/f", "file"]
    assert manifest.links == ()


def test_loops_and_broken_links_are_refused_when_followed(tmp_path: Path) -> None:
    """Broken if following links never ends, or a broken one is left out without a word."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/up").symlink_to("..")
    with pytest.raises(BadRequest, match="leads back to a directory above"):
        scan(tmp_path, follow_links=True)
    (tmp_path / "d/up").unlink()
    (tmp_path / "d/broken").symlink_to("nowhere")
    with pytest.raises(LocalError, match="broken cannot be followed"):
        scan(tmp_path, follow_links=True)
    assert scan(tmp_path).manifest.links == (Link("d/broken", "nowhere"),)


def test_a_link_given_by_name_is_followed(tmp_path: Path) -> None:
    """Broken if ``share latest`` shares nothing where latest is a link."""
    (tmp_path / "f").write_bytes(b"f")
    (tmp_path / "latest").symlink_to("f")
    assert scan(tmp_path / "latest").manifest.kind is Kind.FILE
    assert share_name(tmp_path / "latest") == "latest"


def test_a_file_that_changes_while_it_is_hashed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if hashes of two states of a file go into one manifest."""
    path = tmp_path / "f"
    path.write_bytes(bytes(100_000))
    real = scan_module.read_exactly

    def read_and_change(*args: object) -> None:
        real(*args)  # type: ignore[arg-type]  # handed through as they are
        with path.open("ab") as file:
            file.write(b"x")

    monkeypatch.setattr(scan_module, "read_exactly", read_and_change)
    with pytest.raises(LocalError, match=r"f changed: it has 100001 bytes.*it had 100000"):
        scan(path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """Broken if hashing waits for ever for bytes that are gone."""
    path = tmp_path / "f"
    path.write_bytes(b"1234")
    source = scan(path).sources[0]
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(LocalError, match="ends at 4 bytes"):
            scan_module.read_exactly(fd, memoryview(bytearray(8)), 0, source)
    finally:
        os.close(fd)


def test_what_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    """Broken if a mistyped path ends in a traceback."""
    with pytest.raises(LocalError, match=r"cannot read .*nope"):
        scan(tmp_path / "nope")
