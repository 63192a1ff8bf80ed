"""When to start a node again that has ended. Pure: looks in, nodes to start out.

A node that ends is started again after a pause that doubles with each time it ended soon; one that
has run for a while begins anew. One that ends again and again is given up: what it says will not
change by itself, and a log full of the same failure hides the first one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

PAUSE_MIN_S = 0.5
PAUSE_MAX_S = 30.0
STEADY_S = 60.0
"""A node that has run for so long is as good as one that never ended."""
ATTEMPTS_MAX = 8
"""Starts of one node that ends before it is steady; they take about two minutes."""


@dataclass(slots=True)
class _Watched:
    up_since_s: float | None
    attempts: int = 0
    due_s: float = 0.0
    given_up: bool = False


class Supervisor:
    """Of all nodes of one cluster. Times in seconds of one monotonic clock."""

    def __init__(self, nodes: Sequence[str], now_s: float) -> None:
        """All of them run."""
        self._nodes = {node: _Watched(now_s) for node in nodes}

    def watch(self, nodes: Sequence[str], now_s: float) -> None:
        """These are the nodes now; a new one runs."""
        self._nodes = {node: self._nodes.get(node, _Watched(now_s)) for node in nodes}

    def look(self, alive: Collection[str], now_s: float) -> tuple[list[str], list[str]]:
        """(nodes to be started now, nodes given up just now). Who is in the first list counts as
        started; if that fails it is not among ``alive`` at the next look."""
        start, given_up = [], []
        for node, one in self._nodes.items():
            if node in alive:
                self._runs(one, now_s)
            elif one.given_up:
                continue
            elif one.up_since_s is not None:
                self._ended(one, now_s)
            elif one.attempts >= ATTEMPTS_MAX:
                one.given_up = True
                given_up.append(node)
            elif now_s >= one.due_s:
                one.attempts += 1
                one.up_since_s = now_s
                start.append(node)
        return start, given_up

    def _runs(self, one: _Watched, now_s: float) -> None:
        """Whoever started it: also one that was given up is watched again."""
        if one.up_since_s is None:
            one.up_since_s = now_s
        one.given_up = False
        if now_s - one.up_since_s >= STEADY_S:
            one.attempts = 0

    def _ended(self, one: _Watched, now_s: float) -> None:
        one.up_since_s = None
        one.due_s = now_s + min(PAUSE_MIN_S * 2**one.attempts, PAUSE_MAX_S)

    def attempts(self, node: str) -> int:
        """How often it was started since it was steady last."""
        return self._nodes[node].attempts
