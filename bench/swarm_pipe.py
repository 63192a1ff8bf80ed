"""A connection of a simulated swarm."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from bench.swarm_links import Flow
from peer.pieces import Run

if TYPE_CHECKING:
    from bench.swarm_node import Node


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
