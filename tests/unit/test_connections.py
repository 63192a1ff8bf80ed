"""One turn of the loop handles so much of what clients sent, and nothing of the rest is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tracker_raft import commands, connections, wire
from tracker_raft.config import MIB, PROTOCOL_VERSION, WireLimits
from tracker_raft.connections import Answer, Connection, TurnBudget

REQUESTS = 500
NOWHERE = (0, 0)
WAIT_S = 20.0
REFUSAL = wire.msgpack.packb({"error": "busy", "message": "later", "retry_after_ms": 250})[1:]


class Host:
    """A tracker that answers each request with what was asked for, when it is told to."""

    def __init__(self, **limits: int) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.limits = WireLimits(**limits)
        self.turns = TurnBudget(self.loop)
        self.connections: set[Connection] = set()
        self.busy = False
        self.index = 0
        self.held: list[tuple[wire.Message, Answer]] | None = None
        self.most_held = 0

    def hello(self) -> dict[str, Any]:
        return {}

    def members_index(self) -> int:
        return self.index

    def trackers(self) -> list[str]:
        return []

    def refusal(self) -> bytes | None:
        return REFUSAL if self.busy else None

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def request(
        self, message: wire.Message, read_s: float, answer: Answer, connection: Connection
    ) -> None:
        assert connection in self.connections
        assert read_s <= self.loop.time()
        if self.held is None:
            answer({"ok": {"name": message["name"]}}, NOWHERE)
        else:
            self.held.append((message, answer))
            self.most_held = max(self.most_held, len(self.held))


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, *messages: dict[str, Any]) -> None:
        self.writer.write(b"".join(wire.encode(message, MIB) for message in messages))

    async def reply(self) -> wire.Message:
        length = wire.frame_length(await self.reader.readexactly(4), MIB)
        return wire.decode_body(await self.reader.readexactly(length))

    async def replies(self, count: int) -> dict[int, wire.Message]:
        return {reply["id"]: reply for reply in [await self.reply() for _ in range(count)]}


def lookups(who: str) -> list[dict[str, Any]]:
    return [
        {"id": number, "op": "lookup", "name": f"{who}/{number}"}
        for number in range(1, REQUESTS + 1)
    ]


def with_clients(count: int, host_limits: dict[str, int], story: Story) -> None:
    async def run() -> None:
        host = Host(**host_limits)
        server = await host.loop.create_server(lambda: Connection(host), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        clients = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
        for client in clients:
            client.send({"id": 0, "op": "hello", "protocol": PROTOCOL_VERSION})
            await client.reply()
        await story(host, clients)
        for client in clients:
            client.writer.close()
            await client.writer.wait_closed()
        server.close()
        await server.wait_closed()

    asyncio.run(asyncio.wait_for(run(), WAIT_S))


Story = Callable[[Host, list[Client]], Awaitable[None]]


class Clock:
    """The loop of a tracker, as far as turns ask it, and the time of both clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s = self.cpu_s = 50.0
        self.cpu_asked = 0
        self.called: list[Callable[[], None]] = []
        monkeypatch.setattr("time.thread_time", self._cpu)

    def _cpu(self) -> float:
        self.cpu_asked += 1
        return self.cpu_s

    def time(self) -> float:
        return self.wall_s

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.called.append(callback)

    def pass_on(self, wall_s: float, cpu_s: float = 0.0) -> None:
        self.wall_s += wall_s
        self.cpu_s += cpu_s

    def next_turn(self) -> None:
        called, self.called = self.called, []
        for callback in called:
            callback()


class Handled:
    """Stands for a connection: how often it was called again."""

    def __init__(self) -> None:
        self.handled = self.flushed = 0

    def handle(self) -> None:
        self.handled += 1

    def flush(self) -> None:
        self.flushed += 1


def test_a_turn_is_over_after_its_time_and_asks_the_system_only_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: clients keep consensus from its turn; or each request costs a system call; or a
    process that shares its processor handles nothing."""
    clock: Any = Clock(monkeypatch)
    turns, one = TurnBudget(clock), Handled()
    connection: Any = one

    def handled(most: int) -> int:
        return next((n for n in range(most) if not turns.may_handle(connection)), most)

    assert handled(1000) == 1000
    assert clock.cpu_asked == 0, "no time went by"
    clock.pass_on(1.0)
    assert handled(1000) == 1000, "others had the processor"
    clock.pass_on(1.0, connections.TURN_S)
    assert handled(1000) < connections.LOOK_EVERY
    assert not turns.may_handle(connection) and one.handled == 0
    clock.next_turn()
    assert one.handled == 1
    asked = clock.cpu_asked
    assert handled(1000) == 1000, "the next turn has its own time"
    assert clock.cpu_asked == asked
    for _ in range(100):  # whatever the clocks say, a turn has its CPU time and not much more
        clock.pass_on(connections.TURN_S / 50, connections.TURN_S / 50)
        if not turns.may_handle(connection):
            break
        assert handled(7) == 7
    begun_s = 50.0 + connections.TURN_S
    used = (clock.cpu_s - begun_s) / connections.TURN_S
    assert 0.9 < used < 1.1


def test_all_that_answered_in_a_turn_are_flushed_by_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: answers stay behind, or one call is made for each connection."""
    clock: Any = Clock(monkeypatch)
    turns = TurnBudget(clock)
    some = [Handled() for _ in range(5)]
    for _ in range(2):
        for one in some:
            connection: Any = one
            turns.flush_later(connection)
        assert len(clock.called) == 1 and {one.flushed for one in some} < {0, 1}
        clock.next_turn()
    assert [one.flushed for one in some] == [2] * 5


def test_a_reply_that_came_packed_is_the_frame_that_its_map_would_be() -> None:
    """Broken: what a client reads depends on which tracker it asks."""
    ok = {"file": {"name": "ä", "content": bytes(32), "versions": (1, 2)}, "created": True}
    requests = [{"id": number, "op": "lookup", "name": "a"} for number in (1, 2**32, 2**62)]

    async def bodies(host: Host, client: Client, reply: Any) -> list[bytes]:
        host.held = []
        client.send(*requests)
        while len(host.held) < len(requests):  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0)
        for _, answer in host.held:
            answer(reply, (7, 300))
        read = client.reader.readexactly
        return [await read(wire.frame_length(await read(4), MIB)) for _ in requests]

    async def story(host: Host, clients: list[Client]) -> None:
        (client,) = clients
        packed = await bodies(host, client, wire.pack(ok))
        assert packed == await bodies(host, client, {"ok": ok})
        assert wire.decode_body(packed[2]) == {"id": 2**62, "ok": ok, "at": (7, 300)}
        host.index = 12  # the members changed
        first, second, _ = await bodies(host, client, wire.pack(ok))
        assert wire.decode_body(first)["trackers"] == (12, ())
        assert "trackers" not in wire.decode_body(second)

    with_clients(1, {}, story)


def test_a_packed_reply_over_the_limit_is_told_so() -> None:
    """Broken: one long reply ends the connection, and with it all that is under way there."""

    async def story(host: Host, clients: list[Client]) -> None:
        (client,) = clients
        host.held = []
        client.send({"id": 2**40, "op": "lookup", "name": "a"})
        while not host.held:  # noqa: ASYNC110 nobody tells
            await asyncio.sleep(0)
        host.held[0][1](wire.pack({"x": bytes(5000)}), (7, 1))
        reply = await client.reply()
        assert (reply["id"], reply["error"]) == (2**40, "too_large")

    with_clients(1, {"client_frame_bytes_max": 4096}, story)


@pytest.mark.parametrize("turn_s", [0.0001, 10.0])
def test_each_request_is_answered_however_short_a_turn_is(
    turn_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: what a turn has no time for is lost, or overwritten by what another client sent."""
    monkeypatch.setattr(connections, "TURN_S", turn_s)

    async def story(host: Host, clients: list[Client]) -> None:
        for number, client in enumerate(clients):
            client.send(*lookups(f"c{number}"))
        for number, client in enumerate(clients):
            replies = await client.replies(REQUESTS)
            assert [replies[n]["ok"]["name"] for n in range(1, REQUESTS + 1)] == [
                f"c{number}/{n}" for n in range(1, REQUESTS + 1)
            ]

    with_clients(8, {}, story)


def test_a_connection_has_so_many_unanswered_requests_and_no_more() -> None:
    """Broken: one client's pipeline fills the tracker's memory, or stands still for ever."""

    async def story(host: Host, clients: list[Client]) -> None:
        host.held = []
        (client,) = clients
        client.send(*lookups("a"))
        got = 0
        while got < REQUESTS:
            while len(host.held) < min(16, REQUESTS - got):  # noqa: ASYNC110 nobody tells
                await asyncio.sleep(0)
            for message, answer in [host.held.pop() for _ in range(len(host.held))]:
                answer({"ok": {"name": message["name"]}}, NOWHERE)
                got += 1
        assert len(await client.replies(REQUESTS)) == REQUESTS
        assert host.most_held == 16

    with_clients(1, {"requests_in_flight_max": 16}, story)


def test_an_overloaded_tracker_refuses_writes_and_answers_the_rest() -> None:
    """Broken: a refusal cannot be read, or reads are refused because the log is busy."""

    async def story(host: Host, clients: list[Client]) -> None:
        host.busy = True
        (client,) = clients
        publish = commands.Publish("a", bytes(32), 1, 1, 1 << 16).to_wire()
        big = 2**40
        client.send(
            {"id": 3, **publish, "session": 1, "seq": 1, "low": 1},
            {"id": big, "op": "open_session"},
            {"id": 4, "op": "lookup", "name": "a"},
            {"id": 5, "op": ["publish"], "name": "a"},
        )
        replies = await client.replies(4)
        busy = {"error": "busy", "message": "later", "retry_after_ms": 250}
        assert replies[3] == {"id": 3, **busy} and replies[big] == {"id": big, **busy}
        assert "ok" in replies[4] and "ok" in replies[5]

    with_clients(1, {}, story)


def test_a_write_before_the_hello_is_not_told_busy() -> None:
    """Broken: whoever speaks no version of the protocol is told to come back later."""

    async def story(host: Host, clients: list[Client]) -> None:
        host.busy = True
        (client,) = clients
        client.send({"id": -1, "op": "open_session"})
        assert (await client.reply())["error"] == "bad_request"
        assert await client.reader.read() == b""

    with_clients(1, {}, story)
