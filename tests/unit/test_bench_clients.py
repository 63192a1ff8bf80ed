"""The clients of ``bench publish``: what they ask, and what they take for an answer."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from bench.clients import Client, Tally
from bench.clients_ours import OurPublishes, logged_bytes
from bench.clients_rivals import VALUE_BYTES, EtcdPuts, StockPuts
from tracker_raft import commands, wire

FRAME_BYTES_MAX = 1024 * 1024


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data


def made(make: Callable[[Tally], Client]) -> tuple[Client, Transport, Tally]:
    """A client that counts, connected to a transport that keeps what it writes."""

    async def connect() -> tuple[Client, Transport, Tally]:
        tally, transport = Tally(counting=True), Transport()
        client = make(tally)
        client.connection_made(transport)
        transport.written.clear()
        return client, transport, tally

    return asyncio.run(connect())


def frame(kind: int, flags: int, payload: bytes, stream: int = 1) -> bytes:
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, stream) + payload


def test_ours_publishes_new_names_in_its_session_and_asks_again_when_all_are_answered() -> None:
    """Broken: what is measured are refusals, or one publish answered again and again."""
    client, transport, tally = made(lambda tally: OurPublishes(tally, 3, session=70_000))
    client.ask()
    decoder = wire.FrameDecoder(FRAME_BYTES_MAX)
    asked = list(decoder.feed(transport.written))
    operations = [commands.parse(message) for message in asked]
    assert (
        len({operation.name for operation in operations if isinstance(operation, commands.Publish)})
        == 3
    )
    assert [(m["session"], m["seq"], m["low"]) for m in asked] == [
        (70_000, n, 1) for n in (1, 2, 3)
    ]

    transport.written.clear()
    replies = [wire.encode({"id": m["id"], "ok": {}}, FRAME_BYTES_MAX) for m in asked]
    client.data_received(b"".join(replies[:2]))
    assert not transport.written
    client.data_received(replies[2])
    again = list(decoder.feed(transport.written))
    assert [(m["seq"], m["low"]) for m in again] == [(4, 4), (5, 4), (6, 4)]
    assert (tally.operations, tally.failed, len(tally.latencies_ms)) == (3, 0, 1)


def test_a_refusal_is_not_counted_as_done() -> None:
    """Broken: a tracker that answers ``busy`` looks fast."""
    client, _, tally = made(lambda tally: OurPublishes(tally, 1, session=70_000))
    client.ask()
    refusal = {"id": (1 << 20) + 1, "error": "busy", "message": "x"}
    client.data_received(wire.encode(refusal, FRAME_BYTES_MAX))
    assert (tally.operations, tally.failed) == (0, 1)


def test_a_call_of_etcd_is_done_with_its_trailers_and_well_if_a_message_came() -> None:
    """Broken: a put that failed counts, or one is counted before it is answered."""
    client, transport, tally = made(lambda tally: EtcdPuts(tally, 1))
    client.ask()
    assert transport.written[3] == EtcdPuts.HEADERS
    client.data_received(frame(EtcdPuts.HEADERS, 4, b"\x88") + frame(EtcdPuts.DATA, 0, b"answer"))
    assert tally.operations == 0
    client.data_received(frame(EtcdPuts.HEADERS, 5, b"\xbf"))
    assert (tally.operations, tally.failed) == (1, 0)
    client.data_received(frame(EtcdPuts.HEADERS, 5, b"\x88", stream=3))
    assert (tally.operations, tally.failed) == (1, 1)


def test_a_transaction_that_is_too_much_for_the_window_waits_for_room() -> None:
    """Broken: etcd ends the connection of a client that sends more than it has room for."""
    client, transport, _ = made(lambda tally: EtcdPuts(tally, 700))
    client.ask()
    sent = len(transport.written)
    assert sent < 65_535 + 200 < 700 * 100
    client.data_received(frame(EtcdPuts.WINDOW_UPDATE, 0, struct.pack(">I", 1 << 20), stream=0))
    assert len(transport.written) > 700 * 100


def test_stock_is_asked_for_all_pairs_in_a_line() -> None:
    """Broken: the rival is asked for less than it is counted for."""
    client, transport, tally = made(lambda tally: StockPuts(tally, 4))
    client.ask()
    word, *pairs = transport.written.decode().split()
    assert (word, len(set(pairs[::2])), len(pairs)) == ("put", 4, 8)
    client.data_received(b"ok\n")
    assert tally.operations == 4


def test_a_rival_stores_as_much_as_our_log() -> None:
    """Broken: the rivals are measured with smaller or larger values than ours."""
    assert abs(VALUE_BYTES - logged_bytes()) <= 16
