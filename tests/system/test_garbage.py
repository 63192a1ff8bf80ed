"""Garbage on both ports of a tracker that serves: one error frame or none, and it serves on."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tracker_raft import wire
from tracker_raft.config import MIB, Address, Member, NodeConfig, RaftTiming, WireLimits
from tracker_raft.raft.links import Links
from tracker_raft.raft.memory import KnownMembers
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.replica import Replica
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory, ThreadWriter
from tracker_raft.server import Server

WAIT_S = 20.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def tracker(directory: Path, **limits: Any) -> AsyncIterator[NodeConfig]:
    """A cluster of one, both ports open."""
    client, raft = (Address("127.0.0.1", free_port()) for _ in range(2))
    config = NodeConfig(
        "n1",
        directory,
        (Member("n1", raft),),
        client,
        raft,
        client,
        timing=RaftTiming(election_timeout_s=0.05),
        limits=WireLimits(**limits),
    )
    fatal: list[str] = []
    storage = Directory(directory)
    links = Links(config, "boot", "birth", KnownMembers(storage))
    writer = ThreadWriter(asyncio.get_running_loop().call_soon_threadsafe)
    replica = Replica(
        config,
        recovered=recover(storage, Identity(config.cluster, "n1", "birth")),
        storage=storage,
        writer=writer,
        links=links,
        scheduler=asyncio.get_running_loop(),
        on_fatal=fatal.append,
    )
    links.owner = replica
    server = Server(
        config,
        replica=replica,
        trackers=lambda: [str(client)],
        control=lambda operation, deadline_s, answer: answer({"ok": {}}, (0, 0)),
    )
    await server.start()
    await links.start()
    try:
        yield config
    finally:
        replica.close()
        await server.close()
        await links.close()
        writer.close()
        storage.close()
    assert fatal == []


@asynccontextmanager
async def client(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def frame(reader: asyncio.StreamReader) -> dict[str, Any]:
    length = wire.frame_length(await reader.readexactly(4), 8 * MIB)
    return wire.decode_body(await reader.readexactly(length))


async def hung_up(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


def request(**fields: Any) -> bytes:
    return wire.encode(fields, MIB)


HELLO = request(id=0, op="hello", protocol=1)


async def still_serves(config: NodeConfig) -> None:
    async with client(config.client_bind.port) as (reader, writer):
        writer.write(HELLO + request(id=1, op="open_session"))
        assert "ok" in await frame(reader)
        assert (await frame(reader))["ok"]["session"] >= 1


def run(story: Any) -> None:
    asyncio.run(asyncio.wait_for(story, WAIT_S))


BROKEN: list[tuple[str, bytes, str]] = [
    ("http", b"GET / HTTP/1.1\r\n\r\n", "too_large"),
    ("tls", bytes.fromhex("16030100c8010000c4"), "too_large"),
    ("oversized", (MIB + 1).to_bytes(4, "big"), "too_large"),
    ("not msgpack", b"\x00\x00\x00\x02\xc1\xc1", "bad_request"),
    ("not a map", b"\x00\x00\x00\x01\x07", "bad_request"),
    ("no id", request(op="hello", protocol=1), "bad_request"),
    ("id of text", request(id="0", op="hello", protocol=1), "bad_request"),
    ("negative id", request(id=-1, op="hello", protocol=1), "bad_request"),
    ("no hello", request(id=1, op="status"), "bad_request"),
    ("another protocol", request(id=0, op="hello", protocol=2), "unsupported"),
    ("no protocol", request(id=0, op="hello"), "unsupported"),
    ("garbage behind hello", HELLO + b"\x00\x00\x00\x01\xc1", "bad_request"),
    ("oversized behind hello", HELLO + b"\x7f\xff\xff\xff", "too_large"),
]


@pytest.mark.parametrize(("name", "data", "word"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_client_that_breaks_the_protocol_is_told_why_and_cut_off(
    tmp_path: Path, name: str, data: bytes, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken: a stray scanner takes the tracker down, or a wrong client is left guessing."""

    async def story() -> None:
        async with tracker(tmp_path) as config:
            async with client(config.client_bind.port) as (reader, writer):
                writer.write(data)
                if data.startswith(HELLO):
                    assert "ok" in await frame(reader)
                error = await frame(reader)
                assert (error["id"], error["error"]) == (0, word)
                assert error["message"]
                assert await hung_up(reader)
            await still_serves(config)

    run(story())
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"op": "from_the_future"}, "unknown_op"),
    ({"op": None}, "unknown_op"),
    ({"op": {"a": 1}}, "unknown_op"),
    ({}, "unknown_op"),
    ({"op": "lookup"}, "bad_request"),
    ({"op": "lookup", "name": "a", "level": "best"}, "bad_request"),
    ({"op": "lookup", "name": "a", "level": {"a": 1}}, "bad_request"),
    ({"op": "lookup", "name": "a", "level": "session", "seen": -1}, "bad_request"),
    ({"op": "lookup", "name": "a", "deadline_ms": "soon"}, "bad_request"),
    ({"op": "lookup", "name": "a", "deadline_ms": 0}, "no_leader"),
    ({"op": "lookup", "name": "a"}, "not_found"),
    ({"op": "renew", "peer": "nobody"}, "not_found"),
    ({"op": "remove", "name": "a"}, "bad_request"),
    ({"op": "remove", "name": "a", "session": 1, "seq": 2, "low": 3}, "bad_request"),
    ({"op": "remove", "name": "a", "session": 99, "seq": 1, "low": 1}, "session_expired"),
]


def test_a_request_that_cannot_be_done_leaves_the_connection_in_use(tmp_path: Path) -> None:
    """Broken: one bad request costs a client all its others, or gets no answer at all."""

    async def story() -> None:
        async with (
            tracker(tmp_path) as config,
            client(config.client_bind.port) as (reader, writer),
        ):
            await still_serves(config)
            writer.write(HELLO)
            await frame(reader)
            for number, (fields, _) in enumerate(REFUSED, 1):
                writer.write(request(id=number, **fields))
            answers = {answer["id"]: answer async for answer in _frames(reader, len(REFUSED))}
            found = [answers[number]["error"] for number in range(1, len(REFUSED) + 1)]
            assert found == [word for _, word in REFUSED]

    run(story())


async def _frames(reader: asyncio.StreamReader, count: int) -> AsyncIterator[dict[str, Any]]:
    for _ in range(count):
        yield await frame(reader)


def test_who_says_nothing_or_too_slowly_is_cut_off_in_time(tmp_path: Path) -> None:
    """Broken: silent connections pile up until the tracker has no descriptors left."""

    async def story() -> None:
        async with (
            tracker(tmp_path, hello_timeout_s=0.2) as config,
            client(config.client_bind.port) as (silent, _),
            client(config.client_bind.port) as (slow, slow_writer),
        ):
            slow_writer.write(HELLO[:7])
            for reader in silent, slow:
                assert (await frame(reader))["error"] == "bad_request"
                assert await hung_up(reader)
            await still_serves(config)

    run(story())


def test_more_clients_than_allowed_are_told_to_come_back(tmp_path: Path) -> None:
    """Broken: the tracker runs out of descriptors, and its links to the others break."""

    async def story() -> None:
        async with (
            tracker(tmp_path, client_connections_max=1) as config,
            client(config.client_bind.port) as (reader, writer),
        ):
            writer.write(HELLO)
            await frame(reader)
            async with client(config.client_bind.port) as (second, _):
                error = await frame(second)
                assert (error["error"], error["retry_after_ms"]) == ("busy", 1000)
                assert await hung_up(second)
            writer.write(request(id=1, op="status"))
            assert "ok" in await frame(reader)

    run(story())


def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """Broken: replies nobody reads fill the memory of the tracker."""

    async def story() -> None:
        async with (
            tracker(tmp_path, send_buffer_bytes_max=64 * 1024) as config,
            client(config.client_bind.port) as (reader, writer),
        ):
            reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no other
            writer.write(HELLO)
            with pytest.raises(ConnectionError):
                for number in range(1, 10**9):
                    writer.write(request(id=number, op="lookup", name="x" * 400, level="local"))
                    await writer.drain()
            await still_serves(config)

    run(story())


@pytest.mark.parametrize("data", [case[1] for case in BROKEN[:5]], ids=[c[0] for c in BROKEN[:5]])
def test_garbage_on_the_raft_port_does_not_reach_the_clients(tmp_path: Path, data: bytes) -> None:
    """Broken: whoever reaches the Raft port stops the service."""

    async def story() -> None:
        async with tracker(tmp_path) as config:
            async with client(config.raft_bind.port) as (reader, writer):
                writer.write(data)
                assert await hung_up(reader)
            await still_serves(config)

    run(story())
