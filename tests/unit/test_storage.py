"""A directory behind its narrow seam, and the thread that writes beside the loop."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from journal_driver import Memory

from tracker_raft.raft.storage import Directory, Storage, ThreadWriter
from tracker_raft.raft.trust import RUN_MIN, STALL_S, DiskTrust

WAIT_S = 20.0


@pytest.fixture(params=["directory", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """The real one, and the one other tests use in its place."""
    made: Storage = Directory(tmp_path) if request.param == "directory" else Memory()
    yield made
    made.close()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    made = Directory(tmp_path)
    yield made
    made.close()


# -- what every storage does -----------------------------------------------------------------------


def test_what_was_written_is_read(storage: Storage) -> None:
    """Broken: bytes land in another place than they were meant for."""
    storage.allocate("b", 10)
    assert storage.read("b") == bytes(10)
    storage.write("b", 2, b"xyz")
    storage.write("b", 9, b"over the end")
    storage.write("a", 0, b"new")
    storage.sync("a")
    storage.sync("b")
    storage.sync_names()
    assert storage.names() == ["a", "b"]
    assert storage.read("b") == b"\0\0xyz\0\0\0\0over the end"
    assert storage.read_part("b", 2, 3) == b"xyz"
    assert storage.read_part("b", 18, 99) == b"end"
    assert storage.read_part("b", 50, 9) == b""
    storage.truncate("b", 4)
    assert storage.read("b") == b"\0\0xy"


def test_names_change_hands(storage: Storage) -> None:
    """Broken: after a rename the old contents are written on, or a deleted file comes back."""
    storage.write("old", 0, b"old")
    storage.write("new", 0, b"new")
    storage.rename("new", "old")
    assert (storage.names(), storage.read("old")) == (["old"], b"new")
    storage.write("old", 0, b"N")
    assert storage.read("old") == b"New"
    storage.delete("old")
    assert storage.names() == []
    storage.write("old", 0, b"again")
    assert storage.read("old") == b"again"


def test_what_is_not_there_is_an_error_of_the_system(storage: Storage) -> None:
    """Broken: a file that is missing ends in an error nobody expects of a disk."""
    calls: list[Callable[[], object]] = [
        lambda: storage.read("nothing"),
        lambda: storage.delete("nothing"),
        lambda: storage.rename("nothing", "something"),
    ]
    for call in calls:
        with pytest.raises(FileNotFoundError):
            call()
    storage.allocate("there", 1)
    with pytest.raises(FileExistsError):
        storage.allocate("there", 1)


# -- a real directory ------------------------------------------------------------------------------


def test_only_files_are_named(directory: Directory) -> None:
    """Broken: a folder somebody put there stops the node."""
    (directory.path / "folder").mkdir()
    directory.write("file", 0, b"x")
    assert directory.names() == ["file"]
    assert repr(directory) == f"<Directory {directory.path}>"


def test_half_a_write_is_finished(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the kernel takes a part of the bytes, and the rest is believed written."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, view, at: pwrite(file, view[:3], at))
    directory.write("a", 4, b"a longer text")
    assert directory.read("a") == bytes(4) + b"a longer text"


def test_a_sync_is_one(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: what is called durable is in the page cache."""
    synced: list[str] = []

    def spy(genuine: Callable[[int], None]) -> Callable[[int], None]:
        def sync(file: int) -> None:
            synced.append(Path(f"/proc/self/fd/{file}").resolve().name)
            genuine(file)

        return sync

    monkeypatch.setattr(os, "fdatasync", spy(os.fdatasync))
    monkeypatch.setattr(os, "fsync", spy(os.fsync))
    directory.allocate("a", 100)
    assert synced == ["a", directory.path.name], "an allocated file is durable, and so is its name"
    directory.write("a", 0, b"x")
    assert len(synced) == 2
    directory.sync("a")
    directory.sync_names()
    assert synced[2:] == ["a", directory.path.name]


@pytest.mark.parametrize(("call", "which"), [("posix_fallocate", 1), ("fsync", 1), ("fsync", 2)])
def test_nothing_is_left_of_an_allocation_that_failed(
    directory: Directory, monkeypatch: pytest.MonkeyPatch, call: str, which: int
) -> None:
    """Broken: a disk that was full once can never get its next segment."""
    genuine = getattr(os, call)
    times = 0

    def fails(*arguments: int) -> None:
        nonlocal times
        times += 1
        if times == which:
            raise OSError(errno.ENOSPC, "no space left")
        genuine(*arguments)

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 a count is wanted, not paths
    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(OSError, match="no space left"):
            directory.allocate("a", 100)
    assert directory.names() == []
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    directory.allocate("a", 100)
    assert directory.read("a") == bytes(100)


def test_files_are_for_their_owner_alone(directory: Directory) -> None:
    """Broken: other users of the machine read what clients published."""
    directory.allocate("a", 1)
    directory.write("b", 0, b"x")
    modes = {name: (directory.path / name).stat().st_mode & 0o777 for name in ("a", "b")}
    assert modes == {"a": 0o600, "b": 0o600}


def test_closing_leaves_no_file_open(tmp_path: Path) -> None:
    """Broken: each start in one process leaks descriptors."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 a count is wanted, not paths
    directory = Directory(tmp_path)
    directory.allocate("a", 1)
    directory.write("b", 0, b"x")
    directory.write("c", 0, b"x")
    directory.rename("c", "d")
    directory.delete("b")
    directory.close()
    directory.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# -- the writer ------------------------------------------------------------------------------------


class Loop:
    """Takes calls from the writer's thread; a test waits for as many as it needs."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self._came = threading.Condition()
        self.closed = False

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: object) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        with self._came:
            self.calls.append((callback, args))
            self._came.notify_all()

    def run(self, count: int) -> None:
        """Wait for ``count`` calls and do them, in order."""
        with self._came:
            assert self._came.wait_for(lambda: len(self.calls) >= count, WAIT_S)
        for callback, args in self.calls[:count]:
            callback(*args)
        del self.calls[:count]


def test_work_is_done_beside_the_loop_one_by_one_and_reported_on_it() -> None:
    """Broken: a slow disk stops heartbeats, two writes run at once, or an end is told early."""
    loop = Loop()
    writer = ThreadWriter(loop.call_soon_threadsafe)
    story: list[str] = []
    threads: set[int] = set()
    gate = threading.Event()

    def work(name: str) -> Callable[[], None]:
        def run() -> None:
            assert gate.wait(WAIT_S)
            threads.add(threading.get_ident())
            story.append(f"{name} works")

        return run

    for name in ("a", "b", "c"):
        writer.run(work(name), lambda error, name=name: story.append(f"{name} done {error}"))  # type: ignore[misc]  # its name is bound
    assert (story, loop.calls) == ([], []), "run does not wait"
    gate.set()
    loop.run(3)
    assert story == ["a works", "b works", "c works", "a done None", "b done None", "c done None"]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    writer.close()


class Disk:
    """Syncs that take as long as is said, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.takes_s = 0.0001
        self.threads: list[int] = []

    def now(self) -> float:
        return self.now_s

    def work(self) -> None:
        self.threads.append(threading.get_ident())
        self.now_s += self.takes_s


def proved(loop: Loop, disk: Disk) -> ThreadWriter:
    """A writer whose disk was fast so far."""
    writer = ThreadWriter(loop.call_soon_threadsafe, DiskTrust(), disk.now)
    for _ in range(RUN_MIN):
        assert not writer.sync(disk.work, 100, lambda error: None)
        loop.run(1)
    assert threading.get_ident() not in disk.threads
    disk.threads.clear()
    return writer


def test_a_disk_that_proved_fast_is_waited_for_until_it_stalls() -> None:
    """Broken: a lone write pays two hand-overs, or each sync of a slow disk holds the loop."""
    loop, disk = Loop(), Disk()
    writer = proved(loop, disk)
    told: list[OSError | None] = []
    assert writer.sync(disk.work, 100, told.append)
    disk.takes_s = STALL_S
    assert writer.sync(disk.work, 100, told.append), "nobody can know before"
    assert disk.threads == [threading.get_ident()] * 2
    assert (told, loop.calls) == ([], [])
    assert not writer.sync(disk.work, 100, told.append)
    loop.run(1)
    assert told == [None]
    assert disk.threads[-1] != threading.get_ident()
    writer.close()


def test_the_loop_does_nothing_while_the_thread_has_work() -> None:
    """Broken: two threads use one storage, or a batch is written before the one before it."""
    loop, disk = Loop(), Disk()
    writer = proved(loop, disk)
    gate = threading.Event()
    told: list[str] = []
    writer.run(lambda: gate.wait(WAIT_S) and None, lambda error: told.append("snapshot"))
    assert not writer.sync(disk.work, 100, lambda error: told.append("log"))
    gate.set()
    loop.run(1)
    assert told == ["snapshot"]
    assert not writer.sync(disk.work, 100, lambda error: told.append("log"))
    loop.run(2)
    assert told == ["snapshot", "log", "log"]
    assert writer.sync(disk.work, 100, lambda error: told.append("too late"))
    writer.close()


def test_other_work_says_nothing_of_the_disk() -> None:
    """Broken: a snapshot that is read for a while is taken for a disk that stalls."""
    loop, disk = Loop(), Disk()
    writer = proved(loop, disk)
    disk.takes_s = 10 * STALL_S
    writer.run(disk.work, lambda error: None)
    loop.run(1)
    assert writer.sync(disk.work, 100, lambda error: None)
    writer.close()


def test_an_error_of_what_is_done_at_once_is_raised() -> None:
    """Broken: a sync that failed is believed done."""
    loop, disk = Loop(), Disk()
    writer = proved(loop, disk)

    def fails() -> None:
        raise OSError(errno.EIO, "broken")

    told: list[OSError | None] = []
    with pytest.raises(OSError, match="broken"):
        writer.sync(fails, 100, told.append)
    assert (told, loop.calls) == ([], [])
    writer.close()


def test_an_error_is_reported_and_the_writer_goes_on() -> None:
    """Broken: a failed write is believed done, or nothing is ever written again."""
    loop = Loop()
    writer = ThreadWriter(loop.call_soon_threadsafe)
    errors: list[OSError | None] = []

    def fails(error: Exception) -> Callable[[], None]:
        def run() -> None:
            raise error

        return run

    broken = OSError(errno.EIO, "broken")
    writer.run(fails(broken), errors.append)
    writer.run(fails(KeyError("a defect")), errors.append)
    writer.run(lambda: None, errors.append)
    loop.run(3)
    writer.close()
    assert errors[0] is broken
    assert isinstance(errors[1], OSError)
    assert "defect in the writer: KeyError" in str(errors[1])
    assert errors[2] is None


def test_closing_finishes_what_was_begun_and_reports_no_more() -> None:
    """Broken: a stopping node leaves half a batch, or is called back when it is gone."""
    loop = Loop()
    writer = ThreadWriter(loop.call_soon_threadsafe)
    begun, gate, finished = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert gate.wait(WAIT_S)
        finished.set()

    writer.run(slow, lambda error: None)
    assert begun.wait(WAIT_S)
    closing = threading.Thread(target=writer.close)
    closing.start()
    assert not finished.is_set()
    gate.set()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    assert finished.is_set()
    assert loop.calls == []


def test_a_loop_that_is_gone_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Broken: a node that was stopped in a hurry ends with a traceback of its writer."""
    loop = Loop()
    loop.closed = True
    writer = ThreadWriter(loop.call_soon_threadsafe)
    worked: list[bool] = []
    began, gate = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert gate.wait(WAIT_S)
        worked.append(True)

    writer.run(work, lambda error: None)
    assert began.wait(WAIT_S)
    gate.set()
    writer._orders.put(None)  # not closed yet: the end of the work is reported
    writer._thread.join(WAIT_S)
    writer.close()
    assert (worked, caplog.records) == ([True], [])
