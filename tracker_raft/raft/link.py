"""One connection between two trackers: frames, the hello that begins it, why it is refused.

Who is welcome, and what becomes of what is said, is its :class:`Switchboard`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any, Protocol

from tracker_raft import sockets, wire
from tracker_raft.config import NodeConfig
from tracker_raft.errors import BadRequest, P2PError
from tracker_raft.raft.hello import Hello, client_refused
from tracker_raft.raft.membership import Refusal

log = logging.getLogger("tracker_raft.links")

HELLO_BYTES_MAX = 4096
"""The first frame; whoever has not said hello is not given room for more."""
ROUTINE = frozenset({"append_entries", "next_node_idx", "ping"})
"""Either answered at once, or not urgent: their segments are acknowledged as the kernel likes."""
SHORT_BYTES = 1024

Message = dict[str, Any]


class LinkOwner(Protocol):
    """Who is told of links and their messages: the replica."""

    def link_up(self, node: str, *, other_run: bool) -> None: ...
    def link_down(self, node: str) -> None: ...
    def link_message(self, node: str, message: Message) -> None: ...

    def link_read(self, node: str) -> None:
        """All messages were told that came in one read."""

    def told_removed(self, node: str) -> None:
        """``node`` refuses this very node, because it was removed."""


class Switchboard(Protocol):
    """All links of one tracker, as far as one of them asks."""

    owner: LinkOwner
    config: NodeConfig
    loop: asyncio.AbstractEventLoop
    me: Hello
    refused: dict[str, str]

    @property
    def others(self) -> Collection[str]: ...

    def judge(self, hello: Hello) -> Refusal | None: ...
    def adopt(self, link: Link) -> None: ...
    def gone(self, link: Link) -> None: ...
    def heard_of(self, hello: Hello) -> None: ...
    def stranger_came(self, link: Link) -> None: ...
    def note_refusal(self, node: str, reason: str) -> None: ...
    def refused_by(self, node: str, message: Message) -> None: ...


class Link(asyncio.Protocol):
    """One connection, dialled (``expected`` names the member) or accepted."""

    def __init__(self, links: Switchboard, expected: str | None) -> None:
        self.links = links
        self.expected = expected
        self.hello: Hello | None = None
        self.done = links.loop.create_future()
        """Resolved when the connection is over."""
        self.heard_s = links.loop.time()
        self._decoder = wire.FrameDecoder(HELLO_BYTES_MAX)
        self._out: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        limits = self.links.config.limits
        self._timer = self.links.loop.call_later(limits.hello_timeout_s, self.close, "no hello")
        if self.expected is not None:
            self._say_hello()
        else:
            self.links.stranger_came(self)

    def _say_hello(self) -> None:
        self.send(self.links.me.to_wire(self.links.config.cluster))
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.heard_s = self.links.loop.time()
        routine = True
        try:
            for message in self._decoder.feed(data):
                routine = routine and message.get("type") in ROUTINE
                if message.get("type") == "refused":
                    self._refused(message)
                elif self.hello is None:
                    if "op" in message and self.expected is None:
                        self.send(client_refused(self.links.me))
                        self.flush()
                    self._greeted(Hello.from_wire(message, self.links.config.cluster))
                elif self.hello.probe:
                    raise BadRequest(f"{message.get('type')!r} behind a probe")
                else:
                    self._heard(self.hello.node, message)
                if self._transport is None:
                    return
        except P2PError as error:
            self.close(str(error))
        finally:
            if self.hello is not None and not self.hello.probe:
                self.links.owner.link_read(self.hello.node)
        if not routine and len(data) <= SHORT_BYTES:
            self.links.loop.call_soon(self._acknowledge_now)  # behind what is to be done about it

    def _acknowledge_now(self) -> None:
        if self._transport is not None:
            sockets.acknowledge_now(self._transport.get_extra_info("socket"))

    def _heard(self, node: str, message: Message) -> None:
        if self.links.refused:  # only now it is known that the other side linked as well
            self.links.refused.pop(node, None)
        if message.get("type") != "ping":
            self.links.owner.link_message(node, message)

    def _greeted(self, hello: Hello) -> None:
        if self.expected is not None and hello.node != self.expected:
            raise BadRequest(f"node {hello.node!r} answered, expected {self.expected!r}")
        self._check(hello)
        self.hello = hello
        if self.expected is None:
            self._say_hello()
        if hello.probe:  # its deadline stays: who asked hangs up
            self.links.heard_of(hello)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._decoder.frame_bytes_max = self.links.config.limits.link_frame_bytes_max
        self.links.adopt(self)

    def _check(self, hello: Hello) -> None:
        """Refuse a member that is not the one we know, and tell it why."""
        if hello.node == self.links.config.node:
            raise BadRequest("this very node says hello")
        refusal = self.links.judge(hello)
        if refusal is None or (hello.probe and not refusal.removed):
            if refusal is not None and hello.node not in self.links.others:
                raise BadRequest(refusal.reason)
            return
        if refusal.removed or hello.joining or hello.node in self.links.others:
            self.send(refusal.to_wire(hello.birth))
            self.flush()
        if hello.node in self.links.others:
            self.links.note_refusal(hello.node, refusal.reason)
        raise BadRequest(refusal.reason)

    def _refused(self, message: Message) -> None:
        node = self.hello.node if self.hello is not None else self.expected
        if node is not None:
            self.links.refused_by(node, message)
        raise BadRequest("refused")

    def send(self, message: Message) -> bool:
        """Queue a frame, and say whether it is the first; :meth:`flush` writes. Raises
        :class:`TooLarge`, nothing queued."""
        self._out.append(wire.encode(message, self.links.config.limits.link_frame_bytes_max))
        return len(self._out) == 1

    def flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()
            if self.backlog > self.links.config.limits.link_buffer_bytes_max:
                self.close(f"{self.backlog} bytes wait to be sent")

    @property
    def backlog(self) -> int:
        """Bytes handed to the connection and not taken by the kernel yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self, reason: str) -> None:
        """Break the connection now; ``reason`` is logged."""
        if self._transport is not None:
            log.info("link with %s closed: %s", self.hello.node if self.hello else "?", reason)
            self._transport.abort()
            self._transport = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self.links.gone(self)
        if not self.done.done():
            self.done.set_result(None)

    def __repr__(self) -> str:
        return f"<Link {self.hello.node if self.hello else '?'} backlog={self.backlog}>"
