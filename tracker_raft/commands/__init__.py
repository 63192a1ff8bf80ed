"""The tracker's vocabulary: requests, replies and log operations, with their checks.

Every operation is one request map and one reply map (``docs/protocol.md`` shows them all)::

    {"id": 7, "op": "publish", "session": 3, "seq": 12, "low": 12, "name": "models/a", ...}
    {"id": 7, "ok": {...}, "at": [104, 0]}   or   {"id": 7, "error": "conflict", "message": ...}

``at`` is the (log index, position in that entry) the answer reflects. The classes below carry
only what belongs to the operation; envelope keys (``id``, ``session``, ``deadline_ms``...) are
the server's and the client's.

Writes go through the log and need a request session (D3), except ``open_session`` itself.
Reads name a consistency level (D6). ``renew`` is neither: trackers collect renewals and log
them together, as the internal operation ``renew``.

In the order to read them: :mod:`.operation` (what all are), :mod:`.files`, :mod:`.batches`,
:mod:`.keeping`, :mod:`.swarm`, :mod:`.sessions`, :mod:`.trackers`, :mod:`.records` (what replies
hold), :mod:`.fields` (limits and checks).

Fields are checked when an object is made, so whoever holds one holds a valid one. Unknown keys
are ignored, unknown operations refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker_raft.commands.batches import BATCH_FILES_MAX, NewFile, PublishMany
from tracker_raft.commands.fields import (
    CONTENT_ID_BYTES,
    INTEGER_MAX,
    LABEL_BYTES_MAX,
    NAME_BYTES_MAX,
    PIECE_BYTES_MAX,
    PIECE_BYTES_MIN,
    VERSION_MAX,
    check_bool,
    check_content,
    check_int,
    check_name,
    check_peer,
    check_tag,
    check_text,
    parse_content_hex,
    split_reference,
    split_version,
)
from tracker_raft.commands.files import (
    List,
    Lookup,
    Publish,
    PublishRow,
    Remove,
    Watch,
    is_plain,
    plain_columns,
    publish_row,
)
from tracker_raft.commands.keeping import (
    UNSOURCED_MAX_MS,
    VERSIONS_KEPT_MAX,
    Retention,
    SetRetention,
    Tag,
    Untag,
)
from tracker_raft.commands.operation import (
    Level,
    Operation,
)
from tracker_raft.commands.records import (
    FileRecord,
    PeerRecord,
)
from tracker_raft.commands.sessions import (
    CloseSession,
    OpenSession,
)
from tracker_raft.commands.swarm import (
    Complete,
    Join,
    Leave,
    Peers,
    Renew,
)
from tracker_raft.commands.trackers import (
    AddNode,
    Ping,
    ReadLog,
    RemoveNode,
    SnapshotPart,
    Status,
    TakeSnapshot,
    TransferLeadership,
)
from tracker_raft.errors import UnknownOperation

__all__ = [
    "BATCH_FILES_MAX",
    "BY_WORD",
    "CONTENT_ID_BYTES",
    "INTEGER_MAX",
    "LABEL_BYTES_MAX",
    "NAME_BYTES_MAX",
    "PIECE_BYTES_MAX",
    "PIECE_BYTES_MIN",
    "READS",
    "RENEW_MANY",
    "UNSOURCED_MAX_MS",
    "VERSIONS_KEPT_MAX",
    "VERSION_MAX",
    "WRITES",
    "AddNode",
    "CloseSession",
    "Complete",
    "FileRecord",
    "Join",
    "Leave",
    "Level",
    "List",
    "Lookup",
    "NewFile",
    "OpenSession",
    "Operation",
    "PeerRecord",
    "Peers",
    "Ping",
    "Publish",
    "PublishMany",
    "PublishRow",
    "ReadLog",
    "Remove",
    "RemoveNode",
    "Renew",
    "Retention",
    "SetRetention",
    "SnapshotPart",
    "Status",
    "Tag",
    "TakeSnapshot",
    "TransferLeadership",
    "Untag",
    "Watch",
    "check_bool",
    "check_content",
    "check_int",
    "check_name",
    "check_peer",
    "check_tag",
    "check_text",
    "is_plain",
    "parse",
    "parse_content_hex",
    "plain_columns",
    "publish_row",
    "split_reference",
    "split_version",
    "unknown",
]

WRITES: tuple[type[Operation], ...] = (
    OpenSession,
    CloseSession,
    Publish,
    PublishMany,
    Remove,
    Tag,
    Untag,
    SetRetention,
    Join,
    Complete,
    Leave,
)
"""Go through the log."""
READS: tuple[type[Operation], ...] = (Lookup, List, Peers, Retention)
"""Answered from the state machine, at a :class:`Level`."""
_ALL: tuple[type[Operation], ...] = (
    *WRITES,
    *READS,
    Watch,
    Renew,
    Status,
    Ping,
    TransferLeadership,
    AddNode,
    RemoveNode,
    TakeSnapshot,
    SnapshotPart,
    ReadLog,
)
BY_WORD: dict[str, type[Operation]] = {cls.op: cls for cls in _ALL}

RENEW_MANY = "renew"
"""Internal log operation ``{"op": "renew", "peers": [peer...]}``: one a second at most."""


def parse(message: Mapping[str, Any]) -> Operation:
    """The operation in a request map. Raises :class:`UnknownOperation` or :class:`BadRequest`."""
    word = message.get("op")
    cls = BY_WORD.get(word) if isinstance(word, str) else None
    if cls is None:
        raise unknown(word)
    return cls.from_wire(message)


def unknown(word: object) -> UnknownOperation:
    """What is said to a word that is no operation's."""
    return UnknownOperation(f"operation {word!r} is not known here")
