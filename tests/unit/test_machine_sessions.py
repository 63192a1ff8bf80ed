"""Request sessions: a write runs once, however often and in whatever order it is sent."""

from __future__ import annotations

from typing import Any

import pytest
from machine_driver import Driver, content, publish

from tracker_raft.commands import Lookup
from tracker_raft.config import MachineLimits
from tracker_raft.errors import NotFound

LIMITS = MachineLimits(session_ttl_ms=1000, session_window_max=4, sessions_max=3)


def replace(label: str) -> dict[str, Any]:
    """A write that shows how often it ran: each run makes a version."""
    return publish("a", label, replace=True)


def runs(driver: Driver) -> int:
    return driver.machine.counts()["versions"]


@pytest.fixture
def driver() -> Driver:
    return Driver(LIMITS)


def test_a_repeated_write_gets_the_same_reply_and_is_not_run_again(driver: Driver) -> None:
    """If this fails, a client that retries after a failover does a thing twice."""
    first = driver.raw(1, 1, 1, replace("one"))
    driver.raw(1, 2, 1, replace("two"))
    before = driver.machine.state_hash

    again = driver.raw(1, 1, 1, replace("one"))

    assert again == first
    assert runs(driver) == 2
    assert driver.machine.state_hash == before


def test_the_record_decides_and_not_what_the_repeat_carries(driver: Driver) -> None:
    """If this fails, a client that reuses a number by mistake runs something unacknowledged."""
    first = driver.raw(1, 1, 1, replace("one"))

    assert driver.raw(1, 1, 1, replace("two")) == first
    assert runs(driver) == 1


def test_a_reply_on_record_is_not_changed_by_whoever_was_handed_it(driver: Driver) -> None:
    """If this fails, code that edits a reply changes what this one tracker answers later."""
    first = driver.raw(1, 1, 1, replace("one"))
    first["ok"]["file"]["name"] = "edited"

    assert driver.raw(1, 1, 1, replace("one"))["ok"]["file"]["name"] == "a"


def test_a_refusal_is_recorded_like_any_reply(driver: Driver) -> None:
    """If this fails, a refused write that is sent again may run after all."""
    driver.raw(1, 1, 1, publish("a", "one"))
    refused = driver.raw(1, 2, 1, publish("a", "two"))
    assert refused["error"] == "conflict"
    driver.raw(1, 3, 1, {"op": "remove", "name": "a"})

    assert driver.raw(1, 2, 1, publish("a", "two")) == refused
    malformed = driver.raw(1, 4, 1, {"op": "publish"})
    assert malformed["error"] == "bad_request"
    assert driver.raw(1, 4, 1, publish("a", "two")) == malformed
    assert runs(driver) == 0


def test_a_write_whose_reply_was_forgotten_is_never_run(driver: Driver) -> None:
    """If this fails, a message that was delayed on the way runs a second time."""
    driver.raw(1, 1, 1, replace("one"))
    driver.raw(1, 2, 2, replace("two"))

    reply = driver.raw(1, 1, 1, replace("one"))

    assert reply["error"] == "outcome_unknown"
    assert runs(driver) == 2


def test_low_never_goes_back(driver: Driver) -> None:
    """If this fails, a late message reopens numbers whose replies are gone."""
    driver.raw(1, 5, 5, replace("five"))
    driver.raw(1, 7, 2, replace("seven"))

    assert driver.raw(1, 4, 2, replace("four"))["error"] == "outcome_unknown"
    assert "ok" in driver.raw(1, 5, 5, replace("five"))
    assert runs(driver) == 2


def test_writes_may_arrive_out_of_order_within_the_window(driver: Driver) -> None:
    """If this fails, pipelined writes through two trackers are refused or lost."""
    replies = {seq: driver.raw(1, seq, 1, replace(f"c{seq}")) for seq in (3, 1, 4, 2)}

    assert [replies[seq]["ok"]["file"]["version"] for seq in (3, 1, 4, 2)] == [1, 2, 3, 4]
    for seq in (1, 2, 3, 4):
        assert driver.raw(1, seq, 1, replace("other")) == replies[seq]


def test_a_session_has_a_limited_number_of_writes_under_way(driver: Driver) -> None:
    """If this fails, one client that never acknowledges fills the memory of every tracker."""
    assert driver.raw(1, 5, 1, replace("five")) == {
        "error": "limit_reached",
        "message": "write 5 of session 1 with 1 unanswered: a session has at most 4 writes "
        "under way; not run",
    }
    assert runs(driver) == 0

    assert "ok" in driver.raw(1, 4, 1, replace("four"))
    assert "ok" in driver.raw(1, 5, 2, replace("five"))  # not recorded, so it runs now


def test_replies_below_low_are_forgotten_however_far_it_jumps(driver: Driver) -> None:
    """If this fails, replies pile up, or a jump of low keeps a tracker busy for years."""
    for seq in (1, 2, 3, 4):
        driver.raw(1, seq, 1, replace(f"c{seq}"))
    kept_hash = driver.machine.state_hash

    far = 2**62
    driver.raw(1, far, far, {"op": "remove", "name": "a"})

    assert driver.machine.state_hash != kept_hash
    assert driver.raw(1, 4, 4, replace("c4"))["error"] == "outcome_unknown"
    rebuilt = type(driver.machine).restore(driver.machine.snapshot(), LIMITS)
    assert rebuilt.state_hash == driver.machine.state_hash


@pytest.mark.parametrize("session", [0, 2, 99])
def test_a_write_without_a_known_session_is_not_run(driver: Driver, session: int) -> None:
    """If this fails, a late write of a forgotten session runs again."""
    reply = driver.raw(session, 1, 1, replace("one"))

    assert reply["error"] == "session_expired"
    assert runs(driver) == 0


@pytest.mark.parametrize(("seq", "low"), [(0, 0), (1, 0), (0, 1), (1, 2)])
def test_a_write_with_an_impossible_envelope_is_refused(driver: Driver, seq: int, low: int) -> None:
    """If this fails, a faulty client slips under the exactly-once rules."""
    before = driver.machine.state_hash

    assert driver.raw(1, seq, low, replace("one"))["error"] == "bad_request"

    assert driver.machine.state_hash == before


def test_each_opening_gives_a_number_never_given_before(driver: Driver) -> None:
    """If this fails, two clients share a session and swallow each other's writes."""
    assert driver.ok({"op": "open_session"}) == {"session": 2, "ttl_ms": 1000}
    driver.ok({"op": "close_session", "target": 2})

    assert driver.ok({"op": "open_session"})["session"] == 3


def test_a_full_table_refuses_new_sessions_and_keeps_the_old(driver: Driver) -> None:
    """If this fails, opening sessions in a loop pushes out clients that are at work."""
    driver.open()
    driver.open()

    assert driver.refused({"op": "open_session"}) == (
        "limit_reached",
        "3 request sessions, limit 3; none opened",
    )

    assert "ok" in driver.raw(1, 1, 1, replace("one"))
    driver.raw(1, 2, 2, {"op": "close_session", "target": 3})
    assert driver.open() == 4


def test_a_closed_session_is_forgotten_with_its_replies(driver: Driver) -> None:
    """If this fails, closing frees nothing, or a write of a closed session runs."""
    driver.open()
    before = driver.machine.state_hash
    third = driver.open()
    driver.raw(third, 1, 1, replace("one"))
    driver.raw(third, 2, 1, {"op": "remove", "name": "a"})

    assert driver.raw(third, 3, 1, {"op": "close_session", "target": third}) == {"ok": {}}

    assert driver.raw(third, 3, 1, {"op": "close_session", "target": third})["error"] == (
        "session_expired"
    )
    assert driver.machine.counts()["sessions"] == 2
    assert driver.machine.state_hash != before  # the counter of sessions has moved on


def test_closing_another_session_is_recorded_and_an_unknown_one_is_fine(driver: Driver) -> None:
    """If this fails, a client that cleans up after a restart gets errors for being careful."""
    other = driver.open()
    body = {"op": "close_session", "target": other}

    assert driver.raw(1, 1, 1, body) == {"ok": {}}
    assert driver.raw(1, 1, 1, body) == {"ok": {}}
    assert driver.raw(1, 2, 1, body) == {"ok": {}}
    assert driver.machine.counts()["sessions"] == 1


def test_a_session_not_used_for_its_time_is_forgotten(driver: Driver) -> None:
    """If this fails, sessions of clients long gone fill the table, or live ones are lost."""
    idle = driver.open()
    driver.entry((1, 1, 1, replace("one")), at_ms=600)

    driver.tick(999)
    assert driver.machine.counts()["sessions"] == 2
    driver.tick(1000)
    assert driver.machine.counts()["sessions"] == 1
    assert driver.raw(idle, 1, 1, replace("two"))["error"] == "session_expired"
    assert driver.machine.next_expiry_ms() == 1600

    driver.entry((1, 1, 1, replace("one")), at_ms=1599)  # a repeat is use, too
    assert driver.machine.next_expiry_ms() == 2599
    driver.tick(2599)
    assert driver.raw(1, 1, 1, replace("one"))["error"] == "session_expired"
    assert runs(driver) == 1


def test_renewals_need_no_session(driver: Driver) -> None:
    """If this fails, the trackers' own renewals are refused and every lease ends."""
    assert driver.raw(0, 0, 0, {"op": "renew", "peers": []}) == {"ok": {"renewed": 0}}


def test_a_recorded_reply_stands_although_the_state_has_moved_on(driver: Driver) -> None:
    """If this fails, a retry reports what is true now instead of what the write did."""
    first = driver.raw(1, 1, 1, publish("a", "one"))
    driver.raw(1, 2, 1, {"op": "remove", "name": "a"})

    assert driver.raw(1, 1, 1, publish("a", "one")) == first
    with pytest.raises(NotFound):
        driver.query(Lookup(content=content("one")))
