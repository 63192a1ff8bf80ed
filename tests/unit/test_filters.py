"""Each safety filter against the installed library: the raw message does harm, the filtered none.

Every story is told twice. ``raw`` is the canary: it asserts the harm itself, so a library that
mends a defect, or a test that no longer provokes it, is noticed too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import NO_OP, Member, acknowledgement, append, entry

from tracker_raft.config import RaftTiming
from tracker_raft.raft import filters
from tracker_raft.raft.engine import Role
from tracker_raft.raft.filters import INDEX_MAX, TERM_JUMP_MAX, Message, Verdict

Members = Callable[[], Member]


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    """Makes members that know nothing of each other, to tell one story twice."""
    made: list[Member] = []

    def make() -> Member:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Member(directory))
        return made[-1]

    yield make
    for member in made:
        member.close()


# -- S1: what matches is never truncated ----------------------------------------------------------


def test_s1_an_append_sent_again_loses_no_acknowledged_entry(members: Members) -> None:
    """Broken: acknowledged writes are lost on perfect links and disks, under plain load.

    Entries 2 to 5 were acknowledged, then the leader's pipelined copy of 3 arrives once more.
    """
    again = append(1, (2, 1), [entry(3, 1)])
    raw, filtered = members(), members()
    for member in raw, filtered:
        member.follow([1, 1, 1, 1])
    raw.raw("n2", again)
    assert raw.terms == [0, 1, 1]
    filtered.filtered("n2", again)
    assert filtered.terms == [0, 1, 1, 1, 1]
    assert filtered.sent("next_node_idx") == [filters.acknowledge(3)]


def test_s1_a_heartbeat_in_the_middle_of_the_log_truncates_nothing(members: Members) -> None:
    """Broken: a heartbeat that was under way while entries were written removes them."""
    heartbeat = append(1, (3, 1), [], commit=5)
    raw, filtered = members(), members()
    for member in raw, filtered:
        member.follow([1, 1, 1, 1])
    raw.raw("n2", heartbeat)
    assert raw.terms == [0, 1, 1]
    filtered.filtered("n2", heartbeat)
    assert filtered.terms == [0, 1, 1, 1, 1]
    assert filtered.sent("next_node_idx") == [filters.acknowledge(3)]
    assert filtered.engine.raftCommitIndex == 3, "it spoke of entries up to 3, not of 4 and 5"


def test_s1_of_a_message_half_known_only_the_new_half_is_written(members: Members) -> None:
    """Broken: matching entries are truncated and written again, and gone if it dies in between."""
    member = members()
    member.follow([1, 1])
    verdict = member.filtered("n2", append(1, (1, 0), [entry(i, 1) for i in range(2, 6)]))
    assert verdict.deliver is not None
    assert verdict.deliver["prevLogIdx"] == 3
    assert [e[1] for e in verdict.deliver["entries"]] == [4, 5]
    assert member.terms == [0, 1, 1, 1, 1]
    assert member.sent("next_node_idx")[-1]["next_node_idx"] == 6


def test_s1_a_real_conflict_is_still_truncated(members: Members) -> None:
    """Broken: a follower keeps a deposed leader's entries, and the logs differ for ever."""
    member = members()
    member.follow([1, 1, 1, 1])
    member.filtered("n3", append(2, (2, 1), [entry(3, 1), entry(4, 2)]))
    assert member.terms == [0, 1, 1, 2]
    assert member.sent("next_node_idx")[-1]["next_node_idx"] == 5


def test_s1_a_gap_is_answered_with_where_to_go_on(members: Members) -> None:
    """Broken: an append beyond the log's end is written with a hole, or never asked for again."""
    member = members()
    member.follow([1, 1])
    member.filtered("n2", append(1, (7, 1), [entry(8, 1)], commit=7))
    assert member.terms == [0, 1, 1]
    assert member.engine.raftCommitIndex == 1
    (answer,) = member.sent("next_node_idx")
    assert (answer["next_node_idx"], answer["reset"], answer["success"]) == (4, True, False)


# -- S2: acknowledgements belong to a term --------------------------------------------------------


def healed_leader(members: Members) -> Member:
    """Led term 1, was deposed and truncated in term 2, leads term 3: 5 is its no-op, 6 to 8 new.

    An acknowledgement of its first leadership, of other entries up to 8, is still under way.
    """
    member = members()
    member.lead()
    member.propose(6)
    assert member.terms == [0, 1, 1, 1, 1, 1, 1, 1]
    member.raw("n3", append(2, (3, 1), [entry(4, 2)]))
    assert member.terms == [0, 1, 1, 2]
    assert member.lead(votes=("n3",)) == 3
    member.propose(3)
    assert member.terms == [0, 1, 1, 2, 3, 3, 3, 3]
    return member


def test_s2_an_acknowledgement_of_an_older_term_does_not_count(members: Members) -> None:
    """Broken: an entry is committed and reported done that no other node has."""
    late = acknowledgement(1, 9)
    raw = healed_leader(members)
    raw.raw("n2", late)
    raw.engine.doTick(0)
    assert raw.engine.raftCommitIndex == 8
    filtered = healed_leader(members)
    assert filtered.filtered("n2", late) == filters.DROP
    filtered.engine.doTick(0)
    assert filtered.engine.raftCommitIndex == 1
    filtered.filtered("n2", acknowledgement(3, 9))
    filtered.engine.doTick(0)
    assert filtered.engine.raftCommitIndex == 8


def test_s2_every_acknowledgement_leaves_with_its_term() -> None:
    """Broken: the receiver cannot tell which leadership an acknowledgement belongs to."""
    assert filters.outgoing(filters.acknowledge(4), 7) == acknowledgement(7, 5)
    vote = {"type": "response_vote", "term": 7}
    assert filters.outgoing(vote, 8) == vote


def test_s2_an_acknowledgement_beyond_the_log_is_refused(members: Members) -> None:
    """Broken: whatever is written later counts as replicated before it was sent to anyone."""
    raw, filtered = members(), members()
    for member in raw, filtered:
        term = member.lead()
    raw.raw("n2", acknowledgement(term, 100))
    raw.propose(3)
    raw.engine.doTick(0)
    assert raw.engine.raftCommitIndex == 5
    verdict = filtered.filtered("n2", acknowledgement(term, 100))
    assert verdict.deliver is None
    assert verdict.malformed == "an acknowledgement beyond entry 2"
    filtered.propose(3)
    filtered.engine.doTick(0)
    assert filtered.engine.raftCommitIndex == 1


def test_s2_a_follower_that_asks_beyond_the_log_is_sent_the_end(members: Members) -> None:
    """Broken: a follower with a longer, older log is never brought in line."""
    raw, filtered = members(), members()
    for member in raw, filtered:
        term = member.lead()
        member.line.sent.clear()
    asks = acknowledgement(term, 50, success=False, reset=True)
    for member, take in (raw, raw.raw), (filtered, filtered.filtered):
        take("n2", asks)
        member.engine.send_now()
        member.engine.doTick(0)
    assert dict(raw.line.sent)["n2"]["prevLogIdx"] is None, "no follower can match that"
    assert dict(filtered.line.sent)["n2"]["prevLogIdx"] == 2


@pytest.mark.parametrize("index", [0, 1])
def test_s2_nobody_asks_for_what_stands_before_every_log(members: Members, index: int) -> None:
    """Broken: one such message and the leader floods the link with snapshots it does not have.

    Entry 1 is the same in every log, so no follower that keeps to the protocol asks for it.
    """
    member = members()
    term = member.lead()
    verdict = member.filtered("n2", acknowledgement(term, index, success=False, reset=True))
    assert verdict.deliver is None
    assert verdict.malformed == f"next_node_idx with next_node_idx={index}"


# -- S10: what was applied stays ------------------------------------------------------------------


def test_s10_other_entries_where_some_were_applied_stop_the_node(
    members: Members, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken: a node whose state differs from the others' goes on answering from it."""
    other = append(2, (3, 1), [entry(4, 2)])
    raw, filtered = members(), members()
    for member in raw, filtered:
        member.follow([1, 1, 1, 1], commit=5)
        assert len(member.applied) == 4
    with caplog.at_level(logging.CRITICAL, logger="pysyncobj"):
        raw.raw("n3", other)
    assert "diverged" in caplog.text
    assert raw.terms == [0, 1, 1, 2], "it says so and does it all the same"
    verdict = filtered.filtered("n3", other)
    assert verdict.fatal == (
        "the leader of term 2 has other entries from index 4 on, but 5 was already applied here"
    )
    assert filtered.terms == [0, 1, 1, 1, 1]


def test_s10_applied_entries_sent_again_are_no_conflict(members: Members) -> None:
    """Broken: a node stops because a leader repeated itself."""
    member = members()
    member.follow([1, 1, 1, 1], commit=5)
    verdict = member.filtered("n2", append(2, (1, 0), [entry(i, 1) for i in range(2, 6)]))
    assert verdict.fatal is None
    assert member.terms == [0, 1, 1, 1, 1]


# -- S15: nothing is chunked ----------------------------------------------------------------------


def test_s15_the_largest_entry_is_sent_whole(tmp_path: Path) -> None:
    """Broken: an entry near the batch size reaches followers in chunks they would unpickle."""
    timing = RaftTiming(election_timeout_s=60.0)
    member = Member(tmp_path, timing=timing)
    member.lead()
    member.engine.propose(bytes(timing.entry_bytes_max), lambda result, reason: None)
    member.engine.send_now()
    member.engine.doTick(0)
    sent = [e for message in member.sent("append_entries") for e in message["entries"]]
    assert max(len(command) for command, _, _ in sent) == timing.entry_bytes_max + 1
    assert not any("transmission" in message for _, message in member.line.sent)
    member.engine.propose(bytes(timing.append_batch_bytes), lambda result, reason: None)
    member.engine.send_now()
    with pytest.raises(RuntimeError, match="pickle is not used"):
        member.engine.doTick(0)  # the canary: this size is what the library chunks
    member.close()


@pytest.mark.parametrize("part", ["start", "process", "finish"])
def test_s15_a_chunk_from_a_member_is_refused(members: Members, part: str) -> None:
    """Broken: bytes of another node reach the library's unpickler."""
    chunk = {**append(1, (1, 0), []), "transmission": part, "data": b"cos\nsystem\n"}
    del chunk["entries"]
    member = members()
    verdict = member.filtered("n2", chunk)
    assert verdict.deliver is None
    assert verdict.malformed == "a chunked entry (S15)"


# -- S16: no proof, no commit ---------------------------------------------------------------------


def test_s16_a_message_without_a_place_in_the_log_commits_nothing(members: Members) -> None:
    """Broken: a healed old leader commits its own unreplicated tail and reports success."""
    nothing_yet = {"type": "append_entries", "term": 2, "commit_index": 9, "serialized": None}
    raw, filtered = members(), members()
    for member in raw, filtered:
        member.lead()
        member.propose(3)
    raw.raw("n3", nothing_yet)
    assert raw.engine.raftCommitIndex == 5, "entries 2 to 5 are on no other node"
    filtered.filtered("n3", nothing_yet)
    assert filtered.engine.raftCommitIndex == 1
    assert filtered.engine.role is Role.FOLLOWER


def test_s16_commit_moves_to_what_the_message_proves_and_no_further(members: Members) -> None:
    """Broken: an unreplicated tail behind the message's entries is applied."""
    member = members()
    member.follow([1, 1, 1, 1])
    member.filtered("n3", append(2, (1, 0), [entry(2, 1), entry(3, 1)], commit=9))
    assert member.engine.raftCommitIndex == 3
    member.filtered("n3", append(2, (3, 1), [entry(4, 1)], commit=2))
    assert member.engine.raftCommitIndex == 3, "and never back"


# -- what is not a message of this protocol -------------------------------------------------------

APPEND = append(1, (1, 0), [entry(2, 1)])
VOTE = {"type": "request_vote", "term": 1, "last_log_index": 1, "last_log_term": 0}


def but(message: Message, **fields: Any) -> Message:
    return {**message, **fields}


def without(message: Message, name: str) -> Message:
    return {key: value for key, value in message.items() if key != name}


HOSTILE: list[Message] = [
    {},
    {"type": None},
    {"type": ["append_entries"]},
    {"type": "apply_command", "command": b"\x03cos\nsystem\n"},
    {"type": "apply_command_response", "request_id": 1},
    {"type": "timeout_now"},
    {"type": "response_vote", "term": -1},
    {"type": "response_vote", "term": INDEX_MAX + 1},
    but(VOTE, term=TERM_JUMP_MAX + 1),
    but(APPEND, term=TERM_JUMP_MAX + 1),
    {"type": "response_vote", "term": True},
    {"type": "response_vote", "term": 1.0},
    *(without(VOTE, name) for name in ("term", "last_log_index", "last_log_term")),
    but(VOTE, last_log_index="1"),
    *(without(acknowledgement(0, 2), name) for name in ("term", "next_node_idx", "reset")),
    but(acknowledgement(0, 2), success=1),
    but(acknowledgement(0, 2), next_node_idx=None),
    *(without(APPEND, name) for name in ("term", "commit_index", "prevLogTerm", "entries")),
    but(APPEND, commit_index=-1),
    but(APPEND, prevLogIdx=None),
    but(APPEND, prevLogIdx=b"1"),
    but(APPEND, prevLogTerm=-1),
    but(APPEND, entries=7),
    but(APPEND, entries="abc"),
    but(APPEND, entries=({},)),
    but(APPEND, entries=((b"\x00x", 2),)),
    but(APPEND, entries=(("text", 2, 1),)),
    but(APPEND, entries=((b"", 2, 1),)),
    but(APPEND, entries=((b"\x00x", "2", 1),)),
    but(APPEND, entries=((b"\x00x", 3, 1),)),
    but(APPEND, entries=((b"\x00x", 2, 2),)),
    but(APPEND, entries=(entry(2, 1), entry(4, 1))),
    but(APPEND, term=3, entries=(entry(2, 2), entry(3, 1))),
    but(APPEND, serialized=(b"cos\nsystem\n", True, True)),
    {"type": "append_entries", "term": 1, "commit_index": 1, "serialized": (b"x", True, True)},
]


@pytest.mark.parametrize("message", HOSTILE, ids=lambda message: str(message)[:90])
def test_what_is_not_of_this_protocol_is_named_and_not_delivered(
    members: Members, message: Message
) -> None:
    """Broken: a field of another node reaches the library unchecked, or ends in a traceback."""
    member = members()
    verdict = member.filtered("n2", message)
    assert verdict.deliver is None
    assert verdict.answer is None
    assert verdict.fatal is None
    assert verdict.malformed
    assert (member.terms, member.engine.raftCurrentTerm) == ([0], 0)


@pytest.mark.parametrize(
    "message",
    [
        APPEND,
        but(APPEND, entries=[list(entry(2, 1))]),
        but(APPEND, commit_index=INDEX_MAX),
        but(APPEND, entries=((NO_OP, 2, 1),), serialized=None),
        append(0, (1, 0), []),
        VOTE,
        {"type": "response_vote", "term": 0},
        {"type": "timeout_now", "term": 0},
        acknowledgement(0, 2),
    ],
    ids=lambda message: str(message)[:90],
)
def test_what_members_say_is_let_through(members: Members, message: Message) -> None:
    """Broken: the filters cut the cluster's own conversation."""
    member = members()
    verdict = member.filtered("n2", message)
    assert verdict.malformed is None
    assert verdict.deliver is not None


def test_an_append_of_an_older_term_changes_nothing(members: Members) -> None:
    """Broken: a deposed leader still writes into the log of a follower."""
    member = members()
    member.follow([3, 3])
    verdict = member.filtered("n3", append(2, (1, 0), [entry(2, 2)], commit=2))
    assert verdict == Verdict(answer={"type": "term_hint", "term": 3}), "it is never told"
    assert (member.terms, member.engine.raftCommitIndex) == ([0, 3, 3], 1)
    assert member.line.sent == [("n3", verdict.answer)]
