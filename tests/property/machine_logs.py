"""Logs for the state machine, drawn at random: what a cluster may write, and what it must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgpack
from hypothesis import strategies as st

from tracker_raft.config import MachineLimits
from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.machine import TrackerMachine

LIMITS = MachineLimits(
    files_max=4,
    versions_per_name_max=3,
    tags_per_name_max=2,
    leases_max=3,
    contents_per_lease_max=2,
    peers_per_content_max=2,
    sessions_max=3,
    session_window_max=4,
    session_ttl_ms=5_000,
)

# Few values, so that operations meet: most of what is generated hits something that is there.
NAMES = ("a", "a/1", "a/2", "b", "ü", "\uffee", "\U0001f600")
PEERS = ("p", "pp", "q", "é")
CONTENTS = tuple(sha256(bytes([n])).digest() for n in range(3))

names = st.sampled_from(NAMES)
peers = st.sampled_from(PEERS)
contents = st.sampled_from(CONTENTS)
lease_ms = st.sampled_from([1_000, 1_500, 3_000])
small = st.integers(0, 6)
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.just(msgpack.Timestamp(1, 1)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


def body(word: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"op": st.just(word), **fields})


publishes = body(
    "publish",
    name=names,
    content=contents,
    size=st.sampled_from([1, 1, 1, 2]),
    manifest_bytes=st.just(9),
    piece_bytes=st.just(16384),
    replace=st.booleans(),
)
files = st.tuples(
    names,
    contents,
    st.sampled_from([1, 1, 1, 2]),
    st.just(9),
    st.just(16384),
    st.sampled_from(["", "me"]),
    st.just(""),
    st.booleans(),
)


def columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """The operation that publishes these files."""
    keys = ("names", "sizes", "manifest_bytes", "piece_bytes", "owners", "groups", "replaces")
    names, contents, *more = zip(*rows, strict=True) if rows else [()] * 8
    found = dict(zip(keys, (names, *more), strict=True))
    return {"op": "publish_many", "contents": b"".join(contents), **found}


batches = st.lists(files, max_size=3).map(columns)
removes = body("remove", name=names | st.builds("{}@v{}".format, names, st.integers(1, 4)))
tags = st.sampled_from(["stable", "next"])
expectations = st.none() | st.integers(0, 2)
tag_words = body(
    "tag", name=names, tag=tags, version=st.integers(1, 3), expected=expectations
) | body("untag", name=names, tag=tags, expected=st.none() | st.integers(1, 2))
retentions = body("set_retention", versions_kept=st.sampled_from([None, 0, 1, 2]))
joins = body(
    "join",
    peer=peers,
    address=st.sampled_from(["h:1", "[::1]:2"]),
    content=contents,
    complete=st.booleans(),
    zone=st.sampled_from(["", "eu"]),
    lease_ms=lease_ms,
)
completes = body("complete", peer=peers, content=contents)
leaves = body("leave", peer=peers, content=contents | st.just(b""))
renews = body("renew", peers=st.lists(peers | anything, max_size=4))
session_words = body("open_session") | body("close_session", target=small)
valid_bodies = st.one_of(
    publishes,
    publishes,
    batches,
    removes,
    tag_words,
    tag_words,
    retentions,
    joins,
    joins,
    completes,
    leaves,
    renews,
    session_words,
)


@st.composite
def broken_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A valid body with one key exchanged or lost; its word stays one of the log, or no word."""
    broken = dict(draw(valid_bodies))
    key = draw(st.sampled_from(sorted(broken)))
    if key == "op":
        broken["op"] = draw(anything.filter(lambda word: not isinstance(word, str)))
    elif draw(st.booleans()):
        broken[key] = draw(anything)
    else:
        del broken[key]
    return broken


rows = st.tuples(small, small, small, valid_bodies | broken_bodies())


def as_array(body: dict[str, Any]) -> Any:
    """A valid publish as it is logged from cluster version 2 on; anything else as it is."""
    if body["op"] != "publish":
        return body
    row = tuple(body[key] for key in ("name", "content", "size", "manifest_bytes", "piece_bytes"))
    return ("publish", *row, "", "", True) if body["replace"] else ("publish", *row)


@dataclass(frozen=True)
class Logged:
    """One generated entry."""

    time_ms: int
    rows: tuple[tuple[int, int, int, dict[str, Any]], ...]

    def pack(self) -> bytes:
        return pack_entry(self.time_ms, [pack_operation(*row) for row in self.rows])


OPEN = Logged(0, ((0, 0, 0, {"op": "open_session"}),))
RISE = Logged(0, ((0, 0, 0, {"op": "raise_version", "version": 2}),))


@st.composite
def logs(draw: st.DrawFn) -> list[Logged]:
    """A log as a cluster may make it: two sessions, mostly sane, time that stutters and jumps."""
    entries = [OPEN, OPEN, *draw(st.sampled_from([[], [RISE]]))]
    seqs, time_ms = {1: 0, 2: 0}, 0
    for _ in range(draw(st.integers(1, 12))):
        time_ms = max(0, time_ms + draw(st.sampled_from([0, 0, 1, 400, 1_000, -50, 6_000])))
        chosen = []
        for _ in range(draw(st.integers(0, 4))):
            if draw(st.integers(0, 4)) == 0:
                chosen.append(draw(rows))
                continue
            session = draw(st.sampled_from([1, 2]))
            seqs[session] += draw(st.sampled_from([1, 1, 1, 1, 0, 2]))
            seq = max(1, seqs[session])
            low = max(1, seq - draw(st.integers(0, 3)))
            chosen.append((session, seq, low, draw(valid_bodies | broken_bodies())))
        entries.append(Logged(time_ms, tuple(chosen)))
    return entries


def run(machine: TrackerMachine, entries: list[Logged], first: int = 1) -> list[Any]:
    return [machine.apply(index, entry.pack()) for index, entry in enumerate(entries, first)]
