"""The peer words as a user types them. If a test here fails, a script or a person is misled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_client import FakeClient

from peer import Peer, cli, display, node
from tracker_raft.commands import Level

TRACKERS = ["--trackers", "127.0.0.1:1"]
Run = Callable[..., Result]


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient()
    monkeypatch.setattr(node, "TrackerClient", lambda _: fake)
    monkeypatch.setattr(cli, "TrackerClient", lambda _: contextlib.closing(fake))
    return fake


@pytest.fixture
def run(trackers: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P2P_STATE_DIR", str(tmp_path / "state"))

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(cli.main, [*words, *TRACKERS])

    return invoke


@pytest.fixture
def shared(trackers: FakeClient, tmp_path: Path) -> Iterator[Peer]:
    (tmp_path / "model.bin").write_bytes(b"weights" * 1000)
    with Peer(client=trackers, peer_id="one", zone="rack-1") as peer:
        peer.share(tmp_path / "model.bin", "models/a")
        yield peer


def test_get_writes_the_last_part_of_the_name(run: Run, shared: Peer, tmp_path: Path) -> None:
    """Broken if the main command does not do its job."""
    result = run("get", "models/a")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a").read_bytes() == b"weights" * 1000
    assert "7.0 kB in" in result.stdout
    assert "from 1 peer, verified" in result.stdout


def test_get_tells_a_script_what_it_did(run: Run, shared: Peer, tmp_path: Path) -> None:
    """Broken if --json is not one line of JSON."""
    result = run("get", "models/a", "-o", "copy", "--json", "--durable")
    told = json.loads(result.stdout)
    assert told.pop("seconds") >= 0
    assert told.pop("content") == next(iter(shared._serving.contents)).hex()
    assert told.pop("peer")
    assert told == {
        "event": "done",
        "path": str(tmp_path / "copy"),
        "bytes": 7000,
        "peers": 1,
        "banned": [],
        "taken": {"one": 7000},
        "kept": 0,
        "already_there": False,
    }
    assert result.stderr == ""


def test_a_slash_at_the_end_is_a_directory(run: Run, shared: Peer, tmp_path: Path) -> None:
    """Broken if a file takes the name of the directory that it was to lie in."""
    for _ in ("made", "there"):
        result = run("get", "models/a", "-o", "new/")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "new/a").read_bytes() == b"weights" * 1000
    assert str(tmp_path / "new/a") in result.stdout
    assert run("get", "models/a", "-o", "./").exit_code == 0
    assert (tmp_path / "a").is_file()
    for output, reason in (("a/", "a is not a directory"), ("x/y/", "cannot make x/y: No such")):
        result = run("get", "models/a", "-o", output)
        assert (result.exit_code, reason in result.stderr) == (1, True), result.output


def test_failures_are_one_line_and_status_1(run: Run, shared: Peer, tmp_path: Path) -> None:
    """Broken if a user's mistake shows a traceback, or passes for success."""
    (tmp_path / "a").touch()
    (tmp_path / "other").write_bytes(b"other")
    cases = [
        (("get", "models/a"), "a exists; nothing was fetched"),
        (("get", "nope"), "no file 'nope'"),
        (("get", "00" * 32, "-o", "x", "--timeout", "0.2"), "the trackers know no peer"),
        (("get", "00" * 32), "say where to write it"),
        (("get", "models/a", "-o", "none/x"), "none is not a directory"),
        (("share", "nope"), "nope: No such file"),
        (("rm", "nope"), "no file 'nope'"),
        (("share", "other", "--name", "models/a"), "bound to other content (share --replace)"),
        (("share", "nope", "--each"), "nope: No such file"),
        (("peers", "nope"), "no file 'nope'"),
    ]
    for words, reason in cases:
        result = run(*words)
        assert result.exit_code == 1, (words, result.output)
        assert result.stderr.startswith("error: "), words
        assert reason in result.stderr.replace("\n", " ")
        assert len(result.stderr.splitlines()) == 1
        assert not result.stdout


def test_wrong_use_is_status_2(run: Run, tmp_path: Path) -> None:
    """Broken if a script cannot tell a typing error from a failure."""
    (tmp_path / "f").touch()
    for words in (
        ("get",),
        ("get", "a", "--timeout", "0"),
        ("share", "f", "--listen", "nonsense"),
        ("share", "f", "--name", "a@v1"),
        ("share", "f", "--up", "fast"),
        ("share", "f", "--each"),
        ("share", "f", "--prefix", "p/"),
        ("share", ".", "--each", "--prefix", "a@v1"),
        ("share", ".", "--each", "--name", "a"),
        ("share", ".", "--each", "--copies", "1"),
        ("get", "a", "--include", "..", "-o", "x"),
        ("get", "a", "--seed", "--include", "b"),
        ("share", "f", "--listen", "0.0.0.0:0", "--advertise", "10.0.0.1"),
        ("share", "f", "--listen", "0.0.0.0:0", "--insecure"),
        ("dance",),
        ("ls", "a@v1"),
        ("get", "a", "--timeout", "nan"),
    ):
        assert run(*words).exit_code == 2, words


def test_a_name_that_cannot_be_is_wrong_use(run: Run, tmp_path: Path) -> None:
    """Broken if a script takes a mistyped name for trackers or peers that failed."""
    (tmp_path / "me@host").touch()
    cases = [
        (("share", "me@host", "--name", "a@v1"), "Invalid value for '--name': name 'a@v1'"),
        (("share", "me@host"), "version; give one with --name"),
        (("share", "/"), "name has 0 bytes, expected 1 to 512; give one with --name"),
        (("get", ""), "Invalid value for 'NAME|ID': name has 0 bytes, expected 1 to 512"),
        (("get", "../x"), "'..' segment"),
        (("peers", "a@"), "tag is ''"),
        (("rm", "a@b@v1"), "'@'"),
        (("get", "a", "-o", ""), "'--output': it is empty; the current directory is './'"),
        (("follow", "a", "-o", ""), "'--output': it is empty"),
        (("share", ""), "'PATH': it is empty"),
    ]
    for words, reason in cases:
        result = run(*words)
        assert (result.exit_code, result.stdout) == (2, ""), (words, result.output)
        assert reason in " ".join(result.stderr.split()), words


def test_ls_peers_and_rm(run: Run, shared: Peer) -> None:
    """Broken if what is published cannot be seen or removed."""
    assert run("ls").stdout.splitlines()[1].split()[:3] == ["models/a", "v1", "7.0"]
    assert json.loads(run("ls", "models/", "--json").stdout)[0]["size"] == 7000
    assert json.loads(run("ls", "other", "--json").stdout) == []
    row = run("peers", "models/a").stdout.splitlines()[1].split()
    assert row == ["one", str(shared.address), "all", "rack-1"]
    content = next(iter(shared._serving.contents)).hex()
    told = json.loads(run("peers", content, "--json").stdout)
    assert (told["content"], told["total"], told["peers"][0]["peer"]) == (content, 1, "one")
    assert run("rm", "models/a").stdout.startswith("removed models/a@v1  ")
    assert run("ls").stdout.splitlines() == ["name  version  size  content"]


def test_ls_and_peers_ask_at_the_level_wanted(run: Run, shared: Peer, trackers: FakeClient) -> None:
    """Broken: nobody can look at a cluster that has lost its majority."""
    for word, calls in (("ls", 1), ("peers", 2)):
        for options, level in (((), Level.LINEARIZABLE), (("--level", "local"), Level.LOCAL)):
            trackers.levels.clear()
            assert run(word, "models/a", *options).exit_code == 0
            assert trackers.levels == [level] * calls
    assert run("ls", "--level", "session").exit_code == 2, "one call has no session to continue"


@pytest.mark.parametrize("word", ["share", "get", "follow", "ls", "peers", "rm", "downloads"])
def test_help_shows_an_example(word: str) -> None:
    """Broken if --help leaves a beginner alone."""
    result = CliRunner().invoke(cli.main, [word, "--help"])
    assert result.exit_code == 0
    assert f"p2p-cluster {word} " in result.output.partition("Example")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_share_serves_until_it_is_stopped(tmp_path: Path, number: int) -> None:
    """Broken if share ends early, cannot be stopped, or stops with an error or a traceback."""
    (tmp_path / "f").write_bytes(b"x")
    here = Path(__file__).parent
    code = (
        "import sys; from peer import cli, node; from fake_client import FakeClient;"
        "node.TrackerClient = lambda _: FakeClient();"
        "cli.main(['share', 'f', '--name', 'n', '--json', '--trackers', '127.0.0.1:1'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}"},
    )
    with process:
        killer = threading.Timer(20, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            assert (told["name"], told["size"], told["path"]) == ("n", 1, "f")
            process.send_signal(number)
            stdout, stderr = process.communicate()
        finally:
            killer.cancel()
            process.kill()
    assert (process.returncode, stdout, stderr) == (0, "", "")


def test_progress_without_a_terminal_is_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a log file gets thousands of lines, or none."""
    now_s = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now_s[0])
    with display.progress("models/a") as update:
        for step in range(50):
            now_s[0] = step / 10
            update(step * 1_000_000, 50_000_000 if step > 25 else 0, "1 peer")
    assert capsys.readouterr().err.splitlines() == [
        "models/a: 20.0 MB, 1 peer",
        "models/a: 40.0 MB of 50.0 MB, 1 peer",
    ]


def test_sizes_are_for_people() -> None:
    """Broken if 999 bytes are shown as 1.0 kB, or terabytes as a row of digits."""
    sizes = [0, 1, 999, 1000, 1_536_000, 2 * 10**12, 5 * 10**18]
    expected = ["0 bytes", "1 byte", "999 bytes", "1.0 kB", "1.5 MB", "2.0 TB", "5000.0 PB"]
    assert [display.size(size) for size in sizes] == expected
