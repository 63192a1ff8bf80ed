"""If a test here fails, sharing or fetching through the library does not do what it promises."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_client import FakeClient
from peer_world import wait_until

import peer as package
from peer import Peer, node, serving
from peer.lease import Lease
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, Conflict, LocalError, NotFound, NoTracker


@pytest.fixture
def trackers() -> FakeClient:
    return FakeClient()


@pytest.fixture
def peer(trackers: FakeClient) -> Iterator[Peer]:
    with Peer(client=trackers, peer_id="sharing") as peer:
        yield peer


def test_what_is_shared_can_be_fetched_by_name_and_by_id(
    peer: Peer, trackers: FakeClient, tmp_path: Path
) -> None:
    """Broken if the main job does not work."""
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights" * 1000)
    shared = peer.share(path, "models/a")
    assert (shared.name, shared.record.version, shared.record.size) == ("models/a", 1, 7000)
    assert shared.content == shared.record.content.hex()
    with Peer(client=trackers) as other:
        for name, dest in (("models/a", "one"), (shared.content, "two")):
            fetched = other.fetch(name, tmp_path / dest)
            assert fetched.path == tmp_path / dest
            assert fetched.path.read_bytes() == path.read_bytes()
            assert (fetched.content, fetched.bytes) == (shared.record.content, 7000)


def test_names_are_made_from_paths(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a file lands under a name nobody expects."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/data").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "source")
    assert peer.share(".").name == "source"
    shared = peer.share("data", "deep/er/name")
    assert peer.share("data").name == "data"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with Peer(client=peer._trackers) as other:
        assert other.fetch("deep/er/name").path == tmp_path / "elsewhere/name"
        assert other.fetch("data").path == tmp_path / "elsewhere/data"
        (tmp_path / "elsewhere/name").unlink()
        assert other.fetch(shared.content).path.name == "name", "the first in name order"


def test_an_id_without_a_name_needs_a_destination(
    peer: Peer, trackers: FakeClient, tmp_path: Path
) -> None:
    """Broken if content outlives its name in vain, or lands under a name of hexadecimal digits."""
    path = tmp_path / "f"
    path.write_bytes(b"x")
    shared = peer.share(path)
    trackers.remove("f")
    with Peer(client=trackers) as other:
        with pytest.raises(BadRequest, match="say where to write it"):
            other.fetch(shared.content)
        assert other.fetch(shared.content, tmp_path / "copy").path.read_bytes() == b"x"
        with pytest.raises(NotFound):
            other.fetch("f", tmp_path / "other")


def test_a_conflict_leaves_nothing_behind(peer: Peer, trackers: FakeClient, tmp_path: Path) -> None:
    """Broken if a refused name is served all the same, or --replace makes no version."""
    path = tmp_path / "f"
    path.write_bytes(b"1")
    first = peer.share(path)
    path.write_bytes(b"2")
    with pytest.raises(Conflict):
        peer.share(path)
    assert [len(swarm) for swarm in trackers.swarms.values()] == [1, 0]
    second = peer.share(path, replace=True)
    assert (first.record.version, second.record.version) == (1, 2)


def test_a_closed_peer_has_left(trackers: FakeClient, tmp_path: Path) -> None:
    """Broken if peers that are gone are handed out for a whole lease."""
    (tmp_path / "f").touch()
    peer = Peer(client=trackers)
    with peer:
        shared = peer.share(tmp_path / "f")
        assert trackers.swarms[shared.record.content]
        assert peer.address == shared.address
    assert not trackers.swarms[shared.record.content]
    peer.close()
    with pytest.raises(LocalError, match="closed"):
        peer.share(tmp_path / "f")


def test_trackers_that_are_away_do_not_hold_up_the_end(
    trackers: FakeClient, tmp_path: Path
) -> None:
    """Broken if Ctrl-C hangs when the trackers are gone."""
    (tmp_path / "f").touch()
    with Peer(client=trackers) as peer:
        peer.share(tmp_path / "f")
        trackers.away = True
    with Peer(client=trackers) as peer, pytest.raises(NoTracker):
        peer.share(tmp_path / "f")


def test_a_share_in_vain_waits_a_second_at_most_for_trackers_that_are_away(
    trackers: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if Ctrl-C takes seconds while the trackers do not answer."""
    (tmp_path / "f").touch()
    deadlines_s: list[float | None] = []

    def leave(peer: str, content: bytes = b"", *, deadline_s: float | None = None) -> int:
        deadlines_s.append(deadline_s)
        raise NoTracker("no tracker answered")

    trackers.away = True
    monkeypatch.setattr(trackers, "leave", leave)
    with Peer(client=trackers) as peer, pytest.raises(NoTracker):
        peer.share(tmp_path / "f")
    assert deadlines_s
    assert all(deadline_s is not None and deadline_s <= 1 for deadline_s in deadlines_s)


def test_a_lease_is_renewed_and_opened_anew(trackers: FakeClient) -> None:
    """Broken if a long share disappears after a minute, or after the trackers were away."""
    before = threading.active_count()
    trackers.grant_s = 0.06
    lease = Lease(trackers, "p", "127.0.0.1:1", zone="z", lease_s=0.06)
    lease.join(bytes(32), complete=True)
    lease.join(b"1" * 32, complete=False)
    wait_until(lambda: trackers.renewals >= 2, "the lease is renewed")
    trackers.away = True
    trackers.forget_leases()
    trackers.away = False
    wait_until(lambda: len(trackers.swarms) == 2, "everything is announced again")
    assert trackers.swarms[bytes(32)]["p"].complete
    assert not trackers.swarms[b"1" * 32]["p"].complete
    lease.leave(b"1" * 32)
    assert not trackers.swarms[b"1" * 32]
    lease.close()
    assert threading.active_count() == before
    assert not trackers.swarms[bytes(32)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"bind": "0.0.0.0:0", "advertise": "10.0.0.5"}, "not a loopback"),
        ({"bind": "0.0.0.0:0", "insecure": True}, "give the address to advertise"),
        ({"bind": "nonsense"}, "expected host:port"),
        ({"bind": "127.0.0.1:99999"}, "port from 1 to 65535"),
        ({"advertise": "no spaces here"}, "expected a host name"),
        ({"peer_id": ""}, "peer has 0 bytes"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(
    options: dict[str, str], reason: str, trackers: FakeClient
) -> None:
    """Broken if a mistyped address is noticed after an hour of hashing."""
    with pytest.raises(BadRequest, match=reason):
        Peer(client=trackers, **options)  # type: ignore[arg-type]  # as a user would mistype them


@pytest.mark.parametrize(
    ("advertise", "told"),
    [
        (None, "127.0.0.1:5"),
        ("10.0.0.5", "10.0.0.5:5"),
        ("host.example:70", "host.example:70"),
        ("[::1]", "[::1]:5"),
        ("[::1]:70", "[::1]:70"),
    ],
)
def test_bind_and_advertised_addresses_are_separate(advertise: str | None, told: str) -> None:
    """Broken if a peer behind an address translation cannot be reached."""
    assert str(serving.advertised(advertise, Address("127.0.0.1", 5))) == told


def test_the_functions_of_the_package(
    trackers: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if the ten lines of the introduction do not run."""
    asked: list[list[str]] = []

    def client(addresses: list[str]) -> FakeClient:
        asked.append(addresses)
        return trackers

    monkeypatch.setattr(node, "TrackerClient", client)
    (tmp_path / "f").write_bytes(b"x")
    with package.share(tmp_path / "f", "n", trackers=["t:1"]) as shared:
        fetched = package.fetch(shared.content, tmp_path / "copy", trackers=["t:2"])
    assert fetched.path.read_bytes() == b"x"
    assert asked == [["t:1"], ["t:2"]]
