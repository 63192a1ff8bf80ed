"""Places where a test may have this process killed, to prove that a fetch survives it there.

``P2P_FAILPOINT=NAME`` kills the process with SIGKILL the first time it comes to NAME,
``NAME:7`` the seventh time. Without it a place costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Final

ENVIRONMENT: Final = "P2P_FAILPOINT"

NAMES: Final = (
    "partial.made",  # the partial has its directories, nothing is in it
    "resume.adopted",  # a piece of the old destination was copied into the partial
    "resume.checked",  # what is there already was hashed
    "piece.verified",  # right, and not written
    "file.made",  # a large file has its size, and none of this piece
    "piece.half",  # half of a piece is written
    "piece.written",  # written, and nobody was told
    "piece.told",  # counted as verified
    "finish.begun",  # every piece is there
    "finish.links",  # empty files and links were made
    "finish.synced",
    "finish.moved",  # the content has its final name
    "finish.cleared",  # what it replaced is gone
)

_lock = threading.Lock()
_name, _, _count = os.environ.get(ENVIRONMENT, "").partition(":")
_left = int(_count or 1)
if _name and _name not in NAMES:
    raise ValueError(f"{ENVIRONMENT}={_name}: expected one of {', '.join(NAMES)}")
ARMED: Final = bool(_name)
"""Whether this process is to be killed anywhere."""


def reach(name: str) -> None:
    """This is the place ``name``; does not return when it is the one asked for."""
    if name == _name and due(name):
        die()


def die() -> None:
    """Nothing runs after this: no handler, no ``finally``, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def due(name: str) -> bool:
    """Whether the process is to be killed at ``name`` this time; the caller may prepare it."""
    global _left
    if name != _name:
        return False
    with _lock:
        _left -= 1
        return _left == 0
