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
from tracker_raft.entries import Entry
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
LOG_WORDS: Final = frozenset({*_SESSION_WRITES, OpenSession.op, RENEW_MANY, RAISE_VERSION})
"""Every word that may stand in an entry. Any other stops the node."""


def width(body: dict[str, Any]) -> int:
    """How many places of its entry an operation takes: as many as it may make changes."""
    if body.get("op") != PublishMany.op:
        return 1
    files = body.get("files")
    return max(1, len(files)) if type(files) is tuple else 1


def unknown(entry: Entry) -> str | None:
    """Why this version cannot apply ``entry``: a word that is not in its vocabulary of the log, or
    a cluster version above its own. None: it can.

    A body whose ``op`` is not text at all is no word of any version: it is refused by itself.
    """
    for operation in entry.operations:
        word = operation.body.get("op")
        if type(word) is not str:
            continue
        if word not in LOG_WORDS:
            return (
                f"operation {word!a} is not known to this version; "
                f"a newer version of this program wrote it"
            )
        if word == RAISE_VERSION:
            version = operation.body.get("version")
            if type(version) is int and version > NEWEST:
                return beyond(version)
    return None


def parse(body: dict[str, Any], version: int) -> SessionWrite:
    """The operation in a session, in a cluster at ``version``. Raises :class:`BadRequest`."""
    word = body.get("op")
    if type(word) is not str:
        raise BadRequest(f"op is {type(word).__name__}, expected a word")
    if word in SINCE and (early := refusal(word, version)):
        raise early
    return _SESSION_WRITES[word].from_wire(body)
