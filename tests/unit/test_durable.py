"""Names that must outlast a power loss: the directory is synced, by all who make or move one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tracker_raft import durable, rescue
from tracker_raft.client import backup
from tracker_raft.raft.storage import Directory

PACKAGE = Path(durable.__file__).parent


def in_storage(place: Path) -> None:
    storage = Directory(place)
    storage.sync_names()
    storage.close()


def of_a_backup(place: Path) -> None:
    (place / "b.part").write_bytes(b"b")
    backup._put_in_place(place / "b.part", place / "b", False)


def before_a_recovery(place: Path) -> None:
    rescue._set_aside(place, "then")


@pytest.mark.parametrize("work", [in_storage, of_a_backup, before_a_recovery])
def test_who_makes_a_name_last_syncs_its_directory(
    work: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: after a power loss a journal, a backup or what was set aside has no name."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    work(tmp_path)
    assert tmp_path.stat().st_ino in synced


def test_one_function_syncs_directories() -> None:
    """Broken: the next one who needs it writes it anew, and forgets half of it."""
    sources = {path.name: path.read_text() for path in PACKAGE.rglob("*.py")}
    both = [name for name, text in sources.items() if "O_DIRECTORY" in text and "fsync" in text]
    assert both == ["durable.py"]


def test_the_handle_is_closed_although_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a disk that fails once and again costs a file handle each time."""

    def fails(handle: int) -> None:
        raise OSError(5, "the disk is broken")

    monkeypatch.setattr(os, "fsync", fails)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="the disk is broken"):
        durable.sync_directory(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
