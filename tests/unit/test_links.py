"""The connections between trackers: who may come in, and what becomes of those who may not."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from journal_driver import Memory
from replica_driver import WAIT_S, free_port, story, until

from tracker_raft import wire
from tracker_raft.config import MIB, Address, Member, NodeConfig, WireLimits
from tracker_raft.errors import LocalError
from tracker_raft.raft import links as links_module
from tracker_raft.raft.configuration import Configuration, Seat, founding
from tracker_raft.raft.election import Reconnect
from tracker_raft.raft.links import Links
from tracker_raft.raft.membership import Placed, Roster
from tracker_raft.raft.memory import KnownMembers

LIMITS = WireLimits(hello_timeout_s=0.3, link_frame_bytes_max=MIB)


class Owner:
    """Remembers what the links reported, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.read: list[str] = []

    def link_up(self, node: str, *, other_run: bool) -> None:
        self.told.append(("up", node, other_run))

    def link_down(self, node: str) -> None:
        self.told.append(("down", node))

    def link_message(self, node: str, message: dict[str, Any]) -> None:
        self.told.append(("message", node, message))

    def link_read(self, node: str) -> None:
        self.read.append(node)


def configs(directory: Path, *nodes: str) -> list[NodeConfig]:
    members = tuple(Member(node, Address("127.0.0.1", free_port())) for node in nodes)
    return [
        NodeConfig(
            member.node,
            directory,
            members,
            Address("127.0.0.1", 1),
            member.raft,
            Address("127.0.0.1", 1),
            cluster="test",
            limits=LIMITS,
        )
        for member in members
    ]


def links_of(config: NodeConfig, boot: str) -> Links:
    return Links(config, boot, f"birth of {config.node}", KnownMembers(Memory()))


@asynccontextmanager
async def running(config: NodeConfig, boot: str = "first") -> AsyncIterator[tuple[Links, Owner]]:
    links, owner = links_of(config, boot), Owner()
    links.owner = owner
    await links.start()
    try:
        yield links, owner
    finally:
        await links.close()


class Stranger:
    """A plain connection to a node's Raft port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, message: dict[str, Any]) -> None:
        self.writer.write(wire.encode(message, 64 * MIB))

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            length = wire.frame_length(await self.reader.readexactly(4), MIB)
            return wire.decode_body(await self.reader.readexactly(length))

    async def hung_up(self) -> bool:
        """Whether the other side breaks the connection, without another word."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def stranger(config: NodeConfig) -> AsyncIterator[Stranger]:
    reader, writer = await asyncio.open_connection("127.0.0.1", config.raft_bind.port)
    try:
        yield Stranger(reader, writer)
    finally:
        writer.transport.abort()


def hello(node: str = "n2", **more: Any) -> dict[str, Any]:
    return {
        "type": "hello",
        "protocol": 1,
        "cluster": "test",
        "node": node,
        "birth": f"birth of {node}",
        "members": ("n1", "n2"),
        "boot": "b",
        "endpoint": "127.0.0.1:9",
        "probe": False,
        **more,
    }


# -- members ---------------------------------------------------------------------------------------


@story
async def test_each_pair_has_one_link_and_messages_arrive_in_order(tmp_path: Path) -> None:
    """Broken: trackers do not find each other, or what one says arrives in another order."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(running(c)) for c in configs(tmp_path, *"abc")]
        await until(lambda: all(len(links.connected) == 2 for links, _ in made))
        (a, heard_a), (b, _), (_, heard_c) = made
        assert (a.connected, a.linked("b"), a.linked("a")) == (("b", "c"), True, False)
        for number in range(200):
            assert b.send("a", {"type": "x", "number": number})
        b.send("c", {"type": "x", "number": -1})
        b.flush()
        assert not b.send("nobody", {"type": "x"})
        await until(lambda: len(heard_a.told) == 202 and len(heard_c.told) == 3)
        assert b.send("a", {"type": "large", "data": bytes(MIB // 2)})
        b.flush()
        await until(lambda: len(heard_a.told) == 203)
        assert len(heard_a.told.pop()[2]["data"]) == MIB // 2
        numbers = [entry[2]["number"] for entry in heard_a.told if entry[0] == "message"]
        assert numbers == list(range(200))
        assert {a.identity(node).endpoint for node in "abc"} == {"127.0.0.1:1"}


@story
async def test_a_restarted_member_is_known_as_another_run(tmp_path: Path) -> None:
    """Broken: a leader that a supervisor restarted at once is still taken for the leader."""
    one, two = configs(tmp_path, "n1", "n2")
    async with running(one) as (links, owner):
        async with running(two, "first"):
            await until(lambda: links.connected)
        await until(lambda: not links.connected)
        async with running(two, "second"):
            await until(lambda: links.connected)
            assert owner.told == [("up", "n2", False), ("down", "n2"), ("up", "n2", True)]


@story
async def test_a_newer_link_takes_the_place_of_the_older(tmp_path: Path) -> None:
    """Broken: after a broken network a node holds on to a connection that is dead."""
    one, _ = configs(tmp_path, "n1", "n2")
    async with running(one) as (links, owner), stranger(one) as old, stranger(one) as new:
        old.say(hello())
        assert (await old.hear())["node"] == "n1"
        new.say(hello())
        assert (await new.hear())["node"] == "n1"
        assert await old.hung_up()
        assert owner.told == [("up", "n2", False), ("down", "n2"), ("up", "n2", False)]
        new.say({"type": "x"})
        await until(lambda: owner.told[-1] == ("message", "n2", {"type": "x"}))
        links.drop("n2", "of the test")
        assert await new.hung_up()
        await until(lambda: owner.told[-1] == ("down", "n2"))
        assert owner.told.count(("down", "n2")) == 2


@story
async def test_who_is_dialled_shows_up_wherever_the_other_may_be(tmp_path: Path) -> None:
    """Broken: of two that moved, the one that dials does not know where to, and the other one asks
    for it only at the place that its settings name."""
    one, two = configs(tmp_path, "n1", "n2")
    moved = [replace(node, raft=Address("127.0.0.1", free_port())) for node in one.members]
    one = replace(one, members=(moved[0], one.members[1]), raft_bind=moved[0].raft)
    two = replace(two, members=(two.members[0], moved[1]), raft_bind=moved[1].raft)
    async with running(one) as (links, _), running(two):
        known = founding((node.node, str(node.raft)) for node in moved)
        links.admit(Roster("n1", Placed(5, known), known, None, joining=False))
        await until(lambda: links.connected)


@story
async def test_only_a_node_that_is_linked_says_where_it_is(tmp_path: Path) -> None:
    """Broken: clients are sent where a member was once, though it is written down where it is."""
    one, two = configs(tmp_path, "n1", "n2")
    later = Configuration(
        tuple(
            Seat(node, 1, f"birth of {node}", "127.0.0.1:7", "127.0.0.1:8", votes=True)
            for node in ("n1", "n2")
        )
    )
    async with running(one) as (links, _):
        async with running(two):
            await until(lambda: links.connected)
            links.admit(Roster("n1", Placed(5, later), later, None, joining=False))
            assert links.trackers == ["127.0.0.1:1", "127.0.0.1:1"], "as they say themselves"
        await until(lambda: not links.connected)
        assert links.trackers == ["127.0.0.1:1", "127.0.0.1:8"]


@story
async def test_a_probe_tells_runs_apart(tmp_path: Path) -> None:
    """Broken: an election starts because a connection broke, or does not when a process died."""
    one, two = configs(tmp_path, "n1", "n2")
    found: list[Reconnect] = []
    async with running(one) as (links, _):
        async with running(two, "first"):
            await until(lambda: links.connected)
            links.reconnect("n2", found.append)
            await until(lambda: found)
        links.reconnect("n2", found.append)
        await until(lambda: len(found) == 2)
        async with running(two, "second"):
            links.reconnect("n2", found.append)
            await until(lambda: len(found) == 3)
    # A second run may have linked up before the probe was answered; then it is the known one.
    assert found[:2] == [Reconnect.SAME_RUN, Reconnect.REFUSED]
    assert found[2] in (Reconnect.OTHER_RUN, Reconnect.SAME_RUN)


# -- others ----------------------------------------------------------------------------------------

NOT_HELLO: dict[str, bytes] = {
    "http": b"GET / HTTP/1.1\r\nHost: tracker\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c4"),
    "oversized": (4097).to_bytes(4, "big") + b"\x80",
    "not msgpack": b"\x00\x00\x00\x02\xc1\xc1",
    "not a map": b"\x00\x00\x00\x01\x07",
    "empty": b"\x00\x00\x00\x00",
    "a message first": wire.encode({"type": "append_entries", "term": 9}, 999),
    "another protocol": wire.encode(hello(protocol=2), 999),
    "another cluster": wire.encode(hello(cluster="other"), 999),
    "no cluster": wire.encode({k: v for k, v in hello().items() if k != "cluster"}, 999),
    "not a member": wire.encode(hello("n9"), 999),
    "this node itself": wire.encode(hello("n1"), 999),
    "no name": wire.encode(hello(node=""), 999),
    "a name of bytes": wire.encode(hello(node=b"n2"), 999),
    "no boot": wire.encode(hello(boot=None), 999),
    "a long endpoint": wire.encode(hello(endpoint="x" * 301), 999),
    "an extension": b"\x00\x00\x00\x06\x81\xa1a\xd4\x05\x00",
}


@pytest.mark.parametrize("name", NOT_HELLO)
def test_who_does_not_say_a_proper_hello_is_cut_off(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken: a stranger reaches the replica, or keeps its connection, or makes a traceback."""

    async def run(_: Path) -> None:
        one, two = configs(tmp_path, "n1", "n2")
        async with running(one) as (links, owner), stranger(one) as other:
            other.writer.write(NOT_HELLO[name])
            assert await other.hung_up()
            assert owner.told == []
            async with running(two):
                await until(lambda: links.connected)

    with caplog.at_level(logging.INFO):
        story(run)(tmp_path)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    assert any("closed: " in record.getMessage() for record in caplog.records)


@story
async def test_who_says_nothing_or_too_slowly_is_cut_off_in_time(tmp_path: Path) -> None:
    """Broken: silent connections pile up until the tracker has no descriptors left."""
    one, _ = configs(tmp_path, "n1", "n2")
    async with running(one), stranger(one) as silent, stranger(one) as slow, stranger(one) as probe:
        slow.writer.write(wire.encode(hello(), 999)[:20])
        probe.say(hello(probe=True))
        assert (await probe.hear())["boot"] == "first"
        assert await silent.hung_up()
        assert await slow.hung_up()
        assert await probe.hung_up(), "who only asked hangs up, or is"


@story
async def test_a_probe_is_no_link(tmp_path: Path) -> None:
    """Broken: a connection that was never adopted speaks for a member."""
    one, _ = configs(tmp_path, "n1", "n2")
    async with running(one) as (links, owner), stranger(one) as probe:
        probe.say(hello(probe=True))
        await probe.hear()
        probe.say({"type": "append_entries", "term": 9})
        assert await probe.hung_up()
        assert (links.connected, owner.told) == ((), [])


@story
async def test_more_strangers_than_allowed_are_not_served(tmp_path: Path) -> None:
    """Broken: whoever opens connections fast enough keeps the members out for good."""
    one, two = configs(tmp_path, "n1", "n2")
    async with AsyncExitStack() as stack:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(links_module, "STRANGERS_MAX", 3)
            links, _ = await stack.enter_async_context(running(one))
            crowd = [await stack.enter_async_context(stranger(one)) for _ in range(4)]
            assert await crowd[3].hung_up()
            for other in crowd[:3]:
                assert await other.hung_up()  # at the latest when the hello is overdue
            await stack.enter_async_context(running(two))
            await until(lambda: links.connected)


@story
async def test_garbage_behind_a_hello_costs_the_link(tmp_path: Path) -> None:
    """Broken: what does not decode is skipped, and messages after it are trusted."""
    one, _ = configs(tmp_path, "n1", "n2")
    async with running(one) as (_, owner), stranger(one) as member:
        member.say(hello())
        await member.hear()
        good = wire.encode({"type": "x"}, 99)
        member.writer.write(good + b"\x00\x00\x00\x01\xc1" + good)
        assert await member.hung_up()
        await until(lambda: owner.told[-1] == ("down", "n2"))
        assert owner.told == [("up", "n2", False), ("message", "n2", {"type": "x"}), ("down", "n2")]


@story
async def test_a_message_too_large_to_send_is_refused_here(tmp_path: Path) -> None:
    """Broken: the other side closes the link for what this one should not have sent."""
    one, _ = configs(tmp_path, "n1", "n2")
    async with running(one) as (links, _), stranger(one) as member:
        member.say(hello())
        await member.hear()
        with pytest.raises(Exception, match="not sent"):
            links.send("n2", {"type": "x", "data": bytes(MIB)})
        assert links.send("n2", {"type": "y"})
        links.flush()
        assert await member.hear() == {"type": "y"}


@story
async def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    """Broken: a tracker that cannot listen seems to run."""
    one, _ = configs(tmp_path, "n1", "n2")
    with closing(socket.create_server(("127.0.0.1", one.raft_bind.port))):
        links = links_of(one, "boot")
        links.owner = Owner()
        with pytest.raises(LocalError, match="cannot listen on raft address"):
            await links.start()
        await links.close()


@story
async def test_closing_leaves_no_connection_behind(tmp_path: Path) -> None:
    """Broken: a tracker that stops leaves sockets open; one that never said hello included."""
    one, two = configs(tmp_path, "n1", "n2")
    accepted: list[socket.socket] = []
    with closing(socket.create_server(("127.0.0.1", one.raft_bind.port))) as mute:
        mute.setblocking(False)
        async with running(replace(two, limits=replace(LIMITS, hello_timeout_s=60.0))):
            loop = asyncio.get_running_loop()
            accepted.append((await loop.sock_accept(mute))[0])
            assert await loop.sock_recv(accepted[0], 4)
        with closing(accepted[0]) as connection:
            async with asyncio.timeout(WAIT_S):
                try:
                    while await loop.sock_recv(connection, 999):
                        pass
                except ConnectionError:
                    pass


def test_the_hello_is_what_the_document_shows() -> None:
    """Broken: another implementation written from the document is refused."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "links.md").read_text("utf-8")
    for word in (*hello(), "ping", "forward", "forwarded", "read_at", "probed", "next_node_idx"):
        assert f'"{word}"' in text, word
    assert msgpack.version >= (1, 0, 8)


@story
async def test_a_member_that_moved_is_found_by_what_it_says(tmp_path: Path) -> None:
    """Broken: another address is another member, or everybody's settings must change with it."""
    one, two = configs(tmp_path, "n1", "n2")
    async with running(two) as (links, _):
        async with running(one):
            await until(lambda: links.linked("n1"))
        await until(lambda: not links.linked("n1"))
        moved = Address("127.0.0.1", free_port())
        members = (Member("n1", moved), *(m for m in one.members if m.node != "n1"))
        async with running(replace(one, members=members, raft_bind=moved), boot="second"):
            await until(lambda: links.linked("n1"))
            assert links.identity("n1").raft == str(moved)
