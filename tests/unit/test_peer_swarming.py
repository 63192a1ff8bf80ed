"""Peers that stay, watch, count and read. If a test here fails, what a peer does besides sharing
and fetching is not what it promises."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_client import FakeClient
from peer_world import wait_until

from peer import Peer
from peer.destination import part_path
from peer.downloader import NoSource
from peer.limits import PeerLimits
from tracker_raft.errors import BadRequest, LocalError, NotFound

MIB = 1024 * 1024


@pytest.fixture
def trackers() -> FakeClient:
    return FakeClient()


@pytest.fixture
def sharing(trackers: FakeClient) -> Iterator[Peer]:
    with Peer(client=trackers, peer_id="sharing", watch_s=0.01) as peer:
        yield peer


@pytest.fixture
def other(trackers: FakeClient) -> Iterator[Peer]:
    with Peer(client=trackers, peer_id="other", watch_s=0.01) as peer:
        yield peer


def random_file(path: Path, size: int = 3 * MIB) -> Path:
    path.write_bytes(os.urandom(size))
    return path


# -- a content that is there already --------------------------------------------------------------


def test_what_is_there_already_is_left_alone(sharing: Peer, other: Peer, tmp_path: Path) -> None:
    """Broken if the same command twice fetches twice, or fails the second time."""
    sharing.share(random_file(tmp_path / "f"), "n")
    first = other.fetch("n", tmp_path / "copy")
    before = (tmp_path / "copy").stat()
    left = part_path(tmp_path / "copy", first.content)
    left.write_bytes(b"of a fetch that was killed in its last moment")
    again = other.fetch("n", tmp_path / "copy")
    assert (first.already_there, first.kept, again.already_there) == (False, 0, True)
    assert (again.bytes, again.kept, again.peers) == (3 * MIB, 3 * MIB, 0)
    after = (tmp_path / "copy").stat()  # it was read, so its time of access may be another
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not left.exists()
    by_id = other.fetch(first.content.hex(), tmp_path / "copy")
    assert by_id.already_there


def test_an_update_fetches_what_changed(sharing: Peer, other: Peer, tmp_path: Path) -> None:
    """Broken if a changed byte costs the whole file, or the old version stays."""
    path = random_file(tmp_path / "f")
    sharing.share(path, "n")
    other.fetch("n", tmp_path / "copy")
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"changed")
    (tmp_path / "g").write_bytes(path.read_bytes())
    sharing.share(tmp_path / "g", "n", replace=True)
    with pytest.raises(LocalError, match="copy exists; nothing was fetched"):
        other.fetch("n", tmp_path / "copy")
    fetched = other.fetch("n", tmp_path / "copy", update=True)
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert sum(count for _, count in fetched.taken) == MIB // 2
    assert fetched.kept == 3 * MIB - MIB // 2


def test_a_part_of_a_tree(sharing: Peer, other: Peer, tmp_path: Path) -> None:
    """Broken if a pattern brings more than it names, or pieces of other files are fetched."""
    for name in ("a/1.bin", "a/2.txt", "b/3.bin"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        random_file(tmp_path / "tree" / name, MIB)
    sharing.share(tmp_path / "tree", "n")
    fetched = other.fetch("n", tmp_path / "copy", include=["a/*.bin"])
    assert [str(p.relative_to(tmp_path)) for p in (tmp_path / "copy").rglob("*.*")] == [
        "copy/a/1.bin"
    ]
    assert (fetched.bytes, sum(count for _, count in fetched.taken)) == (MIB, MIB)
    with pytest.raises(BadRequest, match=r"nothing in it matches '\*.png': it has 'a/1.bin'"):
        other.fetch("n", tmp_path / "none", include=["*.png"])
    with pytest.raises(BadRequest, match="cannot be served as the whole"):
        other.fetch("n", tmp_path / "none", include=["a"], seed=True)
    assert not (tmp_path / "none").exists()


# -- serving on -----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_what_was_fetched_is_served_on(
    sharing: Peer, other: Peer, trackers: FakeClient, tmp_path: Path, there: bool
) -> None:
    """Broken if a swarm lives only as long as its first peer."""
    shared = sharing.share(random_file(tmp_path / "f"), "n")
    if there:
        other.fetch("n", tmp_path / "copy")
    other.fetch("n", tmp_path / "copy", seed=True)
    assert trackers.swarms[shared.record.content]["other"].complete
    sharing.close()
    with Peer(client=trackers) as third:
        fetched = third.fetch("n", tmp_path / "third")
    assert fetched.path.read_bytes() == (tmp_path / "f").read_bytes()
    assert fetched.taken == (("other", 3 * MIB),)


def test_copies_elsewhere_are_waited_for(
    sharing: Peer, other: Peer, trackers: FakeClient, tmp_path: Path
) -> None:
    """Broken if a share that may end after K copies ends early, or never."""
    content = sharing.share(random_file(tmp_path / "f"), "n").record.content
    trackers.join("half", "127.0.0.1:1", content, complete=False)
    done = threading.Event()
    polls: list[float] = []

    def stop(seconds: float) -> bool:
        polls.append(seconds)
        return done.wait(0.005)

    assert not sharing.wait_for_copies(content, 1, stop=lambda _: True)
    waiting = threading.Thread(
        target=lambda: sharing.wait_for_copies(content, 2, stop=stop) and done.set()
    )
    waiting.start()
    other.fetch("n", tmp_path / "copy", seed=True)
    trackers.away = True
    wait_until(lambda: len(polls) > 3, "it goes on while the trackers are away")
    trackers.away = False
    seen = len(polls)
    wait_until(lambda: len(polls) > seen + 3, "one copy is not enough")
    assert not done.is_set()
    other.close()  # it was seen; that it has left does not count against it
    trackers.join("half", "127.0.0.1:1", content, complete=True)
    waiting.join(10)
    assert done.is_set()


@pytest.mark.parametrize("change", ["shrinks", "grows", "changes", "goes"])
def test_a_shared_file_that_changes_is_withdrawn(
    sharing: Peer, other: Peer, trackers: FakeClient, tmp_path: Path, change: str
) -> None:
    """Broken if a peer goes on offering what it cannot serve, or nobody is told."""
    path = random_file(tmp_path / "f")
    reasons: list[str] = []
    shared = sharing.share(path, "n", on_withdrawn=reasons.append)
    if change == "shrinks":
        os.truncate(path, MIB)
    elif change == "grows":
        with path.open("ab") as file:
            file.write(b"more")
    elif change == "changes":
        before = path.stat().st_mtime_ns
        with path.open("r+b") as file:
            file.write(b"other")
        os.utime(path, ns=(before + 1, before + 1))
    else:
        path.unlink()
    wait_until(lambda: reasons, "it is told")
    wait_until(lambda: not trackers.swarms[shared.record.content], "it has left the swarm")
    assert len(reasons) == 1
    assert str(path) in reasons[0]
    with pytest.raises(NoSource):
        other.fetch("n", tmp_path / "copy", timeout_s=0.2)


# -- a content as a file object -------------------------------------------------------------------


def slow(trackers: FakeClient, path: Path) -> Peer:
    """A peer that shares ``path`` as ``n`` at a rate that leaves time to look."""
    peer = Peer(client=trackers, peer_id="slow", up_bytes_s=4 * MIB)
    peer.share(path, "n")
    return peer


def test_a_content_reads_like_a_file(sharing: Peer, other: Peer, tmp_path: Path) -> None:
    """Broken if a program that takes a binary file cannot take a content."""
    data = random_file(tmp_path / "f", 3 * MIB + 7).read_bytes()
    sharing.share(tmp_path / "f", "n")
    with other.open("n") as file:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert file.seek(-7, io.SEEK_END) == 3 * MIB
        assert file.read() == data[-7:]
        assert (file.read(), file.tell()) == (b"", 3 * MIB + 7)
        file.seek(MIB - 3)
        assert file.read(6) == data[MIB - 3 : MIB + 3]
        file.seek(2, io.SEEK_CUR)
        assert file.tell() == MIB + 5
        file.seek(0)
        assert file.read() == data
        assert file.seek(4 * MIB) == 4 * MIB
        assert file.read(1) == b""
        with pytest.raises(ValueError, match="before the start"):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_what_is_read_first_is_fetched_first(
    trackers: FakeClient, other: Peer, tmp_path: Path
) -> None:
    """Broken if the end of a large file can be read only after all of it has come."""
    data = random_file(tmp_path / "f", 64 * MIB).read_bytes()
    with slow(trackers, tmp_path / "f") as sender, other.open("n") as file:
        for place in (63 * MIB, 31 * MIB):
            file.seek(place)
            assert file.read(1000) == data[place : place + 1000]
        assert sender.bytes_served < 32 * MIB


def test_a_closed_reader_leaves_nothing(
    trackers: FakeClient, other: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a reader that was closed goes on fetching, or its bytes stay on disk."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    random_file(tmp_path / "f", 16 * MIB)
    ended: list[bool] = []
    with slow(trackers, tmp_path / "f"):
        file = other.open("n", on_close=lambda: ended.append(True))
        file.read(10)
        assert len(list((tmp_path / "tmp").iterdir())) == 1
        file.close()
        file.close()
        assert list((tmp_path / "tmp").iterdir()) == []
        assert ended == [True]
        assert not [t for t in threading.enumerate() if t.name == "peer-open"]
        with pytest.raises(BadRequest, match="it is a single file"):
            other.open("n", "x")
        assert list((tmp_path / "tmp").iterdir()) == []


def test_one_file_of_a_tree_is_read_alone(sharing: Peer, other: Peer, tmp_path: Path) -> None:
    """Broken if a file of a directory cannot be read, or all others come with it."""
    (tmp_path / "tree/deep").mkdir(parents=True)
    for name in ("a[1]*", "b", "empty", "deep/c"):
        random_file(tmp_path / "tree" / name, MIB if name != "empty" else 0)
    sharing.share(tmp_path / "tree", "n")
    for name in ("a[1]*", "b", "empty"):
        with other.open("n", name) as file:
            assert file.read() == (tmp_path / "tree" / name).read_bytes()
    with pytest.raises(BadRequest, match="nothing in it matches"):
        other.open("n", "c")
    with pytest.raises(NotFound, match="no file 'deep' in it"):
        other.open("n", "deep")


def test_a_reader_whose_source_goes_is_told(
    trackers: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a read waits for ever for pieces that will not come."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    random_file(tmp_path / "f", 16 * MIB)
    limits = PeerLimits(patience_s=0.5, grace_s=0.2)
    with (
        slow(trackers, tmp_path / "f") as source,
        Peer(client=trackers, limits=limits) as reading,
        reading.open("n") as file,
    ):
        file.read(10)
        source.close()
        with pytest.raises(NoSource, match="pieces are missing"):
            file.read()
