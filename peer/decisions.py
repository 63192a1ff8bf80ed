"""What the brain of a download tells a connection to do. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from peer.pieces import Run

LOOK_AGAIN_S = 0.1
"""When to ask again what to do, while time alone may change the answer."""


@dataclass(frozen=True, slots=True)
class AskManifest:
    """Ask the peer for the manifest now, and report :meth:`Swarm.described`, or how it ended."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the peer for this run now, and report what arrives and how it ended."""

    run: Run


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to ask of this peer now; ask again after the next fact, or after this time."""

    again_s: float = LOOK_AGAIN_S


@dataclass(frozen=True, slots=True)
class Rest:
    """Close the connections to this peer; it may be tried again later."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Close all connections to this peer; it is of no use to this download."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Every wanted piece is verified."""


Decision = AskManifest | Ask | Wait | Rest | GiveUp | Done
