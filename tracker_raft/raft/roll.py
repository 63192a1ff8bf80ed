"""The members kept: what the log says of them is told to all who decide by it.

The shell around :mod:`membership`. It hears of each entry that enters the log or leaves it, and
before anything else happens engine, elections, reads and links go by the members that are in force
then. What a member says of newer ones (``members``) only lets more nodes in.

::

    members   {"index": i, "members": {...}}      on each new link, and when they are settled: the
                                                  ones in force here
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from tracker_raft.errors import Damaged, P2PError, Removed
from tracker_raft.raft.configuration import Configuration
from tracker_raft.raft.engine import Engine
from tracker_raft.raft.journal import LogEntry, SegmentJournal
from tracker_raft.raft.membership import Membership, Placed, removal
from tracker_raft.raft.seams import Lines, Message

log = logging.getLogger("tracker_raft.members")


class Voting(Protocol):
    """Who goes by the voters."""

    def members_are(self, voters: frozenset[str]) -> None:
        """These others vote from now on."""


class Roll:
    """Of one replica. ``elections`` is told of the other voters, and whether this node votes."""

    def __init__(
        self,
        membership: Membership,
        engine: Engine,
        journal: SegmentJournal,
        lines: Lines,
        *,
        elections: Callable[[frozenset[str], bool], None],
        voting: tuple[Voting, ...],
        everybody: Callable[[frozenset[str]], None],
    ) -> None:
        """``voting``: told of the other voters; ``everybody``: of all, this node included."""
        self.membership = membership
        self._engine = engine
        self._lines = lines
        self._elections = elections
        self._voting = voting
        self._everybody = everybody
        journal.added = self._added
        journal.cut = self._cut
        self._changed()

    # -- what the log says -----------------------------------------------------------------------

    def _added(self, entry: LogEntry) -> None:
        try:
            changed = self.membership.added(entry)
        except P2PError as error:
            raise Damaged(f"entry {entry[1]}: {error.message}; this node cannot go on") from error
        if changed:
            self._changed()

    def _cut(self, index: int) -> None:
        if self.membership.cut(index):
            log.warning("a change of the members is taken back: %r", self.membership)
            self._changed()

    def restarted(self, start: Placed | None) -> None:
        """A snapshot took the place of the log."""
        self.membership.restarted(start)
        self._changed()
        self._stop_if_removed()

    def _changed(self) -> None:
        """Other members are in force."""
        membership = self.membership
        others = membership.other_voters
        learners = set(membership.in_force.learners) - {membership.roster().node}
        self._engine.members_are(others, learners)
        self._elections(others, membership.votes)
        for part in self._voting:
            part.members_are(others)
        self._everybody(frozenset(membership.in_force.voters))
        self._lines.admit(membership.roster())

    def step(self) -> None:
        """In every turn: what was committed meanwhile. Raises :class:`Removed`."""
        engine = self._engine
        if self.membership.committed(engine.raftCommitIndex, engine.raftLastApplied):
            log.info("members are settled: %r", self.membership)
            self._stop_if_removed()
            self._lines.admit(self.membership.roster())
            for node in self._lines.connected:  # one may be linked with this node and not with who
                self._tell(node)  # leads, which has moved: so it learns where to

    def _stop_if_removed(self) -> None:
        if reason := self.membership.removed:
            raise Removed(reason)

    # -- what members say ------------------------------------------------------------------------

    def link_up(self, node: str) -> None:
        self._tell(node)

    def _tell(self, node: str) -> None:
        membership = self.membership
        if membership.index:
            members = membership.in_force.to_wire()
            said = {"type": "members", "index": membership.index, "members": members}
            self._lines.send(node, said)
            self._lines.flush()

    def received(self, node: str, message: Message) -> bool:
        """Handle a message about members; False: it is about something else. Raises
        :class:`BadRequest`, KeyError or ValueError for a malformed one."""
        if message.get("type") != "members":
            return False
        index: Any = message["index"]
        if type(index) is not int or index < 1:
            raise ValueError(f"members of entry {index!r}")
        if self.membership.hint(index, Configuration.from_wire(message["members"])):
            self._lines.admit(self.membership.roster())
        return True

    def told_removed(self, node: str) -> None:
        """``node`` refuses the directory of this node as removed. Raises :class:`Removed`."""
        raise Removed(removal(self.membership.roster().node, f"member {node!r}"))
