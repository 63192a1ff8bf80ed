"""A connection of a simulated swarm."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bench.swarm_links import Flow
from peer.pieces import Run
from peer.turns import Turns

if TYPE_CHECKING:
    from bench.swarm_node import Node
    from bench.swarm_world import World

LOOK_S = 0.25
"""How often a connection without work looks whether something is to be taken over when nothing is
free any more. The product does so every 0.1 s; nothing is taken over before 0.25 s."""
LOOK_EARLY_S = 2.0
"""The same as long as pieces are free."""
LOOK_AT_LEAST_S = 5.0
"""The same where the source has nothing that is lacking: it may be time to let it go."""


class Pipe:
    """A connection: ``node`` fetches from ``source`` over one flow."""

    __slots__ = (
        "bytes", "closed", "flow", "left", "look_at_s", "node", "open", "queue", "since_s",
        "source", "starting", "version",
    )  # fmt: skip

    def __init__(self, node: Node, source: Node, flow: Flow) -> None:
        self.node, self.source, self.flow = node, source, flow
        self.queue: deque[tuple[Run, int]] = deque()
        """Runs that were asked for, each with the pieces of it that came."""
        self.open = self.closed = self.starting = False
        self.left = 0.0
        """Bytes of the piece that is under way, as of ``since_s``."""
        self.since_s = self.look_at_s = 0.0
        self.version = 0
        """Of the event that tells the end of the piece; older ones are void."""
        self.bytes = 0

    @property
    def active(self) -> bool:
        return self.flow in self.flow.links[0].flows

    def __repr__(self) -> str:
        return f"<Pipe {self.source.name} to {self.node.name}, {len(self.queue)} runs>"


class Line:
    """Whose run a node sends, and who waits: its turns, on the clock of the run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._turns: Turns[Pipe] = Turns(world.limits)
        self._timed = False

    def join(self, pipe: Pipe) -> None:
        """Have the first run of ``pipe`` sent as soon as it is its turn."""
        if not self._turns.ask(pipe, self._world.now_s):
            if pipe.active:
                self._world.stop(pipe)
            pipe.starting = True  # it waits here, and is not to be begun elsewhere
            self.go_on()
        elif pipe.active:
            self._world.next_piece(pipe)
        else:
            self._world.start(pipe)

    def leave(self, pipe: Pipe) -> None:
        """It was sent, or the connection has ended."""
        self._turns.leave(pipe)

    def go_on(self, timed: bool = False) -> None:
        """Begin what may begin now; the rest in time."""
        self._timed = self._timed and not timed
        now_s = self._world.now_s
        while (pipe := self._turns.next(now_s)) is not None:
            pipe.starting = False
            self._world.start(pipe)
        if self._turns.waiting and not self._timed:
            self._timed = True
            self._world.after(self._turns.wait_s(now_s), self.go_on, True)

    def __repr__(self) -> str:
        return f"<Line {self._turns}>"
