"""The first moments of the command line."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

INTERRUPTED_WHILE_IMPORTING = """
import os, signal, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
import p2p_cluster
p2p_cluster.main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_ctrl_c_before_the_words_are_there_shows_no_traceback() -> None:
    """Broken: who thinks better of a command at once is shown where its imports were."""
    done = run("-c", INTERRUPTED_WHILE_IMPORTING)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_the_entry_has_all_words() -> None:
    """Broken: the installed command is another one than ``python -m peer``."""
    entry, module = run("-m", "p2p_cluster", "--help"), run("-m", "peer", "--help")
    assert (entry.returncode, entry.stdout) == (0, module.stdout)
    assert "Usage: p2p-cluster " in entry.stdout
