"""What a tracker does for whoever looks after it: status, signs of life, handing over, leaving.

The words here are answered by the tracker that is asked, whoever leads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from tracker_raft import commands, log_view
from tracker_raft.backups import Backups
from tracker_raft.commands import Operation
from tracker_raft.config import NodeConfig
from tracker_raft.errors import P2PError, Unavailable, UnknownOperation
from tracker_raft.raft.engine import Role
from tracker_raft.raft.intake import NOWHERE, Position, Reply
from tracker_raft.raft.links import Links
from tracker_raft.raft.replica import Replica
from tracker_raft.raft.status import Sight
from tracker_raft.versions import NEWEST, OLDEST, SOFTWARE

log = logging.getLogger("tracker_raft.control")

HAND_OVER_TIMEOUTS = 4.0
"""An attempt to hand over is abandoned after this many election time-outs."""

Answer = Callable[[Reply, Position], None]


class Control:
    """One tracker, as its operator sees it."""

    def __init__(self, config: NodeConfig, boot: str, replica: Replica, links: Links) -> None:
        self._config = config
        self._boot = boot
        self._replica = replica
        self._links = links
        self._backups = Backups(config.data_dir, replica)
        self._started_s = time.monotonic()

    def request(self, operation: Operation, deadline_s: float, answer: Answer) -> None:
        """Answer once, now or later, by ``deadline_s`` (loop time). Raises a refusal instead of
        answering it."""
        match operation:
            case commands.Ping():
                answer({"ok": {}}, NOWHERE)
            case commands.Status():
                answer({"ok": self.status()}, NOWHERE)
            case commands.TakeSnapshot():
                self._backups.take(operation, deadline_s, answer)
            case commands.SnapshotPart():
                self._backups.part(operation, answer)
            case commands.ReadLog(limit):
                commit = self._replica.engine.raftCommitIndex
                answer({"ok": log_view.tail(self._replica.journal, limit, commit)}, NOWHERE)
            case commands.AddNode(node, birth, raft, endpoint):
                settled = _settled(answer)
                members = self._replica.members
                members.add(node, birth, raft, endpoint, deadline_s, settled)
                self._replica.kick()
            case commands.RemoveNode(node):
                self._replica.members.remove(node, deadline_s, _settled(answer))
                self._replica.kick()
            case commands.TransferLeadership(to) if to == self._config.node and self._leads:
                answer({"ok": {"leader": to}}, NOWHERE)
            case commands.TransferLeadership(to):

                def done(leader: str | None, error: P2PError | None) -> None:
                    if error is None and to not in (None, leader):  # of an attempt it joined
                        error = Unavailable(f"leadership went to {leader}, not to {to}")
                    reply = {"ok": {"leader": leader}} if error is None else error.to_wire()
                    answer(reply, NOWHERE)

                self._replica.hand_over(to, self._patience_s, done)
            case _:
                raise UnknownOperation(f"operation {operation.op!r} is not known here")

    @property
    def _leads(self) -> bool:
        return self._replica.engine.role is Role.LEADER

    @property
    def _patience_s(self) -> float:
        return HAND_OVER_TIMEOUTS * self._config.timing.election_timeout_s

    def close(self) -> None:
        """Let go of the files that were held open for others."""
        self._backups.close()

    async def leave(self) -> None:
        """Before this tracker stops: if it leads, let another one lead, as far as that works."""
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(leader: str | None, error: P2PError | None) -> None:
            if not left.done():
                left.set_result(None)

        if not self._leads or not self._links.connected:
            return
        try:
            self._replica.hand_over(None, self._patience_s, done)
        except P2PError as error:
            log.info("not handed over: %s", error)
            return
        await asyncio.wait([left], timeout=2 * self._patience_s)

    def _members(self, behind: dict[str, int] | None) -> list[dict[str, Any]]:
        links = self._links
        seats = links.roster.in_force.members.completed(links.identity).seats
        return [
            {
                "node": seat.node,
                "incarnation": seat.incarnation,
                "votes": seat.votes,
                "raft": seat.raft,
                "endpoint": seat.endpoint,
                "behind": None if behind is None else behind.get(seat.node, 0),
            }
            for seat in seats
        ]

    def status(self) -> dict[str, Any]:
        """The reply to ``status``; ``docs/protocol.md`` lists the fields."""
        config, replica, links = self._config, self._replica, self._links
        status = replica.status()
        sight = status.sight
        own = next(m for m in config.members if m.node == config.node)
        return {
            "node": config.node,
            "cluster": config.cluster,
            "cluster_version": replica.machine.version,
            "software": SOFTWARE,
            "supports": (OLDEST, NEWEST),
            "role": status.role,
            "leader": status.leader,
            "term": status.term,
            "commit": status.commit,
            "applied": status.applied,
            "state_hash": status.state_hash,
            "endpoint": str(config.client_advertised),
            "raft": str(own.raft),
            "pid": os.getpid(),
            "boot": self._boot,
            "uptime_s": round(time.monotonic() - self._started_s, 3),
            "links": list(links.connected),
            "refused": dict(links.refused),
            "disk_full": status.disk_full,
            "snapshot": status.snapshot,
            "log_entries": status.log_entries,
            "journal_syncs": status.journal_syncs,
            "log_bytes": sight.log_bytes,
            "election_timeout_ms": round(sight.election_timeout_s * 1000),
            "election": _election(sight),
            "leader_silent_ms": _milliseconds(sight.leader_silent_s),
            "behind": sight.behind,
            "birth": links.me.birth,
            "joining": links.me.joining,
            "votes": replica.roll.membership.votes,
            "members": self._members(sight.behind),
            "members_index": replica.roll.membership.index,
            "members_settled": replica.roll.membership.is_settled,
            **replica.machine.counts(),
        }


def _settled(answer: Answer) -> Callable[[dict[str, Any] | None, P2PError | None], None]:
    def settled(reply: dict[str, Any] | None, error: P2PError | None) -> None:
        answer({"ok": reply} if error is None else error.to_wire(), NOWHERE)

    return settled


def _election(sight: Sight) -> dict[str, Any] | None:
    if sight.election is None:
        return None
    return {
        "term": sight.election.term,
        "leader": sight.election.leader,
        "reason": sight.election.reason or None,
        "ago_ms": _milliseconds(sight.election_ago_s),
    }


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
