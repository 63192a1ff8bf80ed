"""Two keepers of snapshots on real directories, a clock that is told, and the line between them."""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine_driver import Driver, publish

from tracker_raft.config import SnapshotPolicy
from tracker_raft.errors import LocalError
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft.election import Reconnect
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.keeper import SnapshotKeeper
from tracker_raft.raft.membership import Placed
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.seams import Message
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.snapshots import Snapshot
from tracker_raft.raft.storage import Directory, Done, Work
from tracker_raft.versions import NEWEST

SEGMENT_BYTES = 1024
SMALL = SnapshotPolicy(
    log_bytes_min=2000, entries_kept=5, slice_rows=10, part_bytes=300, offer_period_s=0.5
)


class Call:
    def __init__(self, work: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.work: Callable[..., object] | None = work
        self.args = args

    def cancel(self) -> None:
        self.work = None


class Clock:
    """A scheduler whose time moves when :meth:`run` is called."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.happened = 0
        self._due: list[tuple[float, int, Call]] = []
        self._number = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Call:
        self._number += 1
        call = Call(callback, args)
        heapq.heappush(self._due, (max(when, self.now_s), self._number, call))
        return call

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Call:
        return self.call_at(self.now_s, callback, *args)

    def run(self, until: Callable[[], bool] = lambda: False, *, seconds: float = 60.0) -> None:
        """What is due in the next ``seconds`` happens, one by one, until ``until()`` holds."""
        end_s = self.now_s + seconds
        while not until():
            if not self._due or self._due[0][0] > end_s:
                self.now_s = end_s
                return
            self.now_s, _, call = heapq.heappop(self._due)
            if call.work is not None:
                self.happened += 1
                call.work(*call.args)


class Fragile(Directory):
    """A directory that remembers what was asked of it, and fails where it is told."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        super().__init__(path)
        self.calls: list[tuple[str, str]] = []
        self.fails: dict[tuple[str, str], int] = {}
        """(call, name) -> how many of these calls still succeed; the next one fails, once."""

    def _call(self, call: str, name: str) -> None:
        self.calls.append((call, name))
        if (call, name) in self.fails:
            self.fails[call, name] -= 1
            if self.fails[call, name] < 0:
                del self.fails[call, name]
                raise OSError(errno.ENOSPC, "no room")

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._call("write", name)
        super().write(name, offset, data)

    def sync(self, name: str) -> None:
        self._call("sync", name)
        super().sync(name)

    def rename(self, old: str, new: str) -> None:
        self._call("rename", new)
        super().rename(old, new)

    def delete(self, name: str) -> None:
        self._call("delete", name)
        super().delete(name)

    def sync_names(self) -> None:
        self._call("sync_names", "")
        super().sync_names()

    def read_part(self, name: str, offset: int, size: int) -> bytes:
        self._call("read_part", name)
        return super().read_part(name, offset, size)


class SlowWriter:
    """Every piece of work takes a moment, and is reported a moment later. Can be held."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[Work, Done]] = []
        self._busy = False
        self.held: Callable[[], bool] = lambda: False
        """Asked before each piece of work: whether it has to wait."""

    def run(self, work: Work, done: Done) -> None:
        self._waiting.append((work, done))
        self.go_on()

    def sync(self, work: Work, size: int, done: Done) -> bool:
        self.run(work, done)
        return False

    def go_on(self) -> None:
        if not self._busy and self._waiting and not self.held():
            self._busy = True
            self._clock.call_at(self._clock.now_s + 0.001, self._work)

    def _work(self) -> None:
        work, done = self._waiting.pop(0)
        error: OSError | None = None
        try:
            work()
        except OSError as caught:
            error = caught
        self._busy = False
        self._clock.call_at(self._clock.now_s + 0.001, done, error)
        self.go_on()

    def close(self) -> None: ...


class Line:
    """To the one other side. ``spoils`` may change or lose (None) what goes over it."""

    def __init__(self, clock: Clock, node: str) -> None:
        self._clock = clock
        self._node = node
        self.other: Side | None = None
        self.spoils: Callable[[Message], Message | None] = lambda message: message
        self.sent: list[Message] = []

    @property
    def connected(self) -> tuple[str, ...]:
        return () if self.other is None else (self.other.node,)

    def linked(self, node: str) -> bool:
        return node in self.connected

    def newest_version(self, node: str) -> int:
        return NEWEST if node in self.connected else 0

    def send(self, node: str, message: Message) -> bool:
        self.sent.append(message)
        spoiled = self.spoils(dict(message))
        if self.other is None or spoiled is None:
            return False
        self._clock.call_at(self._clock.now_s + 0.001, self.other.take, self._node, spoiled)
        return True

    def twice(self, message: Message) -> Message:
        """To be used as :attr:`spoils`: all but offers arrives a second time."""
        if self.other is not None and message["type"] != "snapshot_offer":
            self._clock.call_soon(self.other.take, self._node, dict(message))
        return message

    def kinds(self) -> list[str]:
        return [message["type"].removeprefix("snapshot_") for message in self.sent]

    def flush(self) -> None: ...

    def backlog(self, node: str) -> int:
        return 0

    def drop(self, node: str, reason: str) -> None: ...

    def reconnect(self, node: str, done: Callable[[Reconnect], None]) -> None: ...


class Side:
    """A machine, its log, its keeper: what the replica is to the keeper, this is."""

    def __init__(
        self, clock: Clock, path: Path, node: str = "n1", policy: SnapshotPolicy = SMALL
    ) -> None:
        self.clock, self.node, self.policy = clock, node, policy
        self.storage = Fragile(path)
        self.writer = SlowWriter(clock)
        self.line = Line(clock, node)
        self.term = 1
        self.installed: list[tuple[Snapshot, str]] = []
        self.failures: list[str] = []
        self.driver = Driver()
        self.journal: SegmentJournal
        self.keeper: SnapshotKeeper
        self.driver.index = 0
        self.open()
        self.log()

    def open(self) -> None:
        """As a process that starts: journal and snapshot from disk."""
        identity = Identity("test", self.node, f"birth of {self.node}")
        found = recover(self.storage, identity, segment_bytes=SEGMENT_BYTES)
        self.journal = found.journal
        if found.snapshot is not None:
            self.driver.machine = found.machine
        self.keeper = SnapshotKeeper(
            cluster="test",
            policy=self.policy,
            host=self,
            storage=self.storage,
            writer=self.writer,
            journal=self.journal,
            lines=self.line,
            scheduler=self.clock,
            durable=found.snapshot,
        )

    def close(self) -> None:
        self.keeper.close()
        self.clock.run(seconds=1)
        self.storage.close()

    # -- the host --------------------------------------------------------------------------------

    @property
    def machine(self) -> TrackerMachine:
        return self.driver.machine

    def members_at(self, index: int) -> Placed | None:
        return None

    def install(self, snapshot: Snapshot, machine: TrackerMachine, leader: str) -> None:
        self.installed.append((snapshot, leader))
        if self.journal.term_at(snapshot.index) != snapshot.term:
            self.journal.restart_at(snapshot.index, snapshot.term)
        self.driver.machine = machine

    def fail(self, failure: LocalError) -> None:
        self.failures.append(str(failure))

    # -- what a test does ------------------------------------------------------------------------

    def take(self, node: str, message: Message) -> None:
        assert self.keeper.received(node, message), message

    def log(self) -> None:
        """The entries the machine has applied beyond the log are in the log, durable."""
        for index in range(self.journal.last_index + 1, self.machine.applied + 1):
            self.journal.add(b"\x00" + b"entry %d" % index * 10, index, self.term)
        self.journal.sync()

    def write(self, count: int, label: str = "f") -> None:
        """Publish ``count`` files more."""
        for number in range(count):
            self.driver.ok(publish(f"{label}/{self.driver.index}/{number}", f"{number}"))
        self.log()

    def snapshot(self) -> Snapshot:
        """Take one of all there is; what it is once it is durable."""
        self.keeper.consider(force=True)
        self.clock.run(lambda: self.keeper.durable is not None and not self.making)
        assert self.keeper.durable is not None
        return self.keeper.durable

    @property
    def making(self) -> bool:
        return self.keeper._making is not None

    @property
    def files(self) -> set[str]:
        return {name for name in self.storage.names() if name.startswith("snapshot")}

    def file(self) -> bytes:
        return (self.storage.path / "snapshot").read_bytes()

    def segments(self) -> list[str]:
        return [name for name in self.storage.names() if name.startswith("log-")]


def pair(clock: Clock, path: Path) -> tuple[Side, Side]:
    """(one that has a snapshot of 60 files and a log that begins behind them, one that has
    nothing), with a line between them."""
    leader, laggard = Side(clock, path / "n1"), Side(clock, path / "n2", "n2")
    leader.line.other, laggard.line.other = laggard, leader
    leader.write(60)
    leader.snapshot()
    return leader, laggard
