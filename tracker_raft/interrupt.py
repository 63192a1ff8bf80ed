"""Ctrl-C while the program is still being imported: no traceback, and status 130.

``python -m peer`` and ``python -m tracker_raft`` import the whole package, a third of a second,
before the first line of their ``__main__`` runs. So both packages import this module before all
others, and it looks whether one of them is the program. In whatever else imports them Ctrl-C is
not touched. (``p2p-cluster`` begins in a module of its own, ``p2p_cluster``.)
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

PROGRAMS = ("peer", "tracker_raft")
STATUS = 130
"""128 + SIGINT, as shells report it."""


def _end(number: int, frame: object) -> NoReturn:
    os._exit(STATUS)  # raised inside an import it would show a traceback of the import


def is_program(argv: list[str], as_started: list[str]) -> bool:
    """Whether ``python -m`` is looking for one of the programs: ``sys.argv`` begins with ``-m`` as
    long as it does, and ``sys.orig_argv`` has the module's name before the arguments."""
    if argv[:1] != ["-m"] or len(as_started) < len(argv):
        return False
    return as_started[-len(argv)].removeprefix("-m") in PROGRAMS


def as_usual() -> None:
    """All is imported: from here on Ctrl-C is raised where the program is."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Started in the background of a script it may be ignored, and then stays so.
if is_program(sys.argv, sys.orig_argv) and (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end)
