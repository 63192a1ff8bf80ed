"""Destinations. If a test here fails, a fetch overwrites what it should not, or leaves a place
that is neither old nor new, or finds out after gigabytes that a name cannot be."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_store import PIECE, fill, listing, make_tree, store_for

from peer import destination
from peer.destination import case_collision, check_destination, check_names, give_name
from peer.manifest import FileEntry, Kind, Manifest, content_id
from peer.scan import Scanned, scan
from peer.store import Store
from tracker_raft.errors import LocalError


def tree_of(*paths: str) -> Manifest:
    ordered = sorted(paths, key=str.encode)
    return Manifest(Kind.TREE, PIECE, tuple(FileEntry(p, 0, False, b"") for p in ordered))


# -- names the file system cannot hold ------------------------------------------------------------


def test_a_name_that_is_too_long_there_is_refused_by_name(tmp_path: Path) -> None:
    """Broken if half of a tree is fetched before a name turns out to be impossible."""
    long = "n" * 144
    with pytest.raises(LocalError, match=f"'a/{long}' has a name of 144 bytes, .* holds 143; noth"):
        check_names(tree_of(f"a/{long}"), tmp_path / ".p.part", name_bytes_max=143)
    check_names(tree_of(f"a/{'n' * 143}"), tmp_path / ".p.part", name_bytes_max=143)
    check_names(tree_of(f"a/{'n' * 255}"), tmp_path / ".p.part")


def test_a_path_that_is_too_long_there_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Broken if a path that fits where it was shared fails in the middle where it is fetched."""
    manifest = tree_of("/".join(["d" * 200] * 20))
    with pytest.raises(LocalError, match=r"has 4019 bytes, a path in .* may have \d+; nothing"):
        Store(manifest, content_id(manifest.encode()), tmp_path / "copy")
    assert listing(tmp_path) == []


def test_names_that_differ_in_case_only_are_refused_where_they_are_one(tmp_path: Path) -> None:
    """Broken if one file of a tree silently replaces another."""
    manifest, part = tree_of("docs/README", "docs/readme"), tmp_path / ".p.part"
    with pytest.raises(LocalError, match="'docs/README' and 'docs/readme' are one name"):
        check_names(manifest, part, folds_case=lambda _: True)
    check_names(manifest, part)  # this file system tells them apart
    assert listing(tmp_path) == [], "the probe is gone"
    check_names(tree_of("a", "b"), part, folds_case=lambda _: pytest.fail("not to be asked"))


def test_directories_collide_as_well() -> None:
    """Broken if the files of two directories end up in one."""
    assert case_collision(["Docs/a", "docs/b"]) in (("Docs", "docs"), ("docs", "Docs"))
    assert case_collision(["straße", "STRASSE"]) == ("straße", "STRASSE")
    assert case_collision(["a/b", "a/c", "d"]) is None


# -- replacing what is there ----------------------------------------------------------------------


def stored(scanned: Scanned, copy: Path, **options: object) -> Store:
    store = store_for(scanned, copy, update=True, **options)
    missing = [start for start, _ in store.wanted if not store.has(start)]
    assert missing or scanned.manifest.pieces.count == 0 or store.complete
    fill(store, scanned)
    return store


@pytest.mark.parametrize(
    ("old", "new"),
    [
        *((old, "file") for old in ("file", "link", "nothing")),
        *((old, "tree") for old in ("file", "tree", "link", "nothing")),
    ],
)
def test_anything_can_be_replaced(tmp_path: Path, old: str, new: str) -> None:
    """Broken if an update depends on what was there before, or leaves a part of it."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    make_tree(source)
    scanned = scan(source if new == "tree" else source / "deep/er/large", piece_bytes=PIECE)
    if old == "file":
        copy.write_bytes(b"old")
    elif old == "tree":
        (copy / "sub").mkdir(parents=True)
        (copy / "sub/old").write_bytes(b"old")
    elif old == "link":
        copy.symlink_to("source")
    store = stored(scanned, copy)
    store.finish()
    store.close()
    assert not copy.is_symlink()
    assert scan(copy, piece_bytes=PIECE).manifest == scanned.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]
    assert (source / "run").exists(), "what the link pointed to is untouched"


def test_a_directory_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """Broken: who follows one file with ``-o /srv/models`` loses all that lies there."""
    make_tree(tmp_path / "source")
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "precious").write_bytes(b"precious")
    scanned = scan(tmp_path / "source/deep/er/large", piece_bytes=PIECE)
    with pytest.raises(LocalError, match="copy is a directory and would be replaced by a single"):
        store_for(scanned, copy, update=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "source"]
    assert (copy / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("named", [".", "..", "../../copy"])
def test_the_directory_one_works_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """Broken: ``follow -o .`` deletes what lies where it was typed."""
    (tmp_path / "copy/in").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "copy/in")
    place = Path(os.path.abspath(named))  # noqa: PTH100 - as a destination is made
    with pytest.raises(LocalError, match=f"^{place} is the directory this runs in, or one above"):
        check_destination(place, update=True)
    check_destination(tmp_path / "copy/in/below", update=True)
    (tmp_path / "copy-2").mkdir()
    check_destination(tmp_path / "copy-2", update=True)


def test_an_update_takes_what_is_the_same_from_the_old_content(tmp_path: Path) -> None:
    """Broken if a new version is fetched whole though little of it changed."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    scanned = make_tree(source)
    copy.mkdir()
    (copy / "moved").write_bytes((source / "deep/er/large").read_bytes())
    (copy / "run").symlink_to(source / "run")
    store = store_for(scanned, copy, update=True)
    large = 3 * PIECE + 1
    assert store.bytes_at_start == large, "all of it, and nothing through a link"
    assert (copy / "moved").stat().st_size == large, "the old content is whole until the end"
    store.close()
    assert store.kept is not None
    assert listing(copy) == ["moved", "run"]
    store.discard()


def test_without_update_what_is_there_stays(tmp_path: Path) -> None:
    """Broken if a fetch replaces a file that nobody told it to replace."""
    scanned = make_tree(tmp_path / "source")
    (tmp_path / "copy").write_bytes(b"precious")
    with pytest.raises(LocalError, match="copy exists; nothing was fetched"):
        store_for(scanned, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"precious"


def test_a_file_system_that_cannot_swap_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if directories cannot be updated on such a file system."""

    def unsupported(one: Path, other: Path, flags: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(destination, "_rename", unsupported)
    part, copy = tmp_path / ".copy.part", tmp_path / "copy"
    for path, text in ((part, "new"), (copy, "old")):
        path.mkdir()
        (path / "f").write_text(text)
    assert give_name(part, copy, update=True)
    assert ((copy / "f").read_text(), (part / "f").read_text()) == ("new", "old")
    with pytest.raises(LocalError, match="copy appeared while it was fetched"):
        give_name(part, copy, update=False)
    assert not give_name(part, tmp_path / "other", update=False)
    assert (tmp_path / "other/f").read_text() == "old"


def test_a_swap_that_fails_says_why(tmp_path: Path) -> None:
    """Broken if an update that cannot be is told as done."""
    (tmp_path / "part").mkdir()
    with pytest.raises(FileNotFoundError, match="none"):
        destination._rename(tmp_path / "part", tmp_path / "none", destination.RENAME_EXCHANGE)


# -- a part of a tree -----------------------------------------------------------------------------


def test_only_what_was_chosen_appears(tmp_path: Path) -> None:
    """Broken if a part of a tree comes with files nobody asked for."""
    scanned = make_tree(tmp_path / "source")
    store = store_for(scanned, tmp_path / "copy", include=("deep", "nothing"))
    for start, end in store.wanted:
        for span in scanned.manifest.pieces.spans(start, end - start):
            data = Path(scanned.sources[span.file].path).read_bytes()
            piece = memoryview(data[span.offset : span.offset + span.length])
            assert store.put([span], piece) == 1
    assert not store.complete
    store.finish()
    store.close()
    assert listing(tmp_path / "copy") == ["deep", "deep/er", "deep/er/large", "nothing"]


# -- full and read-only ---------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_disk_that_is_really_full(tiny: Path, tmp_path: Path) -> None:
    """Broken if a full disk stays full of what cannot be completed."""
    (tmp_path / "source").mkdir()
    for name in ("a", "b", "c", "d"):
        (tmp_path / "source" / name).write_bytes(os.urandom(6 * PIECE))
    scanned = scan(tmp_path / "source", piece_bytes=PIECE)
    with pytest.raises(LocalError, match=r"no space for .*393216 bytes, 262144 are free"):
        store_for(scanned, tiny / "copy")
    store = store_for(scanned, tiny / "copy", free=lambda _: 10**9)  # it fills up meanwhile
    with pytest.raises(LocalError, match="copy: No space left on device"):
        fill(store, scanned)
    store.close()
    assert store.kept is None
    assert listing(tiny) == [], "the space is given back"


def test_a_disk_without_a_name_left_is_a_clear_error(tiny: Path, tmp_path: Path) -> None:
    """Broken if a file system that can be read only is found out in the middle."""
    scanned = make_tree(tmp_path / "source")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    with pytest.raises(LocalError, match=r"is not writable; nothing was fetched|Read-only"):
        store_for(scanned, tiny / "copy")
    assert listing(tiny) == []
