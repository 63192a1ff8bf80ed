"""The tracker of a simulated swarm: the real table of swarms, and a count of what it is asked.

What is counted arrives at the trackers as requests: a *look-up* of the file, *questions* for
peers, and *announces* (joining, being complete, leaving, renewing the lease).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peer.lease import LEASE_S, RENEWALS_PER_LEASE
from tracker_raft.commands import Complete, Join, Leave, PeerRecord, Peers
from tracker_raft.config import MachineLimits
from tracker_raft.machine.digest import Digest
from tracker_raft.machine.swarm_table import SwarmTable

LEASE_MS = int(LEASE_S * 1000)
RENEW_S = LEASE_S / RENEWALS_PER_LEASE


@dataclass(frozen=True, slots=True)
class Found:
    """An answer to the question for peers."""

    peers: Sequence[PeerRecord]
    total: int


class Tracker:
    """One content. ``clock``: virtual seconds."""

    def __init__(self, content: bytes, clock: Callable[[], float]) -> None:
        self._content = content
        self._clock = clock
        self._table = SwarmTable(MachineLimits(), Digest())
        self._expired_ms = 0
        self._records: dict[tuple[str, bool], PeerRecord] = {}
        self.asked: dict[str, Counter[int]] = {
            word: Counter() for word in ("lookup", "peers", "join", "complete", "leave", "renew")
        }
        """How often each word was said in each second."""

    def peers(
        self, content: bytes, *, limit: int = 50, skip: int = 0, deadline_s: float | None = None
    ) -> Found:
        self._count("peers")
        self._expire()
        answer = self._table.peers(Peers(content, limit, skip))
        return Found([self._record(wire) for wire in answer["peers"]], answer["total"])

    def looked_up(self) -> None:
        self._count("lookup")

    def join(self, peer: str, *, complete: bool, zone: str) -> None:
        self._count("join")
        wanted = Join(peer, f"{peer}:1", self._content, complete, zone, LEASE_MS)
        self._table.join(wanted, self._now_ms())

    def completed(self, peer: str) -> None:
        self._count("complete")
        self._table.complete(Complete(peer, self._content))

    def leave(self, peer: str) -> None:
        self._count("leave")
        self._table.leave(Leave(peer))

    def renew(self, peer: str) -> None:
        self._count("renew")
        self._table.renew((peer,), self._now_ms())

    def by_second(self) -> list[int]:
        """Requests of all kinds in each second from the first on."""
        last = max((max(one, default=0) for one in self.asked.values()), default=0)
        return [sum(one[second] for one in self.asked.values()) for second in range(last + 1)]

    def _count(self, word: str) -> None:
        self.asked[word][int(self._clock())] += 1

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _expire(self) -> None:
        if self._now_ms() >= self._expired_ms + 1000:
            self._expired_ms = self._now_ms()
            self._table.expire(self._expired_ms)

    def _record(self, wire: dict[str, object]) -> PeerRecord:
        """One object for each, not one for each answer."""
        key = str(wire["peer"]), bool(wire["complete"])
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = PeerRecord.from_wire(wire)
        return record
