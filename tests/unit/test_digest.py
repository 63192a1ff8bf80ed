"""The digest: what waits to be hashed is in the sum whenever somebody asks."""

from __future__ import annotations

from tracker_raft.machine.digest import WAITING_MAX, Digest


def test_what_came_and_went_leaves_no_trace() -> None:
    """Broken: two trackers that took different ways to one state have different hashes."""
    empty, busy = Digest(), Digest()
    for seq in range(3):
        busy.add("reply", 1, seq, b"x")
        busy.remove("reply", 1, seq, b"x")
    assert busy.hex() == empty.hex()


def test_asking_in_between_changes_nothing() -> None:
    """Broken: the hash depends on when it was asked for, and trackers take each other for wrong."""
    asked, unasked = Digest(), Digest()
    for digest in (asked, unasked):
        digest.add("session", 1, 1, 5)
        digest.add("reply", 1, 1, ("conflict", "in these words"))
        if digest is asked:
            digest.hex()
        digest.remove("session", 1, 1, 5)
        digest.add("session", 1, 2, 9)
        digest.add("file", "a", b"1")
    assert asked.hex() == unasked.hex()
    asked.remove("reply", 1, 1, ("conflict", "in other words"))
    unasked.remove("reply", 1, 1, ("conflict", "in these words"))
    assert asked.hex() == unasked.hex()


def test_an_item_that_is_there_twice_counts_twice() -> None:
    """Broken: a replica that recorded a reply twice is not found out."""
    once, twice = Digest(), Digest()
    once.add("reply", 1, 1, b"x")
    twice.add("reply", 1, 1, b"x")
    twice.add("reply", 1, 1, b"x")
    assert once.hex() != twice.hex()
    twice.remove("reply", 1, 1, b"x")
    assert once.hex() == twice.hex()


def test_only_so_much_waits() -> None:
    """Broken: the next question for the hash holds the loop for as long as nobody asked."""
    digest, told = Digest(), Digest()
    for seq in range(WAITING_MAX + 10):
        digest.add("reply", 1, seq, b"x")
        told.add("reply", 1, seq, b"x")
        told.hex()
    assert len(digest._added) <= 10
    assert digest.hex() == told.hex()


def test_a_known_hash_takes_back_what_it_was_added_with() -> None:
    """Broken: the sum keeps a change that is forgotten."""
    digest = Digest()
    known = digest.add_known("change", 1, 0, "name", b"packed")
    assert digest.hex() != Digest().hex()
    digest.remove_known(known, "change", 1, 0, "name", b"packed")
    assert digest.hex() == Digest().hex()
