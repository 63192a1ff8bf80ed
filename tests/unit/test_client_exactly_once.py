"""A write is run once, or its caller is told that nobody knows: the client's half of it."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fake_tracker as fake
import pytest
from fake_tracker import FakeCluster, FakeTracker
from test_client import CONTENT, QUICK, client, publish

from tracker_raft import wire
from tracker_raft.client.deadline import Deadline
from tracker_raft.client.request_session import RequestSession
from tracker_raft.commands import CloseSession
from tracker_raft.errors import (
    Busy,
    Conflict,
    LimitReached,
    NoLeader,
    NoTracker,
    OutcomeUnknown,
    SessionExpired,
    Unavailable,
)


@pytest.mark.parametrize(
    "loss",
    [fake.run_and_stay_silent, fake.run_and_hang_up, fake.run_and_die_in_mid_reply],
    ids=["silent", "hang_up", "mid_reply"],
)
def test_a_lost_reply_is_asked_for_again_and_not_run_again(loss: fake.Behaviour) -> None:
    """Broken: a tracker dying after the commit makes its client's write happen twice."""
    cluster = FakeCluster()
    with (
        FakeTracker(cluster) as one,
        FakeTracker(cluster) as two,
        client(one, two, config=QUICK) as tracker,
    ):
        publish(tracker, "first")
        one.script(loss, loss)
        assert publish(tracker, "second").created, "the reply is that of the one run"
        assert cluster.runs == ["open_session", "publish", "publish"]
        sent = [(r["session"], r["seq"]) for r in one.requests + two.requests if "seq" in r]
        assert sent.count((1, 2)) >= 2 and set(sent) == {(1, 1), (1, 2)}


def test_a_lost_refusal_stays_the_same_refusal() -> None:
    """Broken: a retry of a refused write is taken for a new one and succeeds unseen."""
    cluster = FakeCluster()
    with FakeTracker(cluster) as one, FakeTracker(cluster) as two, client(one, two) as tracker:
        publish(tracker)
        replies = cluster.sessions[1]  # as the machine would keep it

        def refuse_and_hang_up(line: fake.Line, request: dict[str, object]) -> None:
            replies[2] = {"error": "conflict", "message": "bound to other content"}
            line.hang_up()

        one.script(refuse_and_hang_up)
        with pytest.raises(Conflict, match="bound to other content"):
            publish(tracker)


def test_a_lost_reply_and_an_expired_session_is_an_unknown_outcome() -> None:
    """Broken: "it did not happen" is said of a write that did."""
    cluster = FakeCluster()
    with (
        FakeTracker(cluster) as one,
        FakeTracker(cluster) as two,
        client(one, two, config=QUICK) as tracker,
    ):
        publish(tracker, "first")

        def run_then_expire(line: fake.Line, request: dict[str, object]) -> None:
            cluster.serve(request)
            cluster.sessions.clear()

        one.script(run_then_expire)
        with pytest.raises(OutcomeUnknown, match="answered session_expired"):
            publish(tracker, "second")
        assert "second" in cluster.files
        assert publish(tracker, "third").created, "the next write opens a new session"
        assert cluster.sessions_opened == 2


def test_an_expired_session_is_replaced_without_the_caller_noticing() -> None:
    """Broken: a client that was idle for an hour fails its next write."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker, "first")
        one.cluster.sessions.clear()
        assert publish(tracker, "second").created
        assert one.cluster.sessions_opened == 2
        assert [r["seq"] for r in one.requests if r["op"] == "publish"] == [1, 2, 1]


def test_a_session_that_expires_at_once_again_is_an_error_not_a_loop() -> None:
    """Broken: a full or broken session table makes a client open sessions for ever."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker)
        one.script(fake.fail("session_expired"), fake.serve, fake.fail("session_expired"))
        with pytest.raises(SessionExpired):
            publish(tracker)
        assert one.cluster.sessions_opened == 2


def test_only_one_of_many_threads_opens_the_new_session() -> None:
    """Broken: an expired session makes every thread fill the tracker's session table."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker, "first")
        one.cluster.sessions.clear()
        gate = threading.Barrier(16)

        def work(number: int) -> bool:
            gate.wait(5)
            return publish(tracker, f"t{number}").created

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(16)))
        assert one.cluster.sessions_opened == 2
        assert one.cluster.runs.count("publish") == 17


def test_a_full_session_table_is_said_at_once() -> None:
    """Broken: a definite refusal to open a session is retried until the deadline."""
    with FakeTracker(always=fake.fail("limit_reached")) as one, client(one) as tracker:
        with pytest.raises(LimitReached):
            publish(tracker)
        assert one.words() == ["open_session"]


def test_outcome_unknown_from_a_tracker_is_settled_by_the_reply_table() -> None:
    """Broken: a leader change in mid-write reaches the caller although the reply is kept."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker, "first")

        def run_and_doubt(line: fake.Line, request: dict[str, object]) -> None:
            line.tracker.cluster.serve(request)
            line.answer(request, {"error": "outcome_unknown", "message": "leader lost"})

        one.script(run_and_doubt)
        assert publish(tracker, "second").created
        assert one.cluster.runs.count("publish") == 2


def test_a_write_that_may_have_run_ends_as_unknown_at_its_deadline() -> None:
    """Broken: a caller is told "nothing happened" and does it again, twice in all."""
    with FakeTracker() as one, client(one, config=QUICK) as tracker:
        publish(tracker, "first")
        one.always = fake.run_and_stay_silent
        with pytest.raises(OutcomeUnknown, match="publish may or may not have happened") as caught:
            publish(tracker, "second", deadline_s=0.4)
        assert f"{one.address} was silent" in str(caught.value)
        assert "second" in one.cluster.files


def test_unavailable_after_a_lost_reply_is_still_unknown() -> None:
    """Broken: the last tracker's "not now" hides that an earlier one may have run it."""
    with FakeTracker() as one, client(one, config=QUICK) as tracker:
        publish(tracker, "first")
        one.script(fake.run_and_stay_silent)
        one.always = fake.fail("no_leader")
        with pytest.raises(OutcomeUnknown, match="answered no_leader"):
            publish(tracker, "second", deadline_s=0.4)


def test_a_refusal_outside_the_reply_table_cannot_settle_a_lost_write() -> None:
    """Broken: a tracker of another version says bad_request to the retry, and the first ran."""
    with FakeTracker() as one, client(one, config=QUICK) as tracker:
        publish(tracker, "first")
        one.script(fake.run_and_stay_silent, fake.fail("bad_request"))
        with pytest.raises(OutcomeUnknown, match="the next one was answered bad_request"):
            publish(tracker, "second")


def test_a_write_that_never_left_is_definite() -> None:
    """Broken: callers must check after failures in which nothing can have happened."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker)
        one.close()
        with pytest.raises(NoTracker, match="publish did not happen"):
            publish(tracker, deadline_s=0.2)


def test_a_definite_failure_is_not_spoiled_by_a_last_attempt_sent_too_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: a cluster without a leader answers "not run" all along, and the caller hears
    "unknown" because one more attempt was sent when there was no time left to answer it."""
    monkeypatch.setattr("tracker_raft.client.requester.LAST_ATTEMPT_S", 1.0)
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker, "first")
        began = time.monotonic()

        def no_leader_in_time(line: fake.Line, request: wire.Message) -> None:
            if time.monotonic() - began < 0.7:
                line.answer(request, {"error": "no_leader", "message": "not run"})

        one.always = no_leader_in_time
        with pytest.raises(NoLeader):
            publish(tracker, "second", deadline_s=1.2)
        one.always = fake.serve


def test_reads_and_renewals_are_never_unknown() -> None:
    """Broken: a caller must handle an unknown outcome of something without an effect."""
    with FakeTracker(always=fake.silent) as one, client(one) as tracker:
        for call in (
            lambda: tracker.peers(CONTENT, deadline_s=0.2),
            lambda: tracker.renew("p1", deadline_s=0.2),
            lambda: tracker.status(deadline_s=0.2),
        ):
            with pytest.raises(NoTracker):
                call()


def test_low_says_what_is_still_waited_for_and_abandoned_ones_are_not() -> None:
    """Broken: the machine keeps replies for ever, or forgets one that is asked for again."""
    with FakeTracker() as one, client(one, config=QUICK) as tracker:
        publish(tracker, "first")
        one.script(fake.silent)
        with pytest.raises(OutcomeUnknown):
            publish(tracker, "abandoned", deadline_s=QUICK.attempt_timeout_s)
        tracker.call(CloseSession(999))
        assert one.requests[-1]["low"] == one.requests[-1]["seq"] == 3
        with ThreadPoolExecutor(1) as pool:
            arrived, answer = threading.Event(), threading.Event()

            def wait_then_serve(line: fake.Line, request: dict[str, object]) -> None:
                arrived.set()
                assert answer.wait(5)
                fake.serve(line, request)

            one.script(wait_then_serve)
            slow = pool.submit(publish, tracker, "slow")
            assert arrived.wait(5)
            publish(tracker, "quick")
            assert (one.requests[-1]["seq"], one.requests[-1]["low"]) == (5, 4)
            answer.set()
            assert slow.result(5).created


def test_the_window_of_unanswered_writes_is_kept() -> None:
    """Broken: the client sends what the machine has no room to remember, and is refused."""
    session = RequestSession(1, window_max=2)
    deadline = Deadline(5)
    assert [session.take(deadline), session.take(deadline)] == [1, 2]
    session.answered(2)
    with pytest.raises(Busy, match="1 operations of this client are unanswered, limit 2"):
        session.take(Deadline(0.01))
    assert repr(session) == "<RequestSession 1 next=3 low=1 waiting=1>"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.take, deadline)
        session.answered(1)
        assert waiting.result(5) == 3
    assert session.low() == 3


def test_an_unreadable_reply_to_a_write_is_not_taken_for_a_failure() -> None:
    """Broken: a write that succeeded is reported as one that did not happen."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker, "first")
        one.script(lambda line, request: line.answer(request, {"ok": {"file": 7}}))
        with pytest.raises(OutcomeUnknown, match="answered publish in a way"):
            publish(tracker, "second")


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_lost_every_answer_is_true(seed: int) -> None:
    """Broken: under some mix of losses a write runs twice, or a caller is told what is not so."""
    chance = random.Random(seed)
    cluster = FakeCluster()

    def doubt(line: fake.Line, request: wire.Message) -> None:
        if chance.random() < 0.5:
            cluster.serve(request)
        line.answer(request, {"error": "outcome_unknown", "message": "leader lost"})

    troubles = [
        fake.run_and_hang_up,
        fake.run_and_die_in_mid_reply,
        fake.run_and_stay_silent,
        fake.hang_up,
        fake.silent,
        fake.fail("no_leader"),
        fake.fail("busy", retry_after_ms=5),
        doubt,
    ]

    def moody(line: fake.Line, request: wire.Message) -> None:
        if chance.random() < 0.02:
            with cluster.lock:
                cluster.sessions.clear()
        (fake.serve if chance.random() < 0.4 else chance.choice(troubles))(line, request)

    config = replace(QUICK, attempt_timeout_s=0.02)
    done, refused, unknown = [], [], []
    with (
        FakeTracker(cluster, always=moody) as one,
        FakeTracker(cluster, always=moody) as two,
        client(one, two, config=config) as tracker,
    ):
        for number in range(60):
            name = f"w{number}"
            try:
                deadline_s = chance.choice([0.03, 2.0])
                assert publish(tracker, name, deadline_s).created, (
                    "created says that this was the only run"
                )
                done.append(name)
            except OutcomeUnknown:
                unknown.append(name)
            except (Unavailable, SessionExpired):
                refused.append(name)
    assert set(done) <= set(cluster.files), f"seed {seed}: acknowledged and not there"
    assert not set(refused) & set(cluster.files), f"seed {seed}: said not to have happened"
    assert cluster.runs.count("publish") == len(cluster.files), f"seed {seed}: a write ran twice"
    assert done and unknown, f"seed {seed}: the mix was too mild or too wild to show anything"
