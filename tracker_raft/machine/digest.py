"""One number for the whole state, kept up to date by each change. Pure.

The state is taken as a multiset of *items*, each a tuple of plain values that begins with the
kind of the item: ``("file", name, ...)``. The digest is the sum of the items' hashes modulo
2**256. Adding, removing or changing an item costs one or two hashes whatever the size of the
state, and the order in which a state was reached does not show: equal states, equal sums.

Changes are not hashed as they come but some hundred at a time, when so many wait or somebody asks:
together they cost a third less, and what comes and goes in between costs nothing at all. Most wait
here; a table whose rows come and go with every write, or that keeps the hashes of its rows, is a
:class:`Part` and lets them wait in a way of its own.

Of a last value that is a pair only the first part is hashed: the second is text for people, carried
along for the watchers. Who must know of each change (a snapshot under way) is told here, because
every change comes by here: one that did not would show as a wrong sum. They are told as late as the
sum is; who wants to know how things stand calls :meth:`Digest.settle` first.

A sum of hashes tells replicas that differ by accident apart. It is no protection against someone
who *chooses* items so that two sets collide; nothing here relies on that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Final, Protocol

import msgpack

Value = str | bytes | int | bool | tuple[str, str]
Item = tuple[Any, ...]
"""The kind, a word, and then values: each a :data:`Value`."""

WAITING_MAX: Final = 512
"""Changes that wait at one place: about half a millisecond of work."""
_MODULUS: Final = 2**256
_BYTES: Final = 32


_last = itemgetter(-1)


def _hashed(value: Value) -> Value:
    """What is hashed of an item's last value."""
    return value[0] if isinstance(value, tuple) else value


class Watcher(Protocol):
    """Is told of each change to the items of one kind, in order."""

    def added(self, items: Sequence[Item]) -> None: ...

    def removed(self, item: Item) -> None: ...


class Part(Protocol):
    """A table that reports its changes late."""

    def settle(self) -> None:
        """Report what waits: :meth:`Digest.come` and :meth:`Digest.go`."""


class Digest:
    """The sum. Whoever changes the state calls :meth:`add` and :meth:`remove` as it does so.

    An item that takes the place of another is added after the other was removed.
    """

    __slots__ = ("_pack", "_parts", "_total", "_waiting", "watchers")

    def __init__(self) -> None:
        self.watchers: Mapping[Value, Watcher] = {}
        """By kind of item; kinds without one are watched by nobody."""
        self._total = 0
        """The sum before it is taken modulo :data:`_MODULUS`."""
        self._waiting: list[tuple[int, Item]] = []
        """1 and an item that was added, or -1 and one that was removed."""
        self._parts: list[Part] = []
        # One packer for all items: three times faster than msgpack.packb, which makes one a call.
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def join(self, part: Part) -> None:
        """Ask ``part`` as well whenever somebody asks for the sum."""
        self._parts.append(part)

    # -- changes that wait here ------------------------------------------------------------------

    def add(self, *item: Value) -> None:
        """``item``: its kind, then its values. Only the last may be a pair."""
        self._waiting.append((1, item))
        if len(self._waiting) >= WAITING_MAX:
            self._settle()

    def add_many(self, items: Sequence[Item]) -> None:
        """:meth:`add` for each, all of one kind, which need not wait: they are many."""
        if self.watchers:  # they are told in order
            self._settle()
        self.come(items)

    def remove(self, *item: Value) -> None:
        """Take back an item exactly as it was added; anything else would never show as wrong."""
        self._waiting.append((-1, item))
        if len(self._waiting) >= WAITING_MAX:
            self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        hashes = self._hashes([item for _, item in waiting])
        self._total += sum(
            number if sign > 0 else -number
            for (sign, _), number in zip(waiting, hashes, strict=True)
        )
        if self.watchers:
            for sign, item in waiting:
                if sign > 0:
                    self._tell_added([item])
                else:
                    self._tell_removed(item)

    def _tell_added(self, items: Sequence[Item]) -> None:
        """These, all of one kind, are there now."""
        watcher = self.watchers.get(items[0][0]) if items else None
        if watcher is not None:
            watcher.added(items)

    def _tell_removed(self, item: Item) -> None:
        watcher = self.watchers.get(item[0])
        if watcher is not None:
            watcher.removed(item)

    def _hashes(self, items: Sequence[Item]) -> list[int]:
        if tuple in map(type, map(_last, items)):
            items = [(*item[:-1], _hashed(item[-1])) for item in items]
        packed = map(self._pack, items)
        digests = [blake2b(one, digest_size=_BYTES).digest() for one in packed]
        return [*map(int.from_bytes, digests)]  # the first byte counts most

    # -- what parts report -----------------------------------------------------------------------

    def come(self, items: Sequence[Item]) -> list[int]:
        """These items, all of one kind, are there now; their hashes, to be handed to :meth:`go`."""
        hashes = self._hashes(items)
        self._total += sum(hashes)
        if self.watchers:
            self._tell_added(items)
        return hashes

    def go(self, hashes: Iterable[int], items: Iterable[Item]) -> None:
        """Take back what :meth:`come` was told of; it need not be hashed again."""
        self._total -= sum(hashes)
        if self.watchers:
            for item in items:
                self._tell_removed(item)

    # -- asking ----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Hash what waits, and tell the watchers of it."""
        for part in self._parts:
            part.settle()
        self._settle()
        self._total %= _MODULUS

    def hex(self, *scalars: int) -> str:
        """The digest of all items and of ``scalars``: state that is a number, not an item."""
        self.settle()
        total = self._total.to_bytes(_BYTES, "big")
        return blake2b(self._pack((total, *scalars)), digest_size=_BYTES).hexdigest()

    def __repr__(self) -> str:
        self.settle()
        return f"<Digest {self._total:064x}>"
