"""The digest: what waits to be hashed is in the sum whenever somebody asks."""

from __future__ import annotations

from typing import Any

from tracker_raft.machine.digest import WAITING_MAX, Digest


def test_what_came_and_went_leaves_no_trace() -> None:
    """Broken: two trackers that took different ways to one state have different hashes."""
    empty, busy = Digest(), Digest()
    for seq in range(3):
        busy.add("lease", 1, seq, b"x")
        busy.remove("lease", 1, seq, b"x")
    assert busy.hex() == empty.hex()


def test_asking_in_between_changes_nothing() -> None:
    """Broken: the hash depends on when it was asked for, and trackers take each other for wrong."""
    asked, unasked = Digest(), Digest()
    for digest in (asked, unasked):
        digest.add("lease", 1, 1, 5)
        digest.add("reply", 1, 1, ("conflict", "in these words"))
        if digest is asked:
            digest.hex()
        digest.remove("lease", 1, 1, 5)
        digest.add("lease", 1, 2, 9)
        digest.add_many([("file", "a", b"1"), ("file", "b", b"2")])
    assert asked.hex() == unasked.hex()
    asked.remove("reply", 1, 1, ("conflict", "in other words"))
    unasked.remove("reply", 1, 1, ("conflict", "in these words"))
    assert asked.hex() == unasked.hex()


def test_an_item_that_is_there_twice_counts_twice() -> None:
    """Broken: a replica that recorded a reply twice is not found out."""
    once, twice = Digest(), Digest()
    once.add("reply", 1, 1, b"x")
    twice.add_many([("reply", 1, 1, b"x")] * 2)
    assert once.hex() != twice.hex()
    twice.remove("reply", 1, 1, b"x")
    assert once.hex() == twice.hex()


def test_only_so_much_waits() -> None:
    """Broken: the next question for the hash holds the loop for as long as nobody asked."""
    digest, told = Digest(), Digest()
    for seq in range(WAITING_MAX + 10):
        digest.add("lease", 1, seq, b"x")
        told.add("lease", 1, seq, b"x")
        told.hex()
    assert len(digest._waiting) <= 10
    assert digest.hex() == told.hex()


def test_what_a_part_reports_is_taken_back_by_its_hash() -> None:
    """Broken: the sum keeps a change that is forgotten."""
    digest = Digest()
    items = [("change", 1, 0, "name", b"packed"), ("change", 1, 1, "other", b"packed")]
    hashes = digest.come(items)
    assert digest.hex() != Digest().hex()
    digest.go(hashes, items)
    assert digest.hex() == Digest().hex()


class _Watcher:
    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def added(self, items: Any) -> None:
        self.heard += [("added", item) for item in items]

    def removed(self, item: Any) -> None:
        self.heard.append(("removed", item))


def test_who_watches_is_told_in_order_and_of_its_kind_alone() -> None:
    """Broken: a snapshot under way holds what never was, or lacks what was."""
    digest, watcher = Digest(), _Watcher()
    digest.watchers = {"file": watcher}
    digest.remove("file", "a", b"1")
    digest.add("file", "a", b"2")
    digest.add("lease", "p", "z", 5)
    (known,) = digest.come([("file", "b", b"3")])
    digest.go([known], [("file", "b", b"3")])
    digest.settle()
    told = [("removed", ("file", "a", b"1")), ("added", ("file", "a", b"2"))]
    came_and_went = [("added", ("file", "b", b"3")), ("removed", ("file", "b", b"3"))]
    assert sorted(watcher.heard) == sorted(told + came_and_went)
    assert [one for one in watcher.heard if one[1][1] == "a"] == told
    assert [one for one in watcher.heard if one[1][1] == "b"] == came_and_went


def test_a_part_is_asked_before_the_sum_is_given() -> None:
    """Broken: the state hash lacks what a table has not reported yet."""

    class Late:
        def __init__(self, digest: Digest) -> None:
            self.digest = digest
            digest.join(self)

        def settle(self) -> None:
            self.digest.come([("session", 1, 1, 5)])

    digest, plain = Digest(), Digest()
    Late(digest)
    plain.add("session", 1, 1, 5)
    assert digest.hex() == plain.hex()
