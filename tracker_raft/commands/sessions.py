"""Request sessions (D3): opened and closed by these. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tracker_raft.commands.fields import INTEGER_MAX, check_int
from tracker_raft.commands.operation import Operation


@dataclass(frozen=True, slots=True)
class OpenSession(Operation):
    """Open a request session. Reply: ``{"session": int, "ttl_ms": int}``.

    Asked twice it opens two; the forgotten one expires.
    """

    op: ClassVar[str] = "open_session"


@dataclass(frozen=True, slots=True)
class CloseSession(Operation):
    """Forget a request session and its replies. Reply: ``{}``, also when it was not known."""

    op: ClassVar[str] = "close_session"
    target: int

    def __post_init__(self) -> None:
        check_int("target", self.target, 1, INTEGER_MAX)
