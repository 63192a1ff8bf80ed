"""A set of numbers kept as ranges: what is free, what a peer has, what is verified. Pure.

A download touches pieces in runs, so a few ranges describe millions of pieces: every question is
a bisection, and the cost of a piece does not grow with the size of the file.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from heapq import merge

FEWER = 4
"""One bisection costs as much as about so many steps of a walk."""


class Ranges:
    """Numbers as half-open ranges, sorted, apart from each other (never touching)."""

    def __init__(self, *ranges: tuple[int, int]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.count = 0
        for start, end in ranges:
            self.add(start, end)

    @classmethod
    def from_bitmap(cls, bitmap: bytes, count: int) -> Ranges:
        """Number i is bit ``7 - i % 8`` of byte ``i // 8``; from ``count`` on all is ignored."""
        ranges = cls()
        start: int | None = None
        for number in range(min(count, len(bitmap) * 8)):
            if bitmap[number >> 3] & (0x80 >> (number & 7)):
                if start is None:
                    start = number
            elif start is not None:
                ranges._append(start, number)
                start = None
        if start is not None:
            ranges._append(start, min(count, len(bitmap) * 8))
        return ranges

    def to_bitmap(self, count: int) -> bytes:
        """The reverse of :meth:`from_bitmap`, ``ceil(count / 8)`` bytes."""
        bitmap = bytearray((count + 7) // 8)
        for start, end in self:
            for number in range(start, min(end, count)):
                bitmap[number >> 3] |= 0x80 >> (number & 7)
        return bytes(bitmap)

    def _append(self, start: int, end: int) -> None:
        self._starts.append(start)
        self._ends.append(end)
        self.count += end - start

    def add(self, start: int, end: int) -> None:
        """Put ``start`` to ``end - 1`` in; what is in already stays."""
        if start >= end:
            return
        starts, ends = self._starts, self._ends
        left = bisect_left(ends, start)
        right = bisect_right(starts, end)
        if left == right:  # nothing touches it
            starts.insert(left, start)
            ends.insert(left, end)
            self.count += end - start
            return
        if right - left == 1:
            # One range grows, as it does with every run of a download.
            grown_start = start if start < starts[left] else starts[left]
            grown_end = end if end > ends[left] else ends[left]
            self.count += grown_end - grown_start - (ends[left] - starts[left])
            starts[left], ends[left] = grown_start, grown_end
            return
        start = min(start, starts[left])
        end = max(end, ends[right - 1])
        self.count += end - start - self._width(left, right)
        starts[left:right] = [start]
        ends[left:right] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take ``start`` to ``end - 1`` out; what is not in is ignored."""
        if start >= end:
            return
        left = bisect_right(self._ends, start)
        right = bisect_left(self._starts, end)
        if left >= right:
            return
        if right - left == 1 and start <= self._starts[left] and end >= self._ends[left]:
            self.count -= self._ends.pop(left) - self._starts.pop(left)
            return
        before = self._width(left, right)
        kept = [
            (a, b) for a, b in ((self._starts[left], start), (end, self._ends[right - 1])) if a < b
        ]
        self.count += sum(b - a for a, b in kept) - before
        self._starts[left:right] = [a for a, _ in kept]
        self._ends[left:right] = [b for _, b in kept]

    def _width(self, left: int, right: int) -> int:
        return sum(self._ends[left:right]) - sum(self._starts[left:right])

    def at(self, number: int) -> tuple[int, int] | None:
        """The part from ``number`` to the end of the range it is in, or None if it is not in."""
        ends = self._ends
        place = bisect_right(ends, number)
        if place == len(ends) or number < self._starts[place]:
            return None
        return number, ends[place]

    def after(self, number: int) -> tuple[int, int] | None:
        """The first part at or after ``number``: from it on, or the next whole range."""
        ends = self._ends
        place = bisect_right(ends, number)
        if place == len(ends):
            return None
        start = self._starts[place]
        return (start if start > number else number), ends[place]

    def within(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts between ``start`` and ``end``."""
        left = bisect_right(self._ends, start)
        right = bisect_left(self._starts, end)
        return [
            (max(start, self._starts[place]), min(end, self._ends[place]))
            for place in range(left, right)
        ]

    def covers(self, start: int, end: int) -> bool:
        """Whether all of ``start`` to ``end - 1`` is in."""
        if start >= end:
            return True
        place = bisect_right(self._ends, start)
        return place < len(self._ends) and self._starts[place] <= start and end <= self._ends[place]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts between ``start`` and ``end`` that are not in."""
        found: list[tuple[int, int]] = []
        for first, after in self.within(start, end):
            if start < first:
                found.append((start, first))
            start = after
        if start < end:
            found.append((start, end))
        return found

    def copy(self) -> Ranges:
        twin = Ranges()
        twin._starts, twin._ends = self._starts.copy(), self._ends.copy()
        twin.count = self.count
        return twin

    def nth(self, place: int) -> tuple[int, int]:
        """The range with this index, 0 to ``len(self) - 1``."""
        return self._starts[place], self._ends[place]

    def overlap(self, other: Ranges) -> Ranges:
        """What is in both: one walk over both, or bisection where one has far fewer ranges."""
        both = Ranges()
        few, many = (self, other) if len(self) < len(other) else (other, self)
        if len(few) * FEWER < len(many):
            for start, end in few:
                for part in many.within(start, end):
                    both._append(*part)
            return both
        mine = theirs = 0
        while mine < len(self) and theirs < len(other):
            start = max(self._starts[mine], other._starts[theirs])
            end = min(self._ends[mine], other._ends[theirs])
            if start < end:
                both._append(start, end)
            if self._ends[mine] <= other._ends[theirs]:
                mine += 1
            else:
                theirs += 1
        return both

    def minus(self, other: Ranges) -> Ranges:
        """What is in this one only, in one walk over both."""
        left = Ranges()
        theirs = bisect_right(other._ends, self._starts[0]) if self else 0
        for start, end in self:
            while theirs < len(other) and other._ends[theirs] <= start:
                theirs += 1
            place = theirs
            while place < len(other) and other._starts[place] < end:
                if start < other._starts[place]:
                    left._append(start, other._starts[place])
                start = other._ends[place]
                place += 1
            if start < end:
                left._append(start, end)
        return left

    def plus(self, other: Ranges) -> Ranges:
        """What is in either, in one walk over both."""
        both = Ranges()
        for start, end in merge(self, other):
            if both._ends and start <= both._ends[-1]:
                grown = max(end, both._ends[-1])
                both.count += grown - both._ends[-1]
                both._ends[-1] = grown
            else:
                both._append(start, end)
        return both

    def __contains__(self, number: int) -> bool:
        return self.at(number) is not None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        """How many ranges; :attr:`count` says how many numbers."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __str__(self) -> str:
        """``0-4, 7, 9-11``, the first eight ranges."""
        shown = [f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in list(self)[:8]]
        more = len(self) - len(shown)
        return ", ".join(shown) + (f" and {more} more ranges" if more > 0 else "")

    def __repr__(self) -> str:
        return f"<Ranges {self}>"


def first_common(sets: Sequence[Ranges], start: int, end: int) -> tuple[int, int] | None:
    """The first part between ``start`` and ``end`` that is in all ``sets``, as long as it goes.

    It leaps from range to range by bisection and builds nothing, so that finding one piece among
    millions costs microseconds.
    """
    while start < end:
        part_end = end
        for ranges in sets:
            part = ranges.after(start)
            if part is None:
                return None
            if part[0] > start:
                start = part[0]
                break
            part_end = min(part_end, part[1])
        else:
            return start, part_end
    return None
