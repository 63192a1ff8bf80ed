"""Turns: how many runs a seeder sends at a time, and which one is next. Pure.

A run that shares the link with many others arrives late, and nobody can pass on what has not
arrived. So few runs are sent at a time, one after the other, each as fast as the link goes:

* at most ``turns_max`` runs are begun at a time; who asks later waits, first come, first served;
* a run that takes longer than ``turn_s`` counts no more: its receiver is slower than the link, and
  the link has room for others.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from peer.limits import PeerLimits

Holder = TypeVar("Holder")


class Turns(Generic[Holder]):
    """The turns of one seeder."""

    def __init__(self, limits: PeerLimits) -> None:
        self._limits = limits
        self._sending: dict[Holder, float] = {}
        self.waiting: dict[Holder, None] = {}

    def ask(self, holder: Holder, now_s: float) -> bool:
        """Whether ``holder`` may send now; else it waits for :meth:`next`."""
        if self.waiting or not self._room(now_s):
            self.waiting[holder] = None
            return False
        self._sending[holder] = now_s
        return True

    def next(self, now_s: float) -> Holder | None:
        """Whose turn has come, if anybody's."""
        if not self.waiting or not self._room(now_s):
            return None
        holder = next(iter(self.waiting))
        del self.waiting[holder]
        self._sending[holder] = now_s
        return holder

    def leave(self, holder: Holder) -> None:
        """It has sent its run, or gone."""
        self._sending.pop(holder, None)
        self.waiting.pop(holder, None)

    def wait_s(self, now_s: float) -> float:
        """After how long a turn comes by the mere passing of time, if none is over before."""
        turn_s = self._limits.turn_s
        left_s = (since_s + turn_s - now_s for since_s in self._sending.values())
        return min((one for one in left_s if one > 0.0), default=0.0) + 0.001

    def _room(self, now_s: float) -> bool:
        turn_s = self._limits.turn_s
        fresh = sum(now_s - since_s < turn_s for since_s in self._sending.values())
        return fresh < self._limits.turns_max

    def __repr__(self) -> str:
        return f"<Turns {len(self._sending)} sending, {len(self.waiting)} waiting>"
