"""Between the wire and the records: what a client's method is asked and what it returns. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tracker_raft import commands
from tracker_raft.client.call import Reply
from tracker_raft.client.results import Swarm
from tracker_raft.commands import FileRecord, Operation, PeerRecord, parse_content_hex
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, OutcomeUnknown

T = TypeVar("T")


def address_of(tracker: str | Address) -> Address:
    return tracker if isinstance(tracker, Address) else Address.parse(tracker)


def milliseconds(what: str, seconds: float) -> int:
    try:
        return round(seconds * 1000)
    except (ValueError, OverflowError):  # NaN, infinity
        raise BadRequest(f"{what} is {seconds}, expected a number of seconds") from None


def lookup_of(name_or_content: str | bytes) -> commands.Lookup:
    if isinstance(name_or_content, bytes):
        return commands.Lookup(content=commands.check_content("content", name_or_content))
    content = parse_content_hex(name_or_content)
    if content is not None:
        return commands.Lookup(content=content)
    return commands.Lookup(name=name_or_content)


def read_reply(operation: Operation, reply: Reply, reader: Callable[[dict[str, Any]], T]) -> T:
    """The result in a reply. A reply that cannot be read was a success all the same, so for a
    write this is OutcomeUnknown: it must not be taken for "did not happen"."""
    try:
        return reader(reply.body)
    except (KeyError, TypeError, ValueError, BadRequest) as error:
        cls = BadRequest if isinstance(operation, commands.READS) else OutcomeUnknown
        raise cls(
            f"{reply.endpoint} answered {operation.op} in a way this version cannot read: {error!r}"
        ) from error


def files_of(body: dict[str, Any], key: str = "files") -> tuple[FileRecord, ...]:
    return tuple(FileRecord.from_wire(record) for record in body[key])


def newest_first(files: Sequence[FileRecord]) -> list[FileRecord]:
    return sorted(files, key=lambda record: (record.name, -record.version))


def lease_of(body: dict[str, Any]) -> float:
    return int(body["lease_ms"]) / 1000


def swarm_of(body: dict[str, Any]) -> Swarm:
    peers = tuple(PeerRecord.from_wire(record) for record in body["peers"])
    return Swarm(peers, int(body["total"]))
