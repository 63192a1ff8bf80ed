"""The newest changes of the files, for those who watch. Pure; part of the replicated state.

Rules
-----
* What an operation did to the files is one change, at the operation's place in the log; one that
  did nothing (a refusal, a repeat, the same content again) is none.
* The newest ``changes_kept_max`` are kept, and with the oldest of them those of its *run*. The
  *horizon* is the place behind the newest change that is not: a watch from the horizon or later
  misses nothing, one from before it may, and is refused. Both follow from the log alone, so every
  tracker has the same horizon at the same entry, and a watch may go on at any other.
* All of it is in the digest and in the snapshot. A tracker that came from a snapshot tells the
  changes before it too, and two that would tell different ones are found out.

How it is kept
--------------
A list in the order of the log, whose oldest end is cut off in lumps: cutting each would move all.
Most changes bind a name that is free, many in one entry. Up to :data:`RUN_MAX` of them that follow
each other there are one run, which is one item of the digest and one row of the snapshot: hashed
one by one they would cost a fifth of all that an operation does. Any other change stands by
itself, and at cluster version 1, whose software knows no runs, each does. A change takes about 400
bytes, at most 1.3 KB: 21 MB for all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

import msgpack

from tracker_raft.changes import PUBLISHED, REMOVED, REPLACED, VERSION_REMOVED, Change, Place
from tracker_raft.commands import FileRecord
from tracker_raft.config import MachineLimits
from tracker_raft.errors import Compacted
from tracker_raft.machine import names as naming
from tracker_raft.machine.digest import WAITING_MAX, Digest, Item
from tracker_raft.machine.snapshot_cursor import Row, Table

Kept = tuple[int, int, str, bytes | tuple[bytes]]
"""Index, position, name, and the rest: its msgpack; or, of a name that was bound, the bytes that
the registry then had of it (:mod:`tracker_raft.machine.names`), alone in a tuple."""
Bound = tuple[int, str, bytes]
"""One of a run: position, name and those bytes, which the registry may still have: the very same
object."""
Stored = tuple[int, int, str, bytes | tuple[Bound, ...]]
"""A change as :data:`Kept`; or a run, by the place of its first change and without a name."""

RUN_MAX: Final = 128
"""A run is as well what the history may be longer than it must, and a row of the snapshot."""
RUNS_SINCE: Final = 2
"""The cluster version."""
_LUMP: Final = 1_024
"""So many forgotten changes are cut off the list at once."""
_RECORD_FIELDS: Final = 7
"""Of a record, from its version on. Behind them stands the tag if there is one, else empty text
and the versions dropped besides, if there are any."""
_place = itemgetter(0, 1)


class ChangeHistory:
    """The newest changes, in the order of the log."""

    def __init__(self, limits: MachineLimits, digest: Digest) -> None:
        self.place: Place = (0, 0)
        """Of the operation that runs now; its change gets it."""
        self.horizon: Place = (0, 0)
        """From here on nothing is missing."""
        self.in_runs = False
        """The cluster is at version :data:`RUNS_SINCE` or later."""
        self._kept_max = limits.changes_kept_max
        self._digest = digest
        self._bound: list[Bound] = []
        """The run that the entry under way has come to, and the index of that entry."""
        self._bound_at = 0
        self._stored: list[Stored] = []
        self._hashes: list[int] = []
        """What the digest has for each of them, as far as it knows them: the newest are told late
        (:class:`~tracker_raft.machine.digest.Part`)."""
        self._start = 0
        """Of the list, this many are forgotten and not yet cut off."""
        self._count = 0
        self._pack = msgpack.Packer(use_bin_type=True).pack
        digest.join(self)

    def __len__(self) -> int:
        return self._count

    # -- writes -----------------------------------------------------------------------------------

    def published(
        self, names: Iterable[str], packed: Iterable[bytes], positions: Iterable[int]
    ) -> None:
        """Operations of the entry that runs bound these names, which were not bound: what
        :meth:`note` would find, for most of all operations. ``packed``: what is known of each name
        now; ``positions``: in the entry."""
        self._bound_at = self.place[0]
        self._bound += zip(positions, names, packed, strict=True)

    def note(self, before: Sequence[FileRecord], after: Sequence[FileRecord]) -> None:
        """The running operation made ``after`` of ``before``, the versions of one name."""
        newest = after[-1].version if after else 0
        dropped: list[int] = []
        if newest > (before[-1].version if before else 0):
            kind, record = (REPLACED if before else PUBLISHED), after[-1]
            if len(after) <= len(before):
                left = {one.version: None for one in after}
                dropped = [one.version for one in before if one.version not in left]
        elif after:
            left = {one.version: None for one in after}
            kind, record = VERSION_REMOVED, next(r for r in before if r.version not in left)
        else:
            kind, record = REMOVED, before[-1]
        *others, last = dropped or (0,)
        self._note(kind, newest, last, record, *(("", others) if others else ()))

    def tagged(self, kind: str, newest: int, record: FileRecord, tag: str) -> None:
        """The running operation let ``tag`` mean ``record`` or, as ``kind`` says, nothing more;
        ``newest``: the newest version of the name."""
        self._note(kind, newest, 0, record, tag)

    def _note(self, kind: str, newest: int, dropped: int, record: FileRecord, *more: Any) -> None:
        fields = (
            kind,
            newest,
            dropped,
            record.version,
            record.content,
            record.size,
            record.manifest_bytes,
            record.piece_bytes,
            record.owner,
            record.group,
            *more,
        )
        self._end_run()
        self._store((*self.place, record.name, self._pack(fields)), 1)

    def _store(self, stored: Stored, count: int) -> None:
        self._stored.append(stored)
        self._count += count

    def _end_run(self) -> None:
        bound, self._bound = self._bound, []
        if not self.in_runs:
            for position, name, packed in bound:
                _, (row,) = msgpack.unpackb(packed, use_list=False)
                alone = self._pack((PUBLISHED, row[0], 0, *row))
                self._store((self._bound_at, position, name, alone), 1)
            return
        for start in range(0, len(bound), RUN_MAX):
            run = tuple(bound[start : start + RUN_MAX])
            self._store((self._bound_at, run[0][0], "", run), len(run))

    def trim(self) -> None:
        """Forget what is too old. To be called at the end of an entry."""
        self._end_run()
        if len(self._stored) - len(self._hashes) >= WAITING_MAX:
            self.settle()
        if self._count <= self._kept_max:
            return
        end = self._start
        while self._count - _size(self._stored[end]) >= self._kept_max:
            self._count -= _size(self._stored[end])
            end += 1
        if end == self._start:
            return
        if end > len(self._hashes):
            self.settle()
        oldest = self._stored[self._start : end]
        self._digest.go(self._hashes[self._start : end], map(self._item, oldest))
        self.horizon = oldest[-1][0], _last_position(oldest[-1]) + 1
        self._start = end
        if self._start >= _LUMP:
            del self._stored[: self._start]
            del self._hashes[: self._start]
            self._start = 0

    def settle(self) -> None:
        """Tell the digest of the newest changes."""
        new = self._stored[len(self._hashes) :]
        self._hashes += self._digest.come([self._item(stored) for stored in new])

    def _item(self, stored: Stored) -> Item:
        return ("change", *self._row(stored))

    def _row(self, stored: Stored) -> Row:
        index, position, name, rest = stored
        if isinstance(rest, tuple):
            rest = self._pack(rest)
        return index, position, name, rest

    # -- reads ------------------------------------------------------------------------------------

    def since(self, place: Place) -> Iterator[Kept]:
        """The changes from ``place`` on, oldest first. None must be added meanwhile."""
        stored = self._stored
        for at in range(self._find(place), len(stored)):
            index, position, name, rest = stored[at]
            if not isinstance(rest, tuple):
                yield index, position, name, rest
                continue
            for position, one, packed in rest:
                if (index, position) >= place:
                    yield index, position, one, (packed,)

    def _find(self, place: Place) -> int:
        """Where the first change from ``place`` on is stored; it may be in the midst of a run."""
        at = bisect_left(self._stored, place, lo=self._start, key=_place)
        if at > self._start:
            before = self._stored[at - 1]
            if (before[0], _last_position(before)) >= place:
                return at - 1
        return at

    def read(self, prefix: str, place: Place, limit: int) -> tuple[list[Kept], bool]:
        """Up to ``limit`` changes of names with ``prefix`` from ``place`` on, oldest first, and
        whether there are more. Raises :class:`Compacted`."""
        if place < self.horizon:
            oldest = self.horizon[0] + 1
            raise Compacted(
                f"changes before entry {oldest} are not kept any more, and those from "
                f"{place[0]}.{place[1]} on were asked for. List anew, then watch from the entry "
                f"behind that of the listing",
                oldest=oldest,
            )
        found: list[Kept] = []
        for change in self.since(place):
            if change[2].startswith(prefix):
                if len(found) == limit:
                    return found, True
                found.append(change)
        return found, False

    # -- snapshot ---------------------------------------------------------------------------------

    def tables(self) -> tuple[Table, ...]:
        """``changes``: (index, position, name, rest) in the order of the log."""
        return (Table("changes", "change", lambda item: (item[1], item[2]), self._rows_after),)

    def _rows_after(self, key: Place | None) -> Iterator[tuple[Place, Row]]:
        place = (0, 0) if key is None else (key[0], key[1] + 1)
        start = bisect_left(self._stored, place, lo=self._start, key=_place)
        for at in range(start, len(self._stored)):
            stored = self._stored[at]
            yield _place(stored), self._row(stored)

    def load(self, rows: Iterable[tuple[int, int, str, bytes]]) -> None:
        """Add rows of a snapshot, in order, to a history that has no later ones."""
        for index, position, name, packed in rows:
            if name:
                self._store((index, position, name, packed), 1)
            else:
                run = msgpack.unpackb(packed, use_list=False)
                self._store((index, position, name, run), len(run))
        self.settle()


def _size(stored: Stored) -> int:
    return len(stored[3]) if isinstance(stored[3], tuple) else 1


def _last_position(stored: Stored) -> int:
    return stored[3][-1][0] if isinstance(stored[3], tuple) else stored[1]


def unpack(kept: Kept) -> Change:
    """The change in words."""
    index, position, name, rest = kept
    if not isinstance(rest, bytes):
        (record,) = naming.unpack(name, rest[0]).kept
        return Change(index, position, PUBLISHED, record, record.version, 0)
    fields: tuple[Any, ...] = msgpack.unpackb(rest, use_list=False)
    kind, newest, dropped, *more = fields
    record = FileRecord(name, *more[:_RECORD_FIELDS])
    return Change(index, position, kind, record, newest, dropped, *more[_RECORD_FIELDS:])
