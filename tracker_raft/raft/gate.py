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
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tracker_raft.raft.seams import Message


class _Promise(NamedTuple):
    position: int
    node: str
    message: Message


class Gate:
    """Both queues of one node."""

    def __init__(self) -> None:
        self._promises: deque[_Promise] = deque()
        self._acknowledged: dict[str, deque[Message]] = {}

    def hold(self, position: int, node: str, message: Message) -> None:
        """Keep a promise to ``node`` until ``position`` of the journal is durable."""
        self._promises.append(_Promise(position, node, message))

    def promises(self, durable: int) -> Iterable[tuple[str, Message]]:
        """Take out what may leave now, in order."""
        return self._leaving(durable) if self._promises else ()

    def _leaving(self, durable: int) -> Iterator[tuple[str, Message]]:
        while self._promises and self._promises[0].position <= durable:
            _, node, message = self._promises.popleft()
            yield node, message

    def must_wait(self, node: str, message: Message, durable_index: int) -> bool:
        """Whether this acknowledgement is kept back; if so it comes out of :meth:`arrivals`."""
        waiting = self._acknowledged.get(node)
        if waiting is None and not _is_above(message, durable_index):
            return False
        self._acknowledged.setdefault(node, deque()).append(message)
        return True

    def arrivals(self, durable_index: int) -> Iterable[tuple[str, Message]]:
        """Take out the acknowledgements that may be counted now, in order for each node."""
        return self._arriving(durable_index) if self._acknowledged else ()

    def _arriving(self, durable_index: int) -> Iterator[tuple[str, Message]]:
        for node in list(self._acknowledged):
            # Who takes one out may lose a link by it: so look again each time.
            while waiting := self._acknowledged.get(node):
                if _is_above(waiting[0], durable_index):
                    break
                yield node, waiting.popleft()
            if not waiting:
                self._acknowledged.pop(node, None)

    def link_lost(self, node: str) -> None:
        """What went over a broken link is void: the peer's process may be another by now."""
        self._acknowledged.pop(node, None)
        self._promises = deque(promise for promise in self._promises if promise.node != node)


def _is_above(message: Message, durable_index: int) -> bool:
    return bool(message["success"]) and message["next_node_idx"] - 1 > durable_index
