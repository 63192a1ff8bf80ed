"""Backup files: read as a whole or not at all, and never restored over anything."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from machine_driver import Driver, publish

from tracker_raft.backup_format import BackupHead
from tracker_raft.commands import Lookup
from tracker_raft.errors import BadRequest, Damaged, LocalError, Unsupported
from tracker_raft.raft import snapshots
from tracker_raft.raft.storage import Directory
from tracker_raft.restore import read_backup, restore_cluster, restore_node


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    for number in range(30):
        driver.ok(publish(f"models/{number}", f"{number}"))
    return driver


@pytest.fixture
def backup(driver: Driver, tmp_path: Path) -> Path:
    place = tmp_path / "node"
    place.mkdir()
    storage = Directory(place)
    made = snapshots.write(storage, driver.machine, "old", 3)
    storage.close()
    head = BackupHead("old", "n2", "2026-01-01T00:00:00+00:00", made.index, 3, made.size)
    data = head.pack() + (place / snapshots.NAME).read_bytes()
    path = tmp_path / "a.backup"
    path.write_bytes(data + hashlib.sha256(data).digest())
    return path


def test_a_backup_is_the_state(backup: Path, driver: Driver) -> None:
    """Broken: what was backed up is not what is restored."""
    head, machine = read_backup(backup)
    assert (head.cluster, head.node, head.index, head.term) == ("old", "n2", 31, 3)
    assert machine.state_hash == driver.machine.state_hash


def test_any_flipped_bit_is_found_and_changes_nothing(backup: Path, tmp_path: Path) -> None:
    """Broken: a damaged backup makes a cluster with damaged files."""
    data = backup.read_bytes()
    places = sorted({*range(0, 130, 7), *range(130, len(data), 97), len(data) - 1, len(data) - 40})
    for place in places:
        spoiled = bytearray(data)
        spoiled[place] ^= 0x10
        backup.write_bytes(spoiled)
        with pytest.raises((Damaged, Unsupported), match=r"backup .*a\.backup: "):
            restore_cluster(backup, tmp_path / "new", 1)
        assert not (tmp_path / "new").exists(), place


@pytest.mark.parametrize("kept", [0, 5, 60, 500, -40, -1])
def test_a_backup_that_was_cut_short_is_refused(backup: Path, tmp_path: Path, kept: int) -> None:
    """Broken: half a backup, left by a full disk, is taken for a whole one."""
    backup.write_bytes(backup.read_bytes()[:kept])
    (tmp_path / "new").mkdir()
    with pytest.raises(Damaged):
        restore_node(backup, tmp_path / "new", "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_bytes_behind_the_end_are_refused(backup: Path, tmp_path: Path) -> None:
    """Broken: two backups written into one file are taken for one."""
    backup.write_bytes(backup.read_bytes() * 2)
    with pytest.raises(Damaged, match="bytes, expected"):
        restore_node(backup, tmp_path / "new", "new")


def test_nothing_is_restored_over_what_is_there(backup: Path, tmp_path: Path) -> None:
    """Broken: a restore into the wrong directory destroys another cluster."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("words")
    for restore in (
        lambda: restore_cluster(backup, full, 3),
        lambda: restore_node(backup, full, "new"),
        lambda: restore_node(backup, full / "thesis.tex", "new"),
    ):
        with pytest.raises(LocalError, match="nothing was done"):
            restore()
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]
    restore_cluster(backup, tmp_path / "new", 1)
    with pytest.raises(LocalError, match=r"holds 'cluster\.json'"):
        restore_cluster(backup, tmp_path / "new", 1)


def test_the_new_cluster_is_another_one(backup: Path, tmp_path: Path) -> None:
    """Broken: members of the old cluster take part in the restored one."""
    with pytest.raises(BadRequest, match="cannot be called 'old'"):
        restore_node(backup, tmp_path / "new", "old")
    assert not (tmp_path / "new").exists()
    names = {restore_cluster(backup, tmp_path / f"{number}", 1).cluster for number in range(3)}
    assert len(names) == 3 and "old" not in names


def test_members_made_apart_are_equal(backup: Path, tmp_path: Path) -> None:
    """Broken: members restored on machines of their own begin with different states."""
    for name in ("n1", "n2"):
        restore_node(backup, tmp_path / name, "new")
    files = [(tmp_path / name / snapshots.NAME).read_bytes() for name in ("n1", "n2")]
    assert files[0] == files[1]
    found = snapshots.load(Directory(tmp_path / "n1"), "new")
    assert found is not None
    assert found[1].query(Lookup("models/7"))["files"][0]["version"] == 1
