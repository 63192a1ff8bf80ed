"""The client's side of a watch: fail-over without gap or repeat, ends, and what it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import fake_tracker as fake
import pytest
from fake_tracker import Behaviour, FakeTracker, Line, dead_address

from tracker_raft import wire
from tracker_raft.changes import Change, Place
from tracker_raft.client import TrackerClient
from tracker_raft.commands import FileRecord
from tracker_raft.config import ClientConfig
from tracker_raft.errors import BadRequest, Compacted, LocalError, NoLeader, NoTracker

CONFIG = ClientConfig(
    deadline_s=10.0,
    attempt_timeout_s=5.0,
    backoff_max_s=0.02,
    breaker_open_min_s=0.02,
    breaker_open_max_s=0.1,
)


def change(index: int, position: int = 0, name: str = "a") -> Change:
    file = FileRecord(name, 1, bytes(32), 1, 9, 16384)
    return Change(index, position, "published", file, 1, 0)


def tell(*changes: Change, following: Place | None = None) -> Behaviour:
    """Answer a watch with these, whatever was asked."""
    body = {
        "changes": [each.to_wire() for each in changes],
        "next": following or changes[-1].next,
    }
    return lambda line, request: line.answer(request, {"ok": body, "at": (9, 0)})


def places(tracker: FakeTracker) -> list[Place]:
    """From where it was asked."""
    watches = [request for request in tracker.requests if request["op"] == "watch"]
    return [(request["index"], request.get("position", 0)) for request in watches]


def test_changes_come_in_order_and_the_next_question_goes_on_behind_them() -> None:
    """Broken: a watch of one tracker has gaps or repeats."""
    with FakeTracker(always=fake.silent) as tracker:
        tracker.script(
            tell(change(5), change(5, 2)), tell(following=(8, 0)), tell(change(9), following=(9, 1))
        )
        with (
            TrackerClient([tracker.address], config=CONFIG) as client,
            client.watch("a", from_index=4, from_position=1) as watch,
        ):
            assert watch.place == (4, 1)
            assert next(watch).place == (5, 0)
            assert watch.place == (5, 2)
            assert next(watch).place == (5, 2)
            assert watch.place == (5, 3)
            assert next(watch).place == (9, 0)
            assert repr(watch) == "<Watch 'a' from 9.1 closed=False>"
        assert places(tracker) == [(4, 1), (5, 3), (8, 0)]
        assert {request["prefix"] for request in tracker.requests} == {"a"}


def test_another_tracker_goes_on_when_one_is_lost() -> None:
    """Broken: a killed tracker ends a watch, or makes it miss or repeat changes."""
    with FakeTracker() as one, FakeTracker() as other:
        for tracker in (one, other):
            tracker.script(tell(change(5)), fake.hang_up, fake.hang_up)
            tracker.always = tell(change(5), change(7), following=(8, 0))  # one too old: dropped
        with (
            TrackerClient([one.address, other.address], config=CONFIG) as client,
            client.watch(from_index=5) as watch,
        ):
            assert [next(watch).place for _ in range(2)] == [(5, 0), (7, 0)]
        assert one.requests
        assert other.requests
        assert set(places(one) + places(other)) == {(5, 0), (5, 1)}


def test_trackers_without_a_leader_are_passed_over() -> None:
    """Broken: a watch stays with a tracker that is cut off."""
    with FakeTracker(always=fake.fail("no_leader")) as cut_off, FakeTracker() as other:
        other.always = tell(change(5))
        with (
            TrackerClient([cut_off.address, other.address], config=CONFIG) as client,
            client.watch(from_index=1) as watch,
        ):
            assert next(watch).place == (5, 0)


def test_from_now_on_begins_behind_a_linearizable_listing() -> None:
    """Broken: what is published right after a watch was begun is not seen by it."""
    with FakeTracker() as tracker:
        tracker.cluster.index = 41
        with TrackerClient([tracker.address], config=CONFIG) as client:
            with client.watch("a") as watch:
                assert watch.place == (42, 0)
            assert client.list().index == 41
        assert tracker.requests[0]["level"] == "linearizable"


def test_compacted_is_told_with_the_oldest_index() -> None:
    """Broken: a client that was away too long cannot tell that it has to list anew."""

    def compacted(line: Line, request: wire.Message) -> None:
        line.answer(request, Compacted("too old", oldest=17).to_wire())

    with (
        FakeTracker(always=compacted) as tracker,
        TrackerClient([tracker.address], config=CONFIG) as client,
        client.watch(from_index=1) as watch,
    ):
        with pytest.raises(Compacted) as caught:
            next(watch)
        assert caught.value.oldest == 17


def test_it_ends_when_nothing_came_for_so_long() -> None:
    """Broken: a script that waits for one more change waits for ever."""

    def nothing(line: Line, request: wire.Message) -> None:
        assert request["wait_ms"] <= 50
        tell(following=(8, 0))(line, request)

    with FakeTracker(always=nothing) as tracker:
        tracker.script(tell(change(5)))
        with (
            TrackerClient([tracker.address], config=CONFIG) as client,
            client.watch(from_index=1, idle_s=0.05) as watch,
        ):
            assert [each.place for each in watch] == [(5, 0)]
            assert watch.place == (8, 0)
            assert list(watch) == []


def wait_for_question(tracker: FakeTracker) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if places(tracker):
            return
        pause.wait(0.01)
    raise AssertionError("no tracker was asked in 10 s")


@pytest.mark.parametrize("what", ["watch", "client"])
def test_closing_it_from_another_thread_ends_it(what: str) -> None:
    """Broken: a program that watches in a thread cannot be stopped."""
    with FakeTracker(always=fake.silent) as tracker:
        client = TrackerClient([tracker.address], config=CONFIG)
        watch = client.watch(from_index=1)
        ended: list[Any] = []

        def follow() -> None:
            try:
                ended.append(list(watch))
            except LocalError as error:
                ended.append(error)

        thread = threading.Thread(target=follow)
        thread.start()
        wait_for_question(tracker)
        (watch if what == "watch" else client).close()
        thread.join(5)
        assert not thread.is_alive()
        watch.close()
        client.close()
        if what == "watch":
            assert ended == [[]]
        else:
            assert isinstance(ended[0], LocalError)
        assert list(watch) == []


def test_no_tracker_at_all_is_told_and_the_watch_can_go_on() -> None:
    """Broken: an outage of all trackers hangs a watch, or loses its place."""
    config = replace(CONFIG, attempt_timeout_s=0.2)
    with FakeTracker() as tracker:
        tracker.always = fake.fail("no_leader")
        with (
            TrackerClient([tracker.address], config=config) as client,
            client.watch(from_index=6, deadline_s=0.3) as watch,
        ):
            with pytest.raises(NoLeader, match="no_leader"):
                next(watch)
            tracker.always = tell(change(6))
            assert next(watch).place == (6, 0)
    with (
        TrackerClient([dead_address()], config=config) as client,
        client.watch(from_index=6, deadline_s=0.3) as watch,
        pytest.raises(NoTracker),
    ):
        next(watch)


@pytest.mark.parametrize(
    "body",
    [{}, {"changes": [{}], "next": (1, 0)}, {"changes": [], "next": 5}, {"changes": 1}],
)
def test_an_answer_that_cannot_be_read_says_whose_it_was(body: dict[str, Any]) -> None:
    """Broken: a tracker of another version makes a client raise something unexpected."""
    with (
        FakeTracker(always=lambda line, request: line.answer(request, {"ok": body})) as tracker,
        TrackerClient([tracker.address], config=CONFIG) as client,
        client.watch(from_index=1) as watch,
        pytest.raises(BadRequest, match=f"{tracker.address} answered watch"),
    ):
        next(watch)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix": "\n"},
        {"from_index": -1},
        {"from_index": 1, "from_position": -1},
        {"from_position": 1},
    ],
)
def test_what_cannot_be_watched_is_refused_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    """Broken: a mistake is found by a tracker, later, or never."""
    with FakeTracker() as tracker, TrackerClient([tracker.address], config=CONFIG) as client:
        with pytest.raises(BadRequest):
            client.watch(**wrong)
        assert tracker.requests == []
