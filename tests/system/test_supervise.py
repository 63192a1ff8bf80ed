"""``up --supervise`` and logs for machines: real trackers that end and come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tracker_raft import Cluster, TrackerClient

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("own_machine")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def event(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    """The next event of that kind; the output must not end before."""
    assert process.stdout is not None
    for line in process.stdout:
        told: dict[str, Any] = json.loads(line)
        if told.get("event") == kind:
            return told
    raise AssertionError(f"the output ended without {kind!r}")


def test_whatever_ends_comes_back_until_down(p2p: Command, tmp_path: Path) -> None:
    """Broken: a supervised tracker stays dead, or one that was brought down comes back."""
    command = [sys.executable, "-m", "tracker_raft", "up", "3", "--supervise", "--json"]
    command += ["--data-dir", str(tmp_path / "c"), "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            pids = {row["id"]: row["pid"] for row in json.loads(process.stdout.readline())["nodes"]}
            for number in (signal.SIGKILL, signal.SIGTERM):
                os.kill(pids["n2"], number)
                assert event(process, "node_lost")["node"] == "n2"
                told = event(process, "node_restarted")
                assert told["node"] == "n2" and "is started again (attempt " in told["text"]
                assert event(process, "node_back")["node"] == "n2"
                again = Cluster.attach(tmp_path / "c").pid("n2")
                assert again is not None and again != pids["n2"]
                pids["n2"] = again
            assert p2p("down", "--data-dir", tmp_path / "c").returncode == 0
            assert event(process, "stopped")
            assert process.wait(10) == 0
        finally:
            process.kill()
    for node in ("n1", "n2", "n3"):
        lines = (tmp_path / "c" / f"{node}.log").read_text().splitlines()
        assert {json.loads(line)["node"] for line in lines} == {node}


def test_a_restarted_node_speaks_as_before(p2p: Command, tmp_path: Path) -> None:
    """Broken: a log collector that reads JSON meets lines for people after a restart."""
    up = ("up", 1, "--detach", "--data-dir", tmp_path / "c", "--log-format")
    for form in ("json", "text"):
        assert p2p(*up, form).returncode == 0
        log = tmp_path / "c" / "n1.log"
        before = log.stat().st_size
        assert p2p("restart", "n1").returncode == 0
        assert p2p("down").returncode == 0
        fresh = log.read_bytes()[before:].splitlines()
        assert fresh and {line.startswith(b"{") for line in fresh} == {form == "json"}


def test_a_tracker_that_cannot_start_says_why_in_its_log_format(
    p2p: Command, tmp_path: Path
) -> None:
    """Broken: the most important line of all is the one that the log collector cannot read."""
    (tmp_path / "n").mkdir()
    (tmp_path / "n" / "log-000000000001").write_bytes(b"no journal at all")
    done = p2p("node", "--data-dir", tmp_path / "n", "--log-format", "json")
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["level"], last["node"]) == ("critical", "n1")
    assert "does not begin like a journal" in last["message"]


def test_a_request_is_found_by_its_ids(tmp_path: Path) -> None:
    """Broken: what a client asked cannot be found in the logs of the trackers."""
    with Cluster.up(1, data_dir=tmp_path / "c", log_level="debug", log_format="json") as cluster:
        with TrackerClient(cluster.endpoints) as client:
            fields: dict[str, Any] = {"size": 1, "manifest_bytes": 100, "piece_bytes": 524288}
            client.publish("f", content=b"c" * 32, **fields)
        lines = [json.loads(line) for line in cluster.log_path("n1").read_text().splitlines()]
    asked = [line for line in lines if line.get("op") == "publish"]
    assert len(asked) == 1
    assert (asked[0]["session"], asked[0]["seq"]) == (1, 1)
    assert asked[0]["client"] and asked[0]["request"]


def test_supervise_needs_somebody_who_stays(p2p: Command, tmp_path: Path) -> None:
    """Broken: a detached cluster is believed to be supervised by nobody."""
    done = p2p("up", 1, "--detach", "--supervise", "--data-dir", tmp_path / "c")
    assert (done.returncode, "not with --detach" in done.stderr) == (2, True)
    assert not (tmp_path / "c").exists()
