"""Clients in a closed loop, by the thousand in one thread.

A *client* has a connection of its own and one request under way at any time; it asks again when it
is answered. What is measured is the servers, so a client is as cheap as can be: requests are made
from templates and of an answer no more is read than whether it is one. All makes
(:mod:`bench.clients_ours`, :mod:`bench.clients_rivals`) share the loop here and differ in the bytes
alone, so none of them is favoured by its client.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench import harness

Place = tuple[str, int]
"""Host and port."""
ANSWER_S = 30.0


@dataclass(slots=True)
class Tally:
    """What the clients of one run were answered."""

    counting: bool = False
    operations: int = 0
    failed: int = 0
    latencies_ms: list[float] = field(default_factory=list, repr=False)
    """Of requests, from sending to the last byte of the answer."""


class Client(asyncio.Protocol, ABC):
    """One connection. ``operations``: how many one of its requests holds."""

    def __init__(self, tally: Tally, operations: int) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self.stopped = False
        self.pause_s: float | None = None
        """Ask so often, whether it takes long or not; None: again as soon as answered."""
        self.operations = operations
        self._tally = tally
        self._asked_s = 0.0
        self._rest = b""

    @abstractmethod
    def greeting(self) -> bytes:
        """The first bytes to send; :attr:`ready` is resolved by what answers them."""

    @abstractmethod
    def request(self) -> bytes: ...

    @abstractmethod
    def answers(self, data: bytes) -> int:
        """Take in ``data``; how many requests are settled by it (0 or 1)."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.greeting())

    def ask(self) -> None:
        if self.transport is not None and not self.stopped:
            self._asked_s = time.perf_counter()
            self.transport.write(self.request())

    def keep_pace(self, due_s: float) -> None:
        """Ask at ``due_s`` (loop time), and every :attr:`pause_s` from then on."""
        assert self.pause_s is not None
        if not self.stopped:
            loop = asyncio.get_running_loop()
            self.ask()
            self._asked_s -= loop.time() - due_s  # the latency counts from when it was due
            loop.call_at(due_s + self.pause_s, self.keep_pace, due_s + self.pause_s)

    def data_received(self, data: bytes) -> None:
        if not self.answers(self._rest + data if self._rest else data):
            return
        tally = self._tally
        if tally.counting:
            tally.latencies_ms.append((time.perf_counter() - self._asked_s) * 1e3)
            tally.operations += self.operations
        if self.pause_s is None:
            self.ask()

    def fail(self) -> None:
        """One operation was refused."""
        if self._tally.counting:
            self._tally.failed += 1
            self._tally.operations -= 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stopped:
            self._tally.failed += 1
        self.transport = None
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("closed without a word"))


# -- the loop -------------------------------------------------------------------------------------

Made = Sequence[tuple[Place, Callable[[], Client]]]


async def connected(made: Made) -> list[Client]:
    """All of them, each greeted by its server."""
    loop = asyncio.get_running_loop()
    clients = []
    for (host, port), make in made:
        _, client = await loop.create_connection(make, host, port)
        clients.append(client)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*(client.ready for client in clients))
    return clients


async def closed_loop(
    tally: Tally, made: Made, seconds: float, cpu_s: Callable[[], float], warm_s: float = 0.5
) -> dict[str, float]:
    """Every client asks as soon as it is answered, for so long; ``cpu_s`` of the servers."""
    clients = await connected(made)
    try:
        for client in clients:
            client.ask()
        return await _counted(tally, seconds, cpu_s, warm_s)
    finally:
        _stop(clients)


async def paced(
    tally: Tally, made: Made, seconds: float, cpu_s: Callable[[], float], pause_s: float = 1.0
) -> dict[str, float]:
    """Every client asks once in ``pause_s``, evenly spread; latency counts from when it was due."""
    clients = await connected(made)
    try:
        begun_s = asyncio.get_running_loop().time() + 0.05
        for number, client in enumerate(clients):
            client.pause_s = pause_s
            due_s = begun_s + pause_s * number / len(clients)
            asyncio.get_running_loop().call_at(due_s, client.keep_pace, due_s)
        return await _counted(tally, seconds, cpu_s, warm_s=2 * pause_s)
    finally:
        _stop(clients)


def _stop(clients: Sequence[Client]) -> None:
    for client in clients:
        client.stopped = True
        if client.transport is not None:
            client.transport.abort()


async def _counted(
    tally: Tally, seconds: float, cpu_s: Callable[[], float], warm_s: float
) -> dict[str, float]:
    await asyncio.sleep(warm_s)
    before_s, own_s, begun_s = cpu_s(), time.process_time(), time.perf_counter()
    tally.counting = True
    await asyncio.sleep(seconds)
    tally.counting = False
    took_s = time.perf_counter() - begun_s
    used_s, own_s = cpu_s() - before_s, time.process_time() - own_s
    if not tally.operations:
        raise RuntimeError(f"nothing was answered in {took_s:.1f} s; {tally.failed} failed")
    return {
        "per_s": tally.operations / took_s,
        "p50_ms": harness.percentile(tally.latencies_ms, 50),
        "p99_ms": harness.percentile(tally.latencies_ms, 99),
        "cpu_us": used_s / tally.operations * 1e6,
        "client_cores": own_s / took_s,
        "failed": float(tally.failed),
    }
