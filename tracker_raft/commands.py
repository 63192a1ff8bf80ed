"""The tracker's vocabulary: requests, replies and log operations, with their checks.

Every operation is one request map and one reply map (``docs/protocol.md`` shows them all)::

    {"id": 7, "op": "publish", "session": 3, "seq": 12, "low": 12, "name": "models/a", ...}
    {"id": 7, "ok": {...}, "at": [104, 0]}   or   {"id": 7, "error": "conflict", "message": ...}

``at`` is the (log index, position in that entry) the answer reflects. The classes below carry
only what belongs to the operation; envelope keys (``id``, ``session``, ``deadline_ms``...) are
the server's and the client's.

Writes go through the log and need a request session (D3), except ``open_session`` itself.
Reads name a consistency level (D6). ``renew`` is neither: trackers collect renewals and log
them together, as the internal operation ``renew``.

Fields are checked when an object is made, so whoever holds one holds a valid one. Unknown keys
are ignored, unknown operations refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

from tracker_raft.config import NODE_ID, Address, MachineLimits
from tracker_raft.errors import BadRequest, UnknownOperation

NAME_BYTES_MAX = 512
LABEL_BYTES_MAX = 128
CONTENT_ID_BYTES = 32
INTEGER_MAX = 2**63 - 1
PIECE_BYTES_MIN = 16 * 1024
PIECE_BYTES_MAX = 16 * 1024 * 1024

_VERSIONED = re.compile(r"(?P<name>[^@]+)@v(?P<version>[1-9][0-9]{0,8})")
_CONTENT_HEX = re.compile(r"[0-9a-f]{64}")
_CONTENT_HEX_CHARS = 64
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""Most names: such a one, if it is shorter than a content id, needs no closer look."""
# Written out, not str.isprintable(): that asks the Unicode tables of the running Python, and two
# trackers on different versions would decide one operation differently. Control characters, line
# and paragraph separators, and the marks that turn the direction of text on a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Level(StrEnum):
    """How fresh a read is (D6)."""

    LINEARIZABLE = "linearizable"
    """Reflects every operation acknowledged before the read was asked; probes a majority."""
    SESSION = "session"
    """At least as new as ``seen``, the newest position this client was shown."""
    LOCAL = "local"
    """What this tracker has applied, at once."""


# -- checks ---------------------------------------------------------------------------------------


def check_text(what: str, value: object, bytes_max: int, *, empty: bool = True) -> str:
    """A string without control characters, at most ``bytes_max`` bytes of UTF-8."""
    if type(value) is str and value.isascii() and value.isprintable():  # of ASCII all agree on it
        if len(value) <= bytes_max and (empty or value):
            return value
    elif type(value) is not str:
        raise BadRequest(f"{what} is {type(value).__name__}, expected text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"{what} {value!a} is not valid Unicode") from None
    if size > bytes_max or (not empty and not size):
        least = 0 if empty else 1
        raise BadRequest(f"{what} has {size} bytes, expected {least} to {bytes_max}")
    if _CONTROL.search(value):
        raise BadRequest(f"{what} {value!a} has control characters")
    return value


def check_int(what: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        shown = value if type(value) is int else type(value).__name__
        raise BadRequest(f"{what} is {shown}, expected a whole number from {least} to {most}")
    return value


def check_bool(what: str, value: object) -> bool:
    if type(value) is not bool:
        raise BadRequest(f"{what} is {type(value).__name__}, expected true or false")
    return value


def check_content(what: str, value: object) -> bytes:
    if type(value) is not bytes or len(value) != CONTENT_ID_BYTES:
        shown = f"{len(value)} bytes" if type(value) is bytes else type(value).__name__
        raise BadRequest(f"{what} is {shown}, expected the {CONTENT_ID_BYTES} bytes of a SHA-256")
    return value


def check_name(value: object) -> str:
    """A name: 1 to 512 bytes, segments divided by ``/``, none empty, ``.`` or ``..``; no ``@``.

    ``@`` divides a name from its version, and 64 hexadecimal digits would be taken for a content
    id, so neither can be a name.
    """
    if type(value) is str and len(value) < _CONTENT_HEX_CHARS and _PLAIN_NAME.fullmatch(value):
        return value
    name = check_text("name", value, NAME_BYTES_MAX, empty=False)
    if "@" in name:
        raise BadRequest(f"name {name!r} has an '@', which divides a name from its version")
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        raise BadRequest(f"name {name!r} has an empty, '.' or '..' segment")
    if _CONTENT_HEX.fullmatch(name):
        raise BadRequest(f"name {name!r} looks like a content id")
    return name


def split_version(text: object) -> tuple[str, int | None]:
    """``a@v3`` is ("a", 3), ``a`` is ("a", None): the newest. Raises :class:`BadRequest`."""
    if type(text) is str and (match := _VERSIONED.fullmatch(text)):
        return check_name(match["name"]), int(match["version"])
    return check_name(text), None


def parse_content_hex(text: str) -> bytes | None:
    """The content id written as 64 hexadecimal digits, or None if ``text`` is not one."""
    return bytes.fromhex(text) if _CONTENT_HEX.fullmatch(text) else None


def check_peer(value: object) -> str:
    return check_text("peer", value, LABEL_BYTES_MAX, empty=False)


_LIMITS = MachineLimits()


# -- operations -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """Base of all requests. ``op`` is its word on the wire."""

    op: ClassVar[str] = ""

    def to_wire(self) -> dict[str, Any]:
        """``{"op": word, field: value...}``; fields at their default are left out."""
        message: dict[str, Any] = {"op": self.op}
        for name, default in _fields(type(self)):
            value = getattr(self, name)
            if value != default:
                message[name] = value
        return message

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> Self:
        """Read the fields of this operation. Raises :class:`BadRequest`."""
        values = []
        for name, default in _fields(cls):
            value = message.get(name, default)
            if value is dataclasses.MISSING:
                raise BadRequest(f"{cls.op} lacks {name!r}")
            values.append(value)
        return cls(*values)


_FIELDS: dict[type[Any], tuple[tuple[str, Any], ...]] = {}


def _fields(cls: type[Any]) -> tuple[tuple[str, Any], ...]:
    """(name, default) of each: asked for every operation, and the library works it out anew."""
    found = _FIELDS.get(cls)
    if found is None:
        found = tuple((spec.name, spec.default) for spec in dataclasses.fields(cls))
        _FIELDS[cls] = found
    return found


@dataclass(frozen=True, slots=True)
class OpenSession(Operation):
    """Open a request session. Reply: ``{"session": int, "ttl_ms": int}``.

    Asked twice it opens two; the forgotten one expires.
    """

    op: ClassVar[str] = "open_session"


@dataclass(frozen=True, slots=True)
class CloseSession(Operation):
    """Forget a request session and its replies. Reply: ``{}``, also when it was not known."""

    op: ClassVar[str] = "close_session"
    target: int

    def __post_init__(self) -> None:
        check_int("target", self.target, 1, INTEGER_MAX)


@dataclass(frozen=True, slots=True)
class Publish(Operation):
    """Bind ``name`` to ``content``. Reply: ``{"file": FileRecord, "created": bool}``.

    The same name with the same content as its newest version is answered with that record and
    ``created`` false. With other content: ``conflict``, or the next version when ``replace``.
    """

    op: ClassVar[str] = "publish"
    name: str
    content: bytes
    size: int
    """Bytes of all files of the content together."""
    manifest_bytes: int
    piece_bytes: int
    owner: str = ""
    group: str = ""
    replace: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        check_content("content", self.content)
        check_int("size", self.size, 0, INTEGER_MAX)
        check_int("manifest_bytes", self.manifest_bytes, 1, INTEGER_MAX)
        check_int("piece_bytes", self.piece_bytes, PIECE_BYTES_MIN, PIECE_BYTES_MAX)
        if self.piece_bytes & (self.piece_bytes - 1):
            raise BadRequest(f"piece_bytes is {self.piece_bytes}, expected a power of two")
        if self.owner != "":
            check_text("owner", self.owner, LABEL_BYTES_MAX)
        if self.group != "":
            check_text("group", self.group, LABEL_BYTES_MAX)
        check_bool("replace", self.replace)


@dataclass(frozen=True, slots=True)
class Remove(Operation):
    """Remove a name with all its versions, or one version of it (``a@v3``).

    Reply: ``{"removed": [FileRecord...]}``, oldest first. ``not_found`` when there is none.
    """

    op: ClassVar[str] = "remove"
    name: str

    def __post_init__(self) -> None:
        split_version(self.name)


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

    Not a log operation by itself: see :data:`RENEW_MANY`.
    """

    op: ClassVar[str] = "renew"
    peer: str

    def __post_init__(self) -> None:
        check_peer(self.peer)


@dataclass(frozen=True, slots=True)
class Lookup(Operation):
    """One file by name (``a`` or ``a@v3``) or by content id; exactly one of the two is given.

    Reply: ``{"files": [FileRecord...]}``: one record by name, by content every name and version
    bound to it in name order, at most 1000 (``"more": bool``). ``not_found`` when there is none.
    """

    op: ClassVar[str] = "lookup"
    name: str = ""
    content: bytes = b""

    def __post_init__(self) -> None:
        if bool(self.name) == bool(self.content):
            raise BadRequest("lookup takes either a name or a content id")
        if self.content:
            check_content("content", self.content)
        else:
            split_version(self.name)


@dataclass(frozen=True, slots=True)
class List(Operation):
    """Names starting with ``prefix``, in byte order, newest version of each.

    Reply: ``{"files": [FileRecord...], "more": bool}``. Page on with ``after`` = the last name.
    """

    op: ClassVar[str] = "list"
    prefix: str = ""
    after: str = ""
    limit: int = 100

    def __post_init__(self) -> None:
        check_text("prefix", self.prefix, NAME_BYTES_MAX)
        check_text("after", self.after, NAME_BYTES_MAX)
        check_int("limit", self.limit, 1, 1_000)


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


@dataclass(frozen=True, slots=True)
class Watch(Operation):
    """The changes of names starting with ``prefix``, from a place in the log on, that one included.

    Reply: ``{"changes": [Change...], "next": (index, position)}``, at once when there are some,
    else with the first ones, or with none after ``wait_ms``. ``next`` is the place to ask from
    next. ``compacted`` when not all changes from there on are kept.
    """

    op: ClassVar[str] = "watch"
    index: int
    position: int = 0
    prefix: str = ""
    limit: int = 100
    wait_ms: int = 5_000

    def __post_init__(self) -> None:
        check_int("index", self.index, 0, INTEGER_MAX)
        check_int("position", self.position, 0, INTEGER_MAX)
        check_text("prefix", self.prefix, NAME_BYTES_MAX)
        check_int("limit", self.limit, 1, 500)
        check_int("wait_ms", self.wait_ms, 0, INTEGER_MAX)


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


WRITES: tuple[type[Operation], ...] = (
    OpenSession,
    CloseSession,
    Publish,
    Remove,
    Join,
    Complete,
    Leave,
)
"""Go through the log."""
READS: tuple[type[Operation], ...] = (Lookup, List, Peers)
"""Answered from the state machine, at a :class:`Level`."""
_ALL: tuple[type[Operation], ...] = (
    *WRITES,
    *READS,
    Watch,
    Renew,
    Status,
    Ping,
    TransferLeadership,
    AddNode,
    RemoveNode,
    TakeSnapshot,
    SnapshotPart,
    ReadLog,
)
BY_WORD: dict[str, type[Operation]] = {cls.op: cls for cls in _ALL}

RENEW_MANY = "renew"
"""Internal log operation ``{"op": "renew", "peers": [peer...]}``: one a second at most."""


def parse(message: Mapping[str, Any]) -> Operation:
    """The operation in a request map. Raises :class:`UnknownOperation` or :class:`BadRequest`."""
    word = message.get("op")
    cls = BY_WORD.get(word) if isinstance(word, str) else None
    if cls is None:
        raise UnknownOperation(f"operation {word!r} is not known here")
    return cls.from_wire(message)


# -- records in replies ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The tracker's record of one version of a file: a few hundred bytes whatever its size."""

    name: str
    version: int
    content: bytes
    size: int
    manifest_bytes: int
    piece_bytes: int
    owner: str = ""
    group: str = ""

    def to_wire(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": self.version,
            "content": self.content,
            "size": self.size,
            "manifest_bytes": self.manifest_bytes,
            "piece_bytes": self.piece_bytes,
            "owner": self.owner,
            "group": self.group,
        }

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> FileRecord:
        try:
            return cls(**{spec.name: message[spec.name] for spec in dataclasses.fields(cls)})
        except KeyError as error:
            raise BadRequest(f"file record lacks {error}") from None

    @property
    def versioned(self) -> str:
        """``name@vN``: reaches this version as long as it is kept."""
        return f"{self.name}@v{self.version}"


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """One peer in a swarm."""

    peer: str
    address: str
    complete: bool
    zone: str = ""

    def to_wire(self) -> dict[str, Any]:
        return {
            "peer": self.peer,
            "address": self.address,
            "complete": self.complete,
            "zone": self.zone,
        }

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> PeerRecord:
        try:
            return cls(**{spec.name: message[spec.name] for spec in dataclasses.fields(cls)})
        except KeyError as error:
            raise BadRequest(f"peer record lacks {error}") from None
