"""Moving tags and retention: what they mean, who may move them, which versions stay."""

from __future__ import annotations

from typing import Any

import pytest
from machine_driver import Driver, content, publish, publish_many

from tracker_raft.changes import Change
from tracker_raft.commands import List, Lookup, Remove, Retention, Tag, split_reference
from tracker_raft.config import MachineLimits
from tracker_raft.errors import BadRequest, NotFound
from tracker_raft.machine import TrackerMachine
from tracker_raft.machine.history import unpack
from tracker_raft.machine.registry import TAG_BYTES_PAGE_MAX

Body = dict[str, Any]


def risen(limits: MachineLimits | None = None, labels: str = "") -> Driver:
    """A machine at cluster version 2; ``a`` has a version for each letter of ``labels``."""
    driver = Driver(limits)
    driver.entry((0, 0, 0, {"op": "raise_version", "version": 2}))
    for label in labels:
        driver.ok(publish("a", label, replace=True))
    return driver


def tag(version: int, word: str = "stable", **more: Any) -> Body:
    return {"op": "tag", "name": "a", "tag": word, "version": version, **more}


def untag(word: str = "stable", **more: Any) -> Body:
    return {"op": "untag", "name": "a", "tag": word, **more}


def keep(versions: int | None) -> Body:
    return {"op": "set_retention", "versions_kept": versions}


def shown(versions: int) -> Body:
    return {"versions_kept": versions, "unsourced_after_ms": 0, "remove_unsourced_after_ms": 0}


def versions(driver: Driver) -> list[int]:
    """Of ``a``, those kept."""
    found = []
    for version in range(1, 40):
        try:
            driver.query(Lookup(name=f"a@v{version}"))
        except NotFound:
            continue
        found.append(version)
    return found


def told(driver: Driver) -> list[tuple[Any, ...]]:
    changes: list[Change] = [unpack(kept) for kept in driver.machine.changes.since((0, 0))]
    return [(c.kind, c.file.versioned, c.newest, c.dropped, c.tag) for c in changes]


def test_a_tag_means_the_version_it_was_put_on_until_it_is_moved() -> None:
    """Broken: who fetches ``a@stable`` gets another version than the one released."""
    driver = risen(labels="xyz")

    first, moved = driver.ok(tag(1)), driver.ok(tag(2))

    assert (first["before"], first["changed"], first["file"]["tags"]) == (0, True, {"stable": 1})
    assert (moved["before"], moved["changed"], moved["file"]["tags"]) == (1, True, {"stable": 2})
    (record,) = driver.query(Lookup(name="a@stable"))["files"]
    assert (record["version"], record["content"]) == (2, content("y"))
    assert driver.query(Lookup(name="a"))["files"][0]["version"] == 3
    (listed,) = driver.query(List())["files"]
    assert (listed["version"], listed["tags"]) == (3, {"stable": 2})
    assert told(driver)[3:] == [
        ("tagged", "a@v1", 3, 0, "stable"),
        ("tagged", "a@v2", 3, 0, "stable"),
    ]


def test_putting_a_tag_where_it_is_changes_nothing() -> None:
    """Broken: a retried release is told to the watchers as a new one."""
    driver = risen(labels="x")
    driver.ok(tag(1))
    before = told(driver)
    assert driver.ok(tag(1))["changed"] is False
    assert told(driver) == before


def test_compare_and_set_refuses_a_tag_that_has_moved() -> None:
    """Broken: of two releases at once the one that loses takes the tag back."""
    driver = risen(labels="xy")
    assert driver.refused(tag(1, expected=2))[0] == "conflict"
    driver.ok(tag(1, expected=0))
    assert driver.refused(tag(2, expected=0))[0] == "conflict"
    driver.ok(tag(2, expected=1))
    word, text = driver.refused(untag(expected=1))
    assert (word, text) == (
        "conflict",
        "a@stable is version 2, expected version 1; nothing was changed",
    )
    driver.ok(untag(expected=2))
    assert driver.refused(untag())[0] == "not_found"


def test_what_is_not_there_cannot_be_tagged() -> None:
    """Broken: a tag means nothing, and who follows it waits for ever."""
    driver = risen(labels="x")
    assert driver.refused(tag(2)) == ("not_found", "'a' has no version 2; kept are 1")
    assert driver.refused({**tag(1), "name": "b"}) == ("not_found", "no file is named 'b'")
    with pytest.raises(NotFound, match="'a' has no tag 'stable'; its tags: none"):
        driver.query(Lookup(name="a@stable"))


def test_removing_a_version_takes_its_tags_along_and_no_others() -> None:
    """Broken: a tag means a version that is gone, or a name published anew has old tags."""
    driver = risen(labels="xy")
    driver.ok(tag(1))
    driver.ok(tag(1, "old"))
    driver.ok(tag(2, "next"))

    driver.ok({"op": "remove", "name": "a@v1"})

    assert driver.query(Lookup(name="a"))["files"][0]["tags"] == {"next": 2}
    driver.ok({"op": "remove", "name": "a"})
    driver.ok(publish("a", "z"))
    assert "tags" not in driver.query(Lookup(name="a"))["files"][0]


def test_a_version_with_a_tag_is_not_dropped_for_a_newer_one() -> None:
    """Broken: what is released as stable vanishes because others were published."""
    driver = risen(MachineLimits(versions_per_name_max=3), "vwx")
    driver.ok(tag(1))
    driver.ok(publish("a", "y", replace=True))
    driver.ok(publish("a", "z", replace=True))
    assert versions(driver) == [1, 4, 5]
    assert [change[3] for change in told(driver)][-2:] == [2, 3]


def test_a_name_full_of_tagged_versions_takes_no_more() -> None:
    """Broken: a tagged version is dropped, or a batch is half published."""
    driver = risen(MachineLimits(versions_per_name_max=2), "xy")
    driver.ok(tag(1))
    driver.ok(tag(2, "next"))
    files = (
        ("b", content("x"), 10, 100, 524288, "", "", False),
        ("a", content("z"), 10, 100, 524288, "", "", True),
    )
    word, text = driver.refused(publish_many(*files))
    assert (word, text[:18]) == ("limit_reached", "file 1 of 2: 'a' h")
    assert driver.refused(publish("a", "z", replace=True))[0] == "limit_reached"
    assert driver.ok(publish("a", "y"))["created"] is False


def test_tags_of_a_name_are_limited_also_when_others_move() -> None:
    """Broken: one name takes any amount of memory, or a full one cannot move its tags."""
    driver = risen(MachineLimits(tags_per_name_max=2), "xy")
    driver.ok(tag(1))
    driver.ok(tag(1, "b"))
    assert driver.refused(tag(1, "c"))[0] == "limit_reached"
    driver.ok(tag(2, "b"))
    driver.ok(untag("b"))
    driver.ok(tag(1, "c"))


def test_pages_with_long_tags_are_shorter_and_lose_nothing() -> None:
    """Broken: a page of the list is too long for its frame, or names are left out."""
    driver = risen()
    names = [f"n{number:03}" for number in range(260)]
    for name in names:
        driver.ok(publish(name, "x"))
        for letter in "abcdefgh":
            driver.ok({"op": "tag", "name": name, "tag": letter * 63, "version": 1})
    first = driver.query(List(limit=1_000))
    found = [record["name"] for record in first["files"]]
    assert first["more"]
    assert sum(len(r["tags"]) * 71 for r in first["files"]) < TAG_BYTES_PAGE_MAX + 8 * 71 + 1
    second = driver.query(List(after=found[-1], limit=1_000))
    assert found + [record["name"] for record in second["files"]] == names


def test_names_without_tags_have_the_bytes_of_a_cluster_that_knows_none() -> None:
    """Broken: a snapshot or state hash differs from that of the release before."""
    driver, plain = risen(labels="xy"), risen(labels="xy")
    driver.ok(tag(1))
    driver.ok(untag())
    plain.ok(publish("a", "y"))
    plain.ok(publish("a", "y"))
    (table,), (other,) = (d.machine._registry.tables() for d in (driver, plain))
    assert list(table.after(None)) == list(other.after(None))


def test_tags_survive_a_snapshot_and_a_new_founding() -> None:
    """Broken: a tracker that came from a snapshot, or a restored cluster, has lost the tags."""
    driver = risen(labels="xy")
    driver.ok(tag(1))
    machine = TrackerMachine.restore(driver.machine.snapshot())
    assert machine.state_hash == driver.machine.state_hash
    founded = machine.refounded(machine.applied + 100)
    for each in (machine, founded):
        assert each.query(Lookup(name="a@stable"))["files"][0]["version"] == 1
    assert machine.counts()["versions"] == founded.counts()["versions"] == 2


@pytest.mark.parametrize("body", [tag(1), untag(), keep(1)], ids=["tag", "untag", "set"])
def test_a_cluster_that_has_not_risen_refuses_tags(body: Body) -> None:
    """Broken: a tracker of the release before, given the same entry, would stop."""
    driver = Driver()
    driver.ok(publish("a", "x"))
    assert driver.refused(body)[0] == "unsupported"


def test_a_tag_is_a_small_word_and_no_version() -> None:
    """Broken: ``a@v3`` means a tag, or a tag cannot be typed."""
    for word in ("stable", "s", "r1.0_x-y", "v", "v3a", "vx", "a" * 63):
        assert Tag("a", word, 1).tag == word
        assert split_reference(f"x/a@{word}") == ("x/a", word)
    for word in ("v3", "v03", "", "Stable", "1", "-a", "a" * 64, "ä", "a@b", "a/b", "a\n", "v3\n"):
        with pytest.raises(BadRequest):
            Tag("a", word, 1)
    assert split_reference("a@v3") == ("a", 3)
    assert split_reference("a") == ("a", None)
    with pytest.raises(BadRequest):
        Remove("a@stable")


def test_versions_beyond_those_wanted_go_with_the_next_publish() -> None:
    """Broken: a disk fills with versions nobody wants, or one goes that was released."""
    driver = risen(labels="tuvwx")
    driver.ok(tag(2))
    assert driver.ok(keep(2))["versions_kept"] == 2
    assert versions(driver) == [1, 2, 3, 4, 5]

    driver.ok(publish("a", "y", replace=True))

    assert versions(driver) == [2, 5, 6]
    (change,) = (unpack(kept) for kept in list(driver.machine.changes.since((0, 0)))[-1:])
    assert (change.kind, change.dropped, change.also_dropped) == ("replaced", 4, (1, 3))
    assert Change.from_wire(change.to_wire()) == change
    driver.ok(untag())
    driver.ok(publish("a", "z", replace=True))
    assert versions(driver) == [6, 7]


def test_one_version_kept_is_the_newest() -> None:
    """Broken: with the narrowest setting a name loses all, or keeps one too many."""
    driver = risen(labels="xy")
    driver.ok(keep(1))
    driver.ok(publish("a", "z", replace=True))
    assert versions(driver) == [3]
    assert driver.ok(publish("a", "z"))["created"] is False


def test_what_is_set_can_be_left_alone_and_taken_back() -> None:
    """Broken: setting one thing resets another, or what was set leaves a trace for ever."""
    driver, plain = risen(), risen()
    driver.ok(keep(3))
    assert driver.ok(keep(None)) == driver.query(Retention()) == shown(3)
    driver.ok(keep(0))
    for reply in range(3):
        assert plain.ok(keep(0)) == shown(0), reply
    assert driver.query(Retention()) == shown(0)
    assert driver.machine.state_hash == plain.machine.state_hash


def test_what_is_set_survives_a_snapshot_and_a_new_founding() -> None:
    """Broken: after a restart a tracker drops other versions than the rest."""
    driver = risen(labels="x")
    unset = driver.machine.state_hash
    driver.ok(keep(2))
    assert driver.machine.state_hash != unset
    machine = TrackerMachine.restore(driver.machine.snapshot())
    assert machine.state_hash == driver.machine.state_hash
    for each in (machine, machine.refounded(machine.applied + 100)):
        assert each.query(Retention()) == shown(2)


@pytest.mark.parametrize("number", [-1, 17, True, "3"])
def test_no_more_is_kept_than_a_name_can_have(number: Any) -> None:
    """Broken: a setting promises what the trackers do not do."""
    assert risen().refused(keep(number))[0] == "bad_request"
