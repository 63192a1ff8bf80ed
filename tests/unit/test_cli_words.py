"""Words of the command line, as far as no tracker is asked."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from tracker_raft.__main__ import main
from tracker_raft.cli_node import node_config
from tracker_raft.cli_watch import _going_on

PREFIXES = ["", "models/", "two words/", "it's"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_a_stopped_watch_says_goes_on_with_the_same_names(prefix: str) -> None:
    """Broken: who pastes the line is told of names that were not asked for."""
    words = shlex.split(_going_on(prefix, (104, 3)))
    assert words == ["p2p-cluster", "watch", *([prefix] if prefix else []), "--from", "104.3"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("watch", "models/a@v1"), "PREFIX 'models/a@v1' has an '@'"),
        (("watch", "a\nb"), "has control characters"),
        (("watch", "n" * 513), "has 513 bytes, expected 0 to 512"),
        (("watch", "--from", "1.2.3"), "expected an entry of the log"),
        (
            ("transfer-leadership", "--trackers", "127.0.0.1:1", "--data-dir", "nowhere"),
            "--trackers and --data-dir both say which cluster",
        ),
        (("transfer-leadership", "--data-dir", "nowhere"), "it holds no cluster.json"),
        (("up", "1", "--data-dir", ""), "'--data-dir': it is empty; the current directory is '.'"),
        (("status", "--data-dir", ""), "'--data-dir': it is empty"),
        (("node", "--data-dir", ""), "'--data-dir'"),
        (("backup", "b", "--data-dir", ""), "'--data-dir': it is empty"),
        (("node", "--data-dir", "d", "--join", ""), "--join: no address in ''"),
        (("node", "--data-dir", "d", "--join", " , "), "--join: no address in ' , '"),
        (
            (
                "node",
                "--data-dir",
                "d",
                "--listen",
                "127.0.0.1:7000",
                "--member",
                "n1=0.0.0.0:7001",
            ),
            "nobody can reach a tracker at 0.0.0.0:7001: --member n1= wants an address",
        ),
    ],
)
def test_wrong_use_is_told_and_is_status_2(
    words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken: a mistake waits for ever, or one of two contradicting options is ignored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P2P_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("P2P_TRACKERS", "127.0.0.1:1")  # a default: no contradiction
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 2, result.output
    assert says in result.output


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, list(words))
        assert result.exit_code == 1, result.output
        return result.output

    return run


def test_a_watch_that_found_no_tracker_says_how_to_go_on(fails: Callable[..., str]) -> None:
    """Broken: after an outage nobody knows from where on changes were missed."""
    output = fails(
        *("watch", "models/", "--from", "5.1", "--timeout", "0.2", "--trackers", "127.0.0.1:1")
    )
    assert "stopped; to go on: p2p-cluster watch models/ --from 5.1\n" in output
    assert "error: watch: no tracker answered" in output


def test_a_node_without_a_directory_says_so(fails: Callable[..., str], tmp_path: Path) -> None:
    """Broken: a path to a file is told as "File exists", which is no reason."""
    (tmp_path / "file").touch()
    output = fails("node", "--data-dir", "file")
    assert f"data directory {tmp_path / 'file'}: it is not a directory; nothing was" in output


@pytest.mark.parametrize(
    ("listen", "raft_listen", "own", "bind"),
    [
        ("127.0.0.1:7000", None, "127.0.0.1:7001", "127.0.0.1:7001"),
        ("127.0.0.1:7000", "0.0.0.0:7009", "far:7009", "0.0.0.0:7009"),
        ("0.0.0.0:7000", None, "far:7001", "0.0.0.0:7001"),
        ("[::]:7000", "[::1]:7009", "[::1]:7009", "[::1]:7009"),
    ],
)
def test_a_node_alone_says_where_others_reach_it(
    listen: str, raft_listen: str | None, own: str, bind: str, tmp_path: Path
) -> None:
    """Broken: who joins a cluster, or founds one, tells the others to connect to nowhere."""
    config = node_config("n1", tmp_path, listen, raft_listen, (), "far:7000", "c", True)
    assert [(one.node, str(one.raft)) for one in config.members] == [("n1", own)]
    assert str(config.raft_bind) == bind
