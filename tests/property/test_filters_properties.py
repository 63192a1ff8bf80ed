"""The filters under anything that leaders may say, and under anything at all.

The leaders' side is a model of Raft's log matching: a log only ever loses entries that are not
committed, a new leader has every committed entry, and a term has one leader, hence one log that
only grows. Messages are any window of such a log, old ones included, in any order: more than a
first in, first out link can do.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))

from engine_driver import Member, append, entry

from tracker_raft.raft import filters

Terms = tuple[int, ...]
"""A log as the terms of its entries, entry 1 first: by log matching that is all there is to it."""


@dataclass
class Leadership:
    """One term: the log its leader ends with, and how much of it was committed by then."""

    term: int
    log: Terms
    commit: int


@st.composite
def histories(draw: st.DrawFn) -> list[Leadership]:
    """Leaders one after the other; each keeps what was committed and adds to it."""
    history = [Leadership(0, (0,), 1)]
    for term in range(1, draw(st.integers(2, 5))):
        before = draw(st.sampled_from(history))
        committed = history[-1]
        if before.log[: committed.commit] != committed.log[: committed.commit]:
            before = committed  # it lacks a committed entry: nobody would have voted for it
        kept = draw(st.integers(committed.commit, max(committed.commit, len(before.log))))
        log = before.log[:kept] + (term,) * draw(st.integers(1, 4))
        commit = draw(st.sampled_from([committed.commit, *range(kept + 1, len(log) + 1)]))
        history.append(Leadership(term, log, commit))
    return history


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[Leadership, int, int, int]]:
    """(leadership, entries before, entries up to, commit said) of each append, terms rising."""
    said = []
    for leadership in draw(histories())[1:]:
        for _ in range(draw(st.integers(0, 6))):
            before = draw(st.integers(1, len(leadership.log)))
            last = draw(st.integers(before, len(leadership.log)))
            said.append((leadership, before, last, draw(st.integers(1, leadership.commit))))
    return said


def shared(a: Terms, b: Terms) -> int:
    """How many entries two logs have in common, from the first on."""
    return next(
        (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@settings(max_examples=200, deadline=None)
@given(conversations())
def test_whatever_leaders_say_nothing_that_matches_is_lost(
    said: list[tuple[Leadership, int, int, int]],
) -> None:
    """Broken: acknowledged writes are lost, or something is committed that the leader lacks."""
    with tempfile.TemporaryDirectory() as directory:
        member = Member(Path(directory))
        try:
            for leadership, before, last, commit in said:
                _take(member, leadership, before, last, commit)
        finally:
            member.close()


def _take(member: Member, leadership: Leadership, before: int, last: int, commit: int) -> None:
    log = leadership.log
    entries = [entry(index, log[index - 1]) for index in range(before + 1, last + 1)]
    message = append(leadership.term, (before, log[before - 1]), entries, commit=commit)
    had, had_commit = tuple(member.terms), member.engine.raftCommitIndex
    member.line.sent.clear()
    verdict = member.filtered("n2", message)
    member.engine.doTick(0)
    has, has_commit = tuple(member.terms), member.engine.raftCommitIndex

    assert verdict.malformed is None
    assert verdict.fatal is None
    keeps = shared(had, log)
    assert has[:keeps] == had[:keeps], "a matching entry was truncated"
    assert has[:had_commit] == had[:had_commit], "a committed entry was truncated"
    assert has_commit >= had_commit
    matched = keeps >= before
    if matched:
        assert has[:last] == log[:last], "the log does not match up to the end of the message"
    else:
        assert has == had
    assert has[:has_commit] == log[:has_commit], "committed what the leader does not have"
    assert has_commit <= max(had_commit, min(commit, last))
    acks = [m["next_node_idx"] - 1 for m in member.sent("next_node_idx") if m["success"]]
    assert acks == ([last] if matched else [])
    assert member.engine.raftLastApplied == has_commit


# -- anything at all -------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=9)
    | st.text(max_size=9)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = (
    "type",
    "term",
    "commit_index",
    "prevLogIdx",
    "prevLogTerm",
    "entries",
    "serialized",
    "transmission",
    "data",
    "next_node_idx",
    "reset",
    "success",
    "last_log_index",
    "last_log_term",
)
ANYTHING = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), VALUES, max_size=9)
SMALL = st.integers(0, 6)


@st.composite
def nearly(draw: st.DrawFn) -> dict[str, Any]:
    """A message of the protocol with small numbers, as often as not with something wrong in it."""
    kind = draw(st.sampled_from(sorted(filters.RAFT_TYPES)))
    message: dict[str, Any] = {"type": kind, "term": draw(SMALL)}
    for name in ("commit_index", "next_node_idx", "last_log_index", "last_log_term"):
        message[name] = draw(SMALL)
    message["success"], message["reset"] = draw(st.booleans()), draw(st.booleans())
    if kind == "append_entries" and draw(st.booleans()):
        index, term = message["prevLogIdx"], message["prevLogTerm"] = draw(SMALL), draw(SMALL)
        rising = sorted(draw(st.lists(st.integers(term, 6), max_size=3)))
        message["entries"] = tuple(entry(n, term) for n, term in enumerate(rising, index + 1))
    if draw(st.booleans()):
        message[draw(st.sampled_from(FIELDS))] = draw(VALUES)
    return message


@pytest.fixture(scope="module")
def member(tmp_path_factory: pytest.TempPathFactory) -> Any:
    member = Member(tmp_path_factory.mktemp("anything"))
    member.follow([1, 1, 2])
    yield member
    member.close()


@settings(max_examples=1000, deadline=None)
@given(message=ANYTHING | nearly())
def test_no_message_raises_and_the_verdict_is_clear(
    member: Member, message: dict[str, Any]
) -> None:
    """Broken: bytes of another node end in a traceback, or are refused and delivered at once."""
    verdict = member.judge(message)
    if verdict.malformed or verdict.fatal:
        assert verdict.deliver is None
        assert verdict.answer is None
    if verdict.deliver is not None:
        assert filters.is_raft(verdict.deliver)


@settings(max_examples=300, deadline=None)
@given(messages=st.lists(nearly(), max_size=8), leads=st.booleans())
def test_what_passes_the_filters_does_not_break_the_engine(
    messages: list[dict[str, Any]], leads: bool
) -> None:
    """Broken: a member with a defect stops every tracker it is linked to."""
    with tempfile.TemporaryDirectory() as directory:
        member = Member(Path(directory))
        try:
            member.follow([1, 1, 2])
            if leads:
                member.lead()
            for message in messages:
                if member.filtered("n2", message).fatal:
                    return  # the replica stops here, in its own words
                member.engine.send_now()
                member.engine.doTick(0)
                assert [index for _, index, _ in member.journal[:]] == list(
                    range(1, member.journal.last_index + 1)
                )
                assert member.engine.raftCommitIndex <= member.journal.last_index
        finally:
            member.close()
