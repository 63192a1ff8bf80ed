"""What became of one entry. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tracker_raft.machine.names import NewName, bound

Outcome = dict[str, Any] | NewName
"""A reply; or the name that was bound, of which the reply can be made: only the tracker that is to
answer needs it."""


class Applied(NamedTuple):
    """What one entry did. Not a dataclass, as :class:`~tracker_raft.entries.Entry` is none."""

    outcomes: tuple[Outcome, ...]
    """One for each operation."""
    stop: str | None = None
    """Not None: something committed is not known to this version. The entry changed nothing, and
    the node must stop with this text."""
    positions: Sequence[int] | None = None
    """Where each operation stands in the entry; None: at 0, 1, 2... One that makes many changes
    takes a place for each, and those behind it stand further on."""

    @property
    def replies(self) -> tuple[dict[str, Any], ...]:
        """One for each operation: ``{"ok": {...}}`` or ``{"error": word, "message": text}``."""
        return tuple({"ok": bound(one)} if isinstance(one, tuple) else one for one in self.outcomes)
