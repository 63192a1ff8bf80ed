"""What must wait for the disk: promises on their way out, acknowledgements on their way in.

Bookkeeping only. Two rules (PySyncObj's defects S4 and S5):

* a message that says "I have it" or "I vote" leaves once everything added to the journal before
  it is durable (:attr:`SegmentJournal.durable`);
* the library counts the leader itself towards a majority as soon as a follower acknowledges, so
  an acknowledgement above the leader's own durable index waits for that, and with it everything
  the same follower says after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from tracker_raft.raft.seams import Message


class _Promise(NamedTuple):
    position: int
    node: str
    message: Message


class Gate:
    """Both queues of one node."""

    def __init__(self) -> None:
        self.held: deque[_Promise] = deque()
        """Promises that wait; to be read only."""
        self.acknowledged: dict[str, deque[Message]] = {}
        """Acknowledgements that wait, by who said them; to be read only."""

    def hold(self, position: int, node: str, message: Message) -> None:
        """Keep a promise to ``node`` until ``position`` of the journal is durable."""
        self.held.append(_Promise(position, node, message))

    def promises(self, durable: int) -> Iterator[tuple[str, Message]]:
        """Take out what may leave now, in order."""
        while self.held and self.held[0].position <= durable:
            _, node, message = self.held.popleft()
            yield node, message

    def must_wait(self, node: str, message: Message, durable_index: int) -> bool:
        """Whether this acknowledgement is kept back; if so it comes out of :meth:`arrivals`."""
        waiting = self.acknowledged.get(node)
        if waiting is None and not _is_above(message, durable_index):
            return False
        self.acknowledged.setdefault(node, deque()).append(message)
        return True

    def arrivals(self, durable_index: int) -> Iterator[tuple[str, Message]]:
        """Take out the acknowledgements that may be counted now, in order for each node."""
        for node in list(self.acknowledged):
            # Who takes one out may lose a link by it: so look again each time.
            while waiting := self.acknowledged.get(node):
                if _is_above(waiting[0], durable_index):
                    break
                yield node, waiting.popleft()
            if not waiting:
                self.acknowledged.pop(node, None)

    def link_lost(self, node: str) -> None:
        """What went over a broken link is void: the peer's process may be another by now."""
        self.acknowledged.pop(node, None)
        self.held = deque(promise for promise in self.held if promise.node != node)


def _is_above(message: Message, durable_index: int) -> bool:
    return bool(message["success"]) and message["next_node_idx"] - 1 > durable_index
