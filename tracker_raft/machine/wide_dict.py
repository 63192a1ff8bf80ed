"""A dict for millions of keys that never stops in order to grow. Pure.

A dict that is full moves all it holds into a larger one. With 1.4 million names that took every
tracker half a second at the very same entry, longer than an election time-out: nobody led
meanwhile. So the keys are spread over :data:`PARTS` small dicts by their hash. Each grows by
itself, at another moment than the others, and with four million keys in all in a few milliseconds.
More parts would cost more with each key: they are far apart in memory.

Which part a key stands in follows from the hash that Python gives it, which differs from process to
process. Nothing may depend on it, so there is no way to go through the keys.

Where many keys are asked for or put in together, Python's own loops do it: :meth:`WideDict.homes`
says where each key belongs, for the methods that take that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from operator import contains, getitem, setitem
from typing import Any, Final, Generic, TypeVar

PARTS: Final = 64
_MASK: Final = PARTS - 1

K = TypeVar("K")
V = TypeVar("V")


class WideDict(Generic[K, V]):
    """Keys and values, as in a dict."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[dict[K, V]] = [_part() for _ in range(PARTS)]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __contains__(self, key: K) -> bool:
        return key in self._parts[hash(key) & _MASK]

    def __getitem__(self, key: K) -> V:
        return self._parts[hash(key) & _MASK][key]

    def __setitem__(self, key: K, value: V) -> None:
        self._parts[hash(key) & _MASK][key] = value

    def __delitem__(self, key: K) -> None:
        del self._parts[hash(key) & _MASK][key]

    def get(self, key: K) -> V | None:
        return self._parts[hash(key) & _MASK].get(key)

    def setdefault(self, key: K, value: V) -> V:
        return self._parts[hash(key) & _MASK].setdefault(key, value)

    # -- many at once ----------------------------------------------------------------------------

    def homes(self, keys: Iterable[K]) -> list[dict[K, V]]:
        """Where each of ``keys`` stands, or would."""
        parts = self._parts
        return [parts[hash(key) & _MASK] for key in keys]

    def __repr__(self) -> str:
        return f"<WideDict keys={len(self)} parts={PARTS}>"


def _part() -> dict[Any, Any]:
    """An empty dict that keeps the hash of each key, as a dict of text alone does not: that would
    ask the text itself, which is far away in memory, each time that it passes a key."""
    part: dict[Any, Any] = {0: None}
    del part[0]
    return part


def any_in(homes: Sequence[dict[K, V]], keys: Iterable[K]) -> bool:
    """Whether one of ``keys`` is there."""
    return any(map(contains, homes, keys))


def get_each(homes: Sequence[dict[K, V]], keys: Iterable[K]) -> list[V]:
    """The value of each of ``keys``, all of which are there."""
    return [*map(getitem, homes, keys)]


def set_each(homes: Sequence[dict[K, V]], keys: Iterable[K], values: Iterable[V]) -> None:
    """Each of ``keys`` gets its value."""
    deque(map(setitem, homes, keys, values), maxlen=0)


def set_each_default(
    homes: Sequence[dict[K, V]], keys: Iterable[K], values: Iterable[V]
) -> list[V]:
    """Each of ``keys`` that has none gets its value; the values that they have then."""
    return [*map(dict.setdefault, homes, keys, values)]
