"""Replicas on one loop with real links, directories and writers, and what a test asks of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tracker_raft.commands import Level
from tracker_raft.config import Address, Member, NodeConfig, SnapshotPolicy
from tracker_raft.entries import pack_operation
from tracker_raft.errors import P2PError
from tracker_raft.machine import TrackerMachine
from tracker_raft.node import as_founded
from tracker_raft.raft.intake import Position, opened
from tracker_raft.raft.journal import SEGMENT_BYTES
from tracker_raft.raft.links import Links
from tracker_raft.raft.memory import KnownMembers
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.replica import Replica
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory, ThreadWriter

Answered = tuple[dict[str, Any], Position]
OPEN = pack_operation(0, 0, 0, {"op": "open_session"})
WAIT_S = 20.0
"""Limit of every wait; nothing here takes a tenth of it."""


def story(run: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    """Run a test on a loop of its own, its docstring and name kept."""

    def test(tmp_path: Path) -> None:
        asyncio.run(asyncio.wait_for(_run(tmp_path), WAIT_S * 2))

    async def _run(tmp_path: Path) -> None:
        await run(tmp_path)

    test.__name__, test.__doc__ = run.__name__, run.__doc__
    return test


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Node:
    """One replica with its parts, and why it stopped if it did."""

    def __init__(
        self, config: NodeConfig, segment_bytes: int = SEGMENT_BYTES, birth: str | None = None
    ) -> None:
        """``birth``: of a directory that is new."""
        config.data_dir.mkdir(exist_ok=True)
        self.config = config
        loop = asyncio.get_running_loop()
        self.name = config.node
        self.fatal: list[str] = []
        self.storage = Directory(config.data_dir)
        self.memory = Directory(config.data_dir)
        identity = Identity("test", config.node, birth or f"birth of {config.node}")
        self.recovered = recover(self.storage, identity, segment_bytes=segment_bytes)
        self.journal = self.recovered.journal
        known = KnownMembers(self.memory)
        config = as_founded(config, known)
        birth = self.journal.identity.birth
        self.links = Links(config, f"boot of {config.node}", birth, known)
        self.writer = ThreadWriter(loop.call_soon_threadsafe)
        self.replica = Replica(
            config,
            recovered=self.recovered,
            storage=self.storage,
            writer=self.writer,
            links=self.links,
            scheduler=loop,
            on_fatal=self.fatal.append,
        )
        self.links.owner = self.replica

    @property
    def machine(self) -> TrackerMachine:
        return self.replica.machine

    @property
    def behind(self) -> bool:
        """Whether something was added to the journal that is not durable yet."""
        return self.journal.durable < self.journal.position

    @property
    def leads(self) -> bool:
        return self.replica.engine.leads

    async def write(self, packed: bytes = OPEN, seconds: float = WAIT_S) -> Answered:
        done: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        deadline_s = asyncio.get_running_loop().time() + seconds
        self.replica.submit(
            packed, deadline_s, lambda reply, at: done.set_result((opened(reply), at))
        )
        return await done

    async def read(self, level: Level = Level.LINEARIZABLE, seconds: float = WAIT_S) -> None:
        """Return when the machine may be queried, raise what the replica says otherwise."""
        done: asyncio.Future[P2PError | None] = asyncio.get_running_loop().create_future()
        self.replica.reads.read(
            level, 0, asyncio.get_running_loop().time() + seconds, done.set_result
        )
        error = await done
        if error is not None:
            raise error

    async def close(self) -> None:
        self.replica.close()
        await self.links.close()
        self.writer.close()
        self.storage.close()
        self.memory.close()


@asynccontextmanager
async def cluster(
    directory: Path,
    size: int,
    *,
    snapshots: SnapshotPolicy | None = None,
    segment_bytes: int = SEGMENT_BYTES,
) -> AsyncIterator[list[Node]]:
    members = tuple(
        Member(f"n{number}", Address("127.0.0.1", free_port())) for number in range(1, size + 1)
    )
    async with AsyncExitStack() as stack:
        nodes = []
        for member in members:
            config = NodeConfig(
                member.node,
                directory / member.node,
                members,
                Address("127.0.0.1", 1),
                member.raft,
                Address("127.0.0.1", 1),
                cluster="test",
                snapshots=snapshots or SnapshotPolicy(),
            )
            node = Node(config, segment_bytes)
            stack.push_async_callback(node.close)
            await node.links.start()
            nodes.append(node)
        yield nodes


async def until(condition: Callable[[], Any]) -> Any:
    """What ``condition`` gives once it is true; fails when it does not become so."""
    async with asyncio.timeout(WAIT_S):
        while not (found := condition()):  # noqa: ASYNC110 any condition, not one event
            await asyncio.sleep(0.002)
    return found


async def leader_of(nodes: list[Node]) -> Node:
    """One that leads, and has synced what it became leader with."""
    found = await until(lambda: [node for node in nodes if node.leads and not node.behind])
    leader: Node = found[0]
    return leader
