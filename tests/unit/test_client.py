"""TrackerClient against small real trackers: fail-over, deadlines, pooling, clear refusals."""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import fake_tracker as fake
import pytest
from fake_tracker import FakeCluster, FakeTracker, dead_address

from tracker_raft.client import Published, TrackerClient
from tracker_raft.client.requester import CLOSE_SESSION_S, LAST_ATTEMPT_S
from tracker_raft.commands import Level, Lookup
from tracker_raft.config import Address, ClientConfig
from tracker_raft.errors import (
    BadRequest,
    Busy,
    LocalError,
    NoLeader,
    NotFound,
    NoTracker,
    Refused,
    TooLarge,
    Unsupported,
)

CONTENT = bytes(range(32))
PATIENT = ClientConfig(
    deadline_s=10.0,
    attempt_timeout_s=5.0,
    connect_timeout_s=0.5,
    backoff_max_s=0.02,
    breaker_open_min_s=0.02,
    breaker_open_max_s=0.1,
)
QUICK = replace(PATIENT, attempt_timeout_s=0.15)
"""For trackers that are silent on purpose; a busy machine is silent for a moment too."""
MARGIN_S = 0.5
"""How late a call may end on a busy machine."""


def client(
    *trackers: FakeTracker | Address, config: ClientConfig = PATIENT, first: int | None = 0
) -> TrackerClient:
    """A client whose ring begins with ``trackers[first]`` (the seed is looked for)."""
    addresses = [t.address if isinstance(t, FakeTracker) else t for t in trackers]
    for seed in range(200):
        made = TrackerClient(addresses, config=config, random=random.Random(seed))
        if first is None or made.endpoints[0] == addresses[first]:
            return made
    raise AssertionError("no seed puts that tracker first")


def publish(
    tracker: TrackerClient, name: str = "models/a", deadline_s: float | None = None
) -> Published:
    return tracker.publish(
        name,
        content=CONTENT,
        size=10,
        manifest_bytes=100,
        piece_bytes=512 * 1024,
        deadline_s=deadline_s,
    )


# -- the vocabulary -------------------------------------------------------------------------------


def test_every_method_says_what_it_means_and_reads_what_comes_back() -> None:
    """Broken: a method sends the wrong operation or misreads the reply."""
    with FakeTracker() as one, client(one) as tracker:
        published = publish(tracker)
        assert published.created and published.file.name == "models/a" and published.at == (2, 0)
        assert not publish(tracker).created
        assert tracker.lookup("models/a") == published.file
        assert tracker.lookup(CONTENT) == tracker.lookup(CONTENT.hex()) == published.file
        assert tracker.lookup_all(CONTENT) == [published.file]
        assert tracker.list("models/").files == (published.file,)
        assert tracker.join("p1", "127.0.0.1:9", CONTENT, lease_s=2.5) == 2.5
        tracker.complete("p1", CONTENT)
        swarm = tracker.peers(CONTENT)
        assert swarm.total == 1 and swarm.peers[0].peer == "p1" and swarm.peers[0].complete
        assert tracker.leave("p1") == 1
        assert tracker.remove("models/a") == (published.file,)
        assert tracker.status() == {}
        assert tracker.seen == 7 and tracker.endpoint == one.address
        with pytest.raises(NotFound, match="no lease"):
            tracker.renew("p1")
        with pytest.raises(NotFound, match="no file"):
            tracker.lookup("models/a")


def test_files_pages_through_all_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a long listing loses or repeats names at the edge of a page."""
    monkeypatch.setattr("tracker_raft.client.tracker_client.FILES_PAGE", 3)
    with FakeTracker() as one, client(one) as tracker:
        names = [f"data/{number:02}" for number in range(10)]
        for name in [*names, "other"]:
            publish(tracker, name)
        assert [record.name for record in tracker.files("data/")] == names
        assert one.words().count("list") == 4


def test_levels_say_what_the_reader_asked_for() -> None:
    """Broken: a read is staler than its level, or a session read forgets what was seen."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker)
        tracker.lookup("models/a")
        tracker.lookup("models/a", level=Level.SESSION)
        tracker.peers(CONTENT)
        levels = [(r.get("level"), r.get("seen")) for r in one.requests if r["op"] != "status"]
        assert levels[-3:] == [("linearizable", None), ("session", 2), ("local", None)]


def test_lookup_by_content_takes_the_newest_version() -> None:
    """Broken: who asks for a content is shown an old version's record."""
    with FakeTracker() as one, client(one) as tracker:
        record = publish(tracker).file
        rows = [replace(record, version=number).to_wire() for number in (1, 2)]
        rows.append(replace(record, name="models/b").to_wire())

        def several(line: fake.Line, request: dict[str, object]) -> None:
            line.answer(request, {"ok": {"files": rows}, "at": [1, 0]})

        one.always = several
        assert tracker.lookup(CONTENT).versioned == "models/a@v2"
        assert [f.versioned for f in tracker.lookup_all(CONTENT)] == [
            "models/a@v2",
            "models/a@v1",
            "models/b@v1",
        ]


@pytest.mark.parametrize(
    ("mistake", "text"),
    [
        (lambda t: t.lookup("a//b"), "empty"),
        (lambda t: t.lookup(b"short"), "5 bytes, expected the 32 bytes"),
        (lambda t: t.lookup(b""), "0 bytes, expected the 32 bytes"),
        (lambda t: t.list(limit=0), "limit is 0"),
        (lambda t: t.join("p", "nowhere", CONTENT), "expected host:port"),
        (lambda t: t.join("p", "h:1", CONTENT, lease_s=float("nan")), "lease_s is nan"),
        (lambda t: t.status("nowhere"), "expected host:port"),
        (lambda t: t.status(deadline_s=0), "deadline of 0 s"),
        (lambda t: t.status(deadline_s=float("inf")), "deadline of inf s"),
        (lambda t: TrackerClient([]), "0 trackers given"),
        (lambda t: TrackerClient("127.0.0.1:7001"), "expected a list"),
        (lambda t: TrackerClient(["127.0.0.1"]), "expected host:port"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_sent(
    mistake: Callable[[TrackerClient], object], text: str
) -> None:
    """Broken: a user's mistake costs a round trip, a traceback or a deadline."""
    with client(dead_address()) as tracker, pytest.raises(BadRequest, match=text):
        mistake(tracker)


def test_a_refusal_is_raised_at_once() -> None:
    """Broken: a definite "no" is retried until the deadline."""
    with FakeTracker() as one, client(one) as tracker:
        for code in ("conflict", "limit_reached", "bad_request", "unknown_op"):
            one.script(fake.fail(code))
            with pytest.raises(Refused, match="as scripted") as caught:
                tracker.lookup("a")
            assert caught.value.code == code
        assert len(one.requests) == 4 and one.connections == 1


# -- fail-over ------------------------------------------------------------------------------------


def test_the_next_tracker_serves_when_one_is_killed() -> None:
    """Broken: the loss of one tracker is an error for its clients."""
    cluster = FakeCluster()
    with FakeTracker(cluster) as one, FakeTracker(cluster) as two, client(one, two) as tracker:
        publish(tracker)
        assert tracker.endpoint == one.address
        one.close()
        assert tracker.lookup("models/a").name == "models/a"
        assert tracker.endpoint == two.address
        publish(tracker, "models/b")
        assert cluster.runs == ["open_session", "publish", "publish"]


@pytest.mark.parametrize(
    "trouble",
    [
        fake.silent,
        fake.hang_up,
        fake.talk_http,
        fake.fail("no_leader"),
        fake.fail("shutting_down"),
        fake.fail("busy", retry_after_ms=60_000),
    ],
    ids=["silent", "hang_up", "http", "no_leader", "shutting_down", "busy"],
)
def test_trouble_with_one_tracker_is_served_by_the_next(trouble: fake.Behaviour) -> None:
    """Broken: one tracker's trouble becomes the caller's, or costs more than one time-out."""
    with (
        FakeTracker(always=trouble) as one,
        FakeTracker() as two,
        client(one, two, config=QUICK) as tracker,
    ):
        began = time.monotonic()
        publish(tracker)
        assert tracker.endpoint == two.address
        assert time.monotonic() - began < QUICK.attempt_timeout_s + MARGIN_S
        assert one.words() == ["open_session"]
        assert two.words() == ["open_session", "publish"]


@pytest.mark.parametrize("code", ["busy", "unsupported", "shutting_down"])
def test_a_refused_connection_is_served_by_the_next_tracker(code: str) -> None:
    """Broken: a tracker that takes no more clients, or speaks another version, ends the call."""
    refusing = FakeTracker(hello=fake.refuse_hello(code))
    with refusing, FakeTracker() as two, client(refusing, two) as tracker:
        publish(tracker)
        assert tracker.endpoint == two.address


def test_another_protocol_version_everywhere_is_said_at_once() -> None:
    """Broken: a client too old for its cluster waits for its deadline and then blames the net."""
    with (
        FakeTracker(hello=fake.refuse_hello("unsupported")) as one,
        client(one) as tracker,
        pytest.raises(Unsupported, match="as scripted"),
    ):
        tracker.lookup("a")


def test_learned_trackers_are_used_after_the_given_one_died() -> None:
    """Broken: a client given one address loses the cluster with that one tracker."""
    cluster = FakeCluster()
    with FakeTracker(cluster) as two:
        told = [str(two.address), "no address at all"]
        with FakeTracker(cluster, told=told) as one, client(one) as tracker:
            publish(tracker)
            assert set(tracker.endpoints) == {one.address, two.address}
            one.close()
            assert tracker.lookup("models/a").name == "models/a"
            assert tracker.endpoint == two.address


def test_busy_comes_back_when_it_was_told_to() -> None:
    """Broken: an overloaded tracker is hammered, or a client waits longer than it was asked to."""
    with FakeTracker() as one, client(one) as tracker:
        one.script(fake.fail("busy", retry_after_ms=80))
        began = time.monotonic()
        tracker.peers(CONTENT)
        assert 0.08 <= time.monotonic() - began < 0.08 * 1.5 + MARGIN_S
        assert one.words() == ["peers", "peers"]


def test_clients_told_the_same_time_do_not_come_back_together() -> None:
    """Broken: all that were refused meet again at the same moment, and are refused again."""
    rests = set()
    for seed in range(3):
        with FakeTracker() as one:
            one.script(fake.fail("busy", retry_after_ms=4_000))
            told = TrackerClient([one.address], random=random.Random(seed), clock=lambda: 0.0)
            with told as tracker, pytest.raises(Busy):
                tracker.peers(CONTENT, deadline_s=0.02)
            rests.add(tracker._requester.rotation.wake_in_s(0.0))
    assert len(rests) == 3
    assert all(4.0 <= rest_s <= 6.0 for rest_s in rests), rests


def test_a_dead_tracker_is_left_alone_and_then_probed() -> None:
    """Broken: each new call waits for the dead tracker again, or it is never asked again."""
    config = replace(PATIENT, breaker_failures=1, breaker_open_min_s=60.0, breaker_open_max_s=60.0)
    now = [0.0]
    with FakeTracker() as one, FakeTracker() as two:
        addresses = [one.address, two.address]
        tracker = TrackerClient(
            addresses, config=config, random=random.Random(1), clock=lambda: now[0]
        )
        first, second = (one, two) if tracker.endpoints[0] == one.address else (two, one)
        with tracker:
            first.script(fake.hang_up)
            tracker.peers(CONTENT)
            assert len(first.requests) == 1 and tracker.endpoint == second.address
            second.script(fake.fail("no_leader"))
            tracker.peers(CONTENT)  # the round has nobody else to ask; the next one succeeds
            assert len(first.requests) == 1 and tracker.endpoint == second.address
            now[0] = 61.0
            second.script(fake.fail("no_leader"))
            tracker.peers(CONTENT)
            assert len(first.requests) == 2 and tracker.endpoint == first.address


def test_status_asks_exactly_the_tracker_named() -> None:
    """Broken: the status of a dead or paused tracker is another one's."""
    gone = dead_address()
    with (
        FakeTracker() as one,
        FakeTracker(always=fake.silent) as paused,
        client(one, config=QUICK) as tracker,
    ):
        assert tracker.status(one.address) == {}
        with pytest.raises(NoTracker, match=f"{gone} refused the connection"):
            tracker.status(gone)
        with pytest.raises(NoTracker, match=r"was silent for 0\.15 s"):
            tracker.status(str(paused.address))
        one.script(fake.fail("busy", retry_after_ms=20))
        with pytest.raises(Busy) as caught:
            tracker.status(one.address)
        assert caught.value.retry_after_s == 0.02
        assert paused.words() == ["status"] and tracker.endpoints == (one.address,)


# -- deadlines and clear ends ---------------------------------------------------------------------


def test_unreachable_trackers_are_each_named_with_what_happened() -> None:
    """Broken: "it does not work" instead of which tracker, what, and whether anything was done."""
    gone = dead_address()
    with FakeTracker(always=fake.silent) as mute, client(gone, mute, config=QUICK) as tracker:
        with pytest.raises(NoTracker) as caught:
            publish(tracker, deadline_s=0.4)
        text = str(caught.value)
        assert text.startswith("publish did not happen: no tracker answered in 0.")
        assert f"{gone} refused the connection" in text
        assert f"{mute.address} was silent for 0." in text


def test_a_tracker_that_answers_no_ping_is_left_long_before_the_time_for_an_answer() -> None:
    """Broken: a tracker that is stopped holds its clients for as long as a slow one may take."""
    patient = ClientConfig(attempt_timeout_s=60.0, silence_s=0.05)
    with (
        FakeTracker(always=fake.silent) as one,
        FakeTracker() as two,
        client(one, two, config=patient) as tracker,
    ):
        began = time.monotonic()
        publish(tracker)
        assert tracker.endpoint == two.address
        assert time.monotonic() - began < 30.0


def test_a_tracker_that_answers_pings_may_take_its_time() -> None:
    """Broken: a busy tracker is left for another one, and its work is done twice."""
    patient = ClientConfig(attempt_timeout_s=60.0, silence_s=0.05)
    with (
        FakeTracker(always=fake.take_time(3)) as one,
        client(one, config=patient) as tracker,
    ):
        assert tracker.list().files == ()
        assert one.words() == ["list"]


def test_the_deadline_holds_when_all_are_silent() -> None:
    """Broken: a call takes the sum of its time-outs in place of the time it was given."""
    with (
        FakeTracker(always=fake.silent) as one,
        FakeTracker(always=fake.silent) as two,
        client(one, two, config=QUICK) as tracker,
    ):
        began = time.monotonic()
        with pytest.raises(NoTracker):
            tracker.lookup("a", deadline_s=0.4)
        assert 0.4 - LAST_ATTEMPT_S <= time.monotonic() - began < 0.4 + MARGIN_S
        assert all(0 < r["deadline_ms"] <= 400 for r in one.requests + two.requests)


def test_a_tracker_is_told_to_answer_before_the_client_gives_up_on_it() -> None:
    """Broken: a tracker without a leader is taken for a silent one, and "not run" for unknown."""
    with FakeTracker() as one, client(one, config=QUICK) as tracker:
        tracker.peers(CONTENT)
        tracker.peers(CONTENT, deadline_s=0.05)
        told = [request["deadline_ms"] for request in one.requests]
        assert 1 <= told[0] <= QUICK.attempt_timeout_s * 750 and 1 <= told[1] <= 37


def test_what_the_trackers_said_last_is_the_error() -> None:
    """Broken: a cluster without a leader is reported as a network problem."""
    gone = dead_address()
    with FakeTracker(always=fake.fail("no_leader")) as one, client(one, gone) as tracker:
        with pytest.raises(NoLeader) as caught:
            publish(tracker, deadline_s=0.3)
        text = str(caught.value)
        assert f"{one.address} answered no_leader (as scripted)" in text
        assert f"{gone} refused the connection" in text


def test_a_frame_over_the_limit_is_not_sent() -> None:
    """Broken: a request that the tracker must refuse is sent, and its connection lost."""
    config = replace(PATIENT, frame_bytes_max=150)
    with FakeTracker() as one, client(one, config=config) as tracker:
        with pytest.raises(TooLarge, match="limit 150; not sent"):
            publish(tracker, "a" * 200)
        assert one.words() == ["open_session"]
        tracker.peers(CONTENT)
        assert one.connections == 1


def test_a_closed_client_refuses_and_frees_those_who_wait() -> None:
    """Broken: closing leaves threads waiting, sockets open or a request session behind."""
    with FakeTracker() as one:
        tracker = client(one)
        publish(tracker)
        arrived = threading.Event()
        one.script(lambda line, request: arrived.set())
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(tracker.lookup, "models/a")
            assert arrived.wait(5)
            tracker.close()
            with pytest.raises(LocalError, match="the client was closed"):
                waiting.result(timeout=2)
        tracker.close()
        with pytest.raises(LocalError, match="closed; nothing was sent"):
            tracker.lookup("models/a")
        assert one.cluster.sessions == {}


def test_closing_waits_no_longer_than_half_a_second() -> None:
    """Broken: a program cannot end because its tracker does not answer."""
    with FakeTracker() as one:
        tracker = client(one)
        publish(tracker)
        one.always = fake.silent
        began = time.monotonic()
        tracker.close()
        assert time.monotonic() - began < CLOSE_SESSION_S + MARGIN_S
        assert one.words()[-1] == "close_session"


# -- connections ----------------------------------------------------------------------------------


def test_a_hundred_calls_share_one_connection() -> None:
    """Broken: each call pays for a connection and a hello."""
    with FakeTracker() as one, client(one) as tracker:
        for _ in range(100):
            tracker.peers(CONTENT)
        assert one.connections == 1 and len(one.requests) == 100


def test_hello_and_first_request_travel_together() -> None:
    """Broken: a new connection costs two round trips in place of one."""
    answered: list[str] = []

    def late_hello(line: fake.Line, request: dict[str, object]) -> None:
        answered.append("hello asked")  # and not answered before the request behind it is read

    with FakeTracker(hello=late_hello) as one, client(one) as tracker:
        assert tracker.peers(CONTENT).total == 1
        assert answered == ["hello asked"]


def test_a_tracker_restarted_between_calls_costs_no_failure() -> None:
    """Broken: a stale pooled connection counts against a healthy tracker, or moves the client."""
    config = replace(PATIENT, breaker_failures=1)
    with FakeTracker() as one, FakeTracker() as two, client(one, two, config=config) as tracker:
        tracker.peers(CONTENT)
        one.hang_up_all()
        tracker.peers(CONTENT)
        assert one.connections == 2 and two.connections == 0
        one.script(fake.hang_up)  # found closed only after the request was sent
        tracker.peers(CONTENT)
        assert one.connections == 3 and two.connections == 0


def test_sixteen_threads_share_one_client() -> None:
    """Broken: concurrent calls mix up replies, sequence numbers or connections."""
    with FakeTracker() as one, client(one) as tracker:

        def work(number: int) -> None:
            for turn in range(10):
                name = f"t{number}/{turn}"
                assert publish(tracker, name).file.name == name
                assert tracker.lookup(name).name == name

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(work, range(16)))
        assert one.cluster.sessions_opened == 1
        assert one.cluster.runs.count("publish") == 160
        seqs = [r["seq"] for r in one.requests if r["op"] == "publish"]
        assert sorted(seqs) == list(range(1, 161))
        shown = re.search(rf"idle={{'{one.address}': (\d+)}} in_use=0", repr(tracker._requester))
        assert shown and 1 <= int(shown[1]) <= PATIENT.idle_connections_max


def test_a_forked_child_uses_nothing_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: parent and child share a session and are answered with each other's replies."""
    with FakeTracker() as one, client(one) as tracker:
        publish(tracker)
        monkeypatch.setattr("tracker_raft.client.requester.os.getpid", lambda: -1)
        publish(tracker, "models/b")
        sent = [(r["session"], r["seq"]) for r in one.requests if r["op"] == "publish"]
        assert sent == [(1, 1), (2, 1)] and one.connections == 2


def test_the_debug_switch_shows_the_conversation(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken: a wire problem cannot be looked at, or looking floods the log with bytes."""
    monkeypatch.setenv("P2P_WIRE_DEBUG", "1")
    caplog.set_level(logging.DEBUG, "tracker_raft.wire")
    with FakeTracker() as one, client(one) as tracker:
        tracker.peers(CONTENT)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 4 and "'op': 'hello'" in lines[0] and "'op': 'peers'" in lines[1]
    assert "<0001020304050607… 32 bytes>" in lines[1] and "'total': 1" in lines[3]


def test_a_reply_that_cannot_be_read_is_a_clear_error() -> None:
    """Broken: a tracker of another version brings a KeyError out of the client."""

    def nonsense(line: fake.Line, request: dict[str, object]) -> None:
        line.answer(request, {"ok": {"file": {"name": "a"}, "files": 7}, "at": "?"})

    with FakeTracker() as one, client(one) as tracker:
        one.always = nonsense
        reply = tracker.call(Lookup(name="a"))
        assert (reply.index, reply.position, reply.attempts) == (0, 0, 1)
        with pytest.raises(BadRequest, match="answered lookup in a way this version cannot read"):
            tracker.lookup("a")


def test_a_name_that_is_not_known_is_told_like_any_other_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: a mistyped host name reaches the caller as a bare OSError of the resolver."""

    def unknown(*args: object, **options: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("tracker_raft.client.connection.socket.getaddrinfo", unknown)
    text = "tracker.test:7001 has no known address .*Name or service not known"
    with client(Address("tracker.test", 7001)) as tracker, pytest.raises(NoTracker, match=text):
        tracker.lookup("a", deadline_s=0.1)
