"""Each file of a directory under a name of its own: published by one operation, all or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_client import FakeClient
from peer_world import wait_until

from peer import Peer, scan, sharing
from tracker_raft.commands import BATCH_FILES_MAX
from tracker_raft.errors import BadRequest, Conflict


@pytest.fixture
def trackers() -> FakeClient:
    return FakeClient()


@pytest.fixture
def peer(trackers: FakeClient) -> Iterator[Peer]:
    with Peer(client=trackers, peer_id="sharing", watch_s=0.02) as peer:
        yield peer


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Three files, one of them deeper, and an empty directory."""
    place = tmp_path / "d"
    (place / "deep" / "er").mkdir(parents=True)
    (place / "nothing").mkdir()
    for path in ("b.bin", "a.bin", "deep/er/c"):
        (place / path).write_bytes(path.encode() * 999)
    (place / "b.bin").chmod(0o755)
    return place


def served(trackers: FakeClient) -> list[bytes]:
    return [content for content, swarm in trackers.swarms.items() if swarm]


def test_each_file_has_a_name_and_is_served(
    peer: Peer, trackers: FakeClient, place: Path, tmp_path: Path
) -> None:
    """Broken: who shares a directory of models cannot give each of them its name."""
    shared = peer.share_each(place, "models/")
    assert [one.name for one in shared] == ["models/a.bin", "models/b.bin", "models/deep/er/c"]
    assert [one.path for one in shared] == [place / "a.bin", place / "b.bin", place / "deep/er/c"]
    with Peer(client=trackers) as other:
        for one in shared:
            fetched = other.fetch(one.name, tmp_path / "copy", update=True)
            assert fetched.path.read_bytes() == one.path.read_bytes()
            assert (fetched.path.stat().st_mode ^ one.path.stat().st_mode) & 0o100 == 0


def test_it_is_the_content_that_the_file_alone_makes(
    peer: Peer, trackers: FakeClient, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: one file has two content ids, and those who have the one do not serve the other."""

    def larger_pieces(size: int) -> int:
        return 1 << 19 if size < 8_000 else 1 << 20

    for module in (scan, sharing):
        monkeypatch.setattr(module, "piece_bytes_for", larger_pieces)
    for one in peer.share_each(place):
        assert peer.share(one.path, "alone", replace=True).record.content == one.record.content
        assert one.record.piece_bytes == larger_pieces(one.record.size)
    assert {one.record.piece_bytes for one in peer.share_each(place)} == {1 << 19, 1 << 20}


def test_one_that_cannot_be_published_keeps_out_all(
    peer: Peer, trackers: FakeClient, place: Path
) -> None:
    """Broken: half of a directory is published, or what is not goes on being served."""
    with Peer(client=trackers) as other:
        other.share(place / "a.bin", "models/deep/er/c")
        before = dict(trackers.records), served(trackers)
        with pytest.raises(Conflict, match="'models/deep/er/c'"):
            peer.share_each(place, "models/")
        assert (dict(trackers.records), served(trackers)) == before
        records = peer.share_each(place, "models/", replace=True)
        assert [one.record.version for one in records] == [1, 1, 2]


def test_what_has_no_name_or_no_content_is_refused(
    peer: Peer, trackers: FakeClient, place: Path
) -> None:
    """Broken: something of the directory is left out in silence."""
    (place / "link").symlink_to("a.bin")
    with pytest.raises(BadRequest, match=r"link is a link, .* --follow-links"):
        peer.share_each(place)
    assert "p/link" in [one.name for one in peer.share_each(place, "p/", follow_links=True)]
    (place / "link").unlink()
    (place / "me@host").touch()
    with pytest.raises(BadRequest, match="'q/me@host' has an '@'"):
        peer.share_each(place, "q/")
    assert not [name for name in trackers.records if name.startswith("q/")]
    with pytest.raises(BadRequest, match="one file has no files in it"):
        peer.share_each(place / "a.bin")


@pytest.mark.parametrize("count", [0, BATCH_FILES_MAX + 1])
def test_as_many_as_one_operation_publishes(
    peer: Peer, trackers: FakeClient, tmp_path: Path, count: int
) -> None:
    """Broken: all or none is promised, and some are published."""
    for number in range(count):
        (tmp_path / f"{number}").touch()
    with pytest.raises(BadRequest, match=f"{count} files, expected 1 to 1000; nothing was shared"):
        peer.share_each(tmp_path)
    assert not trackers.records and not served(trackers)


def test_one_that_changes_leaves_and_the_others_stay(
    peer: Peer, trackers: FakeClient, place: Path
) -> None:
    """Broken: wrong bytes are served, or one file takes all others with it."""
    reasons: list[str] = []
    shared = peer.share_each(place, on_withdrawn=reasons.append)
    (place / "b.bin").write_bytes(b"other")
    wait_until(lambda: reasons, "it is told")
    assert "b.bin changed" in reasons[0]
    assert {*served(trackers)} == {shared[0].record.content, shared[2].record.content}
