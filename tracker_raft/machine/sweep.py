"""Finding the files that nobody serves any more, and taking them away if so set. Pure.

Rules
-----
* While a setting asks for it, all names are looked at in passes, :data:`SLICE_NAMES` of them at the
  end of an entry and a slice in :data:`SLICE_GAP_MS` of logical time at most: what an operation
  costs does not depend on it. A leader without operations logs an entry when a slice is due.
* A version whose content no peer serves is noticed by a pass; from then on its time counts. So it
  is noticed late by up to the time between passes (:func:`_gap_ms`) and that of a pass, never
  early.
* What has been without a source for long enough is removed, if that is set, as if asked for: each
  version is a change of its own, behind those of the operations. A version with a tag stays.
* All of it follows from the log: marks, place of the pass and time of the next slice are items of
  the digest and rows of the snapshot. Where it was never set none of them is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from tracker_raft.changes import Place
from tracker_raft.machine.digest import Digest
from tracker_raft.machine.marks import Marks
from tracker_raft.machine.registry import Registry
from tracker_raft.machine.settings import Settings
from tracker_raft.machine.snapshot_cursor import Row, Table
from tracker_raft.machine.swarm_table import SwarmTable

SLICE_NAMES: Final = 512
"""Names looked at in one slice: two milliseconds."""
SLICE_REMOVALS: Final = 64
"""A slice ends with the name that takes the versions removed to this."""
SLICE_GAP_MS: Final = 100
PASS_GAP_MIN_MS: Final = 1_000
PASS_GAP_MAX_MS: Final = 60_000


class Sweep:
    """The running pass, or the time of the next one."""

    def __init__(
        self,
        settings: Settings,
        marks: Marks,
        registry: Registry,
        swarm: SwarmTable,
        digest: Digest,
    ) -> None:
        self.due_ms: int | None = None
        """Logical time of the next slice; None while nothing asks for one."""
        self._after = ""
        """The name that the running pass came to; empty between passes."""
        self._settings = settings
        self._marks = marks
        self._registry = registry
        self._swarm = swarm
        self._digest = digest

    def begin(self, now_ms: int) -> None:
        """Settings have changed: look soon."""
        if self._wanted or self._marks:
            self._move(self._after, now_ms)

    @property
    def _wanted(self) -> bool:
        return bool(self._settings.unsourced_after_ms or self._settings.remove_unsourced_after_ms)

    def run(self, now_ms: int, place: Place) -> None:
        """The slice that is due, if there is one. ``place``: of the first change it makes."""
        if self.due_ms is None or now_ms < self.due_ms:
            return
        if self._wanted:
            self._slice(now_ms, place)
            return
        self._marks.forget_some(SLICE_NAMES)
        self._move("", now_ms + SLICE_GAP_MS if self._marks else None)

    def _slice(self, now_ms: int, place: Place) -> None:
        index, position = place
        removed = 0
        names = self._registry.names_after(self._after, SLICE_NAMES)
        for name in names:
            removed += self._look(name, now_ms, (index, position + removed))
            if removed >= SLICE_REMOVALS:
                self._move(name, now_ms + SLICE_GAP_MS)
                return
        if len(names) == SLICE_NAMES:
            self._move(names[-1], now_ms + SLICE_GAP_MS)
        else:
            self._move("", now_ms + _gap_ms(self._settings))

    def _look(self, name: str, now_ms: int, place: Place) -> int:
        """Mark what of one name has no source, and remove what is due; how many changes."""
        over = []
        for record in self._registry.versions_of(name):
            if self._swarm.has(record.content):
                continue
            since_ms = self._marks.put(record.content, now_ms)
            limit_ms = self._settings.remove_unsourced_after_ms
            if limit_ms and now_ms - since_ms >= limit_ms:
                over.append(record.version)
        return self._registry.take_away(name, over, place) if over else 0

    def _move(self, after: str, due_ms: int | None) -> None:
        if self.due_ms is not None:
            self._digest.remove("sweep", self._after, self.due_ms)
        self._after, self.due_ms = after, due_ms
        if due_ms is not None:
            self._digest.add("sweep", after, due_ms)

    def show(self, files: dict[str, Any], now_ms: int) -> dict[str, Any]:
        """``files``, the answer to a read, with ``unsourced_ms`` in the records that are marked
        for long enough."""
        least_ms = self._settings.unsourced_after_ms
        if self._marks and least_ms:
            for record in files["files"]:
                since_ms = self._marks.get(record["content"])
                if since_ms is not None and now_ms - since_ms >= least_ms:
                    record["unsourced_ms"] = now_ms - since_ms
        return files

    # -- snapshot ---------------------------------------------------------------------------------

    def tables(self) -> tuple[Table, ...]:
        """``sweep``: one row (name, logical time), or none."""
        return (Table("sweep", "sweep", lambda item: 0, self._rows_after),)

    def _rows_after(self, key: int | None) -> Iterator[tuple[int, Row]]:
        if key is None and self.due_ms is not None:
            yield 0, (self._after, self.due_ms)

    def load(self, rows: Iterable[tuple[str, int]]) -> None:
        for after, due_ms in rows:
            self._move(after, due_ms)


def _gap_ms(settings: Settings) -> int:
    """Between two passes: an eighth of the time that is to be noticed, within bounds."""
    times_ms = (settings.unsourced_after_ms, settings.remove_unsourced_after_ms)
    least_ms = min(time_ms for time_ms in times_ms if time_ms)
    return min(max(least_ms // 8, PASS_GAP_MIN_MS), PASS_GAP_MAX_MS)
