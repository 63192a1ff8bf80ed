"""How peers that fetch the same find each other through whom they ask, without the trackers.

If a test here fails, the first seconds of a swarm are a star: all bytes come from one seeder.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_world import LOOPBACK, PIECE, QUICK, World, wait_until, world_in
from test_seeder import Asker, refusal

from peer import messages
from peer.contacts import CONTACTS_MAX, HEARSAY_MAX, Contacts
from peer.downloader import Download
from peer.files import OpenFiles
from peer.limits import PeerLimits
from peer.messages import OTHERS_MAX, GetManifest, Have
from peer.offers import Offers
from peer.ranges import Ranges
from peer.scan import scan
from peer.seeder import Seeder
from peer.shared import SharedFiles
from tracker_raft.commands import PeerRecord
from tracker_raft.errors import BadRequest, NotFound

UNHURRIED = dataclasses.replace(
    QUICK, progress_timeout_s=10.0, patience_s=20.0, ask_interval_min_s=30.0, ask_interval_s=30.0
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as world:
        yield world


class FakeListener:
    def __init__(self, peer: str) -> None:
        self.peer = peer

    def tell(self) -> bool:
        return True

    def abort(self) -> None: ...


def record(name: str) -> PeerRecord:
    return PeerRecord(name, "h:1", False)


@pytest.fixture
def content(tmp_path: Path) -> Iterator[SharedFiles]:
    (tmp_path / "some").write_bytes(bytes(8 * PIECE))
    files = OpenFiles(1)
    yield SharedFiles(scan(tmp_path / "some", piece_bytes=PIECE), files)
    files.close()


class Stranger:
    """A peer that fetches and serves, and of which no tracker knows."""

    def __init__(self, world: World, name: str, content: bytes, limits: PeerLimits) -> None:
        self.seeder = Seeder(name, {}, LOOPBACK, limits=limits)
        self.download: Download = world.download(
            content,
            name,
            own_peer=name,
            limits=limits,
            seeder=self.seeder,
            address=str(self.seeder.address),
        )
        self._thread = threading.Thread(target=self.download.run)

    def knows(self) -> set[str]:
        return {one["peer"] for one in self.download.snapshot()["peers"]}

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        self.seeder.close()
        assert not self._thread.is_alive()


def test_two_that_ask_the_same_seeder_trade(world: World) -> None:
    """Broken if what the trackers have not told yet is not known, though the seeder could tell."""
    path = world.random_file(64)
    held = dataclasses.replace(QUICK, up_bytes_s=60 * PIECE)
    content = world.seed(path, "seeder", limits=held)
    with ExitStack() as stack:
        one, two = (stack.enter_context(Stranger(world, name, content, UNHURRIED)) for name in "ab")
        wait_until(lambda: "b" in one.knows() and "a" in two.knows(), "they have met")
    for name in "ab":
        assert (world.directory / name).read_bytes() == path.read_bytes()
    gave = {
        (own, given["peer"]): given["bytes"]
        for own, stranger in (("a", one), ("b", two))
        for given in stranger.download.snapshot()["peers"]
    }
    assert gave["a", "b"] and gave["b", "a"], f"no trade: {gave}"


def test_the_second_connection_to_a_seeder_ends_in_a_crowd(world: World) -> None:
    """Broken if those who came first hold two connections to a seeder that many want."""
    limits = dataclasses.replace(UNHURRIED, many_peers=2)
    held = dataclasses.replace(QUICK, up_bytes_s=40 * PIECE)
    content = world.seed(world.random_file(64), "seeder", limits=held)
    seeder = world.seeders["seeder"]

    def connections(peer: str) -> int:
        return sum(session.peer == peer for session in list(seeder._sessions))

    with Stranger(world, "a", content, limits) as first:
        wait_until(lambda: connections("a") == 2, "alone it has two connections")
        with Stranger(world, "b", content, limits):
            wait_until(lambda: "b" in first.knows(), "they have met")
            wait_until(lambda: connections("a") == 1, "one connection was given back")
    assert first.download.snapshot()["bytes_done"] == 64 * PIECE


def test_who_asks_before_the_manifest_is_here_is_told_of_all_that_comes(
    content: SharedFiles,
) -> None:
    """Broken if two newcomers give each other up because neither has anything yet."""
    offers, met = Offers({}), list[PeerRecord]()
    listener = FakeListener("b")
    with pytest.raises(NotFound):
        offers.here(content.id, listener)
    offers.expect(content.id, met.append)
    assert offers.here(content.id, listener) == Ranges()
    assert offers.others(content.id, listener, record("b")) == []
    assert met == [record("b")]
    with pytest.raises(NotFound):
        offers.find(content.id)
    offers.add(content, Ranges((3, 5)), None)
    assert offers.behind() == [listener]
    assert [(run.first, run.count) for run in offers.news(content.id, listener)] == [(3, 2)]
    assert offers.remove(content.id) == [listener]
    with pytest.raises(NotFound):
        offers.here(content.id, listener)


def test_others_are_those_that_are_still_there(content: SharedFiles) -> None:
    """Broken if newcomers are sent to peers that left, or to themselves."""
    offers = Offers({content.id: content})
    listeners = [FakeListener(f"p{number}") for number in range(OTHERS_MAX + 10)]
    for listener in listeners:
        named = offers.others(content.id, listener, record(listener.peer))
        assert listener.peer not in {one.peer for one in named}
        assert len(named) <= OTHERS_MAX
    # Over a second connection it is still one peer, and itself.
    assert record("p41") not in offers.others(content.id, FakeListener("p41"), record("p41"))
    for listener in listeners[1:]:
        offers.forget(listener)
    named = offers.others(content.id, FakeListener("new"), record("new"))
    assert [one.peer for one in named] == ["p0", "p41"]


def test_a_seeder_names_who_serves_and_nobody_else(world: World) -> None:
    """Broken if peers that cannot be reached are named, or an address that is none is passed on."""
    content = world.seed(world.random_file(4))
    address = world.seeders["seeder"].address
    with Asker(address) as asker:
        assert "others" not in asker.ask(Have(content))
        assert not asker.ask(Have(content, address="127.0.0.1:4711", zone="z"))["others"]
        assert asker.ask(GetManifest(content))["bytes"]
    with Asker(address) as asker:
        message = {"op": "have", "content": content, "address": "nowhere"}
        with pytest.raises(BadRequest, match="nowhere"):
            Have.from_wire(message)
        assert isinstance(refusal(asker, Have(bytes(32), address="a:1")), NotFound)


names = st.text("abc", min_size=1, max_size=9)


@given(st.lists(st.builds(record, names)))
def test_others_are_read_as_they_were_named(others: list[PeerRecord]) -> None:
    """Broken if a peer is banned for honest words, or believed whatever it says."""
    assert messages.parse_others(messages.encode_others(others)) == others[-OTHERS_MAX:]


@pytest.mark.parametrize(
    "words",
    [
        7,
        ["a"],
        [["a", "h:1"]],
        [["a", "h", ""]],
        [["", "h:1", ""]],
        [["a", 7, ""]],
        [["a", "h:1", 7]],
        [["a", "h:1", ""]] * (OTHERS_MAX + 1),
    ],
)
def test_words_that_name_nobody_break_the_protocol(words: object) -> None:
    """Broken if a peer can make others connect to what is no address, or remember thousands."""
    with pytest.raises(BadRequest):
        messages.parse_others(words)


def test_hearsay_is_bounded_and_never_beats_the_trackers() -> None:
    """Broken if one liar fills the memory of a download, or moves a peer that trackers know."""
    contacts: Contacts[str] = Contacts("me", "", PeerLimits(), random.Random(1))
    contacts.learn(PeerRecord("known", "127.0.0.1:1", True))
    contacts.hear_of(PeerRecord("known", "127.0.0.1:666", False))
    assert contacts["known"].record.address == "127.0.0.1:1"
    for number in range(CONTACTS_MAX):
        contacts.hear_of(record(f"p{number}"))
    assert len(contacts) == HEARSAY_MAX
    contacts.learn(PeerRecord("late", "127.0.0.1:2", True))
    assert len(contacts) == HEARSAY_MAX + 1
