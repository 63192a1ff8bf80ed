"""All names in order, millions of them, for next to nothing a name. Pure.

How it works
------------
Names are looked at in order seldom (a listing, a snapshot, a pass over all) and bound all the time.
So a new name is only put on a heap of *fresh* ones. When they are :data:`FRESH_MAX`, or somebody
looks, they are sorted and become a *run*, a sorted list; two runs of about the same length become
one, up to :data:`RUN_MAX`. That is a merge sort taken in small steps: sorting what consists of two
sorted lists is one pass over both, so a name costs a few passes in all, and no step is longer than
one over a run. A sorted list that every name is put into at once costs three times as much, and
twice that again with a million names, whose places are far apart in memory.

Looking for a name's place is one binary search in each run: 16 of them with a million names.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

FRESH_MAX: Final = 1_024
RUN_MAX: Final = 65_536
"""Merging two of half this length takes some milliseconds."""


class NameIndex:
    """A set of names that can be walked in order. Each is added once and removed once."""

    def __init__(self) -> None:
        self._fresh: list[str] = []
        self._runs: list[list[str]] = []
        """Each sorted, no name in two of them; the longer ones come first."""

    def __len__(self) -> int:
        return len(self._fresh) + sum(map(len, self._runs))

    def add(self, name: str) -> None:
        """``name``, which is not there yet."""
        self._fresh.append(name)
        if len(self._fresh) >= FRESH_MAX:
            self._sort()

    def update(self, names: Iterable[str]) -> None:
        """:meth:`add` for each."""
        self._fresh += names
        if len(self._fresh) >= FRESH_MAX:
            self._sort()

    def remove(self, name: str) -> None:
        """Raises KeyError when it is not there."""
        self._sort()
        for run in self._runs:
            place = bisect_left(run, name)
            if place < len(run) and run[place] == name:
                del run[place]
                return
        raise KeyError(name)

    def after(self, name: str | None, *, inclusive: bool = False) -> Iterator[str]:
        """The names behind ``name`` in order, that one as well if ``inclusive``; None: all.

        Nothing may be added or removed while this is walked.
        """
        self._sort()
        find = bisect_left if inclusive else bisect_right
        starts = [(run, 0 if name is None else find(run, name)) for run in self._runs]
        return heapq.merge(*(_from(run, start) for run, start in starts if start < len(run)))

    def _sort(self) -> None:
        """Make a run of what is fresh, and one of two until each is twice as long as the next."""
        if not self._fresh:
            return
        run, self._fresh = sorted(self._fresh), []
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            if len(self._runs[-1]) + len(run) > RUN_MAX:
                break
            longer = self._runs.pop()
            longer += run
            longer.sort()  # of two sorted parts: one pass
            run = longer
        self._runs.append(run)
        self._runs.sort(key=len, reverse=True)

    def __repr__(self) -> str:
        return f"<NameIndex names={len(self)} runs={len(self._runs)} fresh={len(self._fresh)}>"


def _from(run: list[str], start: int) -> Iterator[str]:
    """What ``islice`` would give, which counts its way to ``start``."""
    names = iter(run)
    names.__setstate__(start)  # type: ignore[attr-defined]
    return names
