"""The network between the simulated trackers: links that delay, break, stall and cut.

A link is one connection of two processes: first in first out each way, and when it breaks,
whatever is in flight either way is gone, like TCP. A *cut* direction delivers nothing while it
lasts and nobody is told (a black hole); what was sent meanwhile arrives when it heals, if the
link still stands. Messages cross as bytes, through the real framing, so that what the codec does
to them is part of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tests.sim.world import Process, World
from tracker_raft import wire
from tracker_raft.raft.configuration import Facts
from tracker_raft.raft.election import Reconnect
from tracker_raft.raft.hello import Hello
from tracker_raft.raft.membership import Refusal, Roster
from tracker_raft.versions import OLDEST

FRAME_BYTES_MAX = 8 * 1024 * 1024
REDIAL_S = (0.005, 0.2)
HANDSHAKE_S = 0.001
SILENCE_S = 4.0

Message = dict[str, Any]


class Owner(Protocol):
    def link_up(self, node: str, *, other_run: bool) -> None: ...
    def link_down(self, node: str) -> None: ...
    def link_message(self, node: str, message: Message) -> None: ...
    def link_read(self, node: str) -> None: ...
    def told_removed(self, node: str) -> None: ...


@dataclass(eq=False)
class Connection:
    """Both directions of one link."""

    ends: tuple[SimLinks, SimLinks]
    open: bool = True
    arrives_s: dict[str, float] = field(default_factory=dict)
    """When the last frame sent by that node arrives: the next one not before."""
    stalled: dict[str, list[bytes]] = field(default_factory=dict)


class Network:
    """All links. ``cut`` and ``down`` are the faults of :mod:`faults`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.delay_s = (0.0001, 0.0005)
        self.cut: set[tuple[str, str]] = set()
        """(from, to): nothing sent that way arrives."""
        self.nodes: dict[str, SimLinks] = {}
        self.frames = 0
        self.version = OLDEST
        """The newest cluster version that the nodes tell each other to support. As long as it is
        the oldest, the cluster stays at it."""

    def join(self, links: SimLinks) -> None:
        """A process started: it shows up, and the pairs dial."""
        self.nodes[links.node] = links
        links.joined = True
        self.dial_all(links, links.others)
        for other in self.nodes.values():
            if links.node in other.others and other.node not in links.others:
                self.dial_all(other, [links.node])

    def dial_all(self, links: SimLinks, others: list[str]) -> None:
        for other in others:
            self.world.after(self._pause_s(), None, self._dial, links.node, other)

    def leave(self, links: SimLinks) -> None:
        """A process died: the kernel closes its sockets, its peers see that a moment later."""
        if self.nodes.get(links.node) is links:
            del self.nodes[links.node]
        for connection in list(links.live.values()):
            self.break_link(connection, told=links)

    def break_link(self, connection: Connection, told: SimLinks | None = None) -> None:
        """Break a link; its ends are told after a moment, except the one that knows."""
        if not connection.open:
            return
        connection.open = False
        for end, other in (connection.ends, connection.ends[::-1]):
            if end is told:
                end.live.pop(other.node, None)
            else:
                self.world.after(self.latency_s(), end.process, end.lost, other.node, connection)
        a, b = connection.ends
        self.world.after(self._pause_s(), None, self._dial, a.node, b.node)

    def latency_s(self) -> float:
        return self.world.random.uniform(*self.delay_s)

    def _pause_s(self) -> float:
        return self.world.random.uniform(*REDIAL_S)

    def reachable(self, a: str, b: str) -> bool:
        return (a, b) not in self.cut and (b, a) not in self.cut

    def _dial(self, a: str, b: str) -> None:
        """Connect a pair if both run, neither stands still, and no cut is between them."""
        one, two = self.nodes.get(a), self.nodes.get(b)
        if one is None or two is None:
            return  # who starts, dials
        if b in one.live or a in two.live:
            if not (b in one.live and one.live[b].open):
                self.world.after(self._pause_s(), None, self._dial, a, b)
            return
        if one.process.paused or two.process.paused or not self.reachable(a, b):
            self.world.after(self._pause_s(), None, self._dial, a, b)
            return
        if (b not in one.others and a not in two.others) or self._refused(one, two):
            self.world.after(self._pause_s(), None, self._dial, a, b)
            return
        connection = Connection((one, two))
        one.live[b] = two.live[a] = connection
        for end, other in ((one, two), (two, one)):
            up_s = self.world.now_s + HANDSHAKE_S + self.latency_s()
            connection.arrives_s[other.node] = up_s  # nothing arrives before the end is up
            self.world.at(up_s, end.process, end.came_up, other, connection)

    def _refused(self, one: SimLinks, two: SimLinks) -> bool:
        """Whether one of them does not want the other, who is told if it was removed."""
        refused = False
        for end, other in ((one, two), (two, one)):
            refusal = end.judge(other.me)
            if refusal is not None:
                refused = True
                if refusal.removed:
                    delay_s = self.latency_s()
                    told = other.owner.told_removed
                    self.world.after(delay_s, other.process, told, end.node)
        return refused

    def transmit(self, connection: Connection, sender: SimLinks, frame: bytes) -> None:
        receiver = connection.ends[1] if connection.ends[0] is sender else connection.ends[0]
        if (sender.node, receiver.node) in self.cut:
            connection.stalled.setdefault(sender.node, []).append(frame)
            return
        arrives_s = self.world.now_s + self.latency_s()
        arrives_s = max(arrives_s, connection.arrives_s.get(sender.node, 0.0))
        connection.arrives_s[sender.node] = arrives_s
        self.frames += 1
        self.world.at(arrives_s, receiver.process, receiver.arrived, sender.node, connection, frame)

    def begin_cut(self, pair: tuple[str, str]) -> None:
        """A one-way black hole. Both ends ping, so a long one ends in a broken link."""
        self.cut.add(pair)
        self.world.after(SILENCE_S, None, self._notice_silence, pair)

    def _notice_silence(self, pair: tuple[str, str]) -> None:
        sender = self.nodes.get(pair[0])
        connection = sender.live.get(pair[1]) if sender is not None else None
        if pair in self.cut and connection is not None:
            self.break_link(connection)

    def heal(self, pair: tuple[str, str]) -> None:
        """End a cut; what was sent into it arrives now, where the link still stands."""
        self.cut.discard(pair)
        sender = self.nodes.get(pair[0])
        connection = sender.live.get(pair[1]) if sender is not None else None
        if sender is not None and connection is not None and connection.open:
            for frame in connection.stalled.pop(pair[0], []):
                self.transmit(connection, sender, frame)


class SimLinks:
    """The links of one process: :class:`tracker_raft.raft.seams.Lines`."""

    owner: Owner

    def __init__(
        self, network: Network, process: Process, boot: int, me: Hello, met: dict[str, str]
    ) -> None:
        """``met``: births of the founding members met before; outlives the process."""
        self.me = me
        self.met = met
        self.roster: Roster | None = None
        self.joined = False
        self.hints: list[str] = []
        """Whom a node that waits to join was told of."""
        self._told: dict[str, Hello] = {}
        self.network = network
        self.process = process
        self.node = process.node
        self.boot = boot
        self.others: list[str] = []
        self.live: dict[str, Connection] = {}
        self._up: dict[str, Connection] = {}
        self._boots: dict[str, int] = {}
        self._out: list[tuple[str, bytes]] = []

    # -- what the network reports ------------------------------------------------------------------

    def came_up(self, other: SimLinks, connection: Connection) -> None:
        if connection.open and self.live.get(other.node) is connection:
            other_run = self._boots.get(other.node, other.boot) != other.boot
            self._boots[other.node] = other.boot
            self._told[other.node] = other.me
            self._up[other.node] = connection
            self.owner.link_up(other.node, other_run=other_run)

    def lost(self, node: str, connection: Connection) -> None:
        if self.live.get(node) is connection:
            del self.live[node]
        if self._up.get(node) is connection:
            del self._up[node]
            self.owner.link_down(node)

    def arrived(self, node: str, connection: Connection, frame: bytes) -> None:
        if connection.open and self._up.get(node) is connection:
            self.owner.link_message(node, wire.decode_body(frame[wire.HEADER_BYTES :]))
            self.owner.link_read(node)

    # -- Lines -------------------------------------------------------------------------------------

    @property
    def connected(self) -> tuple[str, ...]:
        return tuple(sorted(self._up))

    def linked(self, node: str) -> bool:
        return node in self._up

    def newest_version(self, node: str) -> int:
        return self.network.version if node in self._up else 0

    def send(self, node: str, message: Message) -> bool:
        if node not in self._up:
            return False
        self._out.append((node, wire.encode(message, FRAME_BYTES_MAX)))
        return True

    def flush(self) -> None:
        for node, frame in self._out:
            connection = self._up.get(node)
            if connection is not None and connection.open:
                self.network.transmit(connection, self, frame)
        self._out.clear()

    def backlog(self, node: str) -> int:
        return 0

    def judge(self, hello: Hello) -> Refusal | None:
        assert self.roster is not None
        if (refusal := self.roster.judge(hello)) is not None:
            return refusal
        seat = self.roster.in_force.members.seat(hello.node)
        if seat is None or seat.birth or self.roster.is_ahead(hello):
            return None
        known = self.met.setdefault(hello.node, hello.birth)
        return None if known == hello.birth else Refusal("it lost its memory")

    def admit(self, roster: Roster) -> None:
        self.roster = roster
        self.me = replace(
            self.me,
            members=roster.in_force.members.voters,
            index=roster.in_force.index,
            joining=roster.joining,
        )
        before, self.others = self.others, [seat.node for seat in roster.others]
        if roster.joining:
            self.others += [node for node in self.hints if node not in self.others]
        for node, hello in self._told.items():
            connection = self.live.get(node)
            if connection is not None and node in self._up and roster.judge(hello) is not None:
                self._up.pop(node)
                self.network.break_link(connection, told=self)
                self.network.world.after(0.0, self.process, self.owner.link_down, node)
        if self.joined:
            self.network.dial_all(self, [node for node in self.others if node not in before])

    def sits(self, node: str) -> bool:
        assert self.roster is not None
        said = self._told.get(node)
        return said is not None and self.roster.sits(node, said.birth, self.met.get(node))

    def identity(self, node: str) -> Facts:
        said = self.me if node == self.node else self._told.get(node)
        if said is None:
            return Facts(self.met.get(node, ""))
        present = said is self.me or (node in self._up and self.sits(node))
        return Facts(said.birth, said.raft, said.endpoint, present)

    def drop(self, node: str, reason: str) -> None:
        raise AssertionError(f"{self.node} drops its link with {node}: {reason}")

    def reconnect(self, node: str, done: Callable[[Reconnect], None]) -> None:
        there = self.network.nodes.get(node)
        if not self.network.reachable(self.node, node):
            answer, delay_s = Reconnect.NO_ANSWER, 0.25
        elif there is None:
            answer, delay_s = Reconnect.REFUSED, 2 * self.network.latency_s()
        elif there.process.paused:
            answer, delay_s = Reconnect.NO_ANSWER, 0.25
        elif there.boot == self._boots.get(node):
            answer, delay_s = Reconnect.SAME_RUN, 4 * self.network.latency_s()
        else:
            answer, delay_s = Reconnect.OTHER_RUN, 4 * self.network.latency_s()
        self.network.world.after(delay_s, self.process, done, answer)
