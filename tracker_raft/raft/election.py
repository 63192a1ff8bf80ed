"""When to stand for election before the time-out says so (D7). Pure.

The kernel closes the sockets of a killed process, so the loss of the link to the leader is a
hint, and a reconnect that is refused, or answered by another run of the same node, is proof
that the leader's process is gone. Then candidates stand at once, staggered by rank rather than
at random: random stagger splits votes, and a split vote costs a whole time-out.

Time-outs remain for everything that cannot be proved: a silent leader, a broken network.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum


class Reconnect(Enum):
    """What one attempt to reach a lost node's process showed."""

    REFUSED = "refused"
    """Nothing listens there: the process is gone."""
    OTHER_RUN = "other run"
    """The node answered with another boot id: the process we knew is gone."""
    SAME_RUN = "same run"
    """The same process answered: only the connection broke."""
    NO_ANSWER = "no answer"
    """A time-out or an unreachable host: proves nothing."""


def leader_is_gone(reconnect: Reconnect) -> bool:
    return reconnect in (Reconnect.REFUSED, Reconnect.OTHER_RUN)


def rank(node: str, reachable: Collection[str], leader: str) -> int:
    """Place of ``node`` in the order of standing: among itself and the members it is linked to,
    the lost leader left out, by node id. All members compute the same order from the same links.
    """
    return sorted({node, *reachable} - {leader}).index(node)


def stand_after_s(place: int, stagger_s: float) -> float:
    """Seconds to wait before standing: 0 for the first in rank."""
    return place * stagger_s
