"""Which members are in force here, and who may be linked: the log read as it grows. Pure.

Rules (PySyncObj's defect S14)
------------------------------
* The newest entry of members in the log is in force **from its append on**, whether it is
  committed or not. One that is truncated is in force no more.
* At start it is the snapshot's, or that of the settings for a cluster that never changed, and
  then whatever the log has. Applying an entry changes nothing further.
* A snapshot carries the members at its own index (:meth:`Membership.at`).
* The *settled* ones are those of the newest entry known to be committed. Only they tell somebody
  that it was removed.
* *Hinted* ones are what a linked member said to be newer. They decide nothing: they let in a
  candidate that this node, lagging behind, has not read of yet. Its vote request may be granted,
  which is always safe; without it a majority could wait for a node that nobody wakes.

A node that is linked sits in a seat in force, in a settled or a hinted one, or it knows of newer
members than this one: a node that lags behind must be able to hear a leader it has not read of.
Only the word of one that sits in its seat *in force* counts (:meth:`Roster.sits`): its
acknowledgements, votes and confirmations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tracker_raft.config import NodeConfig
from tracker_raft.raft.configuration import (
    Configuration,
    Seat,
    founding,
    is_members,
    read_command,
)
from tracker_raft.raft.hello import Hello
from tracker_raft.raft.journal import LogEntry, SegmentJournal


@dataclass(frozen=True, slots=True)
class Placed:
    """Members and the index of the entry that says so; 0: the settings do."""

    index: int
    members: Configuration


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is to be no link."""

    reason: str
    removed: bool = False
    """The node that is refused was a member once; it is to stop."""

    def to_wire(self, birth: str) -> dict[str, str]:
        """What the node whose directory is of ``birth`` is told."""
        said = {"type": "refused", "reason": self.reason}
        return {**said, "removed": birth} if self.removed else said


@dataclass(frozen=True, slots=True)
class Roster:
    """Who may be linked, as of one moment."""

    node: str
    in_force: Placed
    settled: Configuration
    hinted: Configuration | None
    joining: bool
    """This node is no member yet and takes whoever is of its cluster."""

    def seat(self, node: str) -> Seat | None:
        for members in (self.in_force.members, self.settled, self.hinted):
            if members is not None and (seat := members.seat(node)) is not None:
                return seat
        return None

    def places(self, node: str) -> list[str]:
        """Raft addresses of ``node`` as the members say them, newest first: who lags behind may
        reach a leader that has moved only where a hint says."""
        lists = (self.hinted, self.in_force.members, self.settled)
        seats = (members.seat(node) for members in lists if members is not None)
        return [seat.raft for seat in seats if seat is not None]

    @property
    def others(self) -> tuple[Seat, ...]:
        nodes = {*self.in_force.members.nodes, *self.settled.nodes}
        if self.hinted is not None:
            nodes |= set(self.hinted.nodes)
        seats = (self.seat(node) for node in sorted(nodes - {self.node}))
        return tuple(seat for seat in seats if seat is not None)

    def judge(self, hello: Hello) -> Refusal | None:
        """Why whoever said this is not to be linked, or None."""
        lists = [self.in_force.members, self.settled, *([self.hinted] if self.hinted else [])]
        seats = [seat for members in lists if (seat := members.seat(hello.node)) is not None]
        if any(seat.is_of(hello.birth) for seat in seats):
            return self._judge_list(hello)
        if self.settled.is_retired(hello.node, hello.birth, founding=not hello.joining):
            return Refusal(f"node {hello.node!r} was removed from the cluster", removed=True)
        if self.joining or self.is_ahead(hello):
            return None
        if seats:
            return Refusal(
                f"node {hello.node!r} has lost its memory: its directory was made anew (birth "
                f"{hello.birth}, known here with {seats[0].birth}). It must not vote; remove it "
                f"and add a new member"
            )
        return Refusal(f"node {hello.node!r} is not a member; 'add-node' makes it one")

    def is_ahead(self, hello: Hello) -> bool:
        """Whether a node knows of members that this one, lagging behind, has not read of yet."""
        return hello.index > self.in_force.index and not hello.joining

    def sits(self, node: str, birth: str, known: str | None) -> bool:
        """Whether the directory of that birth is the one that the members in force mean, so that
        its word counts. ``known``: the birth of a founding member, as it was met."""
        seat = self.in_force.members.seat(node)
        return seat is not None and (seat.birth or known) == birth

    def _judge_list(self, hello: Hello) -> Refusal | None:
        """Two that have no entry of members must have been started with the same ones."""
        if self.joining or hello.joining or self.in_force.index or hello.index:
            return None
        own = self.in_force.members.voters
        if hello.members == own:
            return None
        return Refusal(
            f"node {hello.node!r} was started with members {', '.join(hello.members)}, "
            f"{self.node!r} with {', '.join(own)}"
        )


class Membership:
    """What one node knows of the members. Told of each change to its log."""

    def __init__(self, config: NodeConfig, birth: str, start: Placed | None = None) -> None:
        """``birth``: of this node's directory; ``start``: what the snapshot says."""
        self._node = config.node
        self._birth = birth
        self._joining = config.joining
        listed = () if config.joining else config.founded or config.members
        self._founding = Placed(0, founding((one.node, str(one.raft)) for one in listed))
        self._placed = [start or self._founding]
        self._settled = self._placed[0]
        self._hinted: Placed | None = None

    # -- the log ---------------------------------------------------------------------------------

    def added(self, entry: LogEntry) -> bool:
        """An entry stands at the end of the log now; True: other members are in force by it."""
        command, index, _ = entry
        if not is_members(command) or index <= self._placed[-1].index:
            return False
        self._placed.append(Placed(index, read_command(command)))
        if self._hinted is not None and self._hinted.index <= index:
            self._hinted = None
        return True

    def cut(self, index: int) -> bool:
        """The log was truncated before ``index``; True: other members are in force by it."""
        keep = [placed for placed in self._placed if placed.index < index] or self._placed[:1]
        changed, self._placed = len(keep) != len(self._placed), keep
        return changed

    def restarted(self, start: Placed | None) -> None:
        """A snapshot took the place of the whole log."""
        self._placed = [start or self._founding]
        self._settled = self._placed[0]

    def committed(self, index: int, applied: int) -> bool:
        """All entries up to ``index`` are committed; True: other members are settled by it.

        What was said before ``applied`` is not asked for any more, by no snapshot.
        """
        if len(self._placed) == 1 and self._settled is self._placed[0]:
            return False
        newest = self.at(index)
        changed = newest is not self._settled
        self._settled = newest
        oldest = self.at(min(applied, index)).index
        self._placed = [placed for placed in self._placed if placed.index >= oldest]
        return changed

    def hint(self, index: int, members: Configuration) -> bool:
        """A linked member says that these are newer; True: that is news."""
        newest = max(self.index, 0 if self._hinted is None else self._hinted.index)
        if index <= newest:
            return False
        self._hinted = Placed(index, members)
        return True

    # -- what follows ----------------------------------------------------------------------------

    @property
    def in_force(self) -> Configuration:
        return self._placed[-1].members

    @property
    def index(self) -> int:
        """Of the entry in force."""
        return self._placed[-1].index

    @property
    def settled(self) -> Placed:
        return self._settled

    @property
    def is_settled(self) -> bool:
        """Whether what is in force is known to be committed."""
        return self._placed[-1] is self._settled

    def at(self, index: int) -> Placed:
        """The members as of entry ``index``, which is not before what is applied."""
        return [placed for placed in self._placed if placed.index <= index or not placed.index][-1]

    def for_snapshot(self, index: int) -> Placed | None:
        """The same, None while only the settings say who the members are."""
        placed = self.at(index)
        return placed if placed.index else None

    def own(self, members: Configuration) -> Seat | None:
        """The seat of this very directory."""
        seat = members.seat(self._node)
        if seat is None or (seat.birth != self._birth and (seat.birth or self._joining)):
            return None
        return seat

    @property
    def votes(self) -> bool:
        """Whether this node is a voter."""
        seat = self.own(self.in_force)
        return seat is not None and seat.votes

    @property
    def other_voters(self) -> frozenset[str]:
        return frozenset(self.in_force.voters) - {self._node}

    @property
    def removed(self) -> str | None:
        """Why this node must stop: it sat among the members once, and does not any more."""
        index, settled = self._settled.index, self._settled.members
        if self.own(settled) is not None:
            return None
        if not any(n == self._node and b == self._birth for n, _, b in settled.retired):
            return None
        return removal(self._node, f"entry {index}")

    def may_stand(self, node: str) -> bool:
        """Whether a request for votes of ``node`` is to be considered."""
        members = [self.in_force, *([self._hinted.members] if self._hinted else [])]
        return any(one.seat(node) is not None for one in members)

    def roster(self) -> Roster:
        hinted = None if self._hinted is None else self._hinted.members
        joining = self._joining and self.own(self.in_force) is None
        return Roster(self._node, self._placed[-1], self._settled.members, hinted, joining)

    def hello(self, me: Hello) -> Hello:
        """How this node introduces itself now."""
        joining = self._joining and self.own(self.in_force) is None
        return replace(me, members=self.in_force.voters, index=self.index, joining=joining)

    def __repr__(self) -> str:
        names = ",".join(s.node if s.votes else f"({s.node})" for s in self.in_force.seats)
        return f"<Membership {names} of {self.index}{'' if self.is_settled else '?'}>"


def begun(config: NodeConfig, journal: SegmentJournal, start: Placed | None) -> Membership:
    """As of the start of a node: what the snapshot says, and then the whole log."""
    membership = Membership(config, journal.identity.birth, start)
    for entry in journal[:]:
        membership.added(entry)
    return membership


def removal(node: str, source: str) -> str:
    """Why a node stops that was removed."""
    return (
        f"node {node!r} was removed from the cluster (says {source}). Its directory is of no use "
        f"to it any more: to come back it needs an empty one, --join, and 'add-node'"
    )
