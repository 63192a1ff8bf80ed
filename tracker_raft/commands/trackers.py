"""Operations on the trackers themselves: how one is, who leads, what it keeps. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tracker_raft.commands.fields import (
    INTEGER_MAX,
    check_bool,
    check_content,
    check_int,
    check_text,
)
from tracker_raft.commands.operation import Operation
from tracker_raft.config import NODE_ID, Address
from tracker_raft.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Status(Operation):
    """What this tracker is doing. Reply: see ``docs/protocol.md``."""

    op: ClassVar[str] = "status"


@dataclass(frozen=True, slots=True)
class Ping(Operation):
    """Is anybody there? Reply: ``{}``, at once, whatever else is under way."""

    op: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True)
class TransferLeadership(Operation):
    """To the leader: let ``to`` lead (None: whoever is most up to date). Reply: ``{"leader": id}``
    once that one leads; ``no_leader`` from another tracker, ``unavailable`` when it did not work.
    """

    op: ClassVar[str] = "transfer_leadership"
    to: str | None = None

    def __post_init__(self) -> None:
        if self.to is not None and not NODE_ID.fullmatch(check_text("to", self.to, 63)):
            raise BadRequest(f"to is {self.to!r}, expected a node id")


@dataclass(frozen=True, slots=True)
class AddNode(Operation):
    """To the leader: let a node that waits to join (``node --join``) learn, and vote once it has
    caught up. Reply: ``{"node", "incarnation", "index"}`` once that is logged, also when it was
    before. ``birth``, ``raft`` and ``endpoint`` are what the node's ``status`` says."""

    op: ClassVar[str] = "add_node"
    node: str
    birth: str
    raft: str
    endpoint: str

    def __post_init__(self) -> None:
        _check_node(self.node)
        if not check_text("birth", self.birth, 64):
            raise BadRequest("birth is empty; the node's status says it")
        for text in (self.raft, self.endpoint):
            Address.parse(text)


@dataclass(frozen=True, slots=True)
class RemoveNode(Operation):
    """To the leader: make ``node`` no member any more. Reply: ``{"node", "incarnation", "index"}``
    once that is committed, also when it was before. A leader that is to remove itself hands over
    and answers ``no_leader``: ask the new one."""

    op: ClassVar[str] = "remove_node"
    node: str

    def __post_init__(self) -> None:
        _check_node(self.node)


def _check_node(node: str) -> None:
    if not NODE_ID.fullmatch(check_text("node", node, 63)):
        raise BadRequest(f"node is {node!r}, expected a node id")


@dataclass(frozen=True, slots=True)
class TakeSnapshot(Operation):
    """Let this tracker have a durable snapshot of at least entry ``index``; 0: of all it applied.

    Reply: ``{"index", "term", "bytes", "sha256"}``. With ``hold`` the file is kept readable for
    :class:`SnapshotPart` for a while, also when a newer snapshot takes its place.
    """

    op: ClassVar[str] = "snapshot"
    index: int = 0
    hold: bool = False

    def __post_init__(self) -> None:
        check_int("index", self.index, 0, INTEGER_MAX)
        check_bool("hold", self.hold)


@dataclass(frozen=True, slots=True)
class SnapshotPart(Operation):
    """Bytes of a snapshot that this tracker holds. Reply: ``{"data": bytes}``, from ``offset`` on.

    ``not_found`` when it is not held (any more): take one anew.
    """

    op: ClassVar[str] = "snapshot_part"
    sha256: bytes
    offset: int

    def __post_init__(self) -> None:
        check_content("sha256", self.sha256)
        check_int("offset", self.offset, 0, INTEGER_MAX)


@dataclass(frozen=True, slots=True)
class ReadLog(Operation):
    """The last ``limit`` entries of this tracker's log. Reply: see ``docs/protocol.md``."""

    op: ClassVar[str] = "log"
    limit: int = 100

    def __post_init__(self) -> None:
        check_int("limit", self.limit, 1, 1_000)
