"""TCP for short messages that must not wait."""

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
