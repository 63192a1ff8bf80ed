"""What a download tells of itself while it runs and when it is done. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path

RATE_WINDOW_S = 3.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a download."""

    bytes_done: int
    """Verified and on disk."""
    bytes_total: int
    """0 while the manifest is not here."""
    peers: int
    """Peers connected now."""
    rate_bytes_s: float
    """Over the last few seconds."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A finished download."""

    path: Path
    content: bytes
    bytes: int
    seconds: float
    """From the first question to the trackers to the final name."""
    peers: int
    """Peers that gave at least one piece."""
    banned: tuple[str, ...] = ()
    """Peers that broke the rules, each with the reason."""
    taken: tuple[tuple[str, int], ...] = ()
    """Peers that gave pieces, and the bytes of each; a piece that came twice counts twice."""
    kept: int = 0
    """Bytes that were here already, from an earlier fetch or the old content."""
    already_there: bool = False
    """The destination held this content; nothing was fetched and nothing written."""


class RateMeter:
    """Bytes a second over the last :data:`RATE_WINDOW_S`."""

    def __init__(self, now_s: float) -> None:
        self._samples: deque[tuple[float, int]] = deque([(now_s, 0)])

    def update(self, now_s: float, bytes_done: int) -> float:
        """Note how many bytes are done at ``now_s``; the rate up to then."""
        samples = self._samples
        samples.append((now_s, bytes_done))
        while len(samples) > 2 and samples[1][0] <= now_s - RATE_WINDOW_S:
            samples.popleft()
        elapsed_s = now_s - samples[0][0]
        return (bytes_done - samples[0][1]) / elapsed_s if elapsed_s > 0 else 0.0
