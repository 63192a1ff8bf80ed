"""Piece numbers and the places they mean. Pure.

Pieces are numbered over all files of a content, in the order of its manifest; each file starts
its own piece, an empty file has none. :class:`PieceMap` turns a number into a place in a file in
O(log files) and walks runs of consecutive pieces without searching again.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

HASH_BYTES = 32


class Span(NamedTuple):
    """One piece and where it lies."""

    piece: int
    file: int
    """Index in ``manifest.files``."""
    piece_of_file: int
    offset: int
    """Bytes from the start of the file."""
    length: int


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """Consecutive pieces, asked for in one request."""

    first: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.count

    def __str__(self) -> str:
        return f"{self.first}+{self.count}"


class PieceMap:
    """Where each piece of a content lies. ``sizes`` are the bytes of its files, in order."""

    def __init__(self, sizes: Sequence[int], piece_bytes: int) -> None:
        self.piece_bytes = piece_bytes
        self.size = sum(sizes)
        self._sizes = array("q", sizes)
        self._first = array("q")
        self._before = array("Q")
        """Bytes of all files before each."""
        count = before = 0
        for size in sizes:
            self._first.append(count)
            self._before.append(before)
            count += -(-size // piece_bytes)
            before += size
        self.count = count

    def file_of(self, piece: int) -> int:
        """Index of the file that ``piece`` belongs to."""
        if not 0 <= piece < self.count:
            raise IndexError(f"piece {piece} of {self.count}")
        # Empty files share the number of the piece after them; the last file with it has it.
        return bisect_right(self._first, piece) - 1

    def pieces_of(self, file: int) -> Run:
        """The pieces of one file; of an empty file none."""
        return Run(self._first[file], -(-self._sizes[file] // self.piece_bytes))

    def spans(self, first: int, count: int) -> Iterator[Span]:
        """The places of ``count`` consecutive pieces. Raises IndexError beyond the last piece."""
        if count < 1 or first + count > self.count:
            raise IndexError(f"pieces {first}+{count} of {self.count}")
        file = self.file_of(first)
        piece_bytes, sizes = self.piece_bytes, self._sizes
        place = first - self._first[file]
        for piece in range(first, first + count):
            offset = place * piece_bytes
            while offset >= sizes[file]:
                file += 1
                place = offset = 0
            yield Span(piece, file, place, offset, min(piece_bytes, sizes[file] - offset))
            place += 1

    def bytes_of(self, first: int, count: int) -> int:
        """Bytes of ``count`` consecutive pieces together. Raises IndexError beyond the last."""
        if count < 1 or first < 0 or first + count > self.count:
            raise IndexError(f"pieces {first}+{count} of {self.count}")
        return self._bytes_before(first + count) - self._bytes_before(first)

    def _bytes_before(self, piece: int) -> int:
        if piece == self.count:
            return self.size
        file = bisect_right(self._first, piece) - 1
        return self._before[file] + (piece - self._first[file]) * self.piece_bytes

    def fitting(self, first: int, count_max: int, bytes_max: int) -> int:
        """How many pieces from ``first`` on fit ``bytes_max`` bytes: at least 1."""
        if self.bytes_of(first, count_max) <= bytes_max:
            return count_max
        end_max = self._bytes_before(first) + bytes_max
        return max(
            bisect_right(range(count_max), end_max, key=lambda n: self._bytes_before(first + n))
            - 1,
            1,
        )

    def __repr__(self) -> str:
        return f"<PieceMap {len(self._sizes)} files, {self.count} pieces of {self.piece_bytes}>"


def batches(spans: list[Span], bytes_max: int) -> list[tuple[list[Span], int]]:
    """Spans put together as long as they fit ``bytes_max``, with the bytes of each batch."""
    batches: list[tuple[list[Span], int]] = []
    batch: list[Span] = []
    size = 0
    for span in spans:
        if batch and size + span.length > bytes_max:
            batches.append((batch, size))
            batch, size = [], 0
        batch.append(span)
        size += span.length
    batches.append((batch, size))
    return batches
