"""A network of its own for a benchmark: loopback alone, with one congestion control for all.

Not every rival can choose its congestion control, and where the system's default is bbr it paces
loopback. So the benchmark goes into a network namespace whose default is the one our peers choose
there: everybody then has the same, and no traffic leaves.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
CHOSEN = "cubic"
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def own_network() -> str:
    """Move this thread, and what it starts from now on, into a network namespace; how it went.

    Call it first, while there is one thread. Without the right to do so all stays as it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        return f"the machine's own, {_default()}: {os.strerror(ctypes.get_errno())}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    try:
        CONGESTION.write_text(CHOSEN, encoding="ascii")
    except OSError as error:
        return f"a namespace of its own, {_default()}: {error.strerror}"
    return f"a namespace of its own, {_default()}"


def _default() -> str:
    return CONGESTION.read_text(encoding="ascii").strip()
