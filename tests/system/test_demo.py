"""The word ``demo``: the whole story, with real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from processes import processes_naming, wait_until

from peer import demo

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

MIB = 1024 * 1024


def run_demo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "peer", "demo", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def check(report: dict[str, Any]) -> None:
    """What must hold of every demonstration in which all was right."""
    assert report["ok"] is True, report
    assert report["problems"] == []
    assert [peer["equal"] for peer in report["peers"]] == [True] * 3
    assert report["new_leader"] != report["leader_killed"]
    assert report["failover_ms"] > 0
    assert report["from_seeder"] + report["from_peers"] >= 3 * report["bytes"]
    assert report["from_seeder"] >= report["bytes"]
    assert report["writes_acknowledged"] > 1
    assert report["writes_lost"] == 0


def test_a_file_reaches_every_peer_while_the_leader_is_killed(tmp_path: Path) -> None:
    """Broken: the first thing that a stranger runs."""
    file = tmp_path / "große Datei.bin"
    file.write_bytes(os.urandom(64 * MIB))
    done = run_demo("--file", file, "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    check(report)
    assert report["bytes"] == 64 * MIB
    moments = [event["s"] for event in report["timeline"]]
    assert len(moments) >= 10


@pytest.mark.slow
def test_without_a_file_it_moves_random_bytes_in_under_a_minute() -> None:
    """Broken: the demonstration as the README shows it."""
    done = run_demo("--json")
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    check(report)
    assert report["bytes"] == 256 * MIB
    assert report["mid_transfer"] is True
    assert report["seconds"] < 60


def test_what_is_too_small_to_be_caught_in_the_middle_is_told_so(tmp_path: Path) -> None:
    """Broken: the timeline claims a kill in the middle of a transfer that was over."""
    (tmp_path / "empty").touch()
    done = run_demo("--file", tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    assert "no transfer was long enough to be caught in its middle" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("all is right (")


def test_a_copy_that_differs_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the demonstration is satisfied with whatever arrived."""
    (tmp_path / "file").write_text("content")
    genuine = demo._sha256
    monkeypatch.setattr(
        demo, "_sha256", lambda path: "other" if path.name == "copy-2" else genuine(path)
    )
    done = CliRunner().invoke(demo.demo, ["--file", str(tmp_path / "file"), "--json"])
    report = json.loads(done.stdout)
    assert (done.exit_code, report["ok"]) == (1, False)
    assert report["problems"] == ["peer-2: the copy has another SHA-256"]
    assert [peer["equal"] for peer in report["peers"]] == [True, False, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_when_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """Broken: Ctrl-C leaves trackers, peers or a gigabyte of copies behind."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(64 * MIB))
    command = [sys.executable, "-m", "peer", "demo", "--file", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("3 peers fetch it" in line for line in process.stdout)
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), rest
    wait_until(lambda: not processes_naming(tmp_path), "trackers and peers have ended")
    if number == signal.SIGKILL:  # nobody was left to remove it
        for left in (tmp_path / "tmp").iterdir():
            shutil.rmtree(left)


def test_without_room_for_the_copies_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the demonstration fills the disk of whoever tries it."""
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(demo.shutil, "disk_usage", lambda path: usage(3 * MIB - 1))
    (tmp_path / "file").write_bytes(bytes(MIB))
    done = CliRunner().invoke(demo.demo, ["--file", str(tmp_path / "file")])
    assert "3 copies of 1.0 MB need 3.1 MB" in str(done.exception)
    assert "nothing was started" in str(done.exception)


def test_a_file_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    """Broken: a typing error starts a cluster before it is noticed."""
    for path, reason in ((tmp_path / "missing", "no such file"), (tmp_path, "not a regular file")):
        done = CliRunner().invoke(demo.demo, ["--file", str(path)])
        assert done.exit_code == 2
        assert f"--file {path}: {reason}" in " ".join(done.stderr.split())
