"""The first moments of the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tracker_raft import interrupt

pytestmark = pytest.mark.system

SITE = """
import os, signal, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
"""
"""Python runs it before all else, as ``sitecustomize``: Ctrl-C comes with a certain import."""
PROGRAMS = ("peer", "tracker_raft", "p2p_cluster")
EARLY = ("msgpack", "tracker_raft.config", "tracker_raft.cli")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("at", EARLY)
def test_ctrl_c_before_the_words_are_there_shows_no_traceback(
    program: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: who thinks better of a command at once is shown where its imports were."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("INTERRUPTED_AT", at)
    done = run("-m", program, "--help")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_is_left_alone_where_the_packages_are_not_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a program that uses the library ends at Ctrl-C, whatever it would have done."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("import peer, tracker_raft\n")
    (tmp_path / "theirs" / "__main__.py").write_text(
        "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for words in (("-m", "theirs"), ("-m", "theirs", "-m", "peer"), ("-m", "theirs", "peer")):
        assert run(*words).stdout == "True\n", words


@pytest.mark.parametrize(
    ("started", "argv", "expected"),
    [
        ("python -m peer get x", "-m get x", True),
        ("python -P -X dev -mtracker_raft", "-m", True),
        ("python -m peer", "/x/peer/__main__.py", False),
        ("python -m pytest peer", "-m peer", False),
        ("python -m peer.demo", "-m", False),
        ("python", "", False),
    ],
)
def test_which_program_is_being_imported(started: str, argv: str, expected: bool) -> None:
    """Broken: it is taken for another one by its arguments."""
    assert interrupt.is_program(argv.split(), started.split()) is expected


def test_the_entry_has_all_words() -> None:
    """Broken: the installed command is another one than ``python -m peer``."""
    entry, module = run("-m", "p2p_cluster", "--help"), run("-m", "peer", "--help")
    assert (entry.returncode, entry.stdout) == (0, module.stdout)
    assert "Usage: p2p-cluster " in entry.stdout
