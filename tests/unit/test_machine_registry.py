"""Names and versions: publish, replace, look up, list, remove."""

from __future__ import annotations

from typing import Any

import pytest
from machine_driver import Driver, content, publish

from tracker_raft.commands import List, Lookup
from tracker_raft.config import MachineLimits
from tracker_raft.errors import NotFound
from tracker_raft.machine.registry import LOOKUP_FILES_MAX


def versions(driver: Driver, label: str) -> list[tuple[str, int]]:
    files = driver.query(Lookup(content=content(label)))["files"]
    return [(record["name"], record["version"]) for record in files]


def names(page: dict[str, Any]) -> list[str]:
    return [record["name"] for record in page["files"]]


def test_a_published_file_is_found_by_name_and_by_content() -> None:
    """If this fails, what was acknowledged as published cannot be fetched."""
    driver = Driver()

    reply = driver.ok(publish("models/a", "one", owner="alice", group="ml"))

    record = {
        "name": "models/a",
        "version": 1,
        "content": content("one"),
        "size": 10,
        "manifest_bytes": 100,
        "piece_bytes": 524288,
        "owner": "alice",
        "group": "ml",
    }
    assert reply == {"file": record, "created": True}
    assert driver.query(Lookup(name="models/a")) == {"files": [record]}
    assert driver.query(Lookup(name="models/a@v1")) == {"files": [record]}
    assert driver.query(Lookup(content=content("one"))) == {"files": [record], "more": False}


def test_publishing_the_same_content_again_changes_nothing() -> None:
    """If this fails, a retried or repeated publish makes versions nobody asked for."""
    driver = Driver()
    first = driver.ok(publish("a", "one", owner="alice"))

    again = driver.ok(publish("a", "one", owner="bob"))
    with_replace = driver.ok(publish("a", "one", replace=True))

    assert again == with_replace == {"file": first["file"], "created": False}
    assert driver.machine.counts()["versions"] == 1


@pytest.mark.parametrize("field", ["size", "manifest_bytes", "piece_bytes"])
def test_the_same_content_with_another_shape_is_refused(field: str) -> None:
    """If this fails, a publisher's mistake is confirmed as if it were what the tracker holds."""
    driver = Driver()
    driver.ok(publish("a", "one"))

    word, text = driver.refused(publish("a", "one", **{field: 32768}))

    assert word == "bad_request"
    assert text.startswith(f"{field} is 32768, but 'a@v1' has the same content id with ")


def test_other_content_under_a_taken_name_is_a_conflict() -> None:
    """If this fails, one publisher silently overwrites another's file."""
    driver = Driver()
    driver.ok(publish("a", "one"))

    word, text = driver.refused(publish("a", "two"))

    assert word == "conflict"
    assert content("one").hex() in text
    assert "version 1" in text
    assert driver.query(Lookup(name="a"))["files"][0]["content"] == content("one")


def test_replace_makes_the_next_version_and_keeps_the_earlier_ones() -> None:
    """If this fails, replacing a file loses the version before, or look-ups miss the new one."""
    driver = Driver()
    driver.ok(publish("a", "one"))

    assert driver.ok(publish("a", "two", replace=True))["file"]["version"] == 2

    assert driver.query(Lookup(name="a"))["files"][0]["content"] == content("two")
    assert driver.query(Lookup(name="a@v1"))["files"][0]["content"] == content("one")
    with pytest.raises(NotFound, match="'a' has no version 3; kept are 1, 2"):
        driver.query(Lookup(name="a@v3"))


def test_one_content_may_stand_under_many_names_and_versions() -> None:
    """If this fails, a look-up by content id misses names, doubles them or mixes their order."""
    driver = Driver()
    for name in ("z", "a/b", "a"):
        driver.ok(publish(name, "one"))
    driver.ok(publish("a", "two", replace=True))
    driver.ok(publish("a", "one", replace=True))

    assert versions(driver, "one") == [("a", 1), ("a", 3), ("a/b", 1), ("z", 1)]
    assert versions(driver, "two") == [("a", 2)]

    driver.ok({"op": "remove", "name": "a@v1"})
    assert versions(driver, "one") == [("a", 3), ("a/b", 1), ("z", 1)]
    driver.ok({"op": "remove", "name": "a@v3"})
    assert versions(driver, "one") == [("a/b", 1), ("z", 1)]


def test_a_look_up_by_content_has_a_limit_and_says_when_it_cut() -> None:
    """If this fails, a content bound to a million names stalls the tracker that is asked for it."""
    driver = Driver()
    rows = [(driver.session, 1, 1, publish("n0", "one"))]
    rows += [(driver.session, n, n, publish(f"n{n}", "one")) for n in range(2, LOOKUP_FILES_MAX)]
    driver.entry(*rows)
    driver.seq = LOOKUP_FILES_MAX
    driver.ok(publish("o1", "one"))

    reply = driver.query(Lookup(content=content("one")))
    assert (len(reply["files"]), reply["more"]) == (LOOKUP_FILES_MAX, False)

    driver.ok(publish("o2", "one"))
    reply = driver.query(Lookup(content=content("one")))
    assert (len(reply["files"]), reply["more"]) == (LOOKUP_FILES_MAX, True)


def test_only_the_newest_versions_are_kept() -> None:
    """If this fails, a name replaced every minute grows without end."""
    driver = Driver(MachineLimits(versions_per_name_max=2))
    for number in range(1, 5):
        driver.ok(publish("a", f"c{number}", replace=True))

    assert driver.machine.counts()["versions"] == 2
    assert driver.query(Lookup(name="a@v3"))["files"][0]["version"] == 3
    with pytest.raises(NotFound):
        driver.query(Lookup(name="a@v2"))
    with pytest.raises(NotFound):
        driver.query(Lookup(content=content("c1")))


def test_the_number_of_names_is_limited_but_not_their_renewal() -> None:
    """If this fails, the registry grows past its memory, or a full one cannot be maintained."""
    driver = Driver(MachineLimits(files_max=2))
    driver.ok(publish("a", "one"))
    driver.ok(publish("b", "one"))

    assert driver.refused(publish("c", "one")) == (
        "limit_reached",
        "2 names, limit 2; 'c' was not published",
    )

    driver.ok(publish("a", "two", replace=True))
    driver.ok({"op": "remove", "name": "b"})
    driver.ok(publish("c", "one"))


def test_removing_the_newest_version_brings_back_the_one_before() -> None:
    """If this fails, a bad release cannot be withdrawn, or its number is given out twice."""
    driver = Driver()
    first = driver.ok(publish("a", "one"))["file"]
    second = driver.ok(publish("a", "two", replace=True))["file"]

    assert driver.ok({"op": "remove", "name": "a@v2"}) == {"removed": [second]}

    assert driver.query(Lookup(name="a")) == {"files": [first]}
    assert driver.ok(publish("a", "two", replace=True))["file"]["version"] == 3


def test_a_name_without_versions_is_gone_and_may_start_again() -> None:
    """If this fails, a removed name still shows, or cannot be used any more."""
    driver = Driver()
    driver.ok(publish("a", "one"))
    driver.ok(publish("a", "two", replace=True))

    removed = driver.ok({"op": "remove", "name": "a"})["removed"]

    assert [record["version"] for record in removed] == [1, 2]
    assert driver.machine.counts()["files"] == 0
    with pytest.raises(NotFound):
        driver.query(Lookup(content=content("one")))
    assert driver.ok(publish("a", "three"))["file"]["version"] == 1
    driver.ok({"op": "remove", "name": "a@v1"})
    assert driver.query(List()) == {"files": [], "more": False}


def test_removing_what_is_not_there_is_refused() -> None:
    """If this fails, a typing mistake is reported as done."""
    driver = Driver()
    driver.ok(publish("a", "one"))

    assert driver.refused({"op": "remove", "name": "b"}) == ("not_found", "no file is named 'b'")
    assert driver.refused({"op": "remove", "name": "b@v1"}) == ("not_found", "no file is named 'b'")
    assert driver.refused({"op": "remove", "name": "a@v2"}) == (
        "not_found",
        "'a' has no version 2; kept are 1",
    )


def test_names_are_listed_in_byte_order_page_by_page() -> None:
    """If this fails, paging through a registry misses files or shows them twice."""
    driver = Driver()
    for name in ("b", "a/1", "a/2", "a", "ä", "a/3", "a0", "\U0001f600", "\uffee"):
        driver.ok(publish(name, "one"))
    in_byte_order = ["a", "a/1", "a/2", "a/3", "a0", "b", "ä", "\uffee", "\U0001f600"]

    assert names(driver.query(List())) == in_byte_order

    page = driver.query(List(prefix="a/", limit=2))
    assert (names(page), page["more"]) == (["a/1", "a/2"], True)
    page = driver.query(List(prefix="a/", limit=2, after="a/2"))
    assert (names(page), page["more"]) == (["a/3"], False)

    assert names(driver.query(List(prefix="a/", after="a"))) == ["a/1", "a/2", "a/3"]
    assert names(driver.query(List(prefix="a/", after="b"))) == []
    assert names(driver.query(List(prefix="a", after="a"))) == ["a/1", "a/2", "a/3", "a0"]
    page = driver.query(List(prefix="a/", limit=3))
    assert (len(page["files"]), page["more"]) == (3, False)


def test_a_list_shows_the_newest_version_of_each_name() -> None:
    """If this fails, a list leads people to a version that was replaced."""
    driver = Driver()
    driver.ok(publish("a", "one"))
    newest = driver.ok(publish("a", "two", replace=True))["file"]

    assert driver.query(List()) == {"files": [newest], "more": False}
