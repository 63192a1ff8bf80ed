"""When a replica does what: what is asked for together is done together, what need not wait is done
at once, and what is due comes though nothing arrives. If a test here fails, a write takes rounds of
the loop that it does not need, or a deadline passes and nobody looks."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from tracker_raft.raft.inbox import asks
from tracker_raft.raft.lag import LoopLag
from tracker_raft.raft.turns import TIMER_FLOOR_S, Ask, Turns


class Call:
    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback, self.args = callback, args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.soon: deque[Call] = deque()
        self.later: list[tuple[float, int, Call]] = []
        self.timers = 0

    def time(self) -> float:
        return self.now_s

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Call:
        self.soon.append(Call(callback, args))
        return self.soon[-1]

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Call:
        self.timers += 1
        call = Call(callback, args)
        heapq.heappush(self.later, (when, self.timers, call))
        return call

    def round(self) -> None:
        """What is asked for now is called, not what it asks for in turn."""
        for _ in range(len(self.soon)):
            call = self.soon.popleft()
            call.callback(*call.args)

    def until(self, end_s: float) -> None:
        while self.later and self.later[0][0] <= end_s:
            when, _, call = heapq.heappop(self.later)
            self.now_s = max(self.now_s, when)
            if not call.cancelled:
                call.callback(*call.args)
        self.now_s = max(self.now_s, end_s)


class Story:
    """What was done, in order."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.done: list[str] = []
        self.failed: list[Exception] = []
        self.lag = LoopLag(0.2)
        self.then: Callable[[], None] = lambda: None
        """Done by whatever is done."""
        self.turns = Turns(
            self.clock,
            self.lag,
            flush=lambda: self.note("flush"),
            work=lambda now_s: self.note("work"),
            turn=lambda now_s: self.note("turn"),
            failed=self.failed.append,
        )

    def note(self, what: str) -> None:
        self.done.append(what)
        self.then()


@pytest.fixture
def story() -> Story:
    return Story()


# -- asked for -------------------------------------------------------------------------------------


def test_what_is_asked_for_in_one_round_is_done_once_and_the_highest(story: Story) -> None:
    """Broken: group commit is gone, or an election waits because operations came first."""
    story.turns.flush_soon()
    story.turns.ask(Ask.WORK)
    story.turns.ask(Ask.WORK)
    assert story.done == [], "more may arrive in this round"
    story.clock.round()
    assert story.done == ["work"]
    story.turns.ask(Ask.WORK)
    story.turns.kick()
    story.turns.flush_soon()
    story.turns.ask(Ask.NOTHING)
    story.clock.round()
    assert story.done == ["work", "turn"]
    assert len(story.clock.soon) == 0


def test_what_is_asked_for_by_what_is_done_comes_in_the_next_round(story: Story) -> None:
    """Broken: a turn that asks for more starves the sockets, or what it asks for is lost."""

    def ask_again() -> None:
        story.then = lambda: None
        story.turns.ask(Ask.WORK)

    story.then = ask_again
    story.turns.kick()
    story.clock.round()
    assert story.done == ["turn"]
    story.clock.round()
    assert story.done == ["turn", "work"]


def test_what_is_done_at_once_is_not_done_again(story: Story) -> None:
    """Broken: an acknowledgement waits a round of the loop, or its flush is done twice."""
    story.turns.at_once(Ask.FLUSH)
    assert story.done == ["flush"]
    story.turns.flush_soon()
    story.turns.at_once(Ask.WORK)
    assert story.done == ["flush", "work"]
    story.clock.round()
    assert story.done == ["flush", "work"], "work flushes as well"
    story.turns.flush_soon()
    story.clock.round()
    assert story.done == ["flush", "work", "flush"]


@pytest.mark.parametrize(("asked", "at_once"), [("WORK", "WORK"), ("TURN", "WORK")])
def test_what_is_to_wait_for_others_is_not_done_before_them(
    story: Story, asked: str, at_once: str
) -> None:
    """Broken: with many clients each acknowledgement makes an entry of its own of what waits."""
    story.turns.ask(Ask[asked])
    story.turns.at_once(Ask[at_once])
    assert story.done == []
    story.clock.round()
    assert story.done == [asked.lower()]


def test_a_step_that_fails_is_the_last(story: Story) -> None:
    """Broken: a node goes on in a state that nobody knows."""

    def fails() -> None:
        raise ValueError("a defect")

    story.then = fails
    story.turns.at_once(Ask.WORK)
    assert [str(error) for error in story.failed] == ["a defect"]
    story.turns.kick()
    story.turns.at_once(Ask.FLUSH)
    story.turns.fail(ValueError("another one"))
    story.clock.round()
    assert (story.done, len(story.failed)) == (["work"], 1)


# -- due -------------------------------------------------------------------------------------------


def test_what_is_due_comes_by_itself_and_not_before(story: Story) -> None:
    """Broken: a leader that nobody asks anything gives no sign of life, and is replaced."""
    now_s = story.clock.now_s
    story.turns.turn_due(now_s + 1.0, now_s)
    story.turns.work_due(now_s + 0.3, now_s)
    story.clock.until(now_s + 0.3)
    assert story.done == []
    story.clock.until(now_s + 0.3 + TIMER_FLOOR_S)
    assert story.done == ["work"]


def test_what_is_due_at_one_moment_is_one_turn(story: Story) -> None:
    """Broken: an idle node wakes up twice for each sign of life."""
    now_s = story.clock.now_s
    story.turns.turn_due(now_s + 1.0, now_s)
    story.turns.work_due(now_s + 1.0005, now_s)
    story.turns.work_due(now_s + 0.9995, now_s)
    story.clock.until(now_s + 1.01)
    assert story.done == ["turn"]


def test_a_deadline_that_moved_on_costs_no_turn_and_no_new_timer(story: Story) -> None:
    """Broken: each write sets a timer and takes one back, or makes a turn a moment later."""
    now_s = story.clock.now_s
    story.turns.turn_due(now_s + 1.0, now_s)
    for number in range(1, 100):
        story.turns.work_due(now_s + 0.01 * number, now_s)
    assert story.clock.timers == 2
    story.clock.until(now_s + 0.9)
    assert (story.done, story.clock.timers) == ([], 3), "it was set again once"
    story.clock.until(now_s + 0.995)
    assert story.done == ["work"]


def test_what_is_due_while_something_is_asked_for_is_done_with_it(story: Story) -> None:
    """Broken: a busy node never looks at its elections, because there is always work before."""
    now_s = story.clock.now_s
    story.turns.turn_due(now_s + 0.1, now_s)
    story.clock.now_s = now_s + 0.2
    story.turns.flush_soon()
    story.clock.until(now_s + 0.2)
    assert story.done == []
    story.clock.round()
    assert story.done == ["turn"]


def test_a_stopped_replica_does_nothing_that_is_due(story: Story) -> None:
    """Broken: a closed node is called by its timer."""
    now_s = story.clock.now_s
    story.turns.turn_due(now_s + 0.1, now_s)
    story.turns.kick()
    story.turns.stop()
    story.clock.round()
    story.clock.until(now_s + 1.0)
    assert story.done == []


def test_a_loop_that_comes_round_late_is_noticed(story: Story) -> None:
    """Broken: a node that stood still takes the others for dead."""
    now_s = story.clock.now_s
    story.turns.turn_due(now_s + 0.1, now_s)
    story.clock.until(now_s + 0.1 + TIMER_FLOOR_S)
    assert story.lag.late_s < 0.01
    story.turns.turn_due(now_s + 0.2, now_s + 0.1)
    story.clock.now_s = now_s + 0.9
    story.clock.until(now_s + 0.9)
    assert story.lag.late_s > 0.6
    story.turns.ask(Ask.WORK)
    story.clock.now_s += 0.15
    story.clock.round()
    assert story.lag.recent_s(story.clock.now_s) > 0.02


def test_nothing_is_due_for_ever_and_that_is_no_timer_for_now(story: Story) -> None:
    """Broken: a node that waits to be made a member spins."""
    story.turns.turn_due(math.inf, story.clock.now_s)
    story.clock.until(story.clock.now_s + 1000.0)
    assert story.done == []


# -- what a message asks for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "ask"),
    [
        ({"type": "append_entries"}, Ask.NOTHING),
        ({"type": "next_node_idx", "reset": False}, Ask.NOTHING),
        ({"type": "next_node_idx", "reset": True}, Ask.TURN),
        ({"type": "probe"}, Ask.NOTHING),
        ({"type": "forward"}, Ask.WORK),
        ({"type": "answered"}, Ask.WORK),
        ({"type": "read_at"}, Ask.WORK),
        ({"type": "request_vote"}, Ask.TURN),
        ({"type": "members"}, Ask.TURN),
        ({"type": ["append_entries"]}, Ask.TURN),
        ({}, Ask.TURN),
    ],
)
def test_a_message_asks_for_what_it_needs(message: dict[str, Any], ask: Ask) -> None:
    """Broken: each sign of life makes a turn, or a vote waits for the next deadline."""
    assert asks(message) is ask
