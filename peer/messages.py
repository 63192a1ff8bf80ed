"""The peers' vocabulary: what one peer asks of another (``docs/peer-protocol.md``). Pure.

::

    {"op": "hello", "id": 0, "protocol": 1, "peer": "a", "features": []}
    {"op": "request", "id": 7, "content": <32 bytes>, "first": 40, "count": 4}
    {"id": 7, "ok": {"bytes": 2097152}}                    and then 2097152 raw bytes
    {"id": 7, "error": "not_found", "message": "..."}
    {"op": "have", "id": 8, "content": <32 bytes>, "follow": true, "address": "10.0.0.7:4711"}
    {"news": [[40, 4], [99, 1]], "content": <32 bytes>}    later, whenever pieces came

Frames are those of :mod:`tracker_raft.wire`, errors those of :mod:`tracker_raft.errors`. Replies
come in the order of the requests of a connection. Unknown keys are ignored, unknown operations
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from peer.limits import PEER_PROTOCOL_VERSION, ManifestLimits, PeerLimits
from peer.pieces import HASH_BYTES, Run
from tracker_raft import wire
from tracker_raft.commands import (
    INTEGER_MAX,
    LABEL_BYTES_MAX,
    Operation,
    PeerRecord,
    check_content,
    check_int,
    check_peer,
    check_text,
)
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, P2PError, UnknownOperation, Unsupported, from_wire

LIMITS = PeerLimits()
CANCELS_MAX = 1024
OTHERS_MAX = 32
"""Peers named in one answer."""
ADDRESS_BYTES_MAX = 300
PIECES_MAX = ManifestLimits().manifest_bytes_max // HASH_BYTES
"""No content has more pieces than hashes fit a manifest."""


@dataclass(frozen=True, slots=True)
class Hello(Operation):
    """The first frame of a connection. Reply: the same keys but ``op``."""

    op: ClassVar[str] = "hello"
    protocol: int
    peer: str
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.protocol) is not int or self.protocol != PEER_PROTOCOL_VERSION:
            raise Unsupported(
                f"peer protocol {self.protocol!r}, spoken here: {PEER_PROTOCOL_VERSION}"
            )
        check_peer(self.peer)


@dataclass(frozen=True, slots=True)
class GetManifest(Operation):
    """Reply: ``{"bytes": n}``, then the encoded manifest. ``not_found`` when it is not here."""

    op: ClassVar[str] = "manifest"
    content: bytes

    def __post_init__(self) -> None:
        check_content("content", self.content)


@dataclass(frozen=True, slots=True)
class Have(Operation):
    """Which pieces are here. Reply: ``{"complete": true, "start": piece}``, or
    ``{"complete": false, "bytes": n}`` and then a bitmap of n bytes, highest bit first (a million
    pieces do not fit a frame).

    ``start`` proposes where to begin. With ``follow`` the answering side goes on: whenever it
    likes, between two replies, it sends :func:`encode_news` of the pieces that came since.

    ``address``: where the asking side serves what it fetches; empty: nowhere. Either reply then
    names ``others`` that asked the same and are still connected (:func:`encode_others`), so that
    those who fetch find each other within one question.
    """

    op: ClassVar[str] = "have"
    content: bytes
    follow: bool = False
    address: str = ""
    zone: str = ""
    """That of the asking side, for who hears of it."""

    def __post_init__(self) -> None:
        check_content("content", self.content)
        if type(self.follow) is not bool:
            raise BadRequest(f"follow is {self.follow!r}, expected true or false")
        check_text("zone", self.zone, LABEL_BYTES_MAX)
        if check_text("address", self.address, ADDRESS_BYTES_MAX):
            Address.parse(self.address)


@dataclass(frozen=True, slots=True)
class Request(Operation):
    """Consecutive pieces. Reply: ``{"bytes": n}``, then the pieces back to back.

    ``not_found`` when one of them is not here, ``damaged`` when the file is not what was shared.
    """

    op: ClassVar[str] = "request"
    content: bytes
    first: int
    count: int

    def __post_init__(self) -> None:
        check_content("content", self.content)
        check_int("first", self.first, 0, INTEGER_MAX)
        check_int("count", self.count, 1, LIMITS.run_pieces_max)


@dataclass(frozen=True, slots=True)
class Cancel(Operation):
    """Requests of this connection that nobody waits for any more.

    It has no reply of its own: each of ``requests`` that was not begun is answered with no bytes
    in its turn, the others as if nothing had been said.
    """

    op: ClassVar[str] = "cancel"
    requests: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.requests, list | tuple) or len(self.requests) > CANCELS_MAX:
            raise BadRequest(f"requests is {self.requests!r}, expected up to {CANCELS_MAX} ids")
        for number in self.requests:
            check_int("id", number, 1, INTEGER_MAX)


BY_WORD: dict[str, type[Operation]] = {
    cls.op: cls for cls in (Hello, GetManifest, Have, Request, Cancel)
}


def parse(message: Mapping[str, Any]) -> tuple[int, Operation]:
    """The id and the operation of a request frame. Raises :class:`BadRequest`."""
    number = check_int("id", message.get("id"), 0, INTEGER_MAX)
    word = message.get("op")
    cls = BY_WORD.get(word) if isinstance(word, str) else None
    if cls is None:
        raise UnknownOperation(f"operation {word!r} is not known to peers")
    return number, cls.from_wire(message)


def encode_request(number: int, operation: Operation) -> bytes:
    return wire.encode({"id": number, **operation.to_wire()}, LIMITS.frame_bytes_max)


def encode_ok(number: int, result: Mapping[str, Any]) -> bytes:
    return wire.encode({"id": number, "ok": result}, LIMITS.frame_bytes_max)


def encode_error(number: int, error: P2PError) -> bytes:
    reply = error.to_wire()
    reply["message"] = error.message[:2048]  # an error must fit its frame whatever it quotes
    return wire.encode({"id": number, **reply}, LIMITS.frame_bytes_max)


def encode_news(content: bytes, runs: Sequence[Run]) -> bytes:
    """Pieces that came since the last time: a frame that answers nothing, so it has no id."""
    pieces = [[run.first, run.count] for run in runs]
    return wire.encode({"news": pieces, "content": content}, LIMITS.frame_bytes_max)


def parse_news(message: Mapping[str, Any], content: bytes) -> list[Run] | None:
    """The runs in a frame of news; None when it is no such frame. Raises :class:`BadRequest`."""
    if "news" not in message:
        return None
    found = message["news"]
    if message.get("content") != content:
        raise BadRequest("told news of a content that was not asked about")
    if not isinstance(found, list | tuple) or not found:
        raise BadRequest("told news without a piece")
    runs = []
    for pair in found:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRequest(f"told {pair!r}, expected first piece and count")
        first = check_int("first", pair[0], 0, PIECES_MAX)
        runs.append(Run(first, check_int("count", pair[1], 1, PIECES_MAX - first)))
    return runs


def encode_others(others: Sequence[PeerRecord]) -> list[list[str]]:
    """Peers that fetch as well, to be put in the reply to :class:`Have`."""
    return [[one.peer, one.address, one.zone] for one in others[-OTHERS_MAX:]]


def parse_others(found: object) -> list[PeerRecord]:
    """The reverse; None is nobody. Raises :class:`BadRequest`."""
    if found is None:
        return []
    if not isinstance(found, list | tuple) or len(found) > OTHERS_MAX:
        raise BadRequest(f"named {found!r}, expected up to {OTHERS_MAX} others")
    records = []
    for one in found:
        if not isinstance(one, list | tuple) or len(one) != 3:
            raise BadRequest(f"named {one!r}, expected peer, address and zone")
        peer, address, zone = one
        check_text("address", address, ADDRESS_BYTES_MAX)
        check_text("zone", zone, LABEL_BYTES_MAX)
        Address.parse(address)
        records.append(PeerRecord(check_peer(peer), address, False, zone))
    return records


class Answered(P2PError):
    """A peer answered a request with an error: :attr:`error`. It keeps to the protocol."""

    def __init__(self, error: P2PError, before: str = "") -> None:
        """``before``: what it had said or done until then, ending in "and "."""
        super().__init__(f"{before}answered {error.code}: {error}")
        self.error = error


Result = Mapping[str, Any]


def parse_reply(number: int, message: Mapping[str, Any]) -> Result:
    """The result in the reply to request ``number``.

    Raises :class:`Answered` with the error it carries, :class:`BadRequest` when it is no reply to
    that request. An error with the id 0 ends the connection, whatever was asked.
    """
    found = message.get("id")
    if "error" in message and found in (0, number):
        raise Answered(from_wire(dict(message)))
    if found != number:
        raise BadRequest(f"reply has the id {found!r}, expected {number}")
    result = message.get("ok")
    if type(result) is not dict:
        raise BadRequest(f"reply {number} has neither a result nor an error")
    return result
