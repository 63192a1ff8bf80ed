"""If a test here fails, stale hashes are published as content, or sharing again reads it all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgpack
import pytest
from click.testing import CliRunner
from fake_client import FakeClient
from peer_world import wait_until

from peer import Peer, hash_cache, node, scan
from peer.cli import main
from peer.hash_cache import HashCache, is_settled, stamps_of
from peer.manifest import Manifest
from tracker_raft.errors import LocalError

PIECE_BYTES = 16384
HOUR_NS = 3600 * 10**9

Cached = Callable[..., Manifest]


def later_ns() -> int:
    """A wall clock by which whatever was just written is old."""
    return time.time_ns() + HOUR_NS


@pytest.fixture
def cache(tmp_path: Path) -> HashCache:
    return HashCache(tmp_path / "cache", now_ns=later_ns)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "a").write_bytes(b"a" * 40_000)
    (top / "d/b").write_bytes(b"b" * PIECE_BYTES)
    (top / "d/empty").touch()
    return top


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read, a name for each piece; small contents count too."""
    seen: list[str] = []
    real = scan.read_exactly

    def counted(fd: int, view: memoryview, offset: int, source: scan.SourceFile) -> None:
        seen.append(Path(source.path).name)
        real(fd, view, offset, source)

    monkeypatch.setattr(scan, "read_exactly", counted)
    monkeypatch.setattr(scan, "CONTENT_BYTES_MIN", 1)
    return seen


def cached(path: Path, cache: HashCache, *, rehash: bool = False) -> Manifest:
    return scan.scan(path, piece_bytes=PIECE_BYTES, cache=cache, rehash=rehash).manifest


def fresh(path: Path) -> Manifest:
    return scan.scan(path, piece_bytes=PIECE_BYTES).manifest


def only_file(cache: HashCache) -> Path:
    (place,) = cache.folder.iterdir()
    return place


def test_sharing_again_reads_nothing(tree: Path, cache: HashCache, reads: list[str]) -> None:
    """Broken: a peer that comes back hashes all it has before it serves anything."""
    first = cached(tree, cache)
    assert sorted(reads) == ["a", "a", "a", "b"]
    reads.clear()
    assert cached(tree, cache) == first
    assert cached(tree, HashCache(cache.folder, now_ns=later_ns)) == first, "another process"
    assert reads == []


def test_only_what_changed_is_read(tree: Path, cache: HashCache, reads: list[str]) -> None:
    """Broken: one new file in a large tree costs as much as all of it, or is not seen."""
    cached(tree, cache)
    reads.clear()
    (tree / "d/b").write_bytes(b"c" * PIECE_BYTES)
    (tree / "new").write_bytes(b"n")
    assert cached(tree, cache) == fresh(tree)
    assert reads[:2] in (["b", "new"], ["new", "b"])
    reads.clear()
    (tree / "new").unlink()
    assert [entry.path for entry in cached(tree, cache).files] == ["a", "d/b", "d/empty"]
    assert reads == []


def test_progress_counts_what_was_not_read(tree: Path, cache: HashCache, reads: list[str]) -> None:
    """Broken: a progress bar that never gets to its end, or starts at nothing."""
    total = 40_000 + PIECE_BYTES
    cached(tree, cache)
    (tree / "a").write_bytes(b"A" * 40_000)
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        scan.scan(
            tree,
            piece_bytes=PIECE_BYTES,
            cache=cache,
            progress=lambda done, of: seen.append((done, of)),
        )
    assert seen == [(PIECE_BYTES, total), (total, total), (total, total)]


def test_a_file_changed_under_its_old_time_and_size_is_hashed_again(
    tree: Path, cache: HashCache, reads: list[str]
) -> None:
    """Broken: what a tool rewrote, putting the modification time back, is published as it was."""
    cached(tree, cache)
    reads.clear()
    before = (tree / "a").stat()
    with (tree / "a").open("r+b") as file:
        file.write(b"x")
    os.utime(tree / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (tree / "a").stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert after.st_ino == before.st_ino
    assert cached(tree, cache) == fresh(tree)
    assert reads[:3] == ["a", "a", "a"]


def test_another_file_under_the_same_name_is_hashed_again(
    tree: Path, cache: HashCache, reads: list[str]
) -> None:
    """Broken: a file put in the place of another, as old and as long, is taken for it."""
    cached(tree, cache)
    reads.clear()
    before = (tree / "a").stat()
    (tree / "other").write_bytes(b"o" * 40_000)
    os.utime(tree / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tree / "other").replace(tree / "a")
    assert (tree / "a").stat().st_ino != before.st_ino
    assert cached(tree, cache) == fresh(tree)
    assert reads[:3] == ["a", "a", "a"]


@pytest.mark.parametrize("place", range(10), ids=lambda place: f"st_{place}")
def test_each_stamp_counts(tmp_path: Path, place: int) -> None:
    """Broken: size, times, inode or device of a file could change without its being noticed."""
    (tmp_path / "f").write_bytes(b"f")
    status = (tmp_path / "f").stat()
    names = ["st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev"]

    class Other:
        def __getattr__(self, name: str) -> int:
            value: int = getattr(status, name)
            return value + 1 if name == names[place // 2] else value

    same = stamps_of(status) == stamps_of(Other())  # type: ignore[arg-type]  # as far as it is used
    assert not same


# -- young files ----------------------------------------------------------------------------------


def test_a_young_file_is_not_remembered(tree: Path, tmp_path: Path, reads: list[str]) -> None:
    """Broken: a write in the same tick as the one before it leaves stale hashes for ever."""
    youngest = max(path.stat().st_ctime_ns for path in tree.rglob("*"))
    cache = HashCache(tmp_path / "cache", now_ns=lambda: youngest + hash_cache.YOUNG_NS)
    cached(tree, cache)
    reads.clear()
    cached(tree, cache)
    assert "b" in reads, "the youngest file was taken from the cache"


def test_it_counts_when_reading_began(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]
) -> None:
    """Broken: a file written in the tick in which its reading began is remembered all the same,
    because hashing it took so long that it looks old at the end."""
    old = (tree / "a").stat()
    clock = [old.st_ctime_ns + 1]
    cache = HashCache(tmp_path / "cache", now_ns=lambda: clock[0])
    real = scan.read_exactly

    def read_for_an_hour(fd: int, view: memoryview, offset: int, source: scan.SourceFile) -> None:
        real(fd, view, offset, source)
        clock[0] += HOUR_NS

    monkeypatch.setattr(scan, "read_exactly", read_for_an_hour)
    cached(tree, cache)
    remembered = cache.recall(str(tree), PIECE_BYTES)
    assert remembered.find("a", stamps_of(old)) is None


FINE = 1_700_000_000_123_456_789
WHOLE = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "age_ns", "settled"),
    [
        (FINE, FINE, hash_cache.YOUNG_NS, False),
        (FINE, FINE, hash_cache.YOUNG_NS + 1, True),
        (FINE, FINE, -HOUR_NS, False),  # from the future: the clock was put back
        (FINE + HOUR_NS, FINE, hash_cache.YOUNG_NS + 1, True),  # a settable time does not count
        (WHOLE, WHOLE, hash_cache.YOUNG_NS + 1, False),
        (WHOLE, WHOLE, hash_cache.YOUNG_COARSE_NS + 1, True),
        (WHOLE + HOUR_NS, WHOLE, hash_cache.YOUNG_COARSE_NS + 1, False),
    ],
)  # fmt: skip
def test_what_is_old_enough(mtime_ns: int, ctime_ns: int, age_ns: int, settled: bool) -> None:
    """Broken: files of a file system with coarse stamps are remembered while they may change."""

    class Status:
        st_size, st_ino, st_dev = 1, 2, 3
        st_mtime_ns, st_ctime_ns = mtime_ns, ctime_ns

    stamps = stamps_of(Status())  # type: ignore[arg-type]  # as far as it is used
    assert is_settled(stamps, ctime_ns + age_ns) is settled


# -- what is wrong with the cache itself ----------------------------------------------------------


def _truncate(place: Path) -> None:
    place.write_bytes(place.read_bytes()[:-1])


def _flip(place: Path) -> None:
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)


def _empty(place: Path) -> None:
    place.write_bytes(b"")


def _foreign(place: Path) -> None:
    place.write_bytes(b"\x89PNG" * 100)


def _newer(place: Path) -> None:
    place.write_bytes(place.read_bytes().replace(b"hashes 1\n", b"hashes 2\n"))


def _sealed(place: Path, body: bytes) -> None:
    place.write_bytes(hash_cache.HEADER + hashlib.sha256(body).digest() + body)


def _no_map(place: Path) -> None:
    _sealed(place, msgpack.packb([1]))


def _no_msgpack(place: Path) -> None:
    _sealed(place, b"\xc1")


def _wrong_types(place: Path) -> None:
    body = msgpack.unpackb(place.read_bytes()[len(hash_cache.HEADER) + 32 :])
    body["files"] = dict.fromkeys(body["files"], 7)
    _sealed(place, msgpack.packb(body))


def _too_few_hashes(place: Path) -> None:
    body = msgpack.unpackb(place.read_bytes()[len(hash_cache.HEADER) + 32 :])
    body["files"] = {path: value[:-32] for path, value in body["files"].items()}
    _sealed(place, msgpack.packb(body))


def _another_path(place: Path) -> None:
    body = msgpack.unpackb(place.read_bytes()[len(hash_cache.HEADER) + 32 :])
    body["top"] += b"x"
    _sealed(place, msgpack.packb(body))


def _a_folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


DAMAGE = [
    _truncate, _flip, _empty, _foreign, _newer, _no_map, _no_msgpack, _wrong_types,
    _too_few_hashes, _another_path,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda one: one.__name__)
def test_a_damaged_cache_is_rebuilt(
    tree: Path, cache: HashCache, reads: list[str], damage: Callable[[Path], None]
) -> None:
    """Broken: wrong hashes are published, or sharing fails, because of what lies in a cache."""
    first = cached(tree, cache)
    damage(only_file(cache))
    reads.clear()
    assert cached(tree, cache) == first
    assert sorted(reads) == ["a", "a", "a", "b"]
    reads.clear()
    assert cached(tree, cache) == first
    assert reads == [], "it was not rebuilt"


def test_what_is_in_the_way_is_left_alone(tree: Path, cache: HashCache, reads: list[str]) -> None:
    """Broken: sharing fails because a folder stands where the cache has its file."""
    first = cached(tree, cache)
    _a_folder(only_file(cache))
    assert cached(tree, cache) == first
    assert cached(tree, cache, rehash=True) == first
    assert only_file(cache).is_dir(), "or the unfinished file was left behind"


def test_a_disk_that_is_full_fails_no_share(
    tree: Path, cache: HashCache, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: sharing fails, or leaves half a file behind, because a cache cannot be written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert cached(tree, cache) == fresh(tree)
    assert list(cache.folder.iterdir()) == []


def test_hashes_of_other_pieces_are_not_used(
    tree: Path, cache: HashCache, reads: list[str]
) -> None:
    """Broken: a manifest with hashes of pieces of another size."""
    cached(tree, cache)
    reads.clear()
    larger = scan.scan(tree, piece_bytes=2 * PIECE_BYTES, cache=cache).manifest
    assert reads == ["a", "a"], "a single piece is the same piece, all others are not"
    assert larger == scan.scan(tree, piece_bytes=2 * PIECE_BYTES).manifest


def test_rehash_believes_nothing(tree: Path, cache: HashCache, reads: list[str]) -> None:
    """Broken: who does not trust the cache has no way round it, or leaves it as it was."""
    first = cached(tree, cache)
    place = only_file(cache)
    body = msgpack.unpackb(place.read_bytes()[len(hash_cache.HEADER) + 32 :])
    body["files"]["a"] = body["files"]["a"][:-32] + bytes(32)
    _sealed(place, msgpack.packb(body))
    assert cached(tree, cache) != first, "the lie was not believed; this test shows nothing"
    assert cached(tree, cache, rehash=True) == first
    assert cached(tree, cache) == first


def test_rehash_forgets_also_what_is_too_young_to_be_remembered(
    tree: Path, cache: HashCache, reads: list[str]
) -> None:
    """Broken: hashes that were not trusted come back with the next share."""
    cached(tree, cache)
    cached(tree, HashCache(cache.folder, now_ns=lambda: 0), rehash=True)
    reads.clear()
    cached(tree, cache)
    assert sorted(reads) == ["a", "a", "a", "b"]


# -- the folder -----------------------------------------------------------------------------------


def test_the_folder_is_bounded_and_keeps_what_was_used_last(
    tmp_path: Path, reads: list[str]
) -> None:
    """Broken: the cache fills the disk, or forgets what is shared every day."""
    cache = HashCache(tmp_path / "cache", now_ns=later_ns, folder_files_max=2)
    paths = [tmp_path / name for name in ("daily", "once", "new")]
    for path in paths:
        path.write_bytes(path.name.encode())
    for age_s, path in zip((200, 100), paths[:2], strict=True):
        cached(path, cache)
        (place,) = [one for one in cache.folder.iterdir() if one.stat().st_mtime > 10**9]
        os.utime(place, (10**9 - age_s, 10**9 - age_s))
    cached(paths[0], cache)  # used again: now the youngest
    cached(paths[2], cache)
    reads.clear()
    for path in (paths[0], paths[2], paths[1]):
        cached(path, cache)
    assert reads == ["once"]

    small = HashCache(tmp_path / "small", now_ns=later_ns, folder_bytes_max=200)
    for path in paths:
        cached(path, small)
        assert sum(one.stat().st_size for one in small.folder.iterdir()) <= 200


def test_processes_that_share_at_once_both_have_a_whole_one(
    tmp_path: Path, cache: HashCache, reads: list[str]
) -> None:
    """Broken: two peers that share one path at the same time read half of what the other writes."""
    (tmp_path / "f").write_bytes(b"f")
    top, stamps = str(tmp_path / "f"), stamps_of((tmp_path / "f").stat())
    hashes = [bytes([number]) * 32 for number in (1, 2)]
    cache.keep(top, cache.recall(top, PIECE_BYTES), [("", stamps, hashes[0])])

    def keep(one: bytes) -> None:
        for _ in range(100):
            nothing = cache.recall(str(tmp_path / "another"), PIECE_BYTES)
            cache.keep(top, nothing, [("", stamps, one)])

    with ThreadPoolExecutor() as pool:
        running = [pool.submit(keep, one) for one in hashes]
        while not all(task.done() for task in running):
            assert cache.recall(top, PIECE_BYTES).find("", stamps) in hashes
        for task in running:
            task.result()
    assert only_file(cache).suffix == hash_cache.SUFFIX


def test_nobody_else_can_look_into_it(tree: Path, cache: HashCache, reads: list[str]) -> None:
    """Broken: the names of private files can be read by every user of the machine."""
    cached(tree, cache)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_file(cache).stat().st_mode) == 0o600


def test_small_contents_leave_no_trace(tree: Path, cache: HashCache) -> None:
    """Broken: every little file that is shared costs a file in the cache and time to find it."""
    cached(tree, cache)
    assert not cache.folder.exists()


def test_the_environment_places_it_and_turns_it_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a machine whose home is read-only, or private, has no way to place it or stop it."""
    monkeypatch.setenv("P2P_HASH_CACHE", "off")
    assert hash_cache.from_environment() is None
    monkeypatch.setenv("P2P_HASH_CACHE", str(tmp_path / "there"))
    placed = hash_cache.from_environment()
    assert placed is not None and placed.folder == tmp_path / "there"
    monkeypatch.delenv("P2P_HASH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    default = hash_cache.from_environment()
    assert default is not None and default.folder == tmp_path / "cache/p2p-cluster/hashes"


def test_a_known_file_that_cannot_be_read_any_more_is_an_error(
    tree: Path, cache: HashCache, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: what is published at once, from memory, could not be served to anybody."""
    cached(tree, cache)
    (tree / "a").chmod(0)  # a new change time
    real = os.open

    def refused(path: str, *arguments: int) -> int:
        if str(path).endswith("tree/a"):  # root may read everything
            raise PermissionError(errno.EACCES, "permission denied", path)
        return real(path, *arguments)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(LocalError, match=r"cannot read .*tree/a"):
        cached(tree, cache)


# -- in a peer ------------------------------------------------------------------------------------


@pytest.fixture
def remembering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[str]) -> list[str]:
    """Peers remember, and take what was just written for old. The files that were read."""
    monkeypatch.setenv("P2P_HASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hash_cache, "YOUNG_NS", -HOUR_NS)
    return reads


def test_a_file_known_from_before_that_changes_is_withdrawn(
    tmp_path: Path, remembering: list[str]
) -> None:
    """Broken: a peer that did not read what it shares does not see it change either."""
    path = tmp_path / "f"
    path.write_bytes(b"f" * 100_000)
    trackers, reasons = FakeClient(), list[str]()
    for _ in range(2):
        with Peer(client=trackers, watch_s=0.01) as peer:
            shared = peer.share(path, "n")
    assert remembering == ["f"]
    with Peer(client=trackers, watch_s=0.01) as peer:
        peer.share(path, "n", on_withdrawn=reasons.append)
        path.write_bytes(b"g" * 99_999)
        wait_until(lambda: reasons, "it is told")
        wait_until(lambda: not trackers.swarms[shared.record.content], "it has left the swarm")
    assert remembering == ["f"]
    with Peer(client=trackers) as peer:
        assert peer.share(path, "n", replace=True).content != shared.content


def test_a_word_reads_it_all_again(
    tmp_path: Path, remembering: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: --rehash is understood, and hashes nothing."""
    trackers = FakeClient()
    monkeypatch.setattr(node, "TrackerClient", lambda _: trackers)
    monkeypatch.setattr(Peer, "wait_for_copies", lambda *_, **__: True)
    (tmp_path / "f").write_bytes(b"f")
    words = ["share", str(tmp_path / "f"), "--copies", "1", "--trackers", "127.0.0.1:1"]
    for more, times in (([], 1), ([], 1), (["--rehash"], 2)):
        run = CliRunner().invoke(main, [*words, *more])
        assert run.exit_code == 0, run.output
        assert remembering == ["f"] * times
