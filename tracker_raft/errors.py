"""What can go wrong, told apart by whether it happened.

::

    P2PError                        base of everything this project raises on purpose
    ├── Refused                     definite: the operation did not happen, and will not by itself
    │   ├── BadRequest              bad_request        the request is malformed or out of range
    │   │   ├── UnknownOperation    unknown_op         this tracker has no such operation
    │   │   ├── TooLarge            too_large          a frame or field is over its limit
    │   │   └── Unsupported         unsupported        protocol version or feature not spoken here
    │   ├── NotFound                not_found          no such name, version, content or lease
    │   ├── Conflict                conflict           the name is bound to other content
    │   ├── LimitReached            limit_reached      a table of the tracker is full
    │   ├── Compacted               compacted          the changes asked for are not kept any more
    │   └── SessionExpired          session_expired    the request session is not known any more
    ├── Unavailable                 definite: it did not happen now; the same call may work later
    │   ├── Busy                    busy               intake is full; ``retry_after_s`` says when
    │   ├── NoLeader                no_leader          no leader reachable from this tracker
    │   ├── ShuttingDown            shutting_down      this tracker is stopping
    │   └── NoTracker               no_tracker         no tracker answered (raised by the client)
    ├── OutcomeUnknown              outcome_unknown    it may or may not have happened
    ├── Damaged                     damaged            data on disk is not what was written there
    └── LocalError                  local              this machine's side: files, ports, processes
        └── Removed                 removed            this node is not a member any more

The second column is the word on the wire (``docs/protocol.md`` lists them all). A class carries
its word in ``code``; :func:`from_wire` turns a word back into its class.
"""

from __future__ import annotations

from typing import Any, ClassVar


class P2PError(Exception):
    """``str(error)`` says what was found, what was expected, and whether it happened."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s

    def to_wire(self) -> dict[str, Any]:
        """The error keys of a reply: ``error``, ``message`` and, when set, ``retry_after_ms``."""
        reply: dict[str, Any] = {"error": self.code, "message": self.message}
        if self.retry_after_s is not None:
            reply["retry_after_ms"] = round(self.retry_after_s * 1000)
        return reply


class Refused(P2PError):
    """Definite: it did not happen, and asking again without a change will not help."""

    code = "refused"


class BadRequest(Refused):
    code = "bad_request"


class UnknownOperation(BadRequest):
    code = "unknown_op"


class TooLarge(BadRequest):
    code = "too_large"


class Unsupported(BadRequest):
    code = "unsupported"


class NotFound(Refused):
    code = "not_found"


class Conflict(Refused):
    code = "conflict"


class LimitReached(Refused):
    code = "limit_reached"


class Compacted(Refused):
    """A watch from a place whose changes are not all kept any more.

    ``oldest``: the oldest index from which none is missing; 0 when it is not known.
    """

    code = "compacted"

    def __init__(
        self, message: str, *, oldest: int = 0, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.oldest = oldest

    def to_wire(self) -> dict[str, Any]:
        reply = super().to_wire()
        return {**reply, "oldest": self.oldest} if self.oldest else reply


class SessionExpired(Refused):
    """The request session is unknown: it expired, was closed, or never was. Nothing was run."""

    code = "session_expired"


class Unavailable(P2PError):
    """Definite: it did not happen now; the same call may work later or on another tracker."""

    code = "unavailable"


class Busy(Unavailable):
    code = "busy"


class NoLeader(Unavailable):
    code = "no_leader"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class NoTracker(Unavailable):
    code = "no_tracker"


class OutcomeUnknown(P2PError):
    """The operation may or may not have happened; only a read can tell."""

    code = "outcome_unknown"


class Damaged(P2PError):
    """Data on disk is not what was written there; nothing was changed."""

    code = "damaged"


class LocalError(P2PError):
    """Something on this machine stands in the way: a file, a port, a process, a full disk."""

    code = "local"


class Removed(LocalError):
    """This node is no member of its cluster any more: it stops, and its directory is of no use."""

    code = "removed"


_CLASSES: tuple[type[P2PError], ...] = (
    Refused,
    BadRequest,
    UnknownOperation,
    TooLarge,
    Unsupported,
    NotFound,
    Conflict,
    LimitReached,
    Compacted,
    SessionExpired,
    Unavailable,
    Busy,
    NoLeader,
    ShuttingDown,
    NoTracker,
    OutcomeUnknown,
    Damaged,
    LocalError,
    Removed,
)
BY_CODE: dict[str, type[P2PError]] = {cls.code: cls for cls in _CLASSES}


def from_wire(reply: dict[str, Any]) -> P2PError:
    """The exception of an error reply.

    A word this version does not know becomes :class:`OutcomeUnknown`: a newer tracker may mean
    either branch by it, and taking an unknown word for "did not happen" could run a thing twice.
    """
    code = reply.get("error")
    message = str(reply.get("message", code))
    retry_after_ms = reply.get("retry_after_ms")
    retry_after_s = retry_after_ms / 1000 if isinstance(retry_after_ms, int) else None
    cls = BY_CODE.get(code) if isinstance(code, str) else None
    if cls is None:
        return OutcomeUnknown(f"unknown error word {code!r}: {message}")
    if cls is Compacted:
        oldest = reply.get("oldest")
        oldest = oldest if isinstance(oldest, int) else 0
        return Compacted(message, oldest=oldest, retry_after_s=retry_after_s)
    return cls(message, retry_after_s=retry_after_s)
