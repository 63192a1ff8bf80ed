"""TCP for short messages that must not wait. Linux."""

from __future__ import annotations

import contextlib
import socket

CONGESTION_CONTROLS = (b"cubic", b"reno")
"""Tried in this order. BBR paces by the rate it has measured, which between two trackers that only
tell each other that they are alive is next to nothing: the first messages of an election then
waited for 100 to 150 ms. Linux lets every user choose reno."""


def prompt(connection: socket.socket) -> None:
    """Send what is written at once: no Nagle, no pacing."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name in CONGESTION_CONTROLS:
        with contextlib.suppress(OSError):  # not on this machine, or not for this user
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            return


def acknowledge_now(connection: socket.socket) -> None:
    """Let the kernel acknowledge what was read at once, and not in some 40 ms.

    A connection that was cut for a moment comes back with room for one segment under way, and
    that stays so while little is said: the second short message then waits until the first one
    is acknowledged.
    """
    with contextlib.suppress(OSError):  # it is being closed
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
