"""How long to leave alone what went wrong: longer each time that it comes soon again. Pure."""

from __future__ import annotations

MIN_S = 1.0
MAX_S = 300.0
OFTEN = 64
"""What comes within so many times the last time away comes often."""


class Away:
    """Begins with :data:`MIN_S`, doubles up to ``most_s``. Seconds of one monotonic clock."""

    def __init__(self, most_s: float = MAX_S) -> None:
        self.most_s = most_s
        self.seconds = 0.0
        """How long the last time is, or was, to be."""
        self.until_s = 0.0

    def begin(self, now_s: float) -> None:
        """It went wrong. In the midst of a time away that time begins anew, as long as it is."""
        if now_s >= self.until_s:
            often = now_s < self.until_s + OFTEN * self.seconds
            self.seconds = min(max(MIN_S, 2 * self.seconds * often), self.most_s)
        self.until_s = now_s + self.seconds

    def __repr__(self) -> str:
        return f"<Away {self.seconds:g}s until {self.until_s:.3f}>"
