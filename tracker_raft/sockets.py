"""TCP for short messages that must not wait. Linux.

What :func:`prompt` sets, it sets before ``connect`` or ``listen``: a connection that began under
BBR goes on being paced whatever is chosen later.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TypeVar

from tracker_raft.config import Address

Made = TypeVar("Made", bound=asyncio.BaseProtocol)

CONGESTION_CONTROLS = (b"cubic", b"reno")
"""Tried in this order. BBR paces by the rate it has measured, which between two trackers that only
tell each other that they are alive is next to nothing: the first messages of an election then
waited for 50 to 150 ms. Linux lets every user choose reno."""

TCP_RTO_MIN_US = 45
"""Linux 6.16 has it, Python has no name for it yet."""
RTO_MIN_US = 50_000
"""What is lost is sent again after so long, not after the 200 ms that suit a far country; longer
than an acknowledgement may be delayed (40 ms), or every one of those would look like a loss. A link
that was cut for a moment is itself again that much sooner, before the next fault needs it."""


def prompt(endpoint: socket.socket) -> None:
    """Send what is written at once, and soon again what is lost: no Nagle, no pacing.

    Call it before ``connect`` or ``listen``; what is accepted inherits it.
    """
    endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError):  # an older kernel
        endpoint.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MIN_US, RTO_MIN_US)
    for name in CONGESTION_CONTROLS:
        with contextlib.suppress(OSError):  # not on this machine, or not for this user
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            return


async def listen(
    factory: Callable[[], asyncio.BaseProtocol], address: Address, *, backlog: int = 100
) -> asyncio.Server:
    """A server whose connections are prompt. Raises OSError when the port cannot be had."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        factory, address.host, address.port, backlog=backlog, start_serving=False
    )
    for listener in server.sockets:
        prompt(listener)
    await server.start_serving()
    return server


async def connect(factory: Callable[[], Made], address: Address) -> Made:
    """The protocol of a prompt connection. Raises OSError when no address of it answers."""
    loop = asyncio.get_running_loop()
    problem = OSError(f"{address} has no address")
    found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, target in found:
        endpoint = socket.socket(family, kind, protocol)
        try:
            endpoint.setblocking(False)
            prompt(endpoint)
            await loop.sock_connect(endpoint, target)
            _, made = await loop.create_connection(factory, sock=endpoint)
        except OSError as error:
            problem = error
            endpoint.close()
        except BaseException:
            endpoint.close()
            raise
        else:
            return made
    raise problem


def acknowledge_now(connection: socket.socket) -> None:
    """Let the kernel acknowledge what was read at once, and not in some 40 ms.

    A connection that was cut for a moment comes back with room for one segment under way, and
    that stays so while little is said: the second short message then waits until the first one
    is acknowledged.
    """
    with contextlib.suppress(OSError):  # it is being closed
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
