"""What trackers ask of each other: whatever a member says, the answer is one message or a break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from engine_driver import Member, acknowledgement
from hypothesis import given
from hypothesis import strategies as st

from tracker_raft.config import WireLimits
from tracker_raft.entries import pack_entry, pack_operation, unpack_entry, unpack_operations
from tracker_raft.errors import BadRequest, NoLeader, UnknownOperation
from tracker_raft.machine.vocabulary import unknown
from tracker_raft.raft.colleagues import Colleagues, check_forwarded
from tracker_raft.raft.filters import Message
from tracker_raft.raft.intake import Intake, Position, Reply
from tracker_raft.raft.reads import ReadBarrier, Waiter
from tracker_raft.versions import NEWEST, OLDEST

OPEN = pack_operation(0, 0, 0, {"op": "open_session"})
LEADERLESS_S = 0.4


class Lines:
    """Remembers what was sent and which links were broken."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.dropped: list[tuple[str, str]] = []
        self.connected = self.sitting = ("n2", "n3")
        self.version = NEWEST

    def linked(self, node: str) -> bool:
        return node in self.connected

    def newest_version(self, node: str) -> int:
        return self.version if node in self.connected else 0

    def send(self, node: str, message: Message) -> bool:
        self.sent.append((node, message))
        return True

    def sits(self, node: str) -> bool:
        return node in self.sitting

    def flush(self) -> None: ...

    def backlog(self, node: str) -> int:
        return 0

    def drop(self, node: str, reason: str) -> None:
        self.dropped.append((node, reason))

    def reconnect(self, node: str, done: object) -> None: ...


class Office:
    """Colleagues of node ``n1`` at time ``now_s``, with all they write into."""

    def __init__(self, directory: Path) -> None:
        self.now_s = 100.0
        self.version = NEWEST
        self.member = Member(directory)
        self.intake = Intake(pending_max=10, operation_bytes_max=1000)
        self.barrier = ReadBarrier(3)
        self.lines = Lines()
        self.colleagues = Colleagues(
            self.member.engine,
            self.intake,
            self.barrier,
            self.lines,
            WireLimits(),
            version=lambda: self.version,
            leaderless_s=LEADERLESS_S,
            now=lambda: self.now_s,
            flush=lambda: None,
        )

    def lead(self) -> int:
        term = self.member.lead()
        self.member.filtered("n2", acknowledgement(term, self.member.journal.last_index + 1))
        self.member.engine.doTick(0)
        assert self.member.engine.leads
        return term


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.member.close()


def replies_in(answer: Message) -> list[tuple[Reply, Position]]:
    """What one ``answered`` says of each operation."""
    return [
        (reply, (index, place))
        for index, places, some in answer["runs"]
        for place, reply in zip(places, some, strict=True)
    ]


INFINITE, NAN = float("inf"), float("nan")
HOSTILE: list[Message] = [
    {"type": "surprise"},
    {"type": None},
    {"type": {}},
    {"type": "forward"},
    {"type": "forward", "batch": 1, "left_ms": 5},
    {"type": "forward", "batch": 1, "left_ms": 5, "ops": 7},
    {"type": "forward", "batch": {}, "left_ms": 5, "ops": (OPEN,)},
    {"type": "forward", "batch": 1, "left_ms": NAN, "ops": (OPEN,)},
    {"type": "forward", "batch": 1, "left_ms": "5", "ops": (OPEN,)},
    {"type": "forward", "batch": 1, "left_ms": -5, "ops": (OPEN,)},
    {"type": "forwarded", "batch": 1},
    {"type": "forwarded", "batch": 1, "replies": 3},
    {"type": "forwarded", "batch": {}, "replies": ()},
    {"type": "forwarded", "batch": 1, "replies": (({},),)},
    {"type": "forwarded", "batch": 1, "replies": (({}, ()),)},
    {"type": "forwarded", "batch": 1, "replies": ((1, (1, 1)),)},
    {"type": "forwarded", "batch": 1, "replies": (({}, (INFINITE, 0)),)},
    {"type": "forwarded", "batch": 1, "replies": (({}, (1, NAN)),)},
    {"type": "answered", "batch": 1},
    {"type": "answered", "batch": 1, "runs": 3},
    {"type": "answered", "batch": {}, "runs": ()},
    {"type": "answered", "batch": 1, "runs": ((),)},
    {"type": "answered", "batch": 1, "runs": ((INFINITE, (), ()),)},
    {"type": "answered", "batch": 1, "runs": ((1, (0,), ()),)},
    {"type": "answered", "batch": 1, "runs": ((1, (NAN,), ({},)),)},
    {"type": "answered", "batch": 1, "runs": ((1, (-1,), ({},)),)},
    {"type": "answered", "batch": 1, "runs": ((1, (0,), (7,)),)},
    {"type": "answered", "batch": 1, "runs": ((0, (0,), (b"\x80",)),)},
    {"type": "read"},
    {"type": "read", "number": {}},
    {"type": "read_at", "number": 1},
    {"type": "read_at", "number": {}, "index": 1},
    {"type": "read_at", "number": 1, "index": INFINITE},
    {"type": "read_at", "number": 1, "index": "1"},
    {"type": "probe", "term": 0},
    {"type": "probe", "term": "0", "round": 1},
    {"type": "probed", "term": 0},
    {"type": "probed", "term": 0, "round": {}},
]


@pytest.mark.parametrize("message", HOSTILE, ids=str)
def test_a_message_that_makes_no_sense_costs_the_link_and_no_more(
    office: Office, message: Message
) -> None:
    """Broken: a member with a defect stops this tracker, or leaves something that never ends."""
    office.lead()
    office.colleagues.received("n2", message)
    assert [node for node, _ in office.lines.dropped] == ["n2"]
    assert office.lines.sent == []
    assert len(office.intake.waiting) == 0


@pytest.mark.parametrize(
    ("packed", "error"),
    [
        (b"", BadRequest),
        (b"\xc1", BadRequest),
        (OPEN[:-1], BadRequest),
        (OPEN + OPEN, BadRequest),
        (b"\x01", BadRequest),
        ("text", BadRequest),
        (pack_operation(0, 0, 0, {"op": "from_the_future"}), UnknownOperation),
        (pack_operation(0, 0, 0, {}), UnknownOperation),
        (pack_operation(0, 0, 0, {"op": 5}), UnknownOperation),
    ],
    ids=str,
)
def test_only_one_known_operation_comes_into_the_log(
    office: Office, packed: object, error: type[BadRequest]
) -> None:
    """Broken: one forwarded operation stops every tracker, or takes a whole entry with it."""
    check_forwarded(OPEN)
    with pytest.raises(error):
        check_forwarded(packed)
    office.lead()
    message = {"type": "forward", "batch": 4, "left_ms": 1000, "ops": (packed, OPEN)}
    office.colleagues.received("n2", message)
    assert len(office.intake.waiting) == 1, "the other operation of the batch is not held up"
    (pending,) = office.intake.take(1000)
    pending.answer({"ok": {}}, (7, 0))
    ((node, answer),) = office.lines.sent
    assert (node, answer["type"], answer["batch"]) == ("n2", "answered", 4)
    (refusal, nowhere), good = replies_in(answer)
    assert (refusal["error"], nowhere) == (error.code, (0, 0))
    assert good == ({"ok": {}}, (7, 0))


def test_a_forwarded_batch_is_answered_once_all_of_it_is(office: Office) -> None:
    """Broken: the follower takes a half answered batch for unknown and runs it again."""
    office.lead()
    office.version = OLDEST
    message = {"type": "forward", "batch": 9, "left_ms": 50, "ops": (OPEN, OPEN)}
    office.colleagues.received("n3", message)
    first, second = office.intake.take(1000)
    assert first.deadline_s == pytest.approx(100.05)
    second.answer({"ok": 2}, (5, 1))
    assert office.lines.sent == []
    first.answer({"ok": 1}, (5, 0))
    ((_, answer),) = office.lines.sent
    assert replies_in(answer) == [({"ok": 1}, (5, 0)), ({"ok": 2}, (5, 1))]


def test_what_was_forwarded_together_is_logged_and_answered_together(office: Office) -> None:
    """Broken: replies go to the wrong operations, or the limit of an entry is passed over."""
    office.lead()
    office.intake.pending_max = office.intake.pace.limit = 30
    many = [pack_operation(7, seq, 1, {"op": "remove", "name": "x" * 90}) for seq in range(1, 26)]
    message = {"type": "forward", "batch": 3, "left_ms": 50, "ops": tuple(many)}
    office.colleagues.received("n2", message)
    own: list[object] = []
    office.intake.add(OPEN, 101.0, lambda *answer: own.append(answer))
    taken = office.intake.take(10_000)
    assert [one.count for one in taken] == [8, 8, 8, 1, 1], "of 1,000 bytes at most"
    assert b"".join(one.packed for one in taken) == b"".join(many) + OPEN
    replies = [bytes([place]) for place in range(26)]
    positions = [2 * place for place in range(26)]
    office.intake.committed(office.intake.proposed(taken), 8, replies, positions)
    assert own == [(replies[25], (8, 50))]
    ((node, answer),) = office.lines.sent
    assert (node, answer["type"], answer["batch"]) == ("n2", "answered", 3)
    assert replies_in(answer) == [(replies[place], (8, 2 * place)) for place in range(25)]


def test_of_a_batch_so_many_are_taken_in_as_there_is_room_for(office: Office) -> None:
    """Broken: a full leader refuses what it could do, or takes in more than it may."""
    office.lead()
    message = {"type": "forward", "batch": 3, "left_ms": 50, "ops": (OPEN,) * 12}
    office.colleagues.received("n2", message)
    taken = office.intake.take(1000)
    assert sum(one.count for one in taken) == 10 == office.intake.pending_max
    office.intake.committed(office.intake.proposed(taken), 8, [b"\x80"] * 10)
    ((_, answer),) = office.lines.sent
    told = replies_in(answer)
    assert told[:10] == [(b"\x80", (8, place)) for place in range(10)]
    assert [(reply["error"], at) for reply, at in told[10:]] == [("busy", (0, 0))] * 2


def test_an_older_release_is_answered_in_its_words(office: Office) -> None:
    """Broken: a tracker that is not upgraded yet breaks the link, and its clients wait."""
    office.lead()
    office.lines.version = OLDEST
    refused = pack_operation(0, 0, 0, {"op": "from_the_future"})
    message = {"type": "forward", "batch": 9, "left_ms": 50, "ops": (OPEN, refused, OPEN)}
    office.colleagues.received("n2", message)
    taken = office.intake.take(1000)
    office.intake.committed(office.intake.proposed(taken), 5, [b"\x81\xa1a\x01", {"error": "x"}])
    ((_, answer),) = office.lines.sent
    assert (answer["type"], answer["batch"]) == ("forwarded", 9)
    first, (refusal, nowhere), third = answer["replies"]
    assert first == ({"ok": {"a": 1}}, (5, 0)) and third == ({"error": "x"}, (5, 1))
    assert (refusal["error"], nowhere) == ("unknown_op", (0, 0))


def test_what_the_leader_packed_comes_to_the_client_as_it_is(office: Office) -> None:
    """Broken: a follower looks for an error word in a packed reply, or loses its place."""
    given: list[object] = []
    for name in ("packed", "refused", "again", "unknown"):
        office.intake.add(OPEN, 110.0, lambda *answer, name=name: given.append((name, *answer)))
    office.colleagues.ask_leader("n2", 1000)
    ((_, message),) = office.lines.sent
    no_leader = {"error": "no_leader", "message": "not me"}
    conflict = {"error": "conflict", "message": "other content"}
    runs = ((6, (0, 4), (b"\x80", conflict)), (0, (0,), (no_leader,)))
    office.colleagues.received("n2", {"type": "answered", "batch": message["batch"], "runs": runs})
    assert given == [("packed", b"\x80", (6, 0)), ("refused", conflict, (6, 4))]
    assert [one.unknown for one in office.intake.take(1000)] == [False, True]


@pytest.mark.parametrize("sits", [True, False])
def test_what_the_leader_answered_is_committed_if_it_is_who_it_says(
    office: Office, sits: bool
) -> None:
    """Broken: a stranger in the place of a member has entries applied that were not committed."""
    office.member.follow([1, 1])
    office.lines.sitting = ("n2",) if sits else ()
    office.intake.add(OPEN, 110.0, lambda reply, at: None)
    office.colleagues.ask_leader("n2", 1000)
    ((_, message),) = office.lines.sent
    answer = {"type": "answered", "batch": message["batch"], "runs": ((3, (0,), (b"\x80",)),)}
    office.colleagues.received("n2", answer)
    assert office.member.engine.raftCommitIndex == (3 if sits else 1)


WORDS = st.sampled_from(
    [
        {"op": "open_session"},
        {"op": "remove", "name": "a"},
        ("publish", "a", bytes(32), 1, 1, 1 << 16),
        {"op": "raise_version", "version": 2},
        {"op": "from_the_future"},
        ("remove", "a"),
        {"op": 7},
        {},
        (),
        7,
    ]
)
OPERATIONS = st.builds(
    lambda session, seq, body: msgpack.packb([session, seq, 1, body]),
    st.sampled_from([0, 1, -1, 2**64 - 1, "1"]),
    st.integers(1, 9),
    WORDS,
)
MANGLED = st.builds(lambda packed, cut: packed[:cut], OPERATIONS, st.integers(0, 60))


@given(operations=st.lists(OPERATIONS | MANGLED | st.binary(max_size=5), min_size=1, max_size=6))
def test_looked_at_together_and_one_by_one_it_is_the_same(operations: list[bytes]) -> None:
    """Broken: something comes into the log because it stood beside others, and nobody can read the
    entry; or is refused because of them."""

    def passes(*some: bytes) -> bool:
        try:
            check_forwarded(*some)
        except BadRequest:
            return False
        return True

    together = passes(*operations)
    if together:
        entry = unpack_entry(pack_entry(1, [b"".join(operations)], len(operations)))
        assert unknown(entry) is None and len(entry.operations) == len(operations)
    if all(map(passes, operations)):
        assert together
    elif together:  # the pieces of one that is whole: they are logged as they were looked at
        whole = unpack_operations(b"".join(operations), len(operations))
        assert all(passes(msgpack.packb(one)) for one in whole)


def test_a_follower_told_to_wait_does_not_ask_at_once_again(office: Office) -> None:
    """Broken: two trackers that both believe the other leads exchange messages without a pause."""
    answers: list[Any] = []
    office.intake.add(OPEN, 110.0, lambda reply, at: answers.append(reply))
    office.colleagues.ask_leader("n2", 1000)
    ((node, message),) = office.lines.sent
    assert (node, message["left_ms"], message["ops"]) == ("n2", 10_000, [OPEN])
    refusal = {"error": "no_leader", "message": "not me"}
    answer = {"type": "forwarded", "batch": message["batch"], "replies": ((refusal, (0, 0)),)}
    office.colleagues.received("n2", answer)
    office.colleagues.ask_leader("n2", 1000)
    assert len(office.lines.sent) == 1
    office.now_s += 0.02
    office.colleagues.ask_leader("n2", 1000)
    assert len(office.lines.sent) == 2
    assert answers == []


def test_what_waits_where_no_leader_is_reachable_is_given_back_after_a_while(
    office: Office,
) -> None:
    """Broken: clients of a tracker that is cut off wait there though another one could serve."""
    told: list[Any] = []
    office.intake.add(OPEN, 200.0, lambda reply, at: told.append(reply["error"]))
    office.barrier.add(Waiter(200.0, lambda index, error: told.append(type(error))))
    office.colleagues.ask_leader(None, 1000)
    office.now_s += LEADERLESS_S * 0.9
    office.colleagues.ask_leader(None, 1000)
    assert told == []
    office.now_s += LEADERLESS_S * 0.2
    office.colleagues.ask_leader(None, 1000)
    assert told == ["no_leader", NoLeader]


def test_what_a_lost_leader_was_given_is_given_back_as_unknown(office: Office) -> None:
    """Broken: "not run" is said of an operation that a lost leader may have logged."""
    told: list[Any] = []
    office.intake.add(OPEN, 200.0, lambda reply, at: told.append(reply["error"]))
    office.colleagues.ask_leader("n2", 1000)
    office.colleagues.ask_leader(None, 1000)
    office.now_s += LEADERLESS_S * 1.1
    office.colleagues.ask_leader(None, 1000)
    assert told == ["outcome_unknown"]


def test_a_read_at_a_node_that_does_not_lead_is_sent_back(office: Office) -> None:
    """Broken: a read waits at a deposed leader until its deadline."""
    office.colleagues.received("n2", {"type": "read", "number": 3})
    assert office.lines.sent == [("n2", {"type": "read_at", "number": 3, "index": None})]


def test_a_term_is_confirmed_by_members_of_the_same_term_only(office: Office) -> None:
    """Broken: a cut-off leader answers reads from a state that is over."""
    granted: list[int | None] = []
    term = office.lead()
    office.barrier.add(Waiter(200.0, lambda index, error: granted.append(index)))
    office.colleagues.ask_term(("n2", "n3"), 1.0)
    probe = {"type": "probe", "term": term, "round": 1}
    assert office.lines.sent == [("n2", probe), ("n3", probe)]
    office.colleagues.received("n2", {"type": "probed", "term": term - 1, "round": 1})
    assert granted == []
    office.colleagues.received("n2", {"type": "probed", "term": term, "round": 1})
    assert granted == [office.member.engine.raftCommitIndex]


def test_what_was_asked_of_the_leader_before_is_done_by_the_one_that_leads_now(
    office: Office,
) -> None:
    """Broken: what was forwarded to a leader that hangs waits for its link to time out."""
    granted: list[int | None] = []
    office.intake.add(OPEN, 110.0, lambda reply, at: None)
    office.barrier.add(Waiter(200.0, lambda index, error: granted.append(index)))
    office.colleagues.ask_leader("n2", 1000)
    assert (len(office.intake.waiting), len(office.barrier.waiting)) == (0, 0)
    office.lead()
    office.colleagues.ask_term(("n2", "n3"), 1.0)
    assert len(office.intake.waiting) == 1
    assert [m["type"] for _, m in office.lines.sent] == ["forward", "read", "probe", "probe"]


def test_a_probe_of_another_term_is_not_confirmed(office: Office) -> None:
    """Broken: a node that voted for a newer leader vouches for the older one."""
    office.colleagues.received("n2", {"type": "probe", "term": 5, "round": 1})
    assert office.lines.sent == []
    office.colleagues.received("n2", {"type": "probe", "term": 0, "round": 1})
    assert office.lines.sent == [("n2", {"type": "probed", "term": 0, "round": 1})]


def test_a_leader_that_lost_its_majority_gives_back_at_once(office: Office) -> None:
    """Broken: a client that reaches only a cut-off leader waits two time-outs more than it must."""
    office.lead()
    office.colleagues.ask_term(office.lines.connected, 1.0)
    answers: list[dict[str, Any]] = []
    office.intake.add(OPEN, office.now_s + 60, lambda reply, at: answers.append(reply))
    office.member.engine.step_down()
    office.colleagues.ask_leader(None, 1000)
    assert [answer["error"] for answer in answers] == ["no_leader"]


def test_a_leader_replaced_by_another_waits_for_it(office: Office) -> None:
    """Broken: every election sends the clients of the old leader away."""
    office.lead()
    office.colleagues.ask_term(office.lines.connected, 1.0)
    answers: list[dict[str, Any]] = []
    office.intake.add(OPEN, office.now_s + 60, lambda reply, at: answers.append(reply))
    office.member.engine.observe_term(office.member.engine.raftCurrentTerm + 1)
    office.colleagues.ask_leader(None, 1000)
    assert answers == []
    office.now_s += LEADERLESS_S
    office.colleagues.ask_leader(None, 1000)
    assert [answer["error"] for answer in answers] == ["no_leader"]
