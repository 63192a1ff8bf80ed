"""One number for the whole state, kept up to date by each change. Pure.

The state is taken as a multiset of *items*, each a tuple of plain values that begins with the
kind of the item: ``("file", name, ...)``. The digest is the sum of the items' hashes modulo
2**256. Adding, removing or changing an item costs one or two hashes whatever the size of the
state, and the order in which a state was reached does not show: equal states, equal sums.

A sum of hashes tells replicas that differ by accident apart. It is no protection against someone
who *chooses* items so that two sets collide; nothing here relies on that.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgpack

Value = str | bytes | int | bool

_MODULUS: Final = 2**256
_BYTES: Final = 32


class Digest:
    """The sum. Whoever changes the state calls :meth:`add` and :meth:`remove` as it does so."""

    __slots__ = ("_pack", "_total")

    def __init__(self) -> None:
        self._total = 0
        # One packer for all items: three times faster than msgpack.packb, which makes one a call.
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def _hash(self, item: tuple[Value, ...]) -> int:
        return int.from_bytes(blake2b(self._pack(item), digest_size=_BYTES).digest(), "big")

    def add(self, *item: Value) -> None:
        self._total = (self._total + self._hash(item)) % _MODULUS

    def remove(self, *item: Value) -> None:
        """Take back an item exactly as it was added; anything else would never show as wrong."""
        self._total = (self._total - self._hash(item)) % _MODULUS

    def hex(self, *scalars: int) -> str:
        """The digest of all items and of ``scalars``: state that is a number, not an item."""
        total = self._total.to_bytes(_BYTES, "big")
        return blake2b(self._pack((total, *scalars)), digest_size=_BYTES).hexdigest()

    def __repr__(self) -> str:
        return f"<Digest {self._total:064x}>"
