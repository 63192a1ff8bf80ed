"""What may stand in the log, and what each operation in it is. Pure.

A word that is not here stops the node that meets it (:func:`unknown`): passing over it would leave
this replica different from those that know it.
"""

from __future__ import annotations

from typing import Any, Final, get_args

from tracker_raft.commands import (
    RENEW_MANY,
    CloseSession,
    Complete,
    Join,
    Leave,
    OpenSession,
    Publish,
    PublishMany,
    Remove,
    SetRetention,
    Tag,
    Untag,
)
from tracker_raft.entries import Body, Entry, word_of
from tracker_raft.errors import BadRequest
from tracker_raft.versions import NEWEST, RAISE_VERSION, SINCE, beyond, refusal

SessionWrite = (
    Publish
    | PublishMany
    | Remove
    | Tag
    | Untag
    | SetRetention
    | Join
    | Complete
    | Leave
    | CloseSession
)
"""What runs inside of a request session; with ``open_session`` and what the trackers log
themselves, all of the log."""

_SESSION_WRITES: Final[dict[str, type[SessionWrite]]] = {
    cls.op: cls for cls in get_args(SessionWrite)
}
OUTSIDE_SESSIONS: Final = (OpenSession.op, RENEW_MANY, RAISE_VERSION)
LOG_WORDS: Final = frozenset({*_SESSION_WRITES, *OUTSIDE_SESSIONS})
"""Every word that may stand in an entry. Any other stops the node."""
ROW_WORDS: Final = frozenset({Publish.op})
"""The words of the operations that may be arrays. Another one stops the node as well."""


def width(body: Body) -> int:
    """How many places of its entry an operation takes: as many as it may make changes."""
    if isinstance(body, tuple) or body.get("op") != PublishMany.op:
        return 1
    names = body.get("names")
    return max(1, len(names)) if type(names) is tuple else 1


def unknown(entry: Entry) -> str | None:
    """Why this version cannot apply ``entry``: a word that is not in its vocabulary of the log, or
    a cluster version above its own. None: it can.

    A body whose ``op`` is not text at all is no word of any version: it is refused by itself.
    """
    for _, _, _, body in entry.operations:
        word = word_of(body)
        if type(word) is not str:
            continue
        if word not in (ROW_WORDS if type(body) is tuple else LOG_WORDS):
            return (
                f"operation {word!a} is not known to this version; "
                f"a newer version of this program wrote it"
            )
        if word == RAISE_VERSION and isinstance(body, dict):
            version = body.get("version")
            if type(version) is int and version > NEWEST:
                return beyond(version)
    return None


def parse(body: Body, version: int) -> SessionWrite:
    """The operation in a session, in a cluster at ``version``. Raises :class:`BadRequest`."""
    if isinstance(body, tuple):
        return _from_row(body)
    word = body.get("op")
    if type(word) is not str:
        raise BadRequest(f"op is {type(word).__name__}, expected a word")
    if word in SINCE and (early := refusal(word, version)):
        raise early
    return _SESSION_WRITES[word].from_wire(body)


def _from_row(body: tuple[Any, ...]) -> Publish:
    if len(body) not in (6, 9) or body[0] != Publish.op:
        raise BadRequest(f"an array of {len(body)} fields, expected a publish with 6 or 9")
    return Publish(*body[1:])
