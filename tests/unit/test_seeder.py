"""If a test here fails, a seeder can be brought down, blocked or made to serve wrong bytes."""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer_world import PIECE, QUICK, World, wait_until, world_in

from peer import messages
from peer.limits import PEER_PROTOCOL_VERSION
from peer.link import Link, Lost
from peer.messages import Answered, GetManifest, Have, Hello, Request
from peer.seeder import Seeder
from peer.upload import CONNECT_AGAIN_S
from tracker_raft import wire
from tracker_raft.commands import Operation
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, Busy, Damaged, LimitReached, LocalError, NotFound


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as world:
        yield world


class Asker:
    """Talks to a seeder as a peer would, or worse."""

    def __init__(self, address: Address, *, greet: bool = True) -> None:
        self.link = Link.connect(
            address, connect_timeout_s=5, progress_timeout_s=5, progress_bytes_min=1
        )
        self.number = 0
        if greet:
            try:
                self.link.send(messages.encode_request(0, Hello(PEER_PROTOCOL_VERSION, "asker")))
                assert self.reply(0)["protocol"] == PEER_PROTOCOL_VERSION
            except (Lost, Answered):
                self.link.close()
                raise

    def ask(self, operation: Operation) -> messages.Result:
        self.number += 1
        self.link.send(messages.encode_request(self.number, operation))
        return self.reply(self.number)

    def reply(self, number: int) -> messages.Result:
        while "news" in (message := self.link.receive_frame(65536)):
            pass  # it may come between any question and its answer
        return messages.parse_reply(number, message)

    def payload(self, size: int) -> bytes:
        data = bytearray(size)
        self.link.receive_into(memoryview(data))
        return bytes(data)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()


def refusal(asker: Asker, operation: Operation) -> Exception:
    with pytest.raises(Answered) as caught:
        asker.ask(operation)
    return caught.value.error


def test_it_serves_what_is_asked(world: World) -> None:
    """Broken if a header and its payload do not belong together."""
    path = world.random_file(10)
    content = world.seed(path)
    data = path.read_bytes()
    with Asker(world.seeders["seeder"].address) as asker:
        size = asker.ask(GetManifest(content))["bytes"]
        assert len(asker.payload(size)) == size
        assert asker.ask(Have(content))["complete"] is True
        assert asker.ask(Request(content, 3, 4))["bytes"] == 4 * PIECE
        assert asker.payload(4 * PIECE) == data[3 * PIECE : 7 * PIECE]
    wait_until(lambda: world.seeders["seeder"].bytes_sent == 4 * PIECE, "the bytes are counted")


def test_what_is_not_there_is_refused_and_the_connection_lives(world: World) -> None:
    """Broken if one question too many costs a peer its connection."""
    path = world.random_file(10)
    content = world.seed(path)
    with Asker(world.seeders["seeder"].address) as asker:
        assert isinstance(refusal(asker, GetManifest(bytes(32))), NotFound)
        assert isinstance(refusal(asker, Have(bytes(32))), NotFound)
        assert isinstance(refusal(asker, Request(bytes(32), 0, 1)), NotFound)
        assert isinstance(refusal(asker, Request(content, 9, 2)), NotFound)
        assert isinstance(refusal(asker, Request(content, 2**60, 1)), NotFound)
        assert asker.ask(Request(content, 9, 1))["bytes"] == PIECE


def test_a_run_beyond_the_limit_is_refused(world: World) -> None:
    """Broken if one request can keep a thread busy for minutes."""
    path = world.directory / "large"
    with path.open("wb") as file:
        file.truncate(40 * 512 * 1024)
    content = world.seed(path, piece_bytes=512 * 1024)
    with Asker(world.seeders["seeder"].address) as asker:
        assert isinstance(refusal(asker, Request(content, 0, 33)), LimitReached)
        assert asker.ask(Request(content, 0, 32))["bytes"] == 16 * 1024 * 1024


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "too_large"),
        (b"\xff" * 100, "too_large"),
        (b"\x00\x00\x00\x01\xc1", "bad_request"),
        (b"\x00\x00\x00\x01\x90", "bad_request"),
        (wire.encode({"op": "hello"}, 999), "bad_request"),
        (wire.encode({"op": "dance", "id": 1}, 999), "unknown_op"),
        (wire.encode({"op": "hello", "id": 0, "protocol": 2, "peer": "a"}, 999), "unsupported"),
        (wire.encode({"op": "hello", "id": 0, "protocol": 1, "peer": ""}, 999), "bad_request"),
        (wire.encode({"op": "have", "id": 1, "content": bytes(32)}, 999), "bad_request"),
        (wire.encode({"op": "request", "id": 1, "content": b"", "first": 0}, 999), "bad_request"),
    ],
    ids=["http", "huge", "no type", "no map", "no id", "op", "version", "peer", "early", "fields"],
)
def test_garbage_is_answered_with_one_error_and_closed(
    world: World, data: bytes, code: str
) -> None:
    """Broken if garbage hangs a connection, or takes the seeder down."""
    path = world.random_file(1)
    content = world.seed(path)
    address = world.seeders["seeder"].address
    with Asker(address, greet=False) as asker:
        asker.link.send(data + b"more")
        assert asker.link.receive_frame(65536)["error"] == code
        with pytest.raises(Lost, match="closed"):
            asker.link.receive_frame(65536)
    with Asker(address) as asker:
        assert asker.ask(Have(content))["complete"] is True


@pytest.mark.parametrize("change", ["grow", "shrink", "touch", "remove", "replace"])
def test_a_file_that_changed_is_not_served(world: World, change: str) -> None:
    """Broken if a peer gets bytes of another file than the one that was shared."""
    path = world.random_file(10)
    content = world.seed(path)
    with Asker(world.seeders["seeder"].address) as asker:
        assert asker.ask(Request(content, 0, 1))["bytes"] == PIECE
        asker.payload(PIECE)
        if change == "grow":
            path.write_bytes(path.read_bytes() + b"x")
        elif change == "shrink":
            os.truncate(path, PIECE)
        elif change == "touch":
            os.utime(path, ns=(1, 1))
        else:
            path.unlink()
            if change == "replace":
                path.write_bytes(b"other")
        error = refusal(asker, Request(content, 1, 1))
        assert isinstance(error, Damaged)
        assert str(path) not in str(error), "a path of this machine is nobody else's business"


def test_a_file_that_shrinks_behind_its_header_closes_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if the next reply is taken for the bytes that were promised."""
    path = world.directory / "f"
    path.write_bytes(bytes(1024 * 1024))
    content = world.seed(path, piece_bytes=512 * 1024)
    real = os.sendfile

    def shrink_first(out: int, fd: int, offset: int, count: int) -> int:
        os.truncate(path, 1000)
        return real(out, fd, offset, count)

    monkeypatch.setattr(os, "sendfile", shrink_first)
    with Asker(world.seeders["seeder"].address) as asker:
        size = asker.ask(Request(content, 0, 1))["bytes"]
        with pytest.raises(Lost, match="closed"):
            asker.payload(size)


def test_connections_are_bounded(world: World) -> None:
    """Broken if a crowd can take every thread of a peer."""
    path = world.random_file(1)
    world.seed(path, limits=dataclasses.replace(QUICK, serve_connections_max=2))
    address = world.seeders["seeder"].address
    with Asker(address) as first, Asker(address):
        with Asker(address, greet=False) as third, pytest.raises(Answered) as caught:
            third.reply(0)
        assert isinstance(caught.value.error, Busy)
        assert caught.value.error.retry_after_s == CONNECT_AGAIN_S
        first.link.close()
        wait_until(lambda: "1 connections" in repr(world.seeders["seeder"]), "one has gone")
        with Asker(address):
            pass


def test_silence_is_not_borne_for_ever(world: World) -> None:
    """Broken if silent connections hold threads until the process ends."""
    path = world.random_file(1)
    limits = dataclasses.replace(QUICK, hello_timeout_s=0.1, idle_timeout_s=0.1)
    world.seed(path, limits=limits)
    for greet in (False, True):
        asker = Asker(world.seeders["seeder"].address, greet=greet)
        with asker, pytest.raises(Lost, match="closed"):
            asker.link.receive_frame(100)


def test_a_reader_that_takes_nothing_is_closed(world: World) -> None:
    """Broken if a peer that asks and never reads holds a thread for ever."""
    path = world.directory / "large"
    with path.open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    content = world.seed(
        path, piece_bytes=512 * 1024, limits=dataclasses.replace(QUICK, send_timeout_s=0.1)
    )
    seeder = world.seeders["seeder"]
    with Asker(seeder.address) as asker:
        for number in range(1, 5):
            asker.link.send(messages.encode_request(number, Request(content, 0, 32)))
        wait_until(lambda: "0 connections" in repr(seeder), "the seeder closed it")


def test_it_survives_running_out_of_descriptors(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken if a moment without descriptors ends the accepting thread for good."""
    path = world.random_file(1)
    content = world.seed(path)
    real, failures = socket.socket.accept, []

    def accept(listener: socket.socket) -> tuple[socket.socket, object]:
        connection, remote = real(listener)
        if not failures:
            failures.append(1)
            connection.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return connection, remote

    monkeypatch.setattr(socket.socket, "accept", accept)
    address = world.seeders["seeder"].address
    # The thread is in the real accept: this one is taken by it, or refused by ours.
    for _ in range(3):
        try:
            with Asker(address) as asker:
                assert asker.ask(Have(content))["complete"] is True
        except Lost:
            continue
    assert failures
    assert "Too many open files" in caplog.text


def test_addresses_beyond_this_machine_are_refused() -> None:
    """Broken if a peer serves the whole network without being asked to."""
    with pytest.raises(BadRequest, match=r"0\.0\.0\.0:0 is not a loopback.*--insecure"):
        Seeder("a", {}, Address("0.0.0.0", 0))
    seeder = Seeder("a", {}, Address("0.0.0.0", 0), insecure=True)
    seeder.close()


def test_a_port_in_use_is_a_clear_error() -> None:
    """Broken if a taken port ends in a traceback, or in two seeders on one port."""
    seeder = Seeder("a", {}, Address("127.0.0.1", 0))
    try:
        with pytest.raises(LocalError, match=r"cannot listen on .*Address already in use"):
            Seeder("b", {}, seeder.address)
    finally:
        seeder.close()
