"""The connections between trackers: framing, identity, keeping them up. No PySyncObj here.

One live link for each pair of members. Of a pair the member with the greater id dials, with
exponential back-off; the other listens, and shows up with a probe when it starts. The first
frame either way is a ``hello`` that names cluster, node and *boot*, a random id of this run of
the process: a member that answers with another boot is not the process we knew.

Frames are those of :mod:`tracker_raft.wire`; ``docs/links.md`` lists the messages. What does not
decode, is over its limit or comes from a stranger closes the connection and is logged once; it
never reaches the replica. Until links are authenticated, whoever reaches the Raft port and knows
the cluster's name can claim a free member id: hence loopback unless asked otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from tracker_raft import sockets, wire
from tracker_raft.config import Address, NodeConfig
from tracker_raft.errors import BadRequest, LocalError, P2PError
from tracker_raft.raft.configuration import SEATS_MAX, Facts
from tracker_raft.raft.election import Reconnect
from tracker_raft.raft.hello import Hello
from tracker_raft.raft.link import Link, LinkOwner
from tracker_raft.raft.membership import Membership, Refusal, Roster
from tracker_raft.raft.memory import KnownMembers

log = logging.getLogger("tracker_raft.links")

PING_PERIOD_S = 1.0
SILENCE_MAX_S = 4.0
"""A link with nothing received for this long is closed; both sides ping every second."""
PROBE_TIMEOUT_S = 0.25
REASON_MAX = 500
STRANGERS_MAX = 64
"""Accepted connections that have not said hello yet; more are closed at once."""

NODES_MAX = 4 * SEATS_MAX
"""Nodes known at a time: members, those that were, and those that know of newer ones."""

Message = dict[str, Any]


class Links:
    """All links of one tracker. ``owner`` is set before :meth:`start`."""

    owner: LinkOwner

    def __init__(self, config: NodeConfig, boot: str, birth: str, known: KnownMembers) -> None:
        self.config = config
        membership = Membership(config, birth)
        me = Hello(config.node, boot, str(config.client_advertised), birth, ())
        own = next(member for member in config.members if member.node == config.node)
        self.me = replace(membership.hello(me), raft=str(own.raft))
        self.roster = membership.roster()
        self._settings = {one.node: one.raft for one in config.members if one is not own}
        self.refused: dict[str, str] = {}
        """Why a member does not link with this one, in its words or in ours, until it does."""
        self._known = known
        self.others: dict[str, None] = dict.fromkeys(self._settings)
        """Ids of those this node links with, as far as it knows them."""
        self._told: dict[str, Hello] = {}
        """What each node said of itself last."""
        self._sitting: set[str] = set()
        self._at: dict[str, str] = {}
        """Where each node is reached, as it said last."""
        self._dialling: dict[str, asyncio.Task[None]] = {}
        self._started = False
        self.loop = asyncio.get_running_loop()
        self._live: dict[str, Link] = {}
        self._unsent: list[Link] = []
        """Those that something was queued for since :meth:`flush`."""
        self._connected: tuple[str, ...] = ()
        """Its keys in order; asked for in every turn."""
        self._boots: dict[str, str] = {}
        self._strangers: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wanted: dict[str, asyncio.Event] = {}
        """Set for a member this node dials when that member was heard of: dial it now."""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen and begin to dial. Raises :class:`LocalError` when the port cannot be had."""
        bind = self.config.raft_bind
        try:
            self._server = await sockets.listen(lambda: Link(self, None), bind)
        except OSError as error:
            raise LocalError(
                f"cannot listen on raft address {bind}: {error.strerror or error}"
            ) from error
        self._started = True
        self._keep_all_dialled()
        self._show_up()
        self._run(self._keep_alive())

    def _keep_all_dialled(self) -> None:
        """Of each pair the one with the greater id dials."""
        wanted = {node for node in self.others if node < self.config.node}
        for node in wanted - self._dialling.keys():
            self._wanted[node] = asyncio.Event()
            self._dialling[node] = self._run(self._keep_dialling(node))
        for node in self._dialling.keys() - wanted:
            self._dialling.pop(node).cancel()
            self._wanted.pop(node)

    def _show_up(self) -> None:
        """Who dials this one and is not linked is to know that it runs, and where, so that it
        dials now. It is looked for wherever it may be: both may have moved."""
        for node in self.others:
            if node > self.config.node and node not in self._live:
                for address in self._addresses(node):
                    self._run(self._probe(node, address, lambda reconnect: None))

    async def close(self) -> None:
        """Stop listening and dialling and break every link."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in [*self._live.values(), *self._strangers]:
            link.close("this tracker stops")
        await asyncio.sleep(0)

    # -- sending ---------------------------------------------------------------------------------

    @property
    def connected(self) -> tuple[str, ...]:
        return self._connected

    def linked(self, node: str) -> bool:
        return node in self._live

    def newest_version(self, node: str) -> int:
        link = self._live.get(node)
        return 0 if link is None or link.hello is None else link.hello.newest

    def send(self, node: str, message: Message) -> bool:
        """Queue a message; False when there is no link. :meth:`flush` writes it."""
        link = self._live.get(node)
        if link is None:
            return False
        if link.send(message):
            self._unsent.append(link)
        return True

    def flush(self) -> None:
        if self._unsent:
            links, self._unsent = self._unsent, []
            for link in links:
                link.flush()

    def backlog(self, node: str) -> int:
        link = self._live.get(node)
        return 0 if link is None else link.backlog

    def admit(self, roster: Roster) -> None:
        """Link with these from now on; a link with anybody else is broken."""
        self.roster = roster
        index, joining = roster.in_force.index, roster.joining
        voters = roster.in_force.members.voters
        self.me = replace(self.me, members=voters, index=index, joining=joining)
        others = [seat.node for seat in roster.others]
        if joining:
            others += self._settings
        self.others = dict.fromkeys(others)
        for link in list(self._live.values()):
            if link.hello is not None and (refusal := self.judge(link.hello)) is not None:
                if refusal.removed:
                    link.send(refusal.to_wire(link.hello.birth))
                    link.flush()
                link.close(refusal.reason)
        self._seat_all()
        self._forget_the_gone()
        if self._started:
            self._keep_all_dialled()
            self._show_up()

    def _forget_the_gone(self) -> None:
        known = {self.config.node, *self.others, *self._live}
        for table in (self.refused, self._told, self._at, self._boots):
            for node in table.keys() - known:
                table.pop(node)

    def identity(self, node: str) -> Facts:
        """What is known of ``node``, this one included."""
        said = self.me if node == self.config.node else self._told.get(node)
        if said is None:
            return Facts(birth=self._known.births.get(node, ""))
        present = said is self.me or (node in self._live and self.sits(node))
        return Facts(said.birth, said.raft, said.endpoint, present)

    def sits(self, node: str) -> bool:
        """Whether who is linked as ``node`` is the member that is meant: its word counts."""
        return node in self._sitting

    def _seat_all(self) -> None:
        births, sits = self._known.births, self.roster.sits
        told = self._told.items()
        self._sitting = {n for n, said in told if sits(n, said.birth, births.get(n))}

    @property
    def trackers(self) -> list[str]:
        """Client addresses of the voters, as far as they are known."""
        seats = self.roster.in_force.members.completed(self.identity).seats
        return [seat.endpoint for seat in seats if seat.votes and seat.endpoint]

    def drop(self, node: str, reason: str) -> None:
        """Break the link with a member that does not speak the protocol."""
        if (link := self._live.get(node)) is not None:
            link.close(reason)

    # -- what links report -----------------------------------------------------------------------

    def stranger_came(self, link: Link) -> None:
        self._strangers.add(link)
        if len(self._strangers) > STRANGERS_MAX:
            link.close(f"{STRANGERS_MAX} connections have not said hello yet")

    def adopt(self, link: Link) -> None:
        """A member said hello: its link replaces any older one, which is half dead at best."""
        assert link.hello is not None
        node = link.hello.node
        self._strangers.discard(link)
        old = self._live.pop(node, None)
        self._connected = tuple(sorted(self._live))
        if old is not None:
            old.close("replaced by a newer link")
            self.owner.link_down(node)
        other_run = self._boots.get(node, link.hello.boot) != link.hello.boot
        self._live[node] = link
        self._connected = tuple(sorted(self._live))
        self._boots[node] = link.hello.boot
        self._told[node] = link.hello
        self._at[node] = link.hello.raft
        self._seat_all()
        self.owner.link_up(node, other_run=other_run)

    def judge(self, hello: Hello) -> Refusal | None:
        """Why whoever says this is not to be linked. A founding member is remembered by this."""
        if (refusal := self.roster.judge(hello)) is not None or hello.probe:
            return refusal
        if hello.node not in self.others and len(self._live) >= NODES_MAX:
            return Refusal(f"{len(self._live)} nodes are linked already, limit {NODES_MAX}")
        seat = self.roster.in_force.members.seat(hello.node)
        if seat is not None and not seat.birth and not self.roster.is_ahead(hello):
            try:
                self._known.check(hello.node, hello.birth)
            except OSError as error:
                return Refusal(f"{self.me.node!r} cannot remember its members: {error}")
            except BadRequest as error:
                return Refusal(error.message)
        return None

    def refused_by(self, node: str, message: Message) -> None:
        """``node`` does not link with this one, and says why."""
        reason = str(message.get("reason"))[:REASON_MAX]
        self.note_refusal(node, f"{node} refuses this node: {reason}")
        if message.get("removed") == self.me.birth:
            self.owner.told_removed(node)

    def note_refusal(self, node: str, reason: str) -> None:
        """Keep why there is no link with ``node``, for people; logged when it is news."""
        if self.refused.get(node) != reason:
            self.refused[node] = reason
            log.warning("no link with %s: %s", node, reason)

    def heard_of(self, hello: Hello) -> None:
        """A member this node is not linked to asked who runs here."""
        node = hello.node
        welcome = node in self.others or len(self.others) < NODES_MAX
        if welcome and hello.raft and self.roster.judge(hello) is None:
            self._at[node] = hello.raft  # it may have moved
            if node not in self.others:
                # It is of members this node has not read of yet: they may be all that is left.
                self.others[node] = None
                self._keep_all_dialled()
        if node in self._wanted and node not in self._live:
            self._wanted[node].set()

    def gone(self, link: Link) -> None:
        self._strangers.discard(link)
        if link.hello is not None and self._live.get(link.hello.node) is link:
            del self._live[link.hello.node]
            self._connected = tuple(sorted(self._live))
            self.owner.link_down(link.hello.node)

    # -- dialling --------------------------------------------------------------------------------

    def _addresses(self, node: str) -> list[Address]:
        """Where ``node`` may be: as it said itself, as the settings say, as the members say. Who
        answers says who it is, so trying a stale one does no harm."""
        setting = str(self._settings[node]) if node in self._settings else ""
        texts = (self._at.get(node), setting, *self.roster.places(node))
        found = []
        for text in dict.fromkeys(text for text in texts if text):
            with contextlib.suppress(BadRequest):  # whoever said it: the others may do
                found.append(Address.parse(text))
        return found

    async def _keep_dialling(self, node: str) -> None:
        timing, attempts = self.config.timing, 0
        wait_s = timing.reconnect_min_s
        while True:
            if not (addresses := self._addresses(node)):
                await asyncio.sleep(timing.reconnect_max_s)
                continue
            address = addresses[attempts % len(addresses)]
            attempts += 1
            try:
                async with asyncio.timeout(self.config.limits.hello_timeout_s):
                    link = await sockets.connect(lambda: Link(self, node), address)
            except (OSError, TimeoutError):
                pass
            else:
                try:
                    await link.done
                finally:
                    link.close("dialling stopped")  # cancelled before the other said hello
                if link.hello is not None:
                    wait_s = timing.reconnect_min_s
            self._wanted[node].clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s * random.uniform(0.5, 1.0)):
                    await self._wanted[node].wait()
            wait_s = min(wait_s * 2, timing.reconnect_max_s)

    def reconnect(self, node: str, done: Callable[[Reconnect], None]) -> None:
        """One attempt to reach the process of ``node``: is it the run we knew?"""
        address = next(iter(self._addresses(node)), None)
        self._run(self._probe(node, address, done))

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _probe(
        self, node: str, address: Address | None, done: Callable[[Reconnect], None]
    ) -> None:
        done(Reconnect.NO_ANSWER if address is None else await self._reconnect(node, address))

    async def _reconnect(self, node: str, address: Address) -> Reconnect:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                try:
                    boot = await self._ask_boot(node, reader, writer)
                finally:
                    writer.transport.abort()
        except ConnectionRefusedError:
            return Reconnect.REFUSED
        except (OSError, TimeoutError, EOFError, P2PError):
            return Reconnect.NO_ANSWER
        return Reconnect.SAME_RUN if boot == self._boots.get(node) else Reconnect.OTHER_RUN

    async def _ask_boot(
        self, node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str:
        limit = self.config.limits.link_frame_bytes_max
        ask = replace(self.me, probe=True)
        writer.write(wire.encode(ask.to_wire(self.config.cluster), limit))
        length = wire.frame_length(await reader.readexactly(wire.HEADER_BYTES), limit)
        answer = wire.decode_body(await reader.readexactly(length))
        if answer.get("type") == "refused":
            self.refused_by(node, answer)
        return Hello.from_wire(answer, self.config.cluster).boot

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(PING_PERIOD_S)
            now_s = self.loop.time()
            self._show_up()
            for link in list(self._live.values()):
                if now_s - link.heard_s > SILENCE_MAX_S:
                    link.close(f"nothing heard for {now_s - link.heard_s:.1f} s")
                else:
                    link.send({"type": "ping"})
                    link.flush()
