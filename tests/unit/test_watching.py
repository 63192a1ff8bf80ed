"""The watches of one tracker: woken by what is applied, bounded, and never told the wrong thing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from machine_driver import Driver, publish

from tracker_raft.changes import Place
from tracker_raft.commands import Watch
from tracker_raft.config import MachineLimits, WireLimits
from tracker_raft.errors import Busy, Compacted, LimitReached, ShuttingDown
from tracker_raft.machine import TrackerMachine
from tracker_raft.watching import ANSWERS_PER_TURN, Watches

LIMITS = MachineLimits(changes_kept_max=4)


class Timer:
    def __init__(self, when_s: float, call: Any) -> None:
        self.when_s, self.call, self.cancelled = when_s, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """An event loop whose time and turns are the test's."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.soon: list[Any] = []
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Any) -> None:
        self.soon.append(callback)

    def call_at(self, when: float, callback: Any, *args: Any) -> Any:
        self.timers.append(Timer(when, lambda: callback(*args)))
        return self.timers[-1]

    def turn(self) -> int:
        """How many callbacks there were."""
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()
        return len(soon)

    def reach(self, now_s: float) -> None:
        self.now_s = now_s
        due = [t for t in self.timers if not t.cancelled and t.when_s <= now_s]
        self.timers = [t for t in self.timers if not t.cancelled and t.when_s > now_s]
        for timer in due:
            timer.call()


class World:
    """A machine with a client that writes, and the watches on it."""

    def __init__(self, **limits: int) -> None:
        self.driver = Driver(LIMITS)
        self.leader: str | None = "n1"
        self.loop = Loop()
        self.watches = Watches(self.loop, self, replace(WireLimits(), **limits))
        self.answers: list[tuple[object, dict[str, Any], Place]] = []

    @property
    def machine(self) -> TrackerMachine:
        return self.driver.machine

    @property
    def here(self) -> int:
        """The index of the next entry."""
        return self.driver.index + 1

    def publish(self, *names: str) -> None:
        for name in names:
            self.driver.ok(publish(name, f"{name}{self.driver.seq}", replace=True))

    def watch(
        self, prefix: str = "", *, index: int | None = None, wait_ms: int = 5000, owner: object = 1
    ) -> None:
        wanted = Watch(self.here if index is None else index, 0, prefix, 100, wait_ms)

        def answer(reply: dict[str, Any], at: Place) -> None:
            self.answers.append((owner, reply, at))

        self.watches.watch(wanted, self.loop.time() + 60, owner, answer)

    def names(self) -> list[list[str]]:
        """Of each answer, in order, the names it tells; they are forgotten here."""
        answers, self.answers = self.answers, []
        return [[c["file"]["name"] for c in reply["ok"]["changes"]] for _, reply, _ in answers]


@pytest.fixture
def world() -> World:
    return World()


def test_who_waits_is_told_when_it_is_applied_and_nobody_else(world: World) -> None:
    """Broken: a watcher hears of a change late or never, or is woken for what it did not ask."""
    world.watch("a/")
    world.watch("b/")
    assert world.loop.turn() == 0

    world.publish("a/1")
    assert world.loop.turn() == 1

    assert [reply["ok"]["next"] for _, reply, _ in world.answers] == [(world.here, 0)]
    assert world.names() == [["a/1"]]
    assert len(world.watches) == 1
    world.loop.turn()
    assert world.names() == []


def test_what_is_there_is_answered_at_once(world: World) -> None:
    """Broken: a watch that goes on after a failover waits although it has missed something."""
    world.publish("a", "b", "a")

    world.watch("a", index=0)

    assert world.names() == [["a", "a"]]
    assert len(world.watches) == 0


def test_a_place_this_tracker_has_not_come_to_is_waited_for(world: World) -> None:
    """Broken: a tracker that lags tells a change twice, or refuses who comes from another one."""
    world.watch(index=world.here + 2)

    world.publish("a", "b")
    world.loop.turn()
    assert world.names() == []

    world.publish("c")
    world.loop.turn()
    assert world.names() == [["c"]]


def test_a_place_before_the_kept_changes_is_compacted(world: World) -> None:
    """Broken: a watcher believes that it has seen everything, and has not."""
    first = world.here
    world.publish("a", "b", "c", "d", "e", "f")

    with pytest.raises(Compacted, match=f"before entry {first + 2} are not kept") as caught:
        world.watch(index=first + 1)
    assert caught.value.oldest == first + 2

    world.watch(index=first + 2)
    assert world.names() == [["c", "d", "e", "f"]]


def test_who_waits_is_not_compacted_by_changes_it_was_passed_over(world: World) -> None:
    """Broken: who watches a quiet name on a busy cluster is thrown out all the time."""
    world.watch("quiet")
    for _ in range(5):
        world.publish("busy", "busy", "busy")
        world.loop.turn()
    assert world.names() == []

    world.publish("quiet")
    world.loop.turn()

    assert world.names() == [["quiet"]]

    world.watch("quiet")
    for _ in range(5):
        world.publish("busy", "busy", "busy")
        world.loop.turn()
    world.loop.reach(5)
    assert [reply["ok"]["next"] for _, reply, _ in world.answers] == [(world.here, 0)]
    assert world.names() == [[]]


def test_without_a_change_the_answer_is_empty_and_goes_on(world: World) -> None:
    """Broken: a quiet watch never learns that its tracker is alive."""
    world.watch("a", wait_ms=300)
    world.watch("a", wait_ms=0)
    assert world.names() == [[]]

    world.loop.reach(0.29)
    assert world.names() == []
    world.publish("b")
    world.loop.turn()
    world.loop.reach(0.31)

    assert world.names() == [[]]
    assert len(world.watches) == 0


def test_a_tracker_without_a_leader_sends_watchers_away(world: World) -> None:
    """Broken: who watches at a tracker that is cut off waits there while things happen."""
    world.watch()
    world.leader = None

    world.loop.reach(5)

    assert [reply["error"] for _, reply, _ in world.answers] == ["no_leader"]


def test_ten_thousand_are_answered_a_few_at_a_time() -> None:
    """Broken: one publish holds the loop until all watchers are answered, and the tracker misses
    its heartbeats."""
    world = World(watches_per_connection_max=10**6)
    for _ in range(ANSWERS_PER_TURN * 2 + 1):
        world.watch()
    world.publish("a")

    turns = []
    while world.loop.turn():
        turns.append(len(world.names()))

    assert turns == [ANSWERS_PER_TURN, ANSWERS_PER_TURN, 1]
    assert len(world.watches) == 0


def test_who_is_to_be_answered_when_its_time_is_over_is_told_all_the_same() -> None:
    """Broken: on a busy tracker a change is skipped, and the watcher goes on behind it."""
    world = World(watches_per_connection_max=10**6)
    for _ in range(ANSWERS_PER_TURN + 1):
        world.watch()
    world.publish("a")
    world.loop.turn()

    world.loop.reach(5)

    assert world.names() == [["a"]] * (ANSWERS_PER_TURN + 1)


def test_there_are_only_so_many() -> None:
    """Broken: one client takes the memory of a tracker, or all places of the others."""
    world = World(watches_max=5, watches_per_connection_max=3)
    for _ in range(3):
        world.watch(owner=1)
    with pytest.raises(LimitReached, match="3 watches wait on this connection, limit 3"):
        world.watch(owner=1)
    world.watch(owner=2)
    world.watch(owner=3)
    with pytest.raises(Busy, match="5 watches wait on this tracker, limit 5"):
        world.watch(owner=4)

    world.watches.forget(1)
    assert len(world.watches) == 2
    world.watch(owner=4)
    world.publish("a")
    world.loop.turn()
    assert [owner for owner, _, _ in world.answers] == [2, 3, 4]


def test_a_machine_from_a_snapshot_tells_those_who_wait(world: World) -> None:
    """Broken: who watches at a tracker that caught up by snapshot hears nothing any more, or
    believes that nothing was left out."""
    other = World()
    world.watch("a", owner="near")
    other.publish("a")
    other.machine.succeed(world.machine)
    world.driver.machine, world.driver.index = other.machine, other.driver.index
    world.loop.turn()
    assert world.names() == [["a"]]

    world.watch("z", owner="far")
    other.publish("b", "c", "d", "e", "f", "g")
    restored = TrackerMachine.restore(other.machine.snapshot(), LIMITS)
    restored.succeed(world.machine)
    world.driver.machine = restored
    world.loop.turn()
    assert [reply["error"] for _, reply, _ in world.answers] == ["compacted"]


def test_a_tracker_that_stops_sends_all_away(world: World) -> None:
    """Broken: a rolling restart leaves watchers hanging until they lose patience."""
    world.watch("a")
    world.watch("b", owner=2)

    world.watches.close()

    assert [reply["error"] for _, reply, _ in world.answers] == ["shutting_down"] * 2
    assert len(world.watches) == 0
    with pytest.raises(ShuttingDown):
        world.watch()
