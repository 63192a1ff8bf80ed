"""The newest changes of the files, for those who watch. Pure; part of the replicated state.

Rules
-----
* What an operation did to the files is one change, at the operation's place in the log; one that
  did nothing (a refusal, a repeat, the same content again) is none.
* The newest ``changes_kept_max`` are kept. The *horizon* is the place behind the newest change
  that is not: a watch from the horizon or later misses nothing, one from before it may, and is
  refused. Both follow from the log alone, so every tracker has the same horizon at the same
  entry, and a watch may go on at any other.
* All of it is in the digest and in the snapshot. A tracker that came from a snapshot tells the
  changes before it too, and two that would tell different ones are found out.

How it is kept
--------------
A list in the order of the log, whose oldest end is cut off in lumps: cutting each would move all.
The name stands apart from the rest, packed, so that looking for a prefix unpacks nothing. A change
takes about 400 bytes, at most 1.3 KB: 21 MB for all.
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
from tracker_raft.machine.digest import WAITING_MAX, Digest
from tracker_raft.machine.snapshot_cursor import Row, Table

Kept = tuple[int, int, str, bytes]
"""Index, position, name, and the msgpack of the rest."""

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
        self._kept_max = limits.changes_kept_max
        self._digest = digest
        self._changes: list[Kept] = []
        self._hashes: list[int] = []
        """What the digest has for each of them, as far as it knows them: the newest are told late
        (:class:`~tracker_raft.machine.digest.Part`)."""
        self._start = 0
        """Of the list, this many are forgotten and not yet cut off."""
        self._pack = msgpack.Packer(use_bin_type=True).pack
        digest.join(self)

    def __len__(self) -> int:
        return len(self._changes) - self._start

    # -- writes -----------------------------------------------------------------------------------

    def published(
        self, names: Iterable[str], rows: Iterable[Sequence[Any]], positions: Iterable[int]
    ) -> None:
        """Operations of the entry that runs bound these names, which were not bound, to their first
        versions: what :meth:`note` would find, for most of all operations. ``rows``: the fields of
        the records from the version on; ``positions``: in the entry."""
        index, _ = self.place
        pack = self._pack
        self._changes += [
            (index, position, name, pack((PUBLISHED, row[0], 0, *row)))
            for position, name, row in zip(positions, names, rows, strict=True)
        ]

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
        self._changes.append((*self.place, record.name, self._pack(fields)))

    def trim(self) -> None:
        """Forget what is too old. To be called at the end of an entry."""
        if len(self._changes) - len(self._hashes) >= WAITING_MAX:
            self.settle()
        end = len(self._changes) - self._kept_max
        if end <= self._start:
            return
        if end > len(self._hashes):
            self.settle()
        oldest = self._changes[self._start : end]
        self._digest.go(self._hashes[self._start : end], (("change", *one) for one in oldest))
        self.horizon = oldest[-1][0], oldest[-1][1] + 1
        self._start = end
        if self._start >= _LUMP:
            del self._changes[: self._start]
            del self._hashes[: self._start]
            self._start = 0

    def settle(self) -> None:
        """Tell the digest of the newest changes."""
        new = self._changes[len(self._hashes) :]
        self._hashes += self._digest.come([("change", *change) for change in new])

    # -- reads ------------------------------------------------------------------------------------

    def since(self, place: Place) -> Iterator[Kept]:
        """The changes from ``place`` on, oldest first. None must be added meanwhile."""
        changes = self._changes
        for at in range(self._find(place), len(changes)):
            yield changes[at]

    def _find(self, place: Place) -> int:
        return bisect_left(self._changes, place, lo=self._start, key=_place)

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
        for change in self.since((0, 0) if key is None else (key[0], key[1] + 1)):
            yield _place(change), change

    def load(self, rows: Iterable[tuple[int, int, str, bytes]]) -> None:
        """Add rows of a snapshot, in order, to a history that has no later ones."""
        self._changes += [(index, position, name, packed) for index, position, name, packed in rows]
        self.settle()


def unpack(kept: Kept) -> Change:
    """The change in words."""
    index, position, name, packed = kept
    fields: tuple[Any, ...] = msgpack.unpackb(packed, use_list=False)
    kind, newest, dropped, *rest = fields
    record = FileRecord(name, *rest[:_RECORD_FIELDS])
    return Change(index, position, kind, record, newest, dropped, *rest[_RECORD_FIELDS:])
