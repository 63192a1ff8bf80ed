"""Ports for a cluster on this machine.

Free ones are chosen below the range from which the kernel takes ports for outgoing connections:
a node that is down must find its port again when it comes back, and the kernel may lend any port
of that range to a client in between.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

from tracker_raft.cluster.state import NodePlace
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, LocalError

HOST = "127.0.0.1"
LOWEST_PORT = 10_000
KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES = 1_000


def places(nodes: int, base_port: int | None = None) -> tuple[NodePlace, ...]:
    """Addresses for nodes n1, n2...; each of their ports could be bound a moment ago.

    With ``base_port`` P node i has P + 2(i-1) for clients and the next one for Raft; otherwise
    free ports are chosen at random. Raises :class:`BadRequest` when P leaves the range of ports,
    :class:`LocalError` naming the ports that are in use.
    """
    if base_port is None:
        ports = _free_ports(2 * nodes)
    else:
        if not 1 <= base_port <= 65536 - 2 * nodes:
            raise BadRequest(
                f"base port {base_port}: {nodes} nodes need {2 * nodes} ports in a row, "
                f"so expected 1 to {65536 - 2 * nodes}"
            )
        ports = list(range(base_port, base_port + 2 * nodes))
    chosen = tuple(
        NodePlace(f"n{i + 1}", Address(HOST, ports[2 * i]), Address(HOST, ports[2 * i + 1]))
        for i in range(nodes)
    )
    require_free(chosen)
    return chosen


def require_free(chosen: tuple[NodePlace, ...]) -> None:
    """Raise :class:`LocalError` naming every address of ``chosen`` that cannot be bound."""
    taken = busy(chosen)
    if taken:
        raise LocalError(
            "; ".join(
                f"port {address.port} on {address.host} cannot be used: {reason}"
                for address, reason in taken
            )
            + "; nothing was started"
        )


def busy(chosen: tuple[NodePlace, ...]) -> list[tuple[Address, str]]:
    """The addresses that cannot be bound now, each with the reason."""
    taken = []
    for address in (address for place in chosen for address in (place.endpoint, place.raft)):
        reason = _obstacle(address)
        if reason is not None:
            taken.append((address, reason))
    return taken


def _obstacle(address: Address) -> str | None:
    """Why a server could not listen at ``address``; None if it could."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As a server does it: connections that linger after a restart are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _free_ports(count: int) -> list[int]:
    try:
        highest = int(KERNEL_RANGE.read_text().split()[0]) - 1
    except (OSError, ValueError, IndexError):
        highest = 32_767
    if highest < LOWEST_PORT + TRIES:
        # The kernel lends from nearly everywhere here; any port is as good as another.
        highest = 65_535
    draw = random.SystemRandom()
    found: list[int] = []
    for _ in range(TRIES):
        port = draw.randint(LOWEST_PORT, highest)
        if port not in found and _obstacle(Address(HOST, port)) is None:
            found.append(port)
        if len(found) == count:
            return found
    raise LocalError(
        f"no {count} free ports on {HOST} from {LOWEST_PORT} to {highest} in {TRIES} tries; "
        f"nothing was started"
    )
