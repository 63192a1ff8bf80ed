"""Operations on the swarm: who serves which content (D4). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tracker_raft.commands.fields import (
    INTEGER_MAX,
    LABEL_BYTES_MAX,
    check_bool,
    check_content,
    check_int,
    check_peer,
    check_text,
)
from tracker_raft.commands.operation import Operation
from tracker_raft.config import Address, MachineLimits

_LIMITS = MachineLimits()


@dataclass(frozen=True, slots=True)
class Join(Operation):
    """Say that ``peer`` serves ``content`` at ``address``; opens or renews the peer's lease.

    Reply: ``{"lease_ms": int}``, the time the lease now has. A content may be joined before it
    is published. Joining again updates address, zone and ``complete`` (never back to false).
    """

    op: ClassVar[str] = "join"
    peer: str
    address: str
    content: bytes
    complete: bool = False
    zone: str = ""
    lease_ms: int = 60_000

    def __post_init__(self) -> None:
        check_peer(self.peer)
        check_text("address", self.address, 262, empty=False)
        Address.parse(self.address)
        check_content("content", self.content)
        check_bool("complete", self.complete)
        check_text("zone", self.zone, LABEL_BYTES_MAX)
        check_int("lease_ms", self.lease_ms, _LIMITS.lease_ttl_min_ms, _LIMITS.lease_ttl_max_ms)


@dataclass(frozen=True, slots=True)
class Complete(Operation):
    """Say that ``peer`` now has all of ``content``. Reply: ``{}``; ``not_found`` without a join."""

    op: ClassVar[str] = "complete"
    peer: str
    content: bytes

    def __post_init__(self) -> None:
        check_peer(self.peer)
        check_content("content", self.content)


@dataclass(frozen=True, slots=True)
class Leave(Operation):
    """Take ``peer`` out of the swarm of ``content``, or of all its swarms when it is empty.

    Reply: ``{"left": int}``, how many swarms; leaving what was not joined is 0, no error. The
    lease ends with the last content.
    """

    op: ClassVar[str] = "leave"
    peer: str
    content: bytes = b""

    def __post_init__(self) -> None:
        check_peer(self.peer)
        if self.content != b"":
            check_content("content", self.content)


@dataclass(frozen=True, slots=True)
class Renew(Operation):
    """Keep the lease of ``peer``. Reply: ``{"lease_ms": int}``; ``not_found``: join again.

    Not a log operation by itself: see :data:`~tracker_raft.commands.RENEW_MANY`.
    """

    op: ClassVar[str] = "renew"
    peer: str

    def __post_init__(self) -> None:
        check_peer(self.peer)


@dataclass(frozen=True, slots=True)
class Peers(Operation):
    """Who serves ``content``: complete peers first, then partial ones, each in peer order.

    Reply: ``{"peers": [PeerRecord...], "total": int}``; an unknown content has none. ``skip``
    rotates the window so that callers with different numbers meet different peers.
    """

    op: ClassVar[str] = "peers"
    content: bytes
    limit: int = 50
    skip: int = 0

    def __post_init__(self) -> None:
        check_content("content", self.content)
        check_int("limit", self.limit, 1, 200)
        check_int("skip", self.skip, 0, INTEGER_MAX)
