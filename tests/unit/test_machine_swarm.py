"""Leases and swarms: join, complete, leave, renew, expiry, windows of peers."""

from __future__ import annotations

from typing import Any

import pytest
from machine_driver import Driver, content, join

from tracker_raft.commands import Peers
from tracker_raft.config import MachineLimits


def peers(driver: Driver, label: str, **more: Any) -> list[str]:
    return [record["peer"] for record in driver.query(Peers(content(label), **more))["peers"]]


def complete(peer: str, label: str) -> dict[str, Any]:
    return {"op": "complete", "peer": peer, "content": content(label)}


def leave(peer: str, label: str | None = None) -> dict[str, Any]:
    body: dict[str, Any] = {"op": "leave", "peer": peer}
    return body if label is None else {**body, "content": content(label)}


def test_a_peer_that_joined_is_found() -> None:
    """If this fails, nobody downloads from a peer that offers itself."""
    driver = Driver()

    assert driver.ok(join("p", "x", address="[::1]:7000", zone="eu", lease_ms=2500)) == {
        "lease_ms": 2500
    }

    assert driver.query(Peers(content("x"))) == {
        "peers": [{"peer": "p", "address": "[::1]:7000", "complete": False, "zone": "eu"}],
        "total": 1,
    }
    assert driver.machine.lease_left_ms("p") == 2500
    assert driver.machine.lease_left_ms("q") is None


def test_joining_again_updates_the_peer_and_never_takes_completeness_back() -> None:
    """If this fails, a peer with a new address stays unreachable, or a seeder is demoted."""
    driver = Driver()
    driver.ok(join("p", "x", complete=True))
    driver.ok(join("p", "y"))
    driver.tick(900)

    driver.ok(join("p", "x", address="10.9.9.9:1", zone="us", lease_ms=4000))

    (record,) = driver.query(Peers(content("x")))["peers"]
    assert record == {"peer": "p", "address": "10.9.9.9:1", "complete": True, "zone": "us"}
    (record,) = driver.query(Peers(content("y")))["peers"]
    assert record["address"] == "10.9.9.9:1"
    assert driver.machine.lease_left_ms("p") == 4000
    driver.ok(join("p", "x", lease_ms=1000))
    assert driver.machine.lease_left_ms("p") == 1000


def test_a_peer_that_has_everything_is_shown_among_the_complete() -> None:
    """If this fails, downloads crowd on the first seeder although others have finished."""
    driver = Driver()
    for peer in ("a", "b", "c"):
        driver.ok(join(peer, "x"))
    assert peers(driver, "x") == ["a", "b", "c"]

    assert driver.ok(complete("b", "x")) == {}
    assert peers(driver, "x") == ["b", "a", "c"]
    driver.ok(join("c", "x", complete=True))
    assert peers(driver, "x") == ["b", "c", "a"]

    before = driver.machine.counts()
    assert driver.ok(complete("b", "x")) == {}
    assert driver.machine.counts() == before


def test_completing_without_having_joined_is_refused() -> None:
    """If this fails, a peer whose lease is over believes that it is still listed."""
    driver = Driver()
    driver.ok(join("p", "x"))

    assert driver.refused(complete("q", "x"))[0] == "not_found"
    word, text = driver.refused(complete("p", "y"))
    assert word == "not_found"
    assert "'p'" in text
    assert "join again" in text


def test_leaving_one_swarm_keeps_the_others_and_the_last_one_ends_the_lease() -> None:
    """If this fails, a peer that left is still handed out, or one that stays is not."""
    driver = Driver()
    driver.ok(join("p", "x"))
    driver.ok(join("p", "y", complete=True))

    assert driver.ok(leave("p", "x")) == {"left": 1}
    assert (peers(driver, "x"), peers(driver, "y")) == ([], ["p"])
    assert driver.ok(leave("p", "x")) == {"left": 0}
    assert driver.machine.lease_left_ms("p") == 1000

    assert driver.ok(leave("p", "y")) == {"left": 1}
    assert driver.machine.lease_left_ms("p") is None
    assert driver.ok(leave("p")) == {"left": 0}


def test_leaving_everything_at_once() -> None:
    """If this fails, a peer that shuts down stays listed until its lease is over."""
    driver = Driver()
    driver.ok(join("p", "x"))
    driver.ok(join("p", "y"))
    driver.ok(join("q", "y"))

    assert driver.ok(leave("p")) == {"left": 2}

    counts = driver.machine.counts()
    assert (counts["leases"], counts["memberships"], counts["contents"]) == (1, 1, 1)
    assert peers(driver, "y") == ["q"]


def test_a_lease_ends_at_its_time_with_all_that_hangs_on_it() -> None:
    """If this fails, dead peers are handed out for ever, or live ones vanish early."""
    driver = Driver()
    driver.ok(join("p", "x", lease_ms=1000))
    driver.ok(join("p", "y", lease_ms=1000))
    driver.ok(join("q", "x", lease_ms=1001))

    driver.tick(999)
    assert peers(driver, "x") == ["p", "q"]
    assert driver.machine.next_expiry_ms() == 1000
    driver.tick(1000)
    assert (peers(driver, "x"), peers(driver, "y")) == (["q"], [])
    driver.tick(10**12)
    assert driver.machine.counts()["leases"] == 0
    assert driver.machine.counts()["memberships"] == 0


def test_renewals_keep_known_peers_and_pass_over_the_rest() -> None:
    """If this fails, one bad name in a batch of renewals ends the leases of thousands."""
    driver = Driver()
    driver.ok(join("p", "x", lease_ms=1000))
    driver.ok(join("q", "x", lease_ms=5000))
    driver.ok(join("r", "x", lease_ms=1000))
    driver.tick(600)

    names = ["p", "gone", 7, None, b"q", ["p"], {"p": 1}, "q", "p", 1.5, "\ud7ff" * 10_000]
    assert driver.ok({"op": "renew", "peers": names}) == {"renewed": 2}

    assert driver.machine.lease_left_ms("p") == 1000
    assert driver.machine.lease_left_ms("q") == 5000
    driver.tick(1500)
    assert peers(driver, "x") == ["p", "q"]


@pytest.mark.parametrize("body", [{}, {"peer": "p"}, {"peers": "p"}, {"peers": {"p": 1}}])
def test_renewals_that_are_no_array_are_refused(body: dict[str, Any]) -> None:
    """If this fails, a malformed internal operation raises on every tracker at once."""
    driver = Driver()
    driver.ok(join("p", "x"))
    driver.tick(1)

    assert driver.refused({"op": "renew", **body})[0] == "bad_request"
    assert driver.machine.lease_left_ms("p") == 999


def test_the_window_of_peers_rotates_and_wraps_round() -> None:
    """If this fails, all callers are sent to the same few peers, or some are never shown."""
    driver = Driver()
    for peer in ("e", "d", "c", "b", "a"):
        driver.ok(join(peer, "x", complete=peer in "bd"))
    driver.ok(join("z", "y", complete=True))
    order = ["b", "d", "a", "c", "e"]

    assert peers(driver, "x") == order
    for skip in range(12):
        turned = order[skip % 5 :] + order[: skip % 5]
        for limit in (1, 2, 4, 5, 50):
            assert peers(driver, "x", skip=skip, limit=limit) == turned[:limit]
    reply = driver.query(Peers(content("x"), limit=2, skip=2**63 - 1))
    assert (len(reply["peers"]), reply["total"]) == (2, 5)


def test_peers_whose_names_are_prefixes_or_not_ascii_keep_their_order() -> None:
    """If this fails, peer ids of unlucky bytes corrupt the order of a swarm."""
    driver = Driver()
    for peer in ("é", "a", "aa", "\U0001f600", "a b", "\uffee"):
        driver.ok(join(peer, "x"))

    assert peers(driver, "x") == ["a", "a b", "aa", "é", "\uffee", "\U0001f600"]


def test_every_table_of_the_swarm_has_a_limit_and_a_refusal_changes_nothing() -> None:
    """If this fails, announcements fill the memory of every tracker."""
    limits = MachineLimits(leases_max=3, contents_per_lease_max=2, peers_per_content_max=2)
    driver = Driver(limits)
    driver.ok(join("p", "x"))
    driver.ok(join("q", "x"))
    driver.ok(join("q", "y"))
    driver.tick(500)

    assert driver.refused(join("q", "z")) == (
        "limit_reached",
        "2 contents, limit 2; peer 'q' has not joined",
    )
    assert driver.machine.lease_left_ms("q") == 500
    assert driver.refused(join("r", "x")) == (
        "limit_reached",
        "2 peers of this content, limit 2; peer 'r' has not joined",
    )
    driver.ok(join("r", "y"))
    assert driver.refused(join("s", "z")) == (
        "limit_reached",
        "3 leases, limit 3; peer 's' has not joined",
    )

    driver.ok(join("p", "x", complete=True))  # what is there is renewed, however full
    assert driver.machine.lease_left_ms("p") == 1000
