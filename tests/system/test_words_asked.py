"""Words of the command line that ask a tracker that is there: what they say, and how they end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from peer import Peer
from peer.cli import main
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster.up(1) as cluster:
        yield cluster


@pytest.fixture
def trackers(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Their addresses; this user has never run anything."""
    monkeypatch.setenv("P2P_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("P2P_TRACKERS", raising=False)
    monkeypatch.chdir(tmp_path)
    return ",".join(cluster.endpoints)


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def started(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "peer", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_trackers_elsewhere_are_asked_for_their_status(cluster: Cluster, trackers: str) -> None:
    """Broken: the state of a cluster is to be seen on the machine alone that it runs on."""
    result = run("status", "--trackers", f"{trackers},127.0.0.1:1")
    assert result.exit_code == 0, result.output
    assert "leader: n1, elected " in result.stdout
    assert str(cluster.pid("n1")) in result.stdout
    assert "127.0.0.1:1 does not answer: Connection refused\n" in result.stdout


def test_a_name_that_is_taken_says_what_to_type(
    cluster: Cluster, trackers: str, tmp_path: Path
) -> None:
    """Broken: the refusal names what a client library has and the command line has not."""
    for text in ("one", "two"):
        (tmp_path / text).write_text(text)
    with Peer(cluster.endpoints) as peer:
        peer.share(tmp_path / "one", "taken")
    result = run("share", "two", "--name", "taken", "--trackers", trackers)
    assert result.exit_code == 1
    assert result.stderr.endswith("to make it the next version (share --replace)\n")


def test_the_port_of_the_other_trackers_says_so(cluster: Cluster, trackers: str) -> None:
    """Broken: who takes the wrong one of two ports is told of a lost connection, for seconds."""
    place = cluster.layout.nodes[0]
    for word in ("ls", "status"):
        result = run(word, "--trackers", str(place.raft))
        assert result.exit_code == 1
        assert result.stderr == (
            "error: this is the Raft port of tracker n1, where other trackers come; clients are "
            f"served at {place.endpoint}\n"
        )
    assert run("ls", "--trackers", f"{place.raft},{trackers}").exit_code == 0


# -- follow ---------------------------------------------------------------------------------------


def test_who_follows_is_told_what_is_waited_for(
    cluster: Cluster, trackers: str, tmp_path: Path
) -> None:
    """Broken: somebody who mistyped a name looks at nothing and takes it for work."""
    (tmp_path / "source").write_bytes(b"weights")
    with started("follow", "models/f", "-o", str(tmp_path / "copy"), "--trackers", trackers) as one:
        assert one.stderr is not None and one.stdout is not None
        assert one.stderr.readline() == "following models/f; Ctrl-C stops\n"
        assert one.stderr.readline() == "models/f is not published; waiting for it\n"
        with Peer(cluster.endpoints) as peer:
            peer.share(tmp_path / "source", "models/f")
            assert "7 bytes in" in one.stdout.readline()
            assert one.stderr.readline() == "models/f@v1 is here; waiting for the next version\n"
        one.send_signal(signal.SIGINT)
        assert one.communicate(timeout=20)[1] == "stopping\n"
    assert one.returncode == 0


# -- watch ----------------------------------------------------------------------------------------


def test_a_place_that_the_log_has_not_come_to_is_refused(cluster: Cluster, trackers: str) -> None:
    """Broken: who pastes the place of another cluster waits, and is never told what changes."""
    with TrackerClient(cluster.endpoints) as client:
        end = client.list().index
    result = run("watch", "--from", f"{end + 1000}", "--trackers", trackers)
    assert result.exit_code == 1
    assert f"error: --from {end + 1000}.0: the log ends with entry " in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_that_is_stopped_has_done_its_work_and_says_its_place(
    trackers: str, number: signal.Signals
) -> None:
    """Broken: a service that is stopped counts as failed, or a script cannot go on with it."""
    with started("watch", "--json", "--trackers", trackers) as process:
        assert process.stdout is not None
        begun = json.loads(process.stdout.readline())
        process.send_signal(number)
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    told = json.loads(rest)
    assert told.pop("event") == "stopped"
    place = (told["index"], told["position"])
    assert place >= (begun["index"], begun["position"])
    end = f"{place[0]}.{place[1]}"
    with started("watch", "--from", end, "--trackers", trackers) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == f"watching all names from {end}; Ctrl-C stops\n"
        process.send_signal(number)
        assert "to go on: p2p-cluster watch --from " in process.communicate(timeout=20)[1]
    assert process.returncode == 0
