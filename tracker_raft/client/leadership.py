"""Finding whoever leads, to ask it to hand over: the one request that only the leader can serve."""

from __future__ import annotations

from collections.abc import Sequence

from tracker_raft import commands
from tracker_raft.client.deadline import Deadline
from tracker_raft.client.requester import Requester
from tracker_raft.config import Address
from tracker_raft.errors import NoLeader, P2PError, Unavailable

ASK_S = 1.0
"""For one tracker to say whether it leads."""


def transfer(requester: Requester, to: str | None, deadline: Deadline) -> str:
    """Let ``to`` lead, None: whoever is most up to date. Returns the new leader's id.

    Raises what the leader says, or :class:`NoLeader` when none was found.
    """
    said: list[str] = []
    for address in _all(requester, deadline):
        try:
            status = requester.ask(address, commands.Status(), deadline.within(ASK_S)).body
        except P2PError as error:
            said.append(f"{address}: {error.message}")
            continue
        if status.get("role") != "leader":
            said.append(f"{address} is a {status.get('role')}")
            continue
        reply = requester.ask(
            address, commands.TransferLeadership(to), deadline, attempt_s=deadline.left_s()
        )
        leader = reply.body.get("leader")
        if not isinstance(leader, str):
            raise Unavailable(f"{address} did not say who leads now; ask for the status")
        return leader
    raise NoLeader(f"no tracker leads, nothing was done: {'; '.join(said)}")


def _all(requester: Requester, deadline: Deadline) -> Sequence[Address]:
    """All trackers, those that a first one tells of included."""
    requester.call(commands.Status(), deadline)
    return requester.rotation.addresses
