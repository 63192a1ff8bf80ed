"""Watches the leader's process: when the link to it breaks, is it gone? Then stand at once (D7).

The shell around :mod:`election`: it dials, waits and moves the engine's election deadline;
what follows from what it sees is decided there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from tracker_raft.raft import election
from tracker_raft.raft.engine import Engine, Role
from tracker_raft.raft.links import Links

log = logging.getLogger("tracker_raft.watch")

RECONNECT_TRIES = 8
RECONNECT_PAUSE_S = 0.002
"""A dying process may still complete a handshake: ask again a moment later."""


class LeaderWatch:
    """``kick`` asks for a turn of the replica, so that the engine sees its new deadline."""

    def __init__(
        self, node: str, engine: Engine, links: Links, stagger_s: float, kick: Callable[[], None]
    ) -> None:
        self._node = node
        self._engine = engine
        self._links = links
        self._stagger_s = stagger_s
        self._kick = kick
        self._loop = asyncio.get_running_loop()
        self._investigations: set[asyncio.Task[None]] = set()

    def link_up(self, node: str, *, other_run: bool) -> None:
        """A link came up; the process behind it may be another than the one that led."""
        if other_run and self._follows(node):
            self._stand(node, election.Reconnect.OTHER_RUN)

    def link_down(self, node: str) -> None:
        """A link broke; if it was the leader's, find out whether its process is gone."""
        if self._follows(node):
            task = self._loop.create_task(self._investigate(node))
            self._investigations.add(task)
            task.add_done_callback(self._investigations.discard)

    def close(self) -> None:
        for task in self._investigations:
            task.cancel()

    def _follows(self, node: str) -> bool:
        return self._engine.leader == node and self._engine.role is Role.FOLLOWER

    async def _investigate(self, leader: str) -> None:
        for _ in range(RECONNECT_TRIES):
            reconnect = await self._links.reconnect(leader)
            if not self._follows(leader) or self._links.linked(leader):
                return
            if election.leader_is_gone(reconnect):
                self._stand(leader, reconnect)
                return
            if reconnect is election.Reconnect.SAME_RUN:
                return
            await asyncio.sleep(RECONNECT_PAUSE_S)

    def _stand(self, leader: str, reconnect: election.Reconnect) -> None:
        place = election.rank(self._node, self._links.connected, leader)
        wait_s = election.stand_after_s(place, self._stagger_s)
        log.info("leader %s is gone (%s), stands in %.0f ms", leader, reconnect.value, wait_s * 1e3)
        self._engine.stand_at(self._loop.time() + wait_s)
        self._kick()
