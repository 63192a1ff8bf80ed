"""Which names each content has. Pure.

A plain dict of content to name, for a content has one name as a rule; the others are in one sorted
list of ``content + name`` for the whole registry: no set or list per content, and the names of one
content stand in order by themselves.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from sortedcontainers import SortedList

from tracker_raft.commands import CONTENT_ID_BYTES


class ContentIndex:
    """Pairs of content and name, each of them once."""

    def __init__(self) -> None:
        self.one: dict[bytes, str] = {}
        """One of the names that each content has; which one follows from the past, and shows
        nowhere."""
        self._more: SortedList[bytes] = SortedList()
        """``content + name`` of all others."""

    def add(self, content: bytes, name: str) -> None:
        if self.one.setdefault(content, name) != name:
            self._more.add(content + name.encode())

    def remove(self, content: bytes, name: str) -> bool:
        """Whether the content has no name any more."""
        if self.one[content] != name:
            self._more.remove(content + name.encode())
            return False
        del self.one[content]
        for key in self._more.irange(content, content + b"\xff"):
            self._more.remove(key)
            self.one[content] = key[CONTENT_ID_BYTES:].decode()
            return False
        return True

    def names_of(self, content: bytes) -> Iterator[str]:
        """In order."""
        one = self.one.get(content)
        if one is not None:
            keys = self._more.irange(content, content + b"\xff")
            yield from heapq.merge((one,), (key[CONTENT_ID_BYTES:].decode() for key in keys))
