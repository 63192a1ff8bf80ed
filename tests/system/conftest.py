"""A place of its own for every test of the command line, and nothing left when it ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import processes_naming

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As if this user had never run anything: own memory, own data, own temporary files.

    When the test ends no process may run that was started in it. Their command lines name a
    directory, and every directory is below ``tmp_path``.
    """
    for name in ("state", "data", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("P2P_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("P2P_TRACKERS", raising=False)
    yield tmp_path
    left = processes_naming(tmp_path)
    for process in left:
        process.kill()
    assert not left, f"left behind: {left}"
    assert list((tmp_path / "tmp").iterdir()) == [], "temporary files left behind"


@pytest.fixture
def p2p(own_machine: Path) -> Command:
    """Run the cluster words with arguments, as a user would, and return what came of it."""

    def run(*arguments: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tracker_raft", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    return run
