"""``share``, ``get`` and ``downloads`` as processes, over a real tracker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from tracker_raft.cluster import Cluster

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

MIB = 1024 * 1024


@pytest.fixture
def trackers(own_machine: Path) -> Iterator[str]:
    with Cluster.up(1, data_dir=own_machine / "trackers") as cluster:
        yield ",".join(cluster.endpoints)


@contextmanager
def word(trackers: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "peer", *map(str, arguments), "--trackers", trackers]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    value = json.loads(process.stdout.readline())
    assert isinstance(value, dict)
    return value


def downloads() -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "peer", "downloads", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, list)
    return value


def test_a_stopped_get_is_seen_and_gone_on_with(trackers: str, tmp_path: Path) -> None:
    """Broken: Ctrl-C throws away what came, or a script cannot follow a download."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(16 * MIB))
    with word(trackers, "share", source, "--name", "n", "--json") as share:
        assert line(share)["name"] == "n"
        with word(trackers, "get", "n", "-o", copy, "--json", "--down", "4M") as get:
            moment = line(get)
            while not moment["bytes_done"]:
                moment = line(get)
            assert moment["event"] == "progress"
            assert moment["bytes_total"] == 16 * MIB
            (seen,) = downloads()
            assert (seen["name"], seen["path"], seen["pid"]) == ("n", str(copy), get.pid)
            get.send_signal(signal.SIGINT)
            _, said = get.communicate()
            assert get.returncode == 130
            assert "verified pieces are kept in .copy." in said
        assert downloads() == []
        assert not copy.exists()
        with word(trackers, "get", "n", "-o", copy, "--json") as get:
            told = line(get)
            while told["event"] == "progress":
                told = line(get)
            assert get.wait(10) == 0
        assert told["kept"] >= moment["bytes_done"] > 0
        assert sum(told["taken"].values()) == 16 * MIB - told["kept"]
    assert copy.read_bytes() == source.read_bytes()


def test_a_share_ends_when_a_copy_is_served_elsewhere(trackers: str, tmp_path: Path) -> None:
    """Broken: a file handed over to the swarm needs its first peer for ever."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(MIB))
    with word(trackers, "share", source, "--name", "n", "--copies", 1, "--json") as share:
        line(share)
        with word(trackers, "get", "n", "-o", copy, "--seed", "--json") as get:
            assert line(get)["event"] == "done"
            assert line(share) == {"event": "copied", "copies": 1}
            assert share.wait(10) == 0
            wait_until(lambda: downloads()[0]["state"] == "seeding", "it is seen to seed")
            with word(trackers, "get", "n", "-o", tmp_path / "third", "--json") as third:
                assert list(line(third)["taken"].values()) == [MIB]
            get.send_signal(signal.SIGTERM)
            assert get.wait(10) == 0


def test_each_file_of_a_directory_gets_a_name(trackers: str, tmp_path: Path) -> None:
    """Broken: many files can be published at once from Python only."""
    place, copy = tmp_path / "d", tmp_path / "copy"
    (place / "x").mkdir(parents=True)
    names = ("models/1", "models/2", "models/x/3")
    for name in names:
        (place / name.removeprefix("models/")).write_text(name)
    words = ("share", place, "--each", "--prefix", "models/")
    with word(trackers, *words, "--json") as share:
        told = [line(share) for _ in names]
        assert [one["name"] for one in told] == list(names)
        assert [one["path"] for one in told] == [str(place / name[7:]) for name in names]
        with word(trackers, "get", "models/x/3", "-o", copy) as get:
            assert get.wait(20) == 0
        assert copy.read_text() == "models/x/3"
        share.send_signal(signal.SIGINT)
        assert share.wait(10) == 0
    (place / "2").write_text("other")
    with word(trackers, *words) as refused:
        _, said = refused.communicate(timeout=20)
    assert refused.returncode == 1
    assert "file 1 of 3: 'models/2' is bound to content" in said
    assert "(share --replace)" in said
    with word(trackers, *words, "--replace") as share:
        assert share.stdout is not None
        shown = [share.stdout.readline().split()[0] for _ in names]
        assert shown == ["models/1@v1", "models/2@v2", "models/x/3@v1"]


def test_a_share_whose_file_changes_ends_with_an_error(trackers: str, tmp_path: Path) -> None:
    """Broken: a share goes on that serves nothing, and nobody knows."""
    source = tmp_path / "source"
    source.write_bytes(bytes(MIB))
    with word(trackers, "share", source, "--name", "n", "--json") as share:
        line(share)
        source.write_bytes(b"other")
        _, said = share.communicate(timeout=10)
    assert share.returncode == 1
    assert said.startswith(f"error: it is not served any more: {source} changed: it has 5 bytes")
    assert len(said.splitlines()) == 1
