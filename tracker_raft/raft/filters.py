"""The safety filters between the links and PySyncObj: message in, verdict out. Pure.

PySyncObj 0.3.17 loses acknowledged writes when its messages reach it as they were sent. Each
rule here mends one cause from outside; each has a test of its name that fails without it.

S1   A follower truncates everything after ``prevLogIdx``, also entries that match. Entries that
     are already in the log are taken off the message, so a matching entry is never truncated
     (Raft paper, figure 2, AppendEntries rules 3 and 4). When nothing new remains the message is
     delivered as a bare heartbeat and the acknowledgement is made here.
S2   Acknowledgements carry no term. The sender stamps them; one of another term is dropped, and
     none may point beyond the leader's own log.
S10  Truncating an entry that was already applied is divergence, never a thing to log and do.
S15  Chunked entries are refused: entries are kept below the size where the library chunks them.
S16  A message without ``prevLogIdx`` proves nothing about the log, so it must not move the
     commit index; a heartbeat moves it at most to the last entry the message speaks of.

Only the messages listed in ``_FIELDS`` reach the library, each field checked. Forwarded
commands, snapshots and membership of the library's own making are not among them: those paths
unpickle what they are sent.

What to re-check when you change it: ``tests/unit/test_filters.py`` (rule by rule, against the
installed library) and ``tests/property/test_filters_properties.py``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

Message = dict[str, Any]

INDEX_MAX = 2**62
TERM_JUMP_MAX = 2**40
"""A term this far above one's own is no term: it is centuries of elections without a pause. Taken
over, one message would use all terms up, and no member could be elected any more."""
RAFT_TYPES = frozenset(
    {"append_entries", "next_node_idx", "request_vote", "response_vote", "timeout_now"}
)
NEEDS_DURABLE = frozenset({"next_node_idx", "request_vote", "response_vote"})
"""What must not leave the node before everything it rests on is synced (S4)."""

_FIELDS: dict[str, tuple[str, ...]] = {
    "append_entries": ("term", "commit_index"),
    "next_node_idx": ("term", "next_node_idx"),
    "request_vote": ("term", "last_log_index", "last_log_term"),
    "response_vote": ("term",),
    "timeout_now": ("term",),
}


class Log(Protocol):
    """What the filters need to know of the local log."""

    @property
    def last_index(self) -> int: ...

    def term_at(self, index: int) -> int | None: ...


class Situation(NamedTuple):
    """The local node at the moment a message arrives. A tuple, as :class:`Verdict` is: one of each
    is made for every message, and a frozen dataclass takes four times as long."""

    term: int
    commit: int
    applied: int
    log: Log


class Verdict(NamedTuple):
    """What to do with a message: deliver it (perhaps changed), answer it, or neither."""

    deliver: Message | None = None
    answer: Message | None = None
    """Sent back after the delivery."""
    malformed: str | None = None
    """The sender does not speak this protocol: its link is to be closed."""
    fatal: str | None = None
    """Going on would diverge: the node is to stop."""


DROP = Verdict()


def is_raft(message: Message) -> bool:
    """Whether a message of a member, of whatever type its ``type`` is, is the engine's."""
    kind = message.get("type")
    return type(kind) is str and kind in RAFT_TYPES


def acknowledge(last: int) -> Message:
    """A success acknowledgement for everything up to ``last``, in the library's words."""
    return {"type": "next_node_idx", "next_node_idx": last + 1, "reset": False, "success": True}


def heartbeat(message: Message, here: Situation) -> Message:
    """What is left of an append for a node that cannot take entries: its sender leads."""
    commit = min(message["commit_index"], here.commit)
    return {"type": "append_entries", "term": message["term"], "commit_index": commit}


def outgoing(message: Message, term: int, *, forced: bool = False) -> Message:
    """Stamp an acknowledgement with the term it belongs to (S2), and a vote request that is not to
    be held with ``forced``."""
    if message["type"] == "next_node_idx":
        return {**message, "term": term}
    if message["type"] == "request_vote" and forced:
        return {**message, "forced": True}
    return message


def incoming(message: Message, here: Situation) -> Verdict:
    """Judge one message of :data:`RAFT_TYPES` from a member."""
    if problem := _malformed(message):
        return Verdict(malformed=problem)
    if message["term"] > here.term + TERM_JUMP_MAX:
        return Verdict(malformed=f"{message['type']} of term {message['term']}, here {here.term}")
    match message["type"]:
        case "append_entries":
            return _append_entries(message, here)
        case "next_node_idx":
            return _acknowledgement(message, here)
        case _:
            return Verdict(deliver=message)


def _acknowledgement(message: Message, here: Situation) -> Verdict:
    if message["term"] != here.term:
        return DROP
    beyond = here.log.last_index + 1
    if message["next_node_idx"] <= beyond:
        return Verdict(deliver=message)
    if message["success"]:
        return Verdict(malformed=f"an acknowledgement beyond entry {here.log.last_index}")
    # The library would ask for what it does not have, and for ever (its "previous entry" is None).
    return Verdict(deliver={**message, "next_node_idx": beyond})


def _malformed(message: Message) -> str | None:
    kind = message.get("type")
    if type(kind) is not str or kind not in RAFT_TYPES:
        return f"message type {kind!r}"
    for name in _FIELDS[kind]:
        if not _is_index(message.get(name)):
            return f"{kind} with {name}={message.get(name)!r}"
    if kind == "next_node_idx":
        if message["next_node_idx"] < 2:  # entry 1 is the same in every log; nobody lacks it
            return f"{kind} with next_node_idx={message['next_node_idx']}"
        for name in ("reset", "success"):
            if type(message.get(name)) is not bool:
                return f"{kind} with {name}={message.get(name)!r}"
    if kind == "append_entries":
        return _malformed_append(message)
    return None


def _is_index(value: object) -> bool:
    return type(value) is int and 0 <= value <= INDEX_MAX


def _malformed_append(message: Message) -> str | None:
    if "transmission" in message:
        return "a chunked entry (S15)"
    if message.get("serialized") is not None:
        return "a snapshot in the library's own format"
    if "prevLogIdx" not in message:
        return None
    index, term = message["prevLogIdx"], message.get("prevLogTerm")
    if not _is_index(index) or not _is_index(term):
        return f"append_entries after {index!r} of term {term!r}"
    entries = message.get("entries")
    if type(entries) is not tuple and type(entries) is not list:
        return "append_entries without entries"
    for entry in entries:
        if type(entry) not in (tuple, list) or len(entry) != 3 or type(entry[0]) is not bytes:
            return "an entry that is not (command, index, term)"
        if not entry[0] or not _is_index(entry[1]) or not _is_index(entry[2]):
            return "an entry without command, index or term"
        if entry[1] != index + 1 or not term <= entry[2] <= message["term"]:
            return f"entry {entry[1]} of term {entry[2]} behind {index} of term {term}"
        index, term = entry[1], entry[2]
    return None


def _append_entries(message: Message, here: Situation) -> Verdict:
    if message["term"] < here.term:
        # The library ignores it, and its sender would never learn that it is out of date.
        return Verdict(answer={"type": "term_hint", "term": here.term})
    if "prevLogIdx" not in message:
        commit = min(message["commit_index"], here.commit)
        return Verdict(deliver={**message, "commit_index": commit})
    before = message["prevLogIdx"]
    if here.log.term_at(before) != message["prevLogTerm"]:
        return Verdict(deliver=message)  # the library answers "reset" and touches nothing
    entries = [tuple(entry) for entry in message["entries"]]
    last = before + len(entries)
    known = 0
    while known < len(entries) and here.log.term_at(entries[known][1]) == entries[known][2]:
        known += 1
    commit = min(message["commit_index"], last)
    if known == len(entries):
        heartbeat = {"type": "append_entries", "term": message["term"], "commit_index": commit}
        return Verdict(deliver=heartbeat, answer=acknowledge(last))
    if known:
        _, before, before_term = entries[known - 1]
        message = {**message, "prevLogIdx": before, "prevLogTerm": before_term}
    if before < here.applied and before < here.log.last_index:
        return Verdict(
            fatal=f"the leader of term {message['term']} has other entries from index "
            f"{before + 1} on, but {here.applied} was already applied here"
        )
    return Verdict(deliver={**message, "entries": entries[known:], "commit_index": commit})
