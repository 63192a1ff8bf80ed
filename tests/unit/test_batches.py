"""Many files published by one operation: all of them or none, and each of them like any other."""

from __future__ import annotations

from typing import Any

import pytest
from machine_driver import Driver, content, publish, publish_many

from tracker_raft.changes import Change
from tracker_raft.commands import BATCH_FILES_MAX, Lookup, NewFile, PublishMany
from tracker_raft.config import MachineLimits
from tracker_raft.errors import BadRequest, TooLarge
from tracker_raft.machine import TrackerMachine, history
from tracker_raft.machine.history import unpack

Body = dict[str, Any]


def file(name: str, label: str, **more: Any) -> NewFile:
    return NewFile(name, content(label), 10, 100, 524288, **more)


batch = publish_many


def risen(limits: MachineLimits | None = None) -> Driver:
    driver = Driver(limits)
    driver.entry((0, 0, 0, {"op": "raise_version", "version": 2}))
    return driver


def changes(machine: TrackerMachine) -> list[Change]:
    return [unpack(kept) for kept in machine.changes.read("", machine.changes.horizon, 500)[0]]


def test_a_batch_makes_what_the_publishes_one_by_one_make() -> None:
    """Broken: files published together differ from files published alone."""
    files = [file("a", "x"), file("b", "x", owner="me"), file("ü", "y", group="g")]
    one, many = risen(), risen()
    for each in files:
        one.ok({"op": "publish", **dict(zip(NewFile._fields, each, strict=True))})
    assert many.ok(batch(*files)) == {"versions": [1, 1, 1], "unchanged": []}
    for name in ("a", "b", "ü"):
        assert one.query(Lookup(name)) == many.query(Lookup(name))
    assert one.query(Lookup(content=content("x"))) == many.query(Lookup(content=content("x")))
    assert one.machine.counts() == many.machine.counts()
    assert [change.file for change in changes(one.machine)] == [
        change.file for change in changes(many.machine)
    ]


def test_a_batch_replaces_and_leaves_alone_as_a_publish_does() -> None:
    """Broken: in a batch a name that is bound is bound anew, or gets a version too many."""
    driver = risen()
    driver.ok(publish("b", "old"))
    driver.ok(publish("c", "same"))
    files = file("a", "x"), file("b", "new", replace=True), file("c", "same")
    assert driver.ok(batch(*files)) == {"versions": [1, 2, 1], "unchanged": [2]}
    assert [(c.kind, c.file.versioned) for c in changes(driver.machine)[2:]] == [
        ("published", "a@v1"),
        ("replaced", "b@v2"),
    ]


@pytest.mark.parametrize(
    ("wrong", "word", "text"),
    [
        (file("taken", "other"), "conflict", "file 1 of 2: 'taken' is bound"),
        (file("taken", "mine")._replace(size=11), "bad_request", "file 1 of 2: size is 11"),
        (file("a@b", "x"), "bad_request", "file 1 of 2: name 'a@b' has an '@'"),
        (file("first", "y"), "bad_request", "'first' twice"),
        (file("b", "x")._replace(piece_bytes=3 << 18), "bad_request", "expected a power of two"),
        (file("b", "x")._replace(replace=1), "bad_request", "replace is int"),
        (file("b", "x")._replace(owner=7), "bad_request", "file 1 of 2: owner is int"),
        (file("b", "x")._replace(name=7), "bad_request", "file 1 of 2: name is int"),
    ],
)
def test_one_that_cannot_be_published_keeps_out_all(wrong: Any, word: str, text: str) -> None:
    """Broken: half of a batch is published, or its user is not told which file was the cause."""
    driver = risen()
    driver.ok(publish("taken", "mine"))
    assert driver.refused(batch(file("first", "x"), wrong))[0] == word
    assert text in driver.refused(batch(file("first", "x"), wrong))[1]


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("names", "ab", "names is str, expected an array"),
        ("names", ("a",), "contents is 64 bytes, expected 32 bytes for each of 1"),
        ("contents", bytes(63), "contents is 63 bytes, expected 32 bytes for each of 2"),
        ("contents", (bytes(32), bytes(32)), "contents is tuple, expected 32 bytes"),
        ("sizes", (1, 2, 3), "sizes is 3 values, expected an array of 2"),
        ("piece_bytes", 524288, "piece_bytes is int, expected an array of 2"),
        ("owners", ("me",), "owners is 1 values, expected an array of 2"),
        ("replaces", True, "replaces is bool, expected an array of 2"),
    ],
)
def test_columns_that_do_not_fit_are_refused(column: str, value: Any, text: str) -> None:
    """Broken: a file is bound to the content or the size of another."""
    driver = risen()
    word, said = driver.refused({**batch(file("a", "x"), file("b", "y")), column: value})
    assert (word, text in said) == ("bad_request", True), said


def test_what_all_files_leave_out_is_not_sent() -> None:
    """Broken: every batch carries three columns of nothing, or an owner is lost."""
    plain = PublishMany.of([file("a", "x"), file("b", "y")]).to_wire()
    assert sorted(plain) == ["contents", "manifest_bytes", "names", "op", "piece_bytes", "sizes"]
    files = [file("a", "x", owner="me"), file("b", "y", replace=True)]
    assert PublishMany.of(files).files() == files


def test_a_full_registry_takes_no_part_of_a_batch() -> None:
    """Broken: a tracker holds more names than it has room for, or a part of a batch."""
    driver = risen(MachineLimits(files_max=2))
    driver.ok(publish("a", "x"))
    assert driver.refused(batch(file("b", "x"), file("c", "x")))[0] == "limit_reached"
    driver.ok(batch(file("a", "x"), file("b", "x")))


def test_how_many_files_a_batch_may_have() -> None:
    """Broken: one operation keeps all trackers busy for as long as a client likes."""
    many = tuple(file(f"n{number}", "x") for number in range(BATCH_FILES_MAX + 1))
    assert len(PublishMany.of(many[1:]).files()) == BATCH_FILES_MAX
    with pytest.raises(TooLarge, match="1001 files, expected 1 to 1000"):
        PublishMany.of(many)
    with pytest.raises(BadRequest, match="0 files, expected 1 to 1000") as none:
        PublishMany.of(())
    assert none.value.code == "bad_request", "nothing is too large about it"


def test_each_change_of_a_batch_has_a_place_of_its_own_in_the_log() -> None:
    """Broken: a watch that breaks off within a batch goes on behind it, or before it again."""
    driver = risen()
    session, seq = driver.session, driver.seq
    applied = driver.entry(
        (session, seq + 1, seq + 1, publish("a", "x")),
        (session, seq + 2, seq + 1, batch(file("b", "x"), file("c", "x"))),
        (session, seq + 3, seq + 1, publish("d", "x")),
        (session, seq + 2, seq + 1, batch(file("b", "x"), file("c", "x"))),  # once more
    )
    assert list(applied.positions or ()) == [0, 1, 3, 4]
    assert applied.replies[3] == applied.replies[1]
    told = changes(driver.machine)
    assert [(c.place, c.file.name) for c in told] == [
        ((driver.index, 0), "a"),
        ((driver.index, 1), "b"),
        ((driver.index, 2), "c"),
        ((driver.index, 3), "d"),
    ]
    assert [unpack(k) for k in driver.machine.changes.read("", told[1].next, 9)[0]] == told[2:]


def test_a_batch_larger_than_the_history_leaves_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: trackers disagree on which changes are kept after a large batch."""
    monkeypatch.setattr(history, "RUN_MAX", 2)
    one, many = risen(MachineLimits(changes_kept_max=3)), risen(MachineLimits(changes_kept_max=3))
    files = [file(f"n{number}", "x") for number in range(5)]
    many.ok(batch(*files))
    assert [change.file.name for change in changes(many.machine)] == ["n2", "n3", "n4"]
    assert many.machine.changes.horizon == (many.index, 2)
    one.machine = TrackerMachine.restore(many.machine.snapshot(), MachineLimits(changes_kept_max=3))
    assert one.machine.state_hash == many.machine.state_hash


def test_a_cluster_that_has_not_risen_refuses_a_batch() -> None:
    """Broken: a tracker of the release before, given the same entry, would differ."""
    driver = Driver()
    word, text = driver.refused(batch(file("a", "x")))
    assert (word, "'publish_many' needs 2" in text) == ("unsupported", True)
