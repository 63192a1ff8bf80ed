"""A snapshot taken in slices while the state goes on changing. Pure.

Rules
-----
* The bytes are those of the moment at which the cursor was made, whatever changes meanwhile.
* No step takes longer because the state is larger: not the first, not the last, not giving up.

How it works
------------
The rows of a snapshot are exactly the items of the digest (:mod:`tracker_raft.machine.digest`),
so whatever changes the state tells the digest of each row that goes and each row that comes, and
the digest tells the cursor. Each table is written in the order of its keys, and the key written
last is the cursor's *position*. Of a change at or before the position nothing is kept, it is
written. Of the first change beyond it the row that was there is kept, or that there was none.
Each slice merges the rows kept with those of the table. It looks its place up anew by the
position: an iterator that lived on from slice to slice would break under the changes.

Most tables are one: millions of names, to which others are added meanwhile and from which hardly
one is taken. So rows are taken many at once, and one by one only where some that were kept belong
between them.

What to re-check when you change it: that the digest is told of a row that goes before the one
that takes its place; that ``key`` and ``after`` of each table agree on one order, which is the
order of the format; and that rows passed over count as work done, or one slice passes thousands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Final

from tracker_raft.machine import snapshot_format
from tracker_raft.machine.digest import Digest, Item, Value

Row = tuple[Any, ...]
Key = Any
"""Text, bytes or a tuple of numbers: what has an order among its like."""

SLICE_ROWS: Final = 2_000
"""Rows of one slice unless the caller says otherwise: a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the state, as the snapshot sees it."""

    kind: str
    """Of its blocks in the snapshot."""
    item: str
    """Of its rows in the digest. An item is this word and the row."""
    key: Callable[[Item], Key]
    """The place of an item in the order of the table."""
    after: Callable[[Key | None], Iterable[tuple[Key, Row | None]]]
    """The rows beyond a key, or all for None, each with its own key. A row may be None: nothing
    stands there, but coming past it was work."""
    many: Callable[[Key | None, int], tuple[Sequence[Key], Sequence[Row]]] | None = None
    """The keys and rows of the next so many, or of all that are left, none of them None; for a
    table whose rows are many and stay."""


class SnapshotCursor:
    """Reads the state as it was when this was made, block by block.

    ``tracked``: the state may change between the slices. Without it nothing is remembered, and
    the caller sees to it that the state stays as it is.
    """

    def __init__(
        self,
        head: dict[str, int],
        state_hash: str,
        tables: Sequence[Table],
        digest: Digest,
        *,
        tracked: bool = True,
    ) -> None:
        self.applied = head["applied"]
        """As of the moment this was made, like all that is read from it."""
        self.time_ms = head["time_ms"]
        self.state_hash = state_hash
        self._writer = snapshot_format.Writer()
        self._next_block: bytes | None = self._writer.head(head)
        """A block that waits to be handed out: the head, which is made first."""
        # Reversed, so that the table being written is the last and can be popped.
        self._tables = [(table, _Memory(table.key)) for table in reversed(tables)]
        self._ended = self._closed = False
        self._digest = digest
        self._tracked = tracked
        self._watching: dict[Value, _Memory] = {
            table.item: memory for table, memory in self._tables
        }
        """The digest's own mapping while this is the newest cursor. What is taken out of it, a
        table that is written or all by :meth:`close`, is told and remembered no more."""
        if tracked:
            digest.watchers = self._watching  # the cursor before this one, if any, is now blind

    def next(self, rows_max: int = SLICE_ROWS) -> bytes | None:
        """The next bytes of the snapshot; None after the last.

        Comes past at most ``rows_max`` rows and returns at most one block, so what it returns may
        be empty: then call again. Raises RuntimeError when the cursor was closed, or another one
        begun, before the end.
        """
        if rows_max < 1:
            raise ValueError(f"rows_max is {rows_max}, expected at least 1")
        if self._ended:
            return None
        abandoned = self._tracked and self._digest.watchers is not self._watching
        if self._closed or abandoned:
            raise RuntimeError("snapshot cursor was closed, or another begun, before its end")
        if self._next_block is not None:
            block, self._next_block = self._next_block, None
            return block
        if self._tracked:
            self._digest.settle()  # what was written so far ends where the last slice did
        return self._slice(rows_max)

    def close(self) -> None:
        """Stop remembering; :meth:`next` must not be called again. Harmless after the end.

        Frees the rows kept and not yet written: a cost by what changed, not by what there is.
        """
        self._closed = True
        self._tables.clear()
        self._watching.clear()

    def _slice(self, rows_max: int) -> bytes:
        left = rows_max
        while self._tables:
            table, memory = self._tables[-1]
            passed = self._pass(table, memory, min(left, self._writer.room))
            if self._writer.full:
                return self._writer.block(table.kind)
            left -= passed
            if not left:
                return b""
            if not passed:
                self._tables.pop()
                del self._watching[table.item]
                if not self._writer.empty:
                    return self._writer.block(table.kind)
        self._ended = True
        return self._writer.end(self.state_hash)

    def _pass(self, table: Table, memory: _Memory, most: int) -> int:
        """Come past ``most`` rows at most; past how many. 0: it is the end of the table."""
        if table.many is None:
            return self._merge(memory, table.after(memory.position), most)
        keys, rows = table.many(memory.position, most)
        last = len(keys) < most
        if memory.gone and (last or memory.gone[0] <= keys[-1]):
            return self._merge(memory, zip(keys, rows, strict=True), most, last=last)
        self._add(memory, keys, rows)
        return len(keys)

    def _merge(
        self,
        memory: _Memory,
        found: Iterable[tuple[Key, Row | None]],
        most: int,
        *,
        last: bool = True,
    ) -> int:
        """Come past these rows one by one, and past those kept that belong between them;
        ``last``: and past those kept that come behind."""
        passed = 0
        for row in _merged(memory, found, last):
            passed += 1
            if row is not None:
                self._writer.add(row)
            if passed == most or self._writer.full:
                break
        return passed

    def _add(self, memory: _Memory, keys: Sequence[Key], rows: Sequence[Row]) -> None:
        """Come past these rows at once, or as far as the block has room. None is kept that belongs
        between them."""
        before = memory.before
        later = [key for key in keys if key in before] if before else []
        if later:
            pairs = zip(keys, rows, strict=True)
            rows = [row for key, row in pairs if key not in before]
        taken = self._writer.add_many(rows)
        if taken < len(rows):
            there = [key for key in keys if key not in before]
            memory.position = there[taken - 1]
            later = [key for key in later if key < memory.position]
        elif keys:
            memory.position = keys[-1]
        for key in later:
            del before[key]

    @property
    def kept(self) -> int:
        """Rows that have changed beyond the position: what this cursor now holds in memory."""
        self._digest.settle()
        return sum(len(memory.before) for memory in self._watching.values())

    def __repr__(self) -> str:
        left = "+".join(table.kind for table, _ in reversed(self._tables))
        return f"<SnapshotCursor applied={self.applied} left={left} kept={self.kept}>"


class _Memory:
    """What the rows of one table were, as far as they have changed beyond the position."""

    __slots__ = ("before", "gone", "key", "position")

    def __init__(self, key: Callable[[Item], Key]) -> None:
        self.key = key
        self.position: Key | None = None
        """The key the cursor came to last; None before the first."""
        self.before: dict[Key, Item | None] = {}
        """The item that was there, or None for none. Nothing is kept of what came and went."""
        self.gone: list[Key] = []
        """A heap of the keys whose item is kept: in order for the merge, at O(1) for most."""

    def removed(self, item: Item) -> None:
        key = self.key(item)
        if self.position is not None and key <= self.position:
            return
        if key not in self.before:
            self.before[key] = item
            heappush(self.gone, key)
        elif self.before[key] is None:
            del self.before[key]

    def added(self, items: Iterable[Item]) -> None:
        keys: Iterable[Key] = map(self.key, items)
        if self.position is not None:
            position = self.position
            keys = [key for key in keys if key > position]
        deque(map(self.before.setdefault, keys), maxlen=0)


def _merged(
    memory: _Memory, found: Iterable[tuple[Key, Row | None]], last: bool
) -> Iterator[Row | None]:
    """These rows of the table and those kept that belong between them, as they were; ``last``:
    those behind them as well. None for what is passed over.

    The position is that of the row just yielded, so this can be left at any row.
    """
    before, gone = memory.before, memory.gone
    for key, row in found:
        while gone and gone[0] < key:
            yield _kept(memory)
        if gone and gone[0] == key:
            yield _kept(memory)
        else:
            memory.position = key
            if key in before:  # as None, or it were among the gone: it came later
                del before[key]
                yield None
            else:
                yield row
    while last and gone:
        yield _kept(memory)


def _kept(memory: _Memory) -> Row:
    memory.position = heappop(memory.gone)
    item = memory.before.pop(memory.position)
    assert item is not None  # the heap has the keys of items only
    return item[1:]
