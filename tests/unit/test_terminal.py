"""What every word of the command line shares: exit status, JSON, which trackers are meant."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from peer.cli import main
from tracker_raft.cluster.state import Layout, NodePlace
from tracker_raft.config import Address
from tracker_raft.errors import Conflict, NoTracker
from tracker_raft.terminal import (
    Guarded,
    emit_json,
    last_cluster,
    remember_cluster,
    resolve_trackers,
    trackers_option,
)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2P_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("P2P_TRACKERS", raising=False)
    monkeypatch.delenv("P2P_TRACEBACK", raising=False)


def raising(error: BaseException) -> click.Group:
    """A guarded group whose word ``go`` fails with ``error``."""

    @click.group(cls=Guarded)
    def main() -> None: ...

    @main.command()
    def go() -> None:
        raise error

    return main


# -- exit status ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Conflict("name 'a' is bound to other content"), "name 'a' is bound to other content"),
        (Conflict("two\nlines"), "two lines"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a b"), "a b: No such file"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (TimeoutError(), "TimeoutError"),
        (NoTracker("list: no tracker answered: a: b"), "go: no tracker answered: a: b"),
        (NoTracker("publish did not happen: nobody"), "publish did not happen: nobody"),
        (FileNotFoundError(errno.ENOENT, "No such file", "list"), "list: No such file"),
    ],
)
def test_a_failure_is_one_clear_line_and_status_1(error: Exception, line: str) -> None:
    """Broken: a user's mistake is answered by a traceback, or a script takes it for success."""
    result = CliRunner().invoke(raising(error), ["go"])
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"error: {line}\n")


def test_a_traceback_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: whoever looks for the place of a failure cannot see it."""
    monkeypatch.setenv("P2P_TRACEBACK", "1")
    result = CliRunner().invoke(raising(Conflict("taken")), ["go"])
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("error: taken\n")


def test_wrong_use_is_status_2() -> None:
    """Broken: a script cannot tell its own mistake from a failure."""
    assert CliRunner().invoke(raising(Conflict("")), ["nothing"]).exit_code == 2
    assert CliRunner().invoke(raising(click.UsageError("odd")), ["go"]).exit_code == 2


def test_ctrl_c_is_status_130() -> None:
    """Broken: a shell loop goes on although its user pressed Ctrl-C."""
    assert CliRunner().invoke(raising(KeyboardInterrupt()), ["go"]).exit_code == 130


def test_a_defect_of_the_program_is_not_hidden() -> None:
    """Broken: a defect looks like a user's mistake and nobody learns where it is."""
    result = CliRunner().invoke(raising(ZeroDivisionError()), ["go"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_broken_socket_is_not_taken_for_a_closed_terminal() -> None:
    """Broken: a connection that breaks ends the command without a word."""
    error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    result = CliRunner().invoke(raising(error), ["go"])
    assert (result.exit_code, result.stderr) == (1, "error: Broken pipe\n")


PRINTS_FOR_EVER = """
import click
from tracker_raft.terminal import Guarded, emit_json
@click.group(cls=Guarded)
def main(): pass
@main.command()
def go():
    while True: emit_json({"n": 1})
main()
"""


def test_a_reader_that_leaves_is_no_news() -> None:
    """Broken: ``ls --json | head -1`` ends with a traceback on the terminal."""
    with subprocess.Popen(
        [sys.executable, "-c", PRINTS_FOR_EVER, "go"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b'{"n": 1}\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


# -- JSON -----------------------------------------------------------------------------------------


def test_json_is_one_line_in_the_given_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Broken: a script that reads line by line, or a content id in JSON."""
    value = {"z": b"\x00\xff", "a": [Path("/x"), None], "name": "große\nDatei \udc80", "at": 1.5}
    emit_json(value | {"tracker": Address("::1", 7000)})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    read = json.loads(out)
    assert list(read) == ["z", "a", "name", "at", "tracker"]
    assert read["z"] == "00ff"
    assert read["a"] == ["/x", None]
    assert read["name"] == value["name"]
    assert read["tracker"] == "[::1]:7000"


def test_what_has_no_form_in_json_is_refused() -> None:
    """Broken: an object's repr slips into output that scripts read."""
    with pytest.raises(TypeError, match="set has no form in JSON"):
        emit_json({"a": {1}})


# -- which trackers -------------------------------------------------------------------------------


def up(directory: Path, *ports: int) -> Path:
    """A cluster's description with nodes at ``ports``, as if it had been brought up."""
    directory.mkdir()
    nodes = tuple(
        NodePlace(f"n{i}", Address("127.0.0.1", port), Address("127.0.0.1", port + 1))
        for i, port in enumerate(ports, 1)
    )
    Layout("c", "", nodes).save(directory)
    return directory


def test_trackers_come_from_the_option_then_the_environment_then_the_last_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a command talks to another cluster than the one its user named."""
    remember_cluster(up(tmp_path / "old", 7000))
    remember_cluster(up(tmp_path / "new", 8000, 8010))
    assert last_cluster() == tmp_path / "new"
    assert resolve_trackers(None) == ["127.0.0.1:8000", "127.0.0.1:8010"]
    monkeypatch.setenv("P2P_TRACKERS", "10.0.0.1:1, 10.0.0.2:2")
    assert resolve_trackers(None) == ["10.0.0.1:1", "10.0.0.2:2"]
    assert resolve_trackers("[::1]:5,h:6,[::1]:5") == ["[::1]:5", "h:6"]


def test_the_option_reads_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: P2P_TRACKERS is ignored by a command that uses the shared option."""

    @click.command()
    @trackers_option
    def show(trackers: str | None) -> None:
        click.echo(" ".join(resolve_trackers(trackers)))

    monkeypatch.setenv("P2P_TRACKERS", "a:1,b:2")
    assert CliRunner().invoke(show, []).output == "a:1 b:2\n"
    assert CliRunner().invoke(show, ["--trackers", "c:3"]).output == "c:3\n"


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_option_is_wrong_use_and_an_empty_variable_is_none(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: 'rm' with an unset variable of a script removes from another cluster."""
    remember_cluster(up(tmp_path / "c", 7000))
    monkeypatch.setenv("P2P_TRACKERS", "a:1")
    asked = [command for command in main.commands.values() if takes_trackers(command)]
    assert {"ls", "rm", "tag", "get", "share", "status", "remove-node"} <= {c.name for c in asked}
    for command in asked:
        context = click.Context(command)
        with pytest.raises(click.UsageError, match="it is empty; leave it out"):
            command.parse_args(context, ["--trackers", value])
    monkeypatch.setenv("P2P_TRACKERS", value)

    @click.command()
    @trackers_option
    def show(trackers: str | None) -> None:
        click.echo(f"{trackers} {' '.join(resolve_trackers(trackers))}")

    assert CliRunner().invoke(show, []).output == "None 127.0.0.1:7000\n"


def takes_trackers(command: click.Command) -> bool:
    return any(option.name == "trackers" for option in command.params)


@pytest.mark.parametrize("text", ["nonsense", "host:0", "host:70000", "::1:7000", ",", ":5"])
def test_an_address_that_is_none_is_wrong_use(text: str) -> None:
    """Broken: a mistyped address is noticed only as an unreachable tracker, seconds later."""
    with pytest.raises(click.UsageError, match="--trackers"):
        resolve_trackers(text)


def test_without_any_tracker_the_user_learns_what_to_do(tmp_path: Path) -> None:
    """Broken: somebody new is told that something is missing and not what to type."""
    with pytest.raises(click.UsageError, match=r"--trackers .* P2P_TRACKERS.* up 3"):
        resolve_trackers(None)
    remember_cluster(tmp_path / "removed")
    with pytest.raises(click.UsageError, match=r"removed, is gone.* up 3"):
        resolve_trackers(None)


def test_a_memory_that_is_not_readable_counts_as_none(tmp_path: Path) -> None:
    """Broken: a torn file in the user's home makes every command fail."""
    assert last_cluster() is None
    (tmp_path / "state").mkdir()
    for text in ("{", "[]", '{"data_dir": 3}'):
        (tmp_path / "state" / "last.json").write_text(text)
        assert last_cluster() is None


def test_remembering_leaves_no_other_file(tmp_path: Path) -> None:
    """Broken: each cluster brought up leaves a temporary file in the user's home."""
    remember_cluster(tmp_path)
    remember_cluster(tmp_path)
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["last.json"]
