"""Changing the members of a cluster: what a client asks of whoever leads, step by step.

Every step may be repeated: adding a member that is one, or removing one that is none any more,
is answered like the first time. So whatever was interrupted, the same call goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracker_raft import commands
from tracker_raft.client.deadline import Deadline
from tracker_raft.client.requester import Requester
from tracker_raft.commands import Operation
from tracker_raft.config import Address
from tracker_raft.errors import (
    BadRequest,
    Busy,
    NoLeader,
    NotFound,
    NoTracker,
    OutcomeUnknown,
    P2PError,
    Unavailable,
)

CHANGE_S = 60.0
"""For a change with all that it waits for, unless the caller says otherwise."""
ASK_S = 1.0
"""For one tracker to say how it is."""
PAUSE_S = 0.05
REFUSAL_S = 2.0
"""A leader that has just begun has not heard everybody yet."""
AGAIN = (NoLeader, Busy, NoTracker, OutcomeUnknown)
"""Somebody else leads, or will: as a change may be asked for twice, it is asked for again."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MemberState:
    """One member, as the leader sees it."""

    node: str
    incarnation: int
    votes: bool
    """False: it is sent the log and does not decide yet."""
    raft: str
    endpoint: str
    behind: int | None
    """Entries that it is not known to have."""


class MemberCalls:
    """The words about members of a :class:`~tracker_raft.client.TrackerClient`."""

    _requester: Requester
    _deadline: Callable[[float | None], Deadline]

    def members(self, *, deadline_s: float | None = None) -> list[MemberState]:
        """All members in order of their ids, as the leader knows them.

        Raises :class:`NoLeader` when nobody leads.
        """
        return _members(_leader(self._requester, self._deadline(deadline_s))[1])

    def add_node(
        self,
        endpoint: str | Address,
        *,
        deadline_s: float = CHANGE_S,
        progress: Progress | None = None,
    ) -> str:
        """Make the node at the client address ``endpoint``, started to join, a member; its id.

        Returns when it votes. Raises :class:`BadRequest` when what is there does not wait to join
        this cluster, :class:`Unavailable` or :class:`OutcomeUnknown` with what was done and what
        was not. The same call goes on.
        """
        address = endpoint if isinstance(endpoint, Address) else Address.parse(endpoint)
        tell = progress or (lambda text: None)
        return _add(self._requester, address, self._deadline(deadline_s), tell)

    def remove_node(
        self, node: str, *, deadline_s: float = CHANGE_S, progress: Progress | None = None
    ) -> None:
        """Make ``node`` no member any more; it stops by itself. If it leads it hands over first.

        Raises :class:`NotFound` for one that never was a member, :class:`Unavailable` when those
        left would have no majority that lives: nothing was done.
        """
        _change(self._requester, commands.RemoveNode(node), self._deadline(deadline_s))
        if progress is not None:
            progress(f"{node} is removed")

    def replace_node(
        self,
        node: str,
        endpoint: str | Address,
        *,
        deadline_s: float = CHANGE_S,
        progress: Progress | None = None,
    ) -> str:
        """Let the node at ``endpoint``, started to join, take the place of ``node``; its id.

        The new one is added and votes before the old one is removed. Only a new one of the same
        id has to wait until the old one is out. Errors as of both; the text says what was done.
        :class:`NotFound` when ``node`` is no member, before anything is done.
        """
        address = endpoint if isinstance(endpoint, Address) else Address.parse(endpoint)
        removal = commands.RemoveNode(node)
        deadline, requester = self._deadline(deadline_s), self._requester
        tell = progress or (lambda text: None)
        new = str(_status(requester, address, deadline)["node"])
        if new == node:
            _change(requester, removal, deadline)
            tell(f"the old {node} is removed")
            return _add(requester, address, deadline, tell)
        there = [one.node for one in _members(_leader_soon(requester, deadline)[1])]
        if node not in there and new not in there:  # with the new one there, the old one was
            raise NotFound(
                f"node {node!r} is no member; the members are {', '.join(there)}; nothing was done"
            )
        _add(requester, address, deadline, tell)
        try:
            _change(requester, removal, deadline)
        except P2PError as error:
            text = f"{new} was added and votes; {node} is not known to be removed: {error.message}"
            raise type(error)(text) from error
        tell(f"{node} is removed")
        return new


def _status(requester: Requester, address: Address, deadline: Deadline) -> dict[str, Any]:
    return requester.ask(address, commands.Status(), deadline.within(ASK_S)).body


def _leader(requester: Requester, deadline: Deadline) -> tuple[Address, dict[str, Any]]:
    """The leader and its status. Raises :class:`NoLeader` when none was found."""
    said = []
    requester.call(commands.Status(), deadline)  # whoever answers tells of all the others
    best: tuple[int, Address, dict[str, Any]] | None = None
    for address in requester.rotation.addresses:
        try:
            status = _status(requester, address, deadline)
        except P2PError as error:
            said.append(f"{address}: {error.message}")
            continue
        said.append(f"{address} is a {status.get('role')}")
        term = status.get("term")
        if status.get("role") != "leader" or not isinstance(term, int):
            continue
        if best is None or term > best[0]:  # an old one may not know yet
            best = term, address, status
    if best is None:
        raise NoLeader(f"no tracker leads, nothing was done: {'; '.join(said)}")
    return best[1], best[2]


def _members(status: dict[str, Any]) -> list[MemberState]:
    return [
        MemberState(
            str(row["node"]),
            int(row["incarnation"]),
            bool(row["votes"]),
            str(row["raft"]),
            str(row["endpoint"]),
            row.get("behind"),
        )
        for row in status.get("members", ())
    ]


def _change(requester: Requester, operation: Operation, deadline: Deadline) -> dict[str, Any]:
    """Ask whoever leads until it is done, refused for good, or the time is over."""
    patient_s = max(deadline.left_s() - REFUSAL_S, 0.0)
    while True:
        try:
            leader, _ = _leader(requester, deadline)
            within = min(deadline.left_s(), 2.0)
            return requester.ask(leader, operation, deadline.within(within), attempt_s=within).body
        except AGAIN as error:
            if deadline.left_s() <= PAUSE_S:
                raise Unavailable(f"{operation.op} is not known to be done: {error}") from error
        except Unavailable:
            if deadline.left_s() <= patient_s:
                raise
        requester.pause(PAUSE_S)


def _add(requester: Requester, address: Address, deadline: Deadline, tell: Progress) -> str:
    try:
        status = _status(requester, address, deadline)
    except NoTracker as error:
        raise NoTracker(
            f"no node to be added answers at {address} ({error.message}); nothing was done. Start "
            f"it there with 'node --join'"
        ) from error
    node, birth = str(status.get("node")), str(status.get("birth") or "")
    _, leading = _leader_soon(requester, deadline)
    known = next((one for one in _members(leading) if one.node == node), None)
    if status.get("cluster") != leading.get("cluster"):
        raise BadRequest(
            f"{address} is of cluster {status.get('cluster')!r}, expected "
            f"{leading.get('cluster')!r}; nothing was done"
        )
    if not status.get("joining") and known is None:
        raise BadRequest(
            f"node {node!r} at {address} does not wait to join; nothing was done. Start it with an "
            f"empty directory and --join"
        )
    operation = commands.AddNode(node, birth, str(status["raft"]), str(status["endpoint"]))
    _change(requester, operation, deadline)
    tell(f"{node} learns")
    shown = None
    while True:
        try:
            seats = _members(_leader(requester, deadline)[1])
            seat = next((one for one in seats if one.node == node), None)
        except AGAIN:
            seat = None
        if seat is not None and seat.votes:
            tell(f"{node} votes")
            return node
        if seat is not None and seat.behind != shown:
            shown = seat.behind
            tell(f"{node} is {shown} entries behind")
        if deadline.left_s() <= PAUSE_S:
            raise Unavailable(
                f"{node} was added and learns, and does not vote yet ({shown} entries behind): it "
                f"will as soon as it has caught up, whoever leads. To take it back, remove it"
            )
        requester.pause(PAUSE_S)


def _leader_soon(requester: Requester, deadline: Deadline) -> tuple[Address, dict[str, Any]]:
    while True:
        try:
            return _leader(requester, deadline)
        except AGAIN:
            if deadline.left_s() <= PAUSE_S:
                raise
        requester.pause(PAUSE_S)
