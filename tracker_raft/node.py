"""One tracker process, put together: the composition root.

:func:`run` is what ``p2p-cluster node`` calls. Everything is made here and handed to who needs
it; nothing else in the package builds its own collaborators.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from tracker_raft.config import Member, NodeConfig
from tracker_raft.control import Control
from tracker_raft.errors import LocalError, Removed
from tracker_raft.raft.courtesy import Courtesy
from tracker_raft.raft.links import Links
from tracker_raft.raft.memory import KnownMembers
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.replica import Replica
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory, ThreadWriter
from tracker_raft.raft.trust import DiskTrust
from tracker_raft.server import Server

log = logging.getLogger("tracker_raft.node")

LOCK_NAME = "lock"
REMOVED_NAME = "removed"
"""In a directory that is of no use any more: why."""
SWITCH_S = 0.0005
"""The journal's writer, back from a sync, is given the interpreter within this time, not within
Python's 5 ms: under load all clients wait for it."""
YIELD: Callable[[], None] = getattr(os, "sched_yield", lambda: None)  # macOS has none
DRAIN_S = 1.0
"""A tracker that stops waits no longer for what its clients have under way."""


def run(config: NodeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then hand leadership over, answer what is under way, return.

    Raises :class:`LocalError` (port or directory in use, disk failing), :class:`Damaged` or
    :class:`Unsupported` (the directory's contents), or whatever made the replica stop.
    """
    with owned(config.data_dir):
        sys.setswitchinterval(SWITCH_S)
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(Tracker(config).serve())


class _Loop(asyncio.SelectorEventLoop):
    """asyncio's own, whose clock is read without a call into Python: two dozen times for each
    write."""

    time = time.monotonic  # built in, so it does not become a method


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """The data directory, made if need be and held by this process alone.

    Raises :class:`LocalError` when it is in use, or cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        taken = isinstance(error, FileExistsError)
        why = "it is not a directory" if taken else error.strerror or error
        raise LocalError(f"data directory {directory}: {why}; nothing was started") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(
                f"data directory {directory} is in use by another process; nothing was started"
            ) from None
        yield
    finally:
        os.close(lock)


def require_not_removed(directory: Path) -> None:
    """Raises :class:`Removed` for the directory of a node that is not a member any more."""
    marked = directory / REMOVED_NAME
    if marked.exists():
        raise Removed(f"{marked.read_text(encoding='utf-8').strip()}; nothing was started")


def as_founded(config: NodeConfig, known: KnownMembers) -> NodeConfig:
    """The settings, with the founding members that this directory was first linked with.

    Who the members are is never a setting again, only where they are: a list that was changed
    would be another cluster to this node until the log tells it better. Where they were at first
    stays known too: who has moved since is seen by that, also by a node that moved itself.
    """
    if config.joining:
        return config
    listed = {member.node: member for member in config.members}
    if not known.founding:
        known.founding = tuple(f"{one.node}={one.raft}" for one in config.members)
        return config
    founded = tuple(map(Member.parse, known.founding))
    founders = {member.node: member for member in founded}
    if founders.keys() == listed.keys():
        return replace(config, founded=founded)
    log.warning(
        "started with members %s, founded with %s: a cluster changes its members by 'add-node' "
        "and 'remove-node'",
        ", ".join(listed),
        ", ".join(founders),
    )
    members = tuple(listed.get(node, founder) for node, founder in founders.items())
    if config.node not in founders:
        raise LocalError(
            f"node {config.node!r} is not among the members {', '.join(founders)} that this "
            f"directory was founded with; nothing was started"
        )
    return replace(config, members=members, founded=founded)


def tune_garbage_collection() -> None:
    """Keep collections short whatever the number of files.

    What was loaded is taken out of the collector's sight, and the oldest generation, which would
    walk over millions of objects, is left to grow: the state machine makes no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 50, 1_000)


class Tracker:
    """The parts of one tracker and how they hang together."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.boot = secrets.token_hex(8)
        self._stop: asyncio.Event | None = None
        self._failure: str | None = None

    async def serve(self) -> None:
        """Start, serve until told to stop, stop. Raises what made it fail."""
        config = self.config
        self._stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        storage = Directory(config.data_dir)
        require_not_removed(config.data_dir)
        identity = Identity(config.cluster, config.node, birth=secrets.token_hex(8))
        recovered = recover(storage, identity)
        tune_garbage_collection()
        # A directory of its own: it is written on the loop, while the writer has the other one.
        memory = Directory(config.data_dir)
        known = KnownMembers(memory)
        config = self.config = as_founded(config, known)
        links = Links(config, self.boot, recovered.journal.identity.birth, known)
        writer = ThreadWriter(loop.call_soon_threadsafe, DiskTrust(), loop.time)
        if recovered.journal.bytes_cut:
            log.warning("journal: a torn tail of %d bytes was cut off", recovered.journal.bytes_cut)
        replica = Replica(
            config,
            recovered=recovered,
            storage=storage,
            writer=writer,
            links=links,
            scheduler=loop,
            on_fatal=self._failed,
            give_way=Courtesy(YIELD, loop.time).give_way,
        )
        links.owner = replica
        control = Control(config, self.boot, replica, links)
        server = Server(
            config,
            replica=replica,
            trackers=lambda: links.trackers,
            control=control.request,
        )
        try:
            recovered.journal.sync()  # who is told of this directory may rely on it to be there
            await server.start()
            await links.start()
            log.info("serves clients on %s, trackers on %s", config.client_bind, config.raft_bind)
            await self._stop.wait()
            log.info("stops")
            if self._failure is None:
                await control.leave()
                await server.drain(DRAIN_S)
        finally:
            replica.close()
            await server.close()
            await links.close()
            control.close()
            writer.close()
            storage.close()
            memory.close()
        if self._failure is not None:
            self._stopped(self._failure, removed=replica.removed)

    def _stopped(self, reason: str, *, removed: bool) -> NoReturn:
        if removed:
            (self.config.data_dir / REMOVED_NAME).write_text(reason + "\n", encoding="utf-8")
            raise Removed(reason)
        raise LocalError(f"node {self.config.node} stopped: {reason}")

    def _failed(self, reason: str) -> None:
        self._failure = reason
        if self._stop is not None:
            self._stop.set()
