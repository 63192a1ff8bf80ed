"""The state machine as a whole: entries, logical time, what stops a node, reads."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from machine_driver import Driver, content, join, publish

from tracker_raft.commands import (
    RENEW_MANY,
    WRITES,
    List,
    Lookup,
    Peers,
    Publish,
    Status,
    check_text,
)
from tracker_raft.config import MachineLimits
from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.errors import BadRequest, NotFound
from tracker_raft.machine import LOG_WORDS, Applied, TrackerMachine
from tracker_raft.machine.digest import Digest
from tracker_raft.versions import RAISE_VERSION


def test_a_new_machine_is_empty_and_the_same_everywhere() -> None:
    """If this fails, two trackers of a new cluster differ before the first entry."""
    machine = TrackerMachine()

    assert (machine.applied, machine.time_ms, machine.next_expiry_ms()) == (0, 0, None)
    assert machine.counts() == {
        "files": 0,
        "versions": 0,
        "contents": 0,
        "leases": 0,
        "memberships": 0,
        "sessions": 0,
    }
    assert machine.state_hash == TrackerMachine().state_hash
    assert len(machine.state_hash) == 64
    assert repr(machine).startswith("<TrackerMachine applied=0 time_ms=0 {'files': 0")


def test_one_entry_answers_each_of_its_operations_in_order() -> None:
    """If this fails, a client gets the reply of another one's operation."""
    driver = Driver()

    applied = driver.entry(
        (driver.session, 1, 1, publish("a", "one")),
        (driver.session, 2, 1, publish("a", "two")),
        (0, 0, 0, {"op": "open_session"}),
        (driver.session, 3, 1, {"op": "remove", "name": "b"}),
    )

    assert applied.stop is None
    words = [reply.get("error", "ok") for reply in applied.replies]
    assert words == ["ok", "conflict", "ok", "not_found"]


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x80", msgpack.packb({"v": 1}), b"\xff" * 99])
def test_an_entry_that_cannot_be_read_is_nothing_to_everyone(garbage: bytes) -> None:
    """If this fails, a damaged entry stops or changes a tracker that others leave as it was."""
    driver = Driver()
    before = driver.machine.state_hash

    assert driver.machine.apply(7, garbage) == Applied((), None)

    assert driver.machine.applied == 7
    assert driver.machine.state_hash == before


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(msgpack.packb({"v": 2, "t": 99}), id="newer format"),
        pytest.param(
            pack_entry(
                99,
                [
                    pack_operation(0, 0, 0, {"op": "open_session"}),
                    pack_operation(1, 1, 1, {"op": "watch"}),
                ],
            ),
            id="unknown word behind a known one",
        ),
        pytest.param(
            pack_entry(99, [pack_operation(1, 1, 1, {"op": "lookup", "name": "a"})]), id="a read"
        ),
    ],
)
def test_what_this_version_does_not_know_stops_the_node_before_any_change(entry: bytes) -> None:
    """If this fails, a tracker left behind by an upgrade diverges instead of stopping."""
    driver = Driver()
    before = driver.machine.state_hash

    applied = driver.machine.apply(2, entry)

    assert applied.replies == ()
    assert applied.stop is not None
    assert applied.stop.startswith("entry 2: ")
    assert "newer version" in applied.stop
    assert driver.machine.state_hash == before
    assert (driver.machine.applied, driver.machine.time_ms) == (1, 0)


def test_every_write_of_the_vocabulary_is_known_to_the_machine() -> None:
    """If this fails, a leader logs an operation that stops every tracker, itself included."""
    assert {RENEW_MANY, RAISE_VERSION, *(cls.op for cls in WRITES)} == LOG_WORDS


@pytest.mark.parametrize("op", [None, 5, b"publish", ["publish"]])
def test_an_operation_without_a_word_is_refused_and_stops_nobody(op: Any) -> None:
    """If this fails, one malformed operation takes the whole cluster down."""
    driver = Driver()

    assert driver.refused({"op": op})[0] == "bad_request"
    assert driver.raw(driver.session, 9, 9, {})["error"] == "bad_request"


def test_a_known_operation_with_bad_fields_is_refused() -> None:
    """If this fails, nonsense enters the registry, or raises on every tracker at once."""
    driver = Driver()

    assert driver.refused(publish("a@v1", "x")) == (
        "bad_request",
        "name 'a@v1' has an '@', which divides a name from its version",
    )
    assert driver.refused({"op": "publish", "name": "a"})[0] == "bad_request"
    assert driver.refused(join("p", "x", address="nowhere"))[0] == "bad_request"
    assert driver.refused({"op": "close_session", "target": 0})[0] == "bad_request"


@pytest.mark.parametrize(
    "text", ["a\x00", "a\n", "a\x7f", "a\x85", "a\u2028", "a\u202eb", "\u2066"]
)
def test_control_characters_are_refused(text: str) -> None:
    """If this fails, a name can rewrite the terminal of whoever lists it."""
    with pytest.raises(BadRequest, match="control characters"):
        check_text("name", text, 100)


@pytest.mark.parametrize("text", ["ein Name", "Grün", "文件\u3000名", "👩\u200d🔬", "\U0001fae9"])
def test_any_other_text_is_taken_whatever_unicode_version_this_python_knows(text: str) -> None:
    """If this fails, two trackers on different Pythons decide one operation differently.

    The last text is a character of Unicode 16, unassigned in the tables of older Pythons.
    """
    assert check_text("name", text, 100) == text


def test_the_time_of_an_entry_comes_before_its_operations_and_never_goes_back() -> None:
    """If this fails, a new leader with an older clock brings leases back or ends them early."""
    driver = Driver()
    driver.ok(join("p", "x", lease_ms=1000))

    applied = driver.entry(
        (driver.session, 2, 2, {"op": "complete", "peer": "p", "content": content("x")}),
        at_ms=1000,
    )
    assert applied.replies[0]["error"] == "not_found"
    assert driver.machine.time_ms == 1000

    driver.entry(at_ms=400)
    assert driver.machine.time_ms == 1000


def test_an_entry_of_the_engine_moves_the_index_alone() -> None:
    """If this fails, a tracker's no-op changes state, or its position is reported wrong."""
    driver = Driver()
    before = driver.machine.state_hash

    driver.machine.skip(5)

    assert driver.machine.applied == 5
    assert driver.machine.state_hash == before


def test_the_next_expiry_is_the_earliest_of_leases_and_sessions() -> None:
    """If this fails, a leader in a quiet cluster sleeps past an expiry."""
    driver = Driver(MachineLimits(session_ttl_ms=5_000))
    assert driver.machine.next_expiry_ms() == 5_000

    driver.ok(join("p", "x", lease_ms=3_000))
    assert driver.machine.next_expiry_ms() == 3_000

    driver.tick(3_000)
    assert driver.machine.next_expiry_ms() == 5_000


def test_the_sizes_of_all_tables_are_counted() -> None:
    """If this fails, an operator is shown wrong numbers, and limits rest on them."""
    driver = Driver()
    driver.ok(publish("a", "one"))
    driver.ok(publish("a", "two", replace=True))
    driver.ok(publish("b", "one"))
    driver.ok(join("p", "one"))
    driver.ok(join("q", "one"))
    driver.ok(join("q", "two"))

    assert driver.machine.counts() == {
        "files": 2,
        "versions": 3,
        "contents": 2,
        "leases": 2,
        "memberships": 3,
        "sessions": 1,
    }


def test_what_is_no_read_cannot_be_queried() -> None:
    """If this fails, a write reaches one tracker's state without going through the log."""
    machine = TrackerMachine()

    for operation in (Status(), Publish("a", content("x"), 1, 1, 524288)):
        with pytest.raises(BadRequest, match="is not a read"):
            machine.query(operation)


def test_reads_of_an_empty_tracker() -> None:
    """If this fails, the first look-up in a new cluster crashes or finds something."""
    machine = TrackerMachine()

    assert machine.query(List()) == {"files": [], "more": False}
    assert machine.query(Peers(content("x"))) == {"peers": [], "total": 0}
    for operation in (Lookup(name="a"), Lookup(name="a@v1"), Lookup(content=content("x"))):
        with pytest.raises(NotFound):
            machine.query(operation)


def test_the_digest_is_of_the_items_and_not_of_the_way_there() -> None:
    """If this fails, equal replicas look different, or different ones equal."""
    one, other = Digest(), Digest()
    one.add("file", "a", b"1")
    one.add("file", "b", b"2")
    other.add("file", "b", b"2")
    other.add("file", "c", b"3")
    assert one.hex() != other.hex()

    other.remove("file", "c", b"3")
    other.add("file", "a", b"1")

    assert one.hex() == other.hex()
    assert repr(one) == repr(other)
    assert one.hex(1, 2) != one.hex(2, 1) != one.hex()
    one.remove("file", "a", b"1")
    one.remove("file", "b", b"2")
    assert one.hex() == Digest().hex()


def _raised(driver: Driver) -> None:
    body = {"op": "raise_version", "version": 2}
    assert "ok" in driver.raw(0, 0, 0, body)


def test_an_array_is_nothing_until_every_tracker_reads_arrays() -> None:
    """Broken: while a cluster is upgraded its trackers of two releases come apart."""
    early, driver = Driver(), Driver()
    row = (1, 1, 1, ("publish", "a", content("a"), 1, 9, 16384))

    assert early.entry(row).replies == ()
    assert early.machine.counts()["files"] == 0
    _raised(driver)
    (reply,) = driver.entry(row).replies
    assert reply["ok"]["created"]


@pytest.mark.parametrize("body", [("rename", "a", "b"), ("remove", "a")])
def test_an_array_that_this_version_does_not_know_stops_it(body: tuple[str, ...]) -> None:
    """Broken: this replica passes over what others do."""
    driver = Driver()
    _raised(driver)

    applied = driver.entry((1, 1, 1, body))

    assert applied.stop is not None
    assert body[0] in applied.stop


@pytest.mark.parametrize("body", [(), (7,), ("publish",), ("publish", "a", content("a"), 1, 9)])
def test_an_array_that_makes_no_sense_is_refused_by_itself(body: tuple[Any, ...]) -> None:
    """Broken: one malformed operation costs the others of its entry."""
    driver = Driver()
    _raised(driver)
    good = {"op": "publish", "name": "b", "content": content("b"), "size": 1}
    sound = (1, 2, 2, {**good, "manifest_bytes": 9, "piece_bytes": 16384})

    refused, done = driver.entry((1, 1, 1, body), sound).replies

    assert refused["error"] == "bad_request"
    assert "ok" in done
