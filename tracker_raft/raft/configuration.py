"""Who the members are, as one entry of the log says it. Pure.

An entry names *all* members, never a difference, so the newest one is the whole truth and taking
it back is reading the one before. In the log::

    0x10 | {"v": 1, "members": [{"node", "incarnation", "birth", "raft", "endpoint", "votes"}...],
            "retired": [[node, incarnation, birth]...]}

A *seat* is one member. It belongs to one directory, known by its birth (:mod:`memory`): a node id
that was removed and added again sits in a new seat, with a higher incarnation. A seat votes, or
its node still learns (it is sent the log and counts for nothing). *Retired* seats are those that
were removed, so that whoever comes back from one is told.

Rules
-----
* Each change gives or takes one vote at most: any majority before it and any majority after it
  have a member in common (Raft thesis, 4.1).
* Founding members sit in seats of incarnation 1. Their births are empty until a leader that has
  met them writes them down, with the first change.
* An address is a setting of its node. Only what a node says on a link that stands replaces what is
  written down: one that is away may have moved since, and another leader have written that down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from tracker_raft.errors import BadRequest, LimitReached, NotFound, Unsupported

KIND = b"\x10"
"""First byte of such an entry. The library's own kinds are 0 to 3."""
VERSION = 1
SEATS_MAX = 15
"""A client remembers 16 trackers."""
RETIRED_MAX = 64
"""Who was retired before these is still no member, and is refused without being told why."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node said of itself, each empty when it is not known."""

    birth: str = ""
    raft: str = ""
    endpoint: str = ""
    present: bool = True
    """It is linked, as the member that is meant; else this is what it said last."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One member."""

    node: str
    incarnation: int
    birth: str
    """Of its directory; empty for a founding member that nobody has met yet."""
    raft: str
    """``host:port`` where the others reach it."""
    endpoint: str
    """``host:port`` for clients; empty while it is not known."""
    votes: bool

    def is_of(self, birth: str) -> bool:
        """Whether the directory of that birth may sit here."""
        return self.birth in ("", birth)

    def completed(self, fact: Facts) -> Seat:
        """With what is known of its node."""
        raft, endpoint = self.raft or fact.raft, self.endpoint or fact.endpoint
        if fact.present:
            raft, endpoint = fact.raft or raft, fact.endpoint or endpoint
        return replace(self, birth=self.birth or fact.birth, raft=raft, endpoint=endpoint)


@dataclass(frozen=True, slots=True)
class Configuration:
    """All members, by node id in order."""

    seats: tuple[Seat, ...] = ()
    retired: tuple[tuple[str, int, str], ...] = ()
    """(node, incarnation, birth), oldest first."""

    @property
    def voters(self) -> tuple[str, ...]:
        return tuple(seat.node for seat in self.seats if seat.votes)

    @property
    def learners(self) -> tuple[str, ...]:
        return tuple(seat.node for seat in self.seats if not seat.votes)

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(seat.node for seat in self.seats)

    def seat(self, node: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.node == node), None)

    def is_retired(self, node: str, birth: str, *, founding: bool = False) -> bool:
        """Whether the directory of that birth sat here once and was removed. ``founding``: it may
        be that of a founding member whose birth nobody knew."""
        births = (birth, "") if founding else (birth,)
        return any(was == node and born in births for was, _, born in self.retired)

    # -- changes: each returns another one -------------------------------------------------------

    def with_learner(self, node: str, birth: str, raft: str, endpoint: str) -> Configuration:
        """Raises :class:`BadRequest` for an id that is taken, :class:`LimitReached`."""
        taken = self.seat(node)
        if taken is not None:
            raise BadRequest(
                f"node {node!r} is a member already (incarnation {taken.incarnation}), at "
                f"{taken.raft}; nothing was done. Remove it first, or give the new one another id"
            )
        if len(self.seats) >= SEATS_MAX:
            raise LimitReached(f"there are {len(self.seats)} members, limit {SEATS_MAX}")
        before = max((number for was, number, _ in self.retired if was == node), default=0)
        return self._with(Seat(node, before + 1, birth, raft, endpoint, votes=False))

    def with_voter(self, node: str) -> Configuration:
        """The learner ``node`` votes. Raises :class:`NotFound`."""
        return self._with(replace(self._seat(node), votes=True))

    def without(self, node: str) -> Configuration:
        """Raises :class:`NotFound` for one that is no member."""
        gone = self._seat(node)
        seats = tuple(seat for seat in self.seats if seat is not gone)
        retired = (*self.retired, (gone.node, gone.incarnation, gone.birth))
        return Configuration(seats, retired[-RETIRED_MAX:])

    def completed(self, facts: Callable[[str], Facts]) -> Configuration:
        """With what is known of its nodes by now. A birth that is written down stays, an address
        until its node is linked and says another one."""
        return replace(self, seats=tuple(seat.completed(facts(seat.node)) for seat in self.seats))

    def _seat(self, node: str) -> Seat:
        seat = self.seat(node)
        if seat is None:
            raise NotFound(f"node {node!r} is no member; the members are {', '.join(self.nodes)}")
        return seat

    def _with(self, new: Seat) -> Configuration:
        seats = [seat for seat in self.seats if seat.node != new.node]
        return replace(self, seats=tuple(sorted([*seats, new], key=lambda seat: seat.node)))

    # -- bytes -----------------------------------------------------------------------------------

    def to_wire(self) -> dict[str, Any]:
        seats = [
            {
                "node": seat.node,
                "incarnation": seat.incarnation,
                "birth": seat.birth,
                "raft": seat.raft,
                "endpoint": seat.endpoint,
                "votes": seat.votes,
            }
            for seat in self.seats
        ]
        return {"v": VERSION, "members": seats, "retired": [list(one) for one in self.retired]}

    @classmethod
    def from_wire(cls, message: Any) -> Configuration:
        """Raises :class:`Unsupported` for a newer version, :class:`BadRequest` for garbage."""
        try:
            version = message["v"]
            if type(version) is int and version > VERSION:
                raise Unsupported(f"members of format {version}, this version reads {VERSION}")
            seats = tuple(_read_seat(row) for row in message["members"])
            retired = tuple((str(n), int(i), str(b)) for n, i, b in message["retired"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"not a list of members: {error!r}") from None
        return cls(tuple(sorted(seats, key=lambda seat: seat.node)), retired)

    def command(self) -> bytes:
        """As it stands in the log."""
        packed: bytes = msgpack.packb(self.to_wire())
        return KIND + packed


def _read_seat(row: Any) -> Seat:
    texts = [row[key] for key in ("node", "birth", "raft", "endpoint")]
    if not all(type(text) is str and len(text) <= 300 for text in texts):
        raise ValueError("a member whose node, birth, raft or endpoint is no text")
    if type(row["incarnation"]) is not int or type(row["votes"]) is not bool:
        raise ValueError("a member without incarnation or votes")
    node, birth, raft, endpoint = texts
    return Seat(node, row["incarnation"], birth, raft, endpoint, row["votes"])


def is_members(command: bytes) -> bool:
    return command[:1] == KIND


def read_command(command: bytes) -> Configuration:
    """Raises :class:`Unsupported` or :class:`BadRequest`: then the node must stop, for it cannot
    know any more who decides."""
    try:
        message = msgpack.unpackb(command[1:])
    except (ValueError, msgpack.UnpackException) as error:
        raise BadRequest(f"an entry of members that cannot be read: {error}") from None
    return Configuration.from_wire(message)


def founding(members: Iterable[tuple[str, str]]) -> Configuration:
    """Of a cluster that begins: ``(node, raft address)`` of each, all of them voters."""
    seats = [Seat(node, 1, "", raft, "", votes=True) for node, raft in members]
    return Configuration(tuple(sorted(seats, key=lambda seat: seat.node)))


def is_majority(live: Collection[str], voters: Collection[str]) -> bool:
    return 2 * len(set(live) & set(voters)) > len(voters)
