"""Peers that lie, stall, refuse or talk nonsense. If a test here fails, one bad peer spoils a
download that an honest one could finish, or a wrong byte reaches the disk."""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
from peer_world import PIECE, QUICK, World, world_in

from peer import messages
from peer.contacts import FRUITLESS_MAX
from peer.downloader import NoSource
from peer.manifest import content_id
from peer.messages import GetManifest, Have, Hello
from peer.progress import Fetched
from peer.scan import scan
from tracker_raft import wire
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, Busy, NotFound

IMPATIENT = dataclasses.replace(QUICK, patience_s=0.5)
Requests = Iterator[tuple[int, object]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with world_in(tmp_path) as world:
        yield world


def requests(connection: socket.socket) -> Requests:
    """The requests that come in, but for the greeting, which is answered as it should be."""
    decoder = wire.FrameDecoder(65536)
    while data := connection.recv(4096):
        for message in decoder.feed(data):
            number, operation = messages.parse(message)
            if isinstance(operation, Hello):
                hello = {"protocol": 1, "peer": "bad", "features": []}
                connection.sendall(messages.encode_ok(number, hello))
            elif isinstance(operation, Have):
                connection.sendall(messages.encode_ok(number, {"complete": True}))
            else:
                yield number, operation


def manifest_alone(
    path: Path, answer: Callable[[int], bytes] = lambda number: b"", behind: bytes = b""
) -> Callable[[socket.socket], None]:
    """A peer that gives the manifest of ``path`` and ``behind`` it; what else is asked for under a
    number gets ``answer``."""
    encoded = scan(path, piece_bytes=PIECE).manifest.encode()

    def serve(connection: socket.socket) -> None:
        for number, operation in requests(connection):
            if isinstance(operation, GetManifest):
                given = messages.encode_ok(number, {"bytes": len(encoded)}) + encoded
                connection.sendall(given + behind)
            else:
                connection.sendall(answer(number))

    return serve


def spoil(path: Path) -> None:
    """Change bytes so that neither size nor time tell of it."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        file.write(os.urandom(8))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def with_an_honest_peer(world: World, pieces: int = 60) -> tuple[Path, bytes]:
    """A file that peer ``z`` serves; bad peers come before it in name order."""
    path = world.random_file(pieces)
    return path, world.seed(path, "z")


def check(fetched: Fetched, path: Path) -> None:
    assert fetched.path.read_bytes() == path.read_bytes()


def test_a_peer_that_sends_wrong_bytes_is_banned(world: World) -> None:
    """Broken if wrong bytes reach the disk, or nobody learns who sent them."""
    path = world.random_file(60)
    spoiled = world.directory / "spoiled"
    spoiled.write_bytes(path.read_bytes())
    world.seed(spoiled, "liar")
    spoil(spoiled)
    with pytest.raises(NoSource, match=r"liar .* sent wrong bytes for piece 30"):
        world.fetch(scanned_id(path), limits=IMPATIENT)
    world.seed(path, "z")
    fetched = world.fetch(scanned_id(path))
    check(fetched, path)
    assert fetched.banned in ((), ("liar sent wrong bytes for piece 30",))


def scanned_id(path: Path) -> bytes:
    return content_id(scan(path, piece_bytes=PIECE).manifest.encode())


def test_a_stalling_peer_costs_a_progress_deadline(world: World) -> None:
    """Broken if a peer that accepts requests and sends nothing holds a download for ever."""
    path, content = with_an_honest_peer(world)
    world.listen("a", content, manifest_alone(path))
    check(world.fetch(content), path)


def test_a_trickling_peer_stalls(world: World) -> None:
    """Broken if a byte now and then counts as progress."""
    path = world.random_file(60)
    content = scanned_id(path)

    def trickle(number: int) -> bytes:
        return messages.encode_ok(number, {"bytes": 4 * PIECE}) + b"x"

    world.listen("a", content, manifest_alone(path, trickle))
    with pytest.raises(NoSource, match=r"a at .* sent (\d+ bytes in|nothing for) 0\.3"):
        world.fetch(content, limits=IMPATIENT)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "frame of 1213486160 bytes announced"),
        (struct.pack(">I", 3) + b"\xc1\xc1\xc1", "frame body is not msgpack"),
        (wire.encode({"id": 99, "ok": {}}, 65536), "reply has the id 99"),
        (wire.encode({"id": 0}, 65536), "neither a result nor an error"),
    ],
    ids=["http", "garbage", "other id", "empty"],
)
def test_a_peer_that_talks_nonsense_is_banned(world: World, answer: bytes, reason: str) -> None:
    """Broken if another service at a peer's port breaks or holds a download."""
    path = world.random_file(20)
    content = scanned_id(path)

    def nonsense(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(answer)
        connection.recv(4096)

    world.listen("a", content, nonsense)
    with pytest.raises(NoSource, match=reason):
        world.fetch(content, limits=IMPATIENT)
    world.seed(path, "z")
    check(world.fetch(content), path)


def manifest_reply(reply: Callable[[bytes], bytes]) -> Callable[[socket.socket], None]:
    """A peer that answers the question for the manifest with ``reply(content)``."""

    def serve(connection: socket.socket) -> None:
        for number, operation in requests(connection):
            if isinstance(operation, GetManifest):
                body = reply(operation.content)
                connection.sendall(messages.encode_ok(number, {"bytes": len(body)}) + body)

    return serve


def test_a_wrong_manifest_bans(world: World) -> None:
    """Broken if a peer can make others fetch something else under a content id."""
    path, content = with_an_honest_peer(world)
    other = scan(world.random_file(3, "other")).manifest.encode()
    world.listen("a", content, manifest_reply(lambda _: other))
    fetched = world.fetch(content)
    check(fetched, path)
    assert fetched.banned in ((), ("a sent a manifest that is not that of the content",))


@pytest.mark.parametrize("size", [0, -1, 2**40, "much", True])
def test_an_absurd_manifest_size_bans(world: World, size: object) -> None:
    """Broken if a peer decides how much memory another one takes."""
    content = bytes(32)

    def serve(connection: socket.socket) -> None:
        for number, _ in requests(connection):
            connection.sendall(messages.encode_ok(number, {"bytes": size}))

    world.listen("a", content, serve)
    with pytest.raises(NoSource, match=r"manifest of 1099511627776 bytes|bytes is"):
        world.fetch(content, limits=IMPATIENT)


def test_a_manifest_size_that_the_trackers_do_not_know_bans(world: World) -> None:
    """Broken if a peer may send another amount than the record of the file says."""
    content = world.seed(world.random_file(3), "a")
    with pytest.raises(NoSource, match=r"a manifest of \d+ bytes announced, the trackers know 7"):
        world.fetch(content, limits=IMPATIENT, manifest_bytes=7)


@pytest.mark.parametrize(
    "files",
    [
        [["../escaped", 0, False, b""]],
        [["/tmp/escaped", 0, False, b""]],
        [["l", 0, False, b""], ["l/escaped", 0, False, b""]],
    ],
    ids=["up", "absolute", "through a file"],
)
def test_a_hostile_manifest_is_refused_and_nothing_is_written(
    world: World, files: list[object]
) -> None:
    """Broken if a publisher can write outside the destination of whoever fetches."""
    hostile = msgpack.packb(
        {
            "format": 1,
            "kind": "tree",
            "piece_bytes": PIECE,
            "files": files,
            "directories": [],
            "links": [],
        }
    )
    content = content_id(hostile)
    inside = world.directory / "inside"
    inside.mkdir()
    world.listen("a", content, manifest_reply(lambda _: hostile))
    with pytest.raises(BadRequest, match=r"path|order"):
        world.fetch(content, "inside/copy")
    assert [p.name for p in world.directory.rglob("*")] == ["inside"]


def test_a_peer_that_refuses_is_left_alone(world: World) -> None:
    """Broken if a peer that lost its file is asked for ever, or takes the download down."""
    path, content = with_an_honest_peer(world)
    asked = []

    def refuse(connection: socket.socket) -> None:
        for number, operation in requests(connection):
            asked.append(operation)
            connection.sendall(messages.encode_error(number, NotFound("not here")))

    world.listen("a", content, refuse)
    fetched = world.fetch(content)
    check(fetched, path)
    assert not fetched.banned
    assert len(asked) <= QUICK.requests_in_flight_max


def test_a_busy_peer_is_asked_again(world: World) -> None:
    """Broken if a peer that is full for a moment is lost for the whole download."""
    path = world.random_file(20)
    content = world.seed(path, "inner")
    inner = world.seeders["inner"].address
    world.trackers.leave("inner", content)
    turned_away = []

    def busy_at_first(connection: socket.socket) -> None:
        if len(turned_away) < FRUITLESS_MAX + 1:
            turned_away.append(1)
            connection.sendall(messages.encode_error(0, Busy("full")))
            return
        world.announce("a", inner, content)

    world.listen("a", content, busy_at_first)
    check(world.fetch(content), path)
    assert len(turned_away) == FRUITLESS_MAX + 1


def test_a_peer_that_is_gone_is_no_trouble(world: World) -> None:
    """Broken if addresses of dead peers, which trackers keep for a while, stop a download."""
    path, content = with_an_honest_peer(world)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = Address("127.0.0.1", listener.getsockname()[1])
    world.announce("a", dead, content)
    world.trackers.join("b", "no.such.host.invalid:1", content, complete=True)
    world.trackers.join("c", f"{'x' * 64}.example:1", content, complete=True)  # no name
    check(world.fetch(content), path)


def test_a_peer_that_brings_nothing_is_given_up(world: World) -> None:
    """Broken if a peer that hangs up on every request is tried for ever."""
    path = world.random_file(20)
    content = scanned_id(path)
    connections = []

    def hang_up(connection: socket.socket) -> None:
        connections.append(1)
        next(requests(connection))

    world.listen("a", content, hang_up)
    limits = dataclasses.replace(QUICK, patience_s=1.5)
    with pytest.raises(NoSource, match=f"a at .*, {FRUITLESS_MAX} times in a row"):
        world.fetch(content, limits=limits)
    assert len(connections) == FRUITLESS_MAX
