"""A leader hands its place to another member (Raft thesis, 3.10).

The steps of one attempt, taken in the turns of the replica:

1. *paused*: no operation is proposed any more. What arrives waits, and is forwarded afterwards.
2. *caught up*: when all of the log is committed, and is on the target, the target is told to stand
   (``timeout_now``). Its vote requests are forced, so nobody holds them.
3. *confirmed*: this node has heard the new leader. What waited goes to it.

An attempt that is not confirmed in time is abandoned, and one after which this node was elected
again: it leads on, or has lost the place to somebody else. Nothing is lost either way; it is the
wait that is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from tracker_raft.errors import BadRequest, NoLeader, P2PError, Unavailable
from tracker_raft.raft.engine import Engine, Member, Role
from tracker_raft.raft.seams import Lines, Message

log = logging.getLogger("tracker_raft.handover")

HEARTBEATS_FRESH = 3.0
"""A successor was heard within so many signs of life: one that stands still would be told now, and
stand when it wakes up, long after the attempt was abandoned."""

Done = Callable[[str | None, P2PError | None], None]
"""Called once: with the new leader, or with why the attempt was abandoned."""


class HandOver:
    """At most one attempt at a time. ``send`` queues a message for a member."""

    def __init__(
        self,
        engine: Engine,
        members: Mapping[str, Member],
        lines: Lines,
        send: Callable[[Member, Message], object],
        heartbeat_s: float,
    ) -> None:
        self._engine = engine
        self._members = members
        self._lines = lines
        self._send = send
        self._fresh_s = HEARTBEATS_FRESH * heartbeat_s
        self._target: str | None = None
        self._deadline_s = 0.0
        self._told: str | None = None
        self._told_term = 0
        self._waiting: list[Done] = []

    @property
    def paused(self) -> bool:
        """Nothing is to be proposed meanwhile."""
        return bool(self._waiting) and self._engine.role is Role.LEADER

    @property
    def waits(self) -> bool:
        """An attempt is under way."""
        return bool(self._waiting)

    def begin(self, target: str | None, deadline_s: float, done: Done) -> None:
        """Hand over to ``target``, None for whoever is most up to date.

        An attempt that is under way already is joined. Raises :class:`BadRequest` for a target
        that is no other member, :class:`NoLeader` when this node does not lead.
        """
        if target is not None and target not in self._members:
            others = ", ".join(self._members) or "none"
            raise BadRequest(f"cannot hand over to {target!r}: the other members are {others}")
        if self._engine.role is not Role.LEADER or not self._members:
            raise NoLeader("this tracker does not lead, or leads alone; nothing was done")
        if not self._waiting:
            self._target, self._told, self._deadline_s = target, None, deadline_s
        self._waiting.append(done)

    def step(self, now_s: float) -> None:
        """Go on with what is under way, in every turn."""
        if not self._waiting:
            return
        engine = self._engine
        if engine.role is not Role.LEADER:
            if engine.leader is not None:
                self._finish(engine.leader, None)
            elif now_s >= self._deadline_s:
                self._abandon("no other leader was heard in time")
        elif now_s >= self._deadline_s:
            self._abandon("no other member caught up and was elected in time; this one leads on")
        elif self._told is not None and engine.raftCurrentTerm != self._told_term:
            self._abandon(f"{self._told} stood and was not elected; this one leads on")
        elif self._told is None and engine.raftCommitIndex == engine.last_log[1]:
            self._tell(now_s)

    def _tell(self, now_s: float) -> None:
        engine = self._engine
        for node in self._lines.connected:
            member = self._members.get(node)
            if member is None or self._target not in (None, node):
                continue
            fresh = engine.heard_s(member) > now_s - self._fresh_s
            if fresh and engine.matched(member) == engine.last_log[1]:
                self._told = node
                break
        if self._told is not None:
            log.info("hands over to %s", self._told)
            self._told_term = engine.raftCurrentTerm
            self._send(self._members[self._told], {"type": "timeout_now", "term": self._told_term})

    def _abandon(self, why: str) -> None:
        whom = self._target or "another tracker"
        log.warning("handing over to %s was abandoned: %s", whom, why)
        self._finish(None, Unavailable(f"leadership was not handed over to {whom}: {why}"))

    def _finish(self, leader: str | None, error: P2PError | None) -> None:
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(leader, error)

    def deadline_s(self) -> float | None:
        return self._deadline_s if self._waiting else None
