"""What the election policy is told, and what it asks for: plain values.

:mod:`election` decides, :mod:`watch` carries out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class LastLog:
    """Where a log ends: what votes are decided by (Raft paper, 5.4.1). Greater is better."""

    term: int
    index: int


@dataclass(frozen=True, slots=True)
class Here:
    """This node at one moment."""

    now_s: float
    timeout_s: float
    """How long silence may last now."""
    leads: bool
    term: int
    leader: str | None
    """Whom this node follows (itself when it leads), if anyone."""
    log: LastLog
    linked: tuple[str, ...]
    late_s: float = 0.0
    """How much later than due this moment came: the node itself stood still for so long."""
    catching_up: bool = False
    """It has committed entries still to apply: it could win, and then not lead until it has."""


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in ``term``? ``round`` tells answers apart."""

    term: int
    log: LastLog
    round: int


# -- what follows ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskAll:
    """Send this to all members."""

    request: PreVote


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer the pre-vote of ``node``."""

    node: str
    round: int
    granted: bool


@dataclass(frozen=True, slots=True)
class LetVote:
    """Hand this vote request to the engine now."""

    node: str
    message: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stand:
    """Raise the term and ask for votes. ``forced``: voters are not to hold the request."""

    forced: bool


@dataclass(frozen=True, slots=True)
class Observe:
    """Another member's term is this high: take it over, as a follower."""

    term: int


Action = AskAll | Answer | LetVote | Stand | Observe
