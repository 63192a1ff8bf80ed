"""Since when contents with a name have had no source, as far as it was noticed. Pure.

A mark is there for contents that :mod:`tracker_raft.machine.sweep` found without a peer. It goes
when a peer joins, when the content is published anew, and with the last name of the content.
Plain text and numbers in a plain dict, which the garbage collector need not walk; the order that a
snapshot needs is a sorted list beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sortedcontainers import SortedList

from tracker_raft.machine.digest import Digest
from tracker_raft.machine.snapshot_cursor import Row, Table

ITEM: Final = "mark"


class Marks:
    """By content, the logical time at which it was first found without a source."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._since: dict[bytes, int] = {}
        self._order: SortedList[bytes] = SortedList()

    def __len__(self) -> int:
        return len(self._since)

    def put(self, content: bytes, now_ms: int) -> int:
        """Since when it has been without a source: now, unless it was marked before."""
        since_ms = self._since.get(content)
        if since_ms is None:
            since_ms = self._since[content] = now_ms
            self._order.add(content)
            self._digest.add(ITEM, content, now_ms)
        return since_ms

    def get(self, content: bytes) -> int | None:
        return self._since.get(content)

    def forget(self, content: bytes) -> None:
        """It has a source, or is about to get one; nothing if it was not marked."""
        since_ms = self._since.pop(content, None)
        if since_ms is not None:
            self._order.remove(content)
            self._digest.remove(ITEM, content, since_ms)

    def forget_some(self, count: int) -> None:
        for content in list(self._order.islice(0, count)):
            self.forget(content)

    # -- snapshot ---------------------------------------------------------------------------------

    def tables(self) -> tuple[Table, ...]:
        """``marks``: (content, logical time) in the order of contents."""
        return (Table("marks", ITEM, lambda item: item[1], self._rows_after),)

    def _rows_after(self, content: bytes | None) -> Iterator[tuple[bytes, Row]]:
        for found in self._order.irange(content, inclusive=(False, True)):
            yield found, (found, self._since[found])

    def load(self, rows: Iterable[tuple[bytes, int]]) -> None:
        for content, since_ms in rows:
            self.put(content, since_ms)
