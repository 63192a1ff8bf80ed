"""What runs on a host. If a test here fails, ``downloads`` shows what is not, or hides what is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from peer import downloads
from peer.downloads import StatusFile, running
from peer.progress import Progress


def test_a_download_is_seen_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if nobody can see how far a download in another terminal is."""
    now_s = [0.0]
    monkeypatch.setattr(downloads.time, "monotonic", lambda: now_s[0])
    directory = tmp_path / "state/downloads"
    assert running(directory) == []
    with StatusFile(directory, "models/a", "here/a") as status:
        (found,) = running(directory)
        assert (found.name, found.path, found.state) == ("models/a", "here/a", "fetching")
        assert found.pid == os.getpid()
        status.update(Progress(1, 10, 2, 3.0))
        assert running(directory)[0].bytes_done == 0, "written twice a second, not at each step"
        now_s[0] += downloads.INTERVAL_S
        status.update(Progress(5, 10, 2, 3.0))
        (found,) = running(directory)
        assert (found.bytes_done, found.bytes_total, found.peers) == (5, 10, 2)
        status.seeding()
        assert running(directory)[0].state == "seeding"
    assert running(directory) == []
    assert list(directory.iterdir()) == []


def test_what_the_dead_left_is_not_shown_and_is_cleaned(tmp_path: Path) -> None:
    """Broken if a killed download runs for ever, or another process is taken for it."""
    with StatusFile(tmp_path, "alive", "a"):
        (mine,) = tmp_path.iterdir()
        value = json.loads(mine.read_text())
        gone = next(pid for pid in range(2**22 - 1, 0, -1) if not psutil.pid_exists(pid))
        for name, changes in (
            ("1-1", {"pid": gone}),
            ("2-1", {"born_s": value["born_s"] - 100}),
            ("3-1", {"pid": "x"}),
            ("4-1", {"other": 1}),
        ):
            (tmp_path / f"{name}.json").write_text(json.dumps({**value, **changes}))
        (tmp_path / "5-1.json").write_text("{")
        (tmp_path / "1-1.new").write_text("")
        assert [status.name for status in running(tmp_path)] == ["alive"]
        assert list(tmp_path.iterdir()) == [mine]


def test_a_state_directory_that_cannot_be_costs_nothing(tmp_path: Path) -> None:
    """Broken if a download fails because its progress cannot be noted."""
    (tmp_path / "file").touch()
    with StatusFile(tmp_path / "file/downloads", "a", "b") as status:
        status.update(Progress(1, 2, 3, 4.0))
        status.seeding()
