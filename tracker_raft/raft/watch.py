"""Watches the leader's process: when the link to it breaks, is it gone? Then stand at once (D7).

The shell around :mod:`election`: it dials, waits and moves the engine's election deadline;
what follows from what it sees is decided there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from tracker_raft.raft import election
from tracker_raft.raft.engine import Engine, Role
from tracker_raft.raft.seams import Lines, Scheduler

log = logging.getLogger("tracker_raft.watch")

RECONNECT_TRIES = 8
RECONNECT_PAUSE_S = 0.002
"""A dying process may still complete a handshake: ask again a moment later."""


class LeaderWatch:
    """``kick`` asks for a turn of the replica, so that the engine sees its new deadline."""

    def __init__(
        self,
        node: str,
        engine: Engine,
        lines: Lines,
        scheduler: Scheduler,
        stagger_s: float,
        kick: Callable[[], None],
    ) -> None:
        self._node = node
        self._engine = engine
        self._lines = lines
        self._scheduler = scheduler
        self._stagger_s = stagger_s
        self._kick = kick
        self._closed = False

    def link_up(self, node: str, *, other_run: bool) -> None:
        """A link came up; the process behind it may be another than the one that led."""
        if other_run and self._follows(node):
            self._stand(node, election.Reconnect.OTHER_RUN)

    def link_down(self, node: str) -> None:
        """A link broke; if it was the leader's, find out whether its process is gone."""
        if self._follows(node):
            self._investigate(node, RECONNECT_TRIES)

    def vote_asked(self, candidate: str, last_log: tuple[int, int]) -> None:
        """A vote was asked for with a log that ends in ``last_log`` = (term, index).

        If it is behind the log here, the candidate cannot win this vote, and its higher term may
        just have deposed the leader, or ended the watch over a lost one. Waiting for a time-out
        would leave the cluster without a leader for nothing.
        """
        engine = self._engine
        if engine.role is Role.FOLLOWER and engine.leader is None and last_log < engine.last_log:
            engine.stand_at(self._scheduler.time() + self._wait_s(candidate))
            self._kick()

    def close(self) -> None:
        self._closed = True

    def _follows(self, node: str) -> bool:
        return self._engine.leader == node and self._engine.role is Role.FOLLOWER

    def _investigate(self, leader: str, tries: int) -> None:
        if tries and not self._closed and self._follows(leader) and not self._lines.linked(leader):
            self._lines.reconnect(leader, partial(self._showed, leader, tries))

    def _showed(self, leader: str, tries: int, reconnect: election.Reconnect) -> None:
        if self._closed or not self._follows(leader) or self._lines.linked(leader):
            return
        if election.leader_is_gone(reconnect):
            self._stand(leader, reconnect)
        elif reconnect is election.Reconnect.NO_ANSWER:
            again_s = self._scheduler.time() + RECONNECT_PAUSE_S
            self._scheduler.call_at(again_s, self._investigate, leader, tries - 1)

    def _stand(self, leader: str, reconnect: election.Reconnect) -> None:
        wait_s = self._wait_s(leader)
        log.info("leader %s is gone (%s), stands in %.0f ms", leader, reconnect.value, wait_s * 1e3)
        self._engine.stand_at(self._scheduler.time() + wait_s)
        self._kick()

    def _wait_s(self, other: str) -> float:
        """Seconds before this node stands, ``other`` being the one that cannot win.

        A node with committed entries still to apply (it came back a moment ago) could win and
        then not lead until it has; it lets all others go first.
        """
        linked = self._lines.connected
        place = election.rank(self._node, linked, other)
        if self._engine.applies_more:
            place += len(linked) + 1
        return election.stand_after_s(place, self._stagger_s)
