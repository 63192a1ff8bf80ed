"""Which names each content has. Pure.

A dict of content to name, for a content has one name as a rule; the others are in one sorted
list of ``content + name`` for the whole registry: no set or list per content, and the names of one
content stand in order by themselves.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from sortedcontainers import SortedList

from tracker_raft.commands import CONTENT_ID_BYTES
from tracker_raft.machine.wide_dict import WideDict, set_each_default


class ContentIndex:
    """Pairs of content and name, each of them once."""

    def __init__(self) -> None:
        self._one: WideDict[bytes, str] = WideDict()
        """One of the names that each content has; which one follows from the past, and shows
        nowhere."""
        self._more: SortedList[bytes] = SortedList()
        """``content + name`` of all others."""

    def add(self, content: bytes, name: str) -> None:
        if self._one.setdefault(content, name) != name:
            self._more.add(content + name.encode())

    def add_many(self, contents: Sequence[bytes], names: Sequence[str]) -> None:
        """:meth:`add` for each pair."""
        found = set_each_default(self._one.homes(contents), contents, names)
        if found != [*names]:  # another name had one of them
            for content, name, holder in zip(contents, names, found, strict=True):
                if holder != name:
                    self._more.add(content + name.encode())

    def remove(self, content: bytes, name: str) -> bool:
        """Whether the content has no name any more."""
        if self._one[content] != name:
            self._more.remove(content + name.encode())
            return False
        del self._one[content]
        for key in self._more.irange(content, content + b"\xff"):
            self._more.remove(key)
            self._one[content] = key[CONTENT_ID_BYTES:].decode()
            return False
        return True

    def names_of(self, content: bytes) -> Iterator[str]:
        """In order."""
        one = self._one.get(content)
        if one is not None:
            keys = self._more.irange(content, content + b"\xff")
            yield from heapq.merge((one,), (key[CONTENT_ID_BYTES:].decode() for key in keys))
