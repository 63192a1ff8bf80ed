"""Operations on their way into the log: each is answered once, by what is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tracker_raft.errors import Busy, NoLeader, ShuttingDown, TooLarge
from tracker_raft.raft.intake import NOWHERE, BundleSink, Intake, Position, Reply

NO_LEADER = {"error": "no_leader", "message": "not me"}
UNKNOWN = {"error": "outcome_unknown", "message": "who knows"}
BUSY = {"error": "busy", "message": "later"}
EXPIRED = {"error": "session_expired", "message": "gone"}


class Answers:
    """Takes answers by the name of their operation."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Reply, Position]] = []

    def sink(self, name: str) -> Any:
        return lambda reply, at: self.given.append((name, reply, at))

    def bundle(self, *names: str) -> BundleSink:
        """Takes the answers of a bundle, one for each of ``names``."""

        def taken(replies: Sequence[Reply], index: int, positions: Sequence[int]) -> None:
            for name, reply, place in zip(names, replies, positions, strict=True):
                self.given.append((name, reply, (index, place)))

        return taken

    @property
    def words(self) -> dict[str, str]:
        return {name: reply.get("error", "ok") for name, reply, _ in self.given}


@pytest.fixture
def answers() -> Answers:
    return Answers()


def filled(answers: Answers, *names: str, remote: bool = False, deadline_s: float = 10) -> Intake:
    intake = Intake(pending_max=100, operation_bytes_max=100)
    for name in names:
        if remote:
            intake.add_bundle(name.encode(), 1, deadline_s, answers.bundle(name))
        else:
            intake.add(name.encode(), deadline_s, answers.sink(name))
    return intake


def packed(batch: list[Any]) -> list[bytes]:
    return [pending.packed for pending in batch]


# -- taking in -------------------------------------------------------------------------------------


def test_what_is_over_a_limit_is_refused_and_not_taken_in(answers: Answers) -> None:
    """Broken: a tracker without a leader takes in operations until its memory is gone."""
    intake = Intake(pending_max=2, operation_bytes_max=3)
    with pytest.raises(TooLarge, match="4 bytes, limit 3; not run"):
        intake.add(b"long", 1, answers.sink("long"))
    intake.add(b"a", 1, answers.sink("a"))
    intake.add(b"b", 1, answers.sink("b"))
    with pytest.raises(Busy, match="2 operations are under way, limit 2 at"):
        intake.add(b"c", 1, answers.sink("c"))
    intake.expire(2)
    assert answers.words == {"a": "no_leader", "b": "no_leader"}
    intake.add(b"c", 3, answers.sink("c"))
    assert len(intake.waiting) == 1, "what was answered takes no place"


def test_what_is_under_way_counts_wherever_it_is(answers: Answers) -> None:
    """Broken: operations in the log and at the leader have no bound, and memory is gone by them."""
    intake = Intake(pending_max=3, operation_bytes_max=10)
    for name in ("in the log", "forwarded", "waits"):
        intake.add(name.encode(), 9, answers.sink(name))
        if name == "in the log":
            number = intake.proposed(intake.take(10))
        elif name == "forwarded":
            intake.forwarded(intake.take(10), "n2")
    with pytest.raises(Busy, match="3 operations are under way, limit 3"):
        intake.add(b"more", 9, answers.sink("more"))
    intake.committed(number, 7, ({"ok": {}},))
    intake.add(b"more", 9, answers.sink("more"))


def test_clients_are_refused_before_other_trackers_and_the_trackers_own(answers: Answers) -> None:
    """Broken: the leader refuses what a colleague took in, or its load ends the leases of peers."""
    intake = Intake(pending_max=5, operation_bytes_max=10)
    intake.pace.limit = 2
    for name in ("a", "b"):
        intake.add(b"x", 9, answers.sink(name))
    with pytest.raises(Busy):
        intake.add(b"x", 9, answers.sink("c"))
    intake.add_bundle(b"x", 1, 9, answers.bundle("of another"))
    intake.add(b"x", 9, answers.sink("renewals"), own=True)
    with pytest.raises(Busy, match="4 operations are under way, limit 5"):
        intake.add_bundle(b"xx", 2, 9, answers.bundle("of another", "and one"))
    intake.add_bundle(b"x", 1, 9, answers.bundle("of another"))
    with pytest.raises(Busy, match="5 operations are under way, limit 5"):
        intake.add_bundle(b"x", 1, 9, answers.bundle("of another"))
    assert not answers.given


def test_a_batch_is_as_many_as_fit_oldest_first(answers: Answers) -> None:
    """Broken: an entry over the limit that is never sent, or operations that overtake."""
    intake = filled(answers, "aaa", "bbb", "c", "ddddddddd")
    assert packed(intake.take(6)) == [b"aaa", b"bbb"]
    assert packed(intake.take(6)) == [b"c"]
    assert packed(intake.take(6)) == [b"ddddddddd"], "one alone goes, whatever its size"
    assert intake.take(6) == []


# -- proposed --------------------------------------------------------------------------------------


def test_committed_operations_get_their_reply_and_place(answers: Answers) -> None:
    """Broken: clients get each other's replies."""
    intake = filled(answers, "a", "b")
    number = intake.proposed(intake.take(100))
    intake.committed(number, 7, ({"ok": 1}, {"error": "conflict"}))
    intake.committed(number, 8, ({"ok": 3}, {"ok": 4}))
    assert answers.given == [("a", {"ok": 1}, (7, 0)), ("b", {"error": "conflict"}, (7, 1))]


def test_a_discarded_entry_is_tried_again_and_is_not_in_doubt(answers: Answers) -> None:
    """Broken: a write that certainly did not happen is reported as unknown."""
    intake = filled(answers, "a", "b")
    intake.discarded(intake.proposed(intake.take(100)))
    assert len(intake.waiting) == 2
    intake.expire(11)
    assert answers.words == {"a": "no_leader", "b": "no_leader"}


def test_a_lost_leadership_leaves_doubt(answers: Answers) -> None:
    """Broken: a write that the next leader commits is reported as not done."""
    intake = filled(answers, "a", "b")
    intake.proposed(intake.take(1))
    intake.lost_leadership()
    assert packed(intake.take(100)) == [b"a", b"b"], "in their order"
    intake.refuse_all(ShuttingDown("stops"))
    intake = filled(answers, "c", "d")
    intake.proposed(intake.take(1))
    intake.lost_leadership()
    intake.expire(11)
    assert answers.words == {"c": "outcome_unknown", "d": "no_leader"}


def test_a_session_that_expired_between_attempts_leaves_doubt(answers: Answers) -> None:
    """Broken: the client opens another session and runs again what had run already."""
    intake = filled(answers, "again", "first")
    intake.proposed(intake.take(5))
    intake.lost_leadership()
    number = intake.proposed(intake.take(100))
    intake.committed(number, 9, (EXPIRED, EXPIRED))
    assert answers.words == {"again": "outcome_unknown", "first": "session_expired"}


# -- of other trackers -----------------------------------------------------------------------------


def test_operations_of_other_trackers_go_back_to_them(answers: Answers) -> None:
    """Broken: two trackers try the same operation, or none does."""
    intake = filled(answers, "waits", "logged", remote=True)
    intake.refuse_remote()
    assert answers.words == {"waits": "no_leader", "logged": "no_leader"}
    answers.given.clear()
    intake = filled(answers, "logged", "waits", remote=True)
    intake.proposed(intake.take(6))
    intake.lost_leadership()
    assert answers.words == {"logged": "outcome_unknown", "waits": "no_leader"}
    assert intake.take(100) == []
    answers.given.clear()
    intake = filled(answers, "discarded", remote=True)
    intake.discarded(intake.proposed(intake.take(100)))
    assert answers.words == {"discarded": "no_leader"}


# -- forwarded -------------------------------------------------------------------------------------


def test_the_leaders_answers_are_handed_on(answers: Answers) -> None:
    """Broken: an answer of the state machine is taken for a refusal of the leader, or reversed."""
    intake = filled(answers, "done", "refused", "unknown")
    number = intake.forwarded(intake.take(100), "n2")
    replies = [({"ok": 1}, (5, 0)), ({"error": "conflict"}, (5, 1)), (UNKNOWN, (5, 2))]
    assert intake.returned(number, replies, "n2")
    assert answers.words == {"done": "ok", "refused": "conflict", "unknown": "outcome_unknown"}
    assert len(intake.waiting) == 0


def test_only_who_was_given_operations_answers_for_them(answers: Answers) -> None:
    """Broken: a member answers operations that another one has."""
    intake = filled(answers, "a")
    number = intake.forwarded(intake.take(100), "n2")
    assert intake.returned(number, [({"ok": 1}, (5, 0))], "n3")
    assert answers.words == {}
    assert intake.returned(number, [({"ok": 1}, (5, 0))], "n2")
    assert answers.words == {"a": "ok"}


def test_what_the_leader_did_not_do_is_tried_again_in_order(answers: Answers) -> None:
    """Broken: a partly answered batch is lost, run out of order, or its doubt forgotten."""
    intake = filled(answers, "a", "b", "c", "d", "e")
    number = intake.forwarded(intake.take(100), "n2")
    replies = [(NO_LEADER, NOWHERE), (UNKNOWN, NOWHERE), ({"ok": 1}, (5, 0)), (BUSY, NOWHERE)]
    assert not intake.returned(number, replies, "n2")
    assert answers.words == {"c": "ok"}
    again = intake.take(100)
    assert packed(again) == [b"a", b"b", b"d", b"e"]
    assert [pending.unknown for pending in again] == [False, True, False, True]
    assert intake.returned(number, [({"ok": 2}, (6, 0))], "n2"), "a second answer changes nothing"
    assert answers.words == {"c": "ok"}


def test_a_lost_link_or_another_leader_brings_back_what_was_forwarded(answers: Answers) -> None:
    """Broken: what was forwarded to a dead leader waits for its deadline."""
    intake = filled(answers, "a", "b")
    intake.forwarded(intake.take(1), "n2")
    intake.forwarded(intake.take(1), "n3")
    intake.link_lost("n4")
    assert len(intake.waiting) == 0
    intake.link_lost("n2")
    assert packed(intake.take(100)) == [b"a"]
    intake.leader_is("n3")
    assert len(intake.waiting) == 0
    intake.leader_is("n2")
    (pending,) = intake.take(100)
    assert (pending.packed, pending.unknown) == (b"b", True)


# -- the end ---------------------------------------------------------------------------------------


def test_each_deadline_is_kept_by_itself(answers: Answers) -> None:
    """Broken: a client waits behind the longer deadline of another."""
    intake = Intake(pending_max=9, operation_bytes_max=9)
    for name, deadline_s in (("late", 30.0), ("soon", 10.0), ("handed", 20.0)):
        intake.add(name.encode(), deadline_s, answers.sink(name))
    assert intake.next_deadline_s() == 10
    intake.expire(10)
    assert answers.words == {"soon": "no_leader"}
    intake.proposed(intake.take(100))
    intake.expire(20)
    assert answers.words == {"soon": "no_leader", "handed": "outcome_unknown"}
    intake.expire(40)
    assert answers.words["late"] == "outcome_unknown"
    assert intake.next_deadline_s() is None


def test_stopping_answers_all_by_what_is_known(answers: Answers) -> None:
    """Broken: a stopping tracker leaves clients waiting, or promises that nothing happened."""
    intake = filled(answers, "logged", "sent...", "waits")
    intake.proposed(intake.take(6))
    intake.forwarded(intake.take(7), "n2")
    intake.refuse_all(ShuttingDown("stops; not run"))
    assert answers.words == {
        "logged": "outcome_unknown",
        "sent...": "outcome_unknown",
        "waits": "shutting_down",
    }


def test_an_answered_operation_keeps_nothing_alive(answers: Answers) -> None:
    """Broken: every answered operation stays in memory until its deadline is over."""
    intake = filled(answers, "a" * 90)
    (pending,) = batch = intake.take(100)
    intake.committed(intake.proposed(batch), 4, ({"ok": 1},))
    assert pending.packed == b""
    pending.refuse(NoLeader("late"))
    assert answers.words == {"a" * 90: "ok"}


# -- whatever the order ----------------------------------------------------------------------------


class AnsweredOnce(RuleBasedStateMachine):
    """Everything that can become of operations, in any order; each is answered exactly once."""

    NUMBERS = st.integers(1, 12)

    @initialize()
    def begin(self) -> None:
        self.intake = Intake(pending_max=8, operation_bytes_max=9)
        self.now_s = 0.0
        self.added = 0
        self.given: dict[int, list[Reply]] = {}
        self.sizes: dict[int, int] = {}

    @rule(left_s=st.integers(1, 5), size=st.integers(1, 12))
    def add(self, left_s: int, size: int) -> None:
        given: list[Reply] = []

        def sink(reply: Reply, at: Position) -> None:
            given.append(reply)

        try:
            self.intake.add(bytes(size), self.now_s + left_s, sink)
        except (Busy, TooLarge):
            return
        self.added += 1
        self.given[self.added] = given

    @rule(left_s=st.integers(1, 5), size=st.integers(1, 12), count=st.integers(1, 3))
    def add_bundle(self, left_s: int, size: int, count: int) -> None:
        given: list[list[Reply]] = [[] for _ in range(count)]

        def sink(replies: Sequence[Reply], index: int, positions: Sequence[int]) -> None:
            for one, reply, _ in zip(given, replies, positions, strict=True):
                one.append(reply)

        try:
            self.intake.add_bundle(bytes(size), count, self.now_s + left_s, sink)
        except (Busy, TooLarge):
            return
        for one in given:
            self.added += 1
            self.given[self.added] = one

    @rule(bytes_max=st.integers(1, 20))
    def propose(self, bytes_max: int) -> None:
        if batch := self.intake.take(bytes_max):
            self.sizes[self.intake.proposed(batch)] = sum(one.count for one in batch)

    @rule(bytes_max=st.integers(1, 20), leader=st.sampled_from(["n2", "n3"]))
    def forward(self, bytes_max: int, leader: str) -> None:
        self.intake.refuse_remote()  # nobody forwards what was forwarded to it
        if batch := self.intake.take(bytes_max):
            self.sizes[self.intake.forwarded(batch, leader)] = len(batch)

    @rule(number=NUMBERS)
    def committed(self, number: int) -> None:
        replies = tuple({"ok": place} for place in range(self.sizes.get(number, 0)))
        self.intake.committed(number, number, replies)

    @rule(number=NUMBERS)
    def discarded(self, number: int) -> None:
        self.intake.discarded(number)

    @rule(
        number=NUMBERS,
        replies=st.lists(st.sampled_from([NO_LEADER, UNKNOWN, BUSY, {"ok": 1}])),
        node=st.sampled_from(["n2", "n3"]),
    )
    def returned(self, number: int, replies: list[Reply], node: str) -> None:
        placed = [(reply, (3, 0) if "ok" in reply else NOWHERE) for reply in replies]
        self.intake.returned(number, placed, node)

    @rule(leader=st.sampled_from([None, "n2", "n3"]))
    def leader_is(self, leader: str | None) -> None:
        self.intake.leader_is(leader)

    @rule(node=st.sampled_from(["n2", "n3"]))
    def link_lost(self, node: str) -> None:
        self.intake.link_lost(node)

    @rule()
    def lost_leadership(self) -> None:
        self.intake.lost_leadership()

    @rule()
    def refuse_remote(self) -> None:
        self.intake.refuse_remote()

    @rule(passed_s=st.integers(0, 3))
    def expire(self, passed_s: int) -> None:
        self.now_s += passed_s
        self.intake.expire(self.now_s)

    @invariant()
    def none_is_answered_twice(self) -> None:
        assert all(len(given) <= 1 for given in self.given.values())
        waiting = sum(not given for given in self.given.values())
        assert self.intake.pace.under_way == waiting, "each counts until it is answered"
        due_s = self.intake.next_deadline_s()
        if not all(self.given.values()):
            assert due_s is not None, "something waits and nothing will wake it"

    def teardown(self) -> None:
        if hasattr(self, "intake"):
            self.intake.expire(self.now_s + 5)
            assert all(len(given) == 1 for given in self.given.values())
            self.intake.refuse_all(ShuttingDown("the end"))
            assert all(len(given) == 1 for given in self.given.values())


TestAnsweredOnce = AnsweredOnce.TestCase
TestAnsweredOnce.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
