"""Connections between trackers and to them. If a test here fails, an election waits for a kernel
that paces."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tracker_raft import sockets
from tracker_raft.config import Address


def control(endpoint: socket.socket) -> bytes:
    return endpoint.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


def is_prompt(endpoint: socket.socket) -> bool:
    at_once = endpoint.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    return at_once and control(endpoint) in sockets.CONGESTION_CONTROLS


class Noted(asyncio.Protocol):
    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made.set_result(transport)


def test_both_ends_are_prompt_before_they_are_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a connection begins under the machine's default; where that is BBR it is paced for
    good, and the first message of an election waits for 100 ms."""
    dialled: list[bool] = []

    async def story() -> None:
        loop = asyncio.get_running_loop()
        connect = loop.sock_connect

        async def look_and_connect(endpoint: socket.socket, target: Any) -> None:
            dialled.append(is_prompt(endpoint))
            await connect(endpoint, target)

        monkeypatch.setattr(loop, "sock_connect", look_and_connect)
        accepted: asyncio.Queue[Noted] = asyncio.Queue()

        def answer() -> Noted:
            made = Noted()
            accepted.put_nowait(made)
            return made

        server = await sockets.listen(answer, Address("127.0.0.1", 0))
        try:
            assert all(is_prompt(listener) for listener in server.sockets)
            port = server.sockets[0].getsockname()[1]
            client = await sockets.connect(Noted, Address("127.0.0.1", port))
            ends = [await client.made, await (await accepted.get()).made]
            assert all(is_prompt(end.get_extra_info("socket")) for end in ends)
            for end in ends:
                end.abort()
        finally:
            server.close()
            await server.wait_closed()

    asyncio.run(story())
    assert dialled == [True]


def test_a_port_where_nobody_listens_refuses() -> None:
    """Broken: a dead process is not told from a slow one, or a socket is left open."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(sockets.connect(Noted, address))
