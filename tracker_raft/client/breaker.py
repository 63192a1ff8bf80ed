"""When to leave an endpoint alone, and how long to wait between rounds. Pure: time is handed in.

A :class:`Breaker` watches one endpoint::

            failures_max in a row                retry_at reached
    closed ───────────────────────▶ open ─────────────────────▶ half-open
      ▲                              ▲                              │
      │            any success       └── the probe fails: twice ────┤
      └─────────────────────────────     the open time, to a max    │ one probe at a time
      ▲                                                             │
      └───────────────────── the probe succeeds ────────────────────┘

It asks nothing and decides nothing for its caller: :meth:`Breaker.admits` is a hint, and who has
nowhere else to go may :meth:`~Breaker.enter` all the same. Such an attempt counts as the probe.

An attempt that began before the breaker opened and fails after it tells nothing new: only the
probe's failure lengthens the open time. Otherwise sixteen threads that lose one tracker at the
same moment would count as sixteen outages.

:class:`Backoff` is exponential with full jitter: any wait from 0 to the bound is as likely as any
other, so that clients which lost the same tracker together do not come back together.
"""

from __future__ import annotations

import random as random_module


class Breaker:
    """Circuit breaker of one endpoint. Not thread-safe: its owner holds a lock."""

    def __init__(self, failures_max: int, open_min_s: float, open_max_s: float) -> None:
        self.failures_max = failures_max
        self.open_min_s = open_min_s
        self.open_max_s = open_max_s
        self.retry_at: float | None = None
        """None while closed; else the time from which one probe is let through."""
        self._open_s = open_min_s
        self._failures = 0
        self._probing = False

    def admits(self, now: float) -> bool:
        """Whether an attempt is welcome: closed, or half-open with no probe under way."""
        return self.retry_at is None or (now >= self.retry_at and not self._probing)

    def enter(self) -> bool:
        """Note that an attempt begins. True: it is the probe.

        Each is followed by exactly one of :meth:`succeeded`, :meth:`failed` and
        :meth:`abandoned`, with what this returned.
        """
        probe = self.retry_at is not None and not self._probing
        self._probing = self._probing or probe
        return probe

    def succeeded(self) -> None:
        """Any answer closes it: whoever answers is alive."""
        self.retry_at = None
        self._open_s = self.open_min_s
        self._failures = 0
        self._probing = False

    def failed(self, now: float, probe: bool) -> None:
        if probe:
            self._probing = False
        if self.retry_at is None:
            self._failures += 1
            if self._failures >= self.failures_max:
                self.retry_at = now + self._open_s
        elif probe:
            self._open_s = min(self._open_s * 2, self.open_max_s)
            self.retry_at = now + self._open_s

    def abandoned(self, probe: bool) -> None:
        """The attempt ended without a verdict on the endpoint."""
        if probe:
            self._probing = False

    def state(self, now: float) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self.retry_at is None:
            return "closed"
        return "open" if now < self.retry_at else "half-open"

    def __repr__(self) -> str:
        if self.retry_at is None:
            return f"<Breaker closed failures={self._failures}/{self.failures_max}>"
        probing = " probing" if self._probing else ""
        return f"<Breaker open for {self._open_s} s until {self.retry_at}{probing}>"


class Backoff:
    """Waits between the rounds of one call: up to ``min_s``, then up to twice that, ... ``max_s``.

    Full jitter after M. Brooker, "Exponential Backoff And Jitter" (2015): of the variants measured
    there it causes the least work and nearly the shortest time.
    """

    def __init__(self, min_s: float, max_s: float, random: random_module.Random) -> None:
        self._bound_s = min_s
        self._max_s = max_s
        self._random = random

    def next_s(self) -> float:
        bound_s = min(self._bound_s, self._max_s)
        self._bound_s = bound_s * 2
        return self._random.uniform(0.0, bound_s)
