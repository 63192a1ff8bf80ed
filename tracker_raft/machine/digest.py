"""One number for the whole state, kept up to date by each change. Pure.

The state is taken as a multiset of *items*, each a tuple of plain values that begins with the
kind of the item: ``("file", name, ...)``. The digest is the sum of the items' hashes modulo
2**256. Adding, removing or changing an item costs one or two hashes whatever the size of the
state, and the order in which a state was reached does not show: equal states, equal sums.

An item that is soon gone again need never be hashed. So those of the kinds in :data:`PASSING`,
the replies and the use of request sessions, wait; if what is added is removed meanwhile, or the
reverse, both are forgotten. What is left is hashed when the sum is asked for, or when too much
waits.

Of a last value that is a pair only the first part is hashed: the second is text for people, carried
along for the watchers. Who must know of each change (a snapshot under way) is told here, because
every change comes by here: one that did not would show as a wrong sum.

A sum of hashes tells replicas that differ by accident apart. It is no protection against someone
who *chooses* items so that two sets collide; nothing here relies on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, Protocol

import msgpack

Value = str | bytes | int | bool | tuple[str, str]
Item = tuple[Any, ...]
"""The kind, a word, and then values: each a :data:`Value`."""

PASSING: Final = frozenset({"session", "reply"})
"""Kinds whose items come and go with each write."""
WAITING_MAX: Final = 4_096
"""Items of them that wait to be hashed: about five milliseconds of work."""
_MODULUS: Final = 2**256
_BYTES: Final = 32


class Watcher(Protocol):
    """Is told of each change to the items of one kind, just before or just after it."""

    def added(self, item: Item) -> None: ...

    def removed(self, item: Item) -> None: ...


class Digest:
    """The sum. Whoever changes the state calls :meth:`add` and :meth:`remove` as it does so.

    An item that takes the place of another is added after the other was removed.
    """

    __slots__ = ("_added", "_pack", "_removed", "_total", "watchers")

    def __init__(self) -> None:
        self.watchers: Mapping[Value, Watcher] = {}
        """By kind of item; kinds without one are watched by nobody."""
        self._total = 0
        """The sum before it is taken modulo :data:`_MODULUS`."""
        self._added: dict[Item, None] = {}
        self._removed: dict[Item, None] = {}
        # One packer for all items: three times faster than msgpack.packb, which makes one a call.
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def _hash(self, item: Item) -> int:
        if type(item[-1]) is tuple:
            item = (*item[:-1], item[-1][0])
        return int.from_bytes(blake2b(self._pack(item), digest_size=_BYTES).digest(), "big")

    def add(self, *item: Value) -> None:
        """``item``: its kind, then its values. Only the last may be a pair."""
        if item[0] not in PASSING:
            self._total += self._hash(item)
        elif item in self._removed:
            del self._removed[item]
        else:
            self._wait(self._added, item)
        if self.watchers and item[0] in self.watchers:
            self.watchers[item[0]].added(item)

    def add_known(self, *item: Value) -> int:
        """The same, of a kind not in :data:`PASSING`; its hash, for :meth:`remove_known`."""
        known = self._hash(item)
        self._total += known
        if self.watchers and item[0] in self.watchers:
            self.watchers[item[0]].added(item)
        return known

    def add_many(self, items: Sequence[Item]) -> list[int]:
        """:meth:`add_known` for each, at less than its cost."""
        pack, from_bytes = self._pack, int.from_bytes
        known = [
            from_bytes(blake2b(pack(item), digest_size=_BYTES).digest(), "big") for item in items
        ]
        self._total += sum(known)
        if self.watchers:
            for item in items:
                if item[0] in self.watchers:
                    self.watchers[item[0]].added(item)
        return known

    def remove_known(self, known: int, *item: Value) -> None:
        """Take back what :meth:`add_known` added, which need not be hashed again."""
        self._total -= known
        if self.watchers and item[0] in self.watchers:
            self.watchers[item[0]].removed(item)

    def remove_many(self, known: Sequence[int], items: Iterable[Item]) -> None:
        """:meth:`remove_known` for each."""
        self._total -= sum(known)
        if self.watchers:
            for item in items:
                if item[0] in self.watchers:
                    self.watchers[item[0]].removed(item)

    def remove(self, *item: Value) -> None:
        """Take back an item exactly as it was added; anything else would never show as wrong."""
        if item[0] not in PASSING:
            self._total -= self._hash(item)
        elif item in self._added:
            del self._added[item]
        else:
            self._wait(self._removed, item)
        if self.watchers and item[0] in self.watchers:
            self.watchers[item[0]].removed(item)

    def _wait(self, waiting: dict[Item, None], item: Item) -> None:
        if item in waiting or len(self._added) + len(self._removed) >= WAITING_MAX:
            self._settle()  # an item that is there twice counts twice
        waiting[item] = None

    def _settle(self) -> None:
        """Hash what waits."""
        for item in self._added:
            self._total += self._hash(item)
        for item in self._removed:
            self._total -= self._hash(item)
        self._added.clear()
        self._removed.clear()
        self._total %= _MODULUS

    def hex(self, *scalars: int) -> str:
        """The digest of all items and of ``scalars``: state that is a number, not an item."""
        self._settle()
        total = self._total.to_bytes(_BYTES, "big")
        return blake2b(self._pack((total, *scalars)), digest_size=_BYTES).hexdigest()

    def __repr__(self) -> str:
        self._settle()
        return f"<Digest {self._total:064x}>"
