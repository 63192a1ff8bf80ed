"""Rate limits: a token bucket that lends. :class:`TokenBucket` is pure, the clock is handed in.

A token bucket fills at its rate up to a burst. Here it may be overdrawn: whoever takes gets what
he asks for and is told how long to pause first. So pieces stay whole, and the average holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_S = 0.1
"""The bucket holds what flows in this time."""
SLICE_BYTES_MIN = 16 * 1024


class TokenBucket:
    """``bytes_s`` bytes a second on average."""

    def __init__(self, bytes_s: int, now_s: float) -> None:
        self._bytes_s = bytes_s
        self._tokens = bytes_s * BURST_S
        self._at_s = now_s

    def take(self, size: int, now_s: float) -> float:
        """Take ``size`` bytes; the seconds to wait before they are moved."""
        flown = max(now_s - self._at_s, 0.0) * self._bytes_s
        self._tokens = min(self._tokens + flown, self._bytes_s * BURST_S)
        self._at_s = max(now_s, self._at_s)
        wait_s = max(-self._tokens / self._bytes_s, 0.0)
        self._tokens -= size
        return wait_s


class Throttle:
    """One rate limit for all threads that share it; without a limit it costs nothing."""

    def __init__(self, bytes_s: int | None) -> None:
        self._lock = threading.Lock()
        self._bucket = TokenBucket(bytes_s, time.monotonic()) if bytes_s else None
        self.slice_bytes = max(int(bytes_s * BURST_S), SLICE_BYTES_MIN) if bytes_s else 2**62
        """Move at most this much between two waits, so that it flows and does not gush."""

    @property
    def limited(self) -> bool:
        return self._bucket is not None

    def wait(self, size: int, sleep: Callable[[float], object]) -> None:
        """Return when ``size`` bytes may be moved; ``sleep`` may end early to stop it all."""
        if self._bucket is None:
            return
        with self._lock:
            wait_s = self._bucket.take(size, time.monotonic())
        if wait_s > 0:
            sleep(wait_s)
