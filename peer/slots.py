"""Upload slots: how many are sent pieces at a time, and whose turn it is. Pure.

* A slot is taken by asking for pieces and kept by going on asking.
* Who does not ask for ``slot_idle_s`` has left it.
* While others were refused, a slot is held for ``slot_turn_s`` at most; then it is theirs.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from peer.limits import PeerLimits

RETRY_S_MIN = 0.05
WAITING_S = 2.0
"""Who was refused longer ago than this and did not ask again waits no more."""


@dataclass(slots=True)
class _Slot:
    since_s: float
    used_s: float


class Slots:
    """The slots of one seeder. ``holder`` is whoever asks: any hashable."""

    def __init__(self, limits: PeerLimits) -> None:
        self._limits = limits
        self._held: dict[Hashable, _Slot] = {}
        self._refused: dict[Hashable, float] = {}

    def take(self, holder: Hashable, now_s: float) -> float:
        """0.0 when ``holder`` may be served now, else after how many seconds to ask again."""
        self._sweep(now_s)
        slot = self._held.get(holder)
        full = len(self._held) >= self._limits.upload_slots_max
        if slot is not None:
            if not (full and self._refused and now_s - slot.since_s >= self._limits.slot_turn_s):
                slot.used_s = now_s
                return 0.0
            del self._held[holder]
            return self._refuse(holder, now_s)
        # The longest refused goes first.
        free = self._limits.upload_slots_max - len(self._held)
        ahead = [who for who in self._refused if who != holder]
        first = ahead[:free] if holder not in self._refused else self._before(holder)[:free]
        if len(first) >= free:
            return self._refuse(holder, now_s)
        self._refused.pop(holder, None)
        self._held[holder] = _Slot(now_s, now_s)
        return 0.0

    def leave(self, holder: Hashable) -> None:
        """``holder`` has gone."""
        self._held.pop(holder, None)
        self._refused.pop(holder, None)

    def _before(self, holder: Hashable) -> list[Hashable]:
        waiting = list(self._refused)
        return waiting[: waiting.index(holder)]

    def _refuse(self, holder: Hashable, now_s: float) -> float:
        self._refused[holder] = now_s  # keeps its place when it has one
        soonest_s = min(
            (
                min(
                    slot.used_s + self._limits.slot_idle_s,
                    slot.since_s + self._limits.slot_turn_s,
                )
                for slot in self._held.values()
            ),
            default=now_s,
        )
        return min(max(soonest_s - now_s, RETRY_S_MIN), self._limits.slot_idle_s)

    def _sweep(self, now_s: float) -> None:
        idle_s = self._limits.slot_idle_s
        for holder in [h for h, slot in self._held.items() if now_s - slot.used_s > idle_s]:
            del self._held[holder]
        for holder in [h for h, at_s in self._refused.items() if now_s - at_s > WAITING_S]:
            del self._refused[holder]

    def __repr__(self) -> str:
        return f"<Slots {len(self._held)} held, {len(self._refused)} waiting>"
