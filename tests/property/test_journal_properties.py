"""A journal stopped at any moment: what it said is durable is there, and nothing else is.

The model is the list of states after each thing that was added. Whatever a crash leaves of the
batch under way, opening must show a state the journal was in: the one that was durable, or the
one after that batch, when all of it arrived. A sector is 16 bytes here, so that small batches
tear in many places. The seed alone replays a run.
"""

from __future__ import annotations

import errno
import random
import sys
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))

from journal_driver import IDENTITY, Files, HeldWriter, Memory, State, ignore, reopened, state

from tracker_raft.raft import journal as journal_module
from tracker_raft.raft.journal import LogEntry, SegmentJournal

SECTOR_BYTES = 16
SEGMENT_BYTES = 320
STEPS = 300
WEIGHTS = {
    "add": 8,
    "truncate": 3,
    "vote": 2,
    "restart": 1,
    "forget": 2,
    "room_ends": 1,
    "room_comes": 2,
    "flush": 6,
    "work": 6,
    "report": 6,
    "crash": 1,
}


class StoppedAnywhere:
    """One journal through its lives, and what it must be after each."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.term = 0
        self.begin(Memory())

    def begin(self, storage: Memory) -> None:
        self.storage = storage
        self.writer = HeldWriter()
        self.journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
        self.log = self.journal[:]
        """What the log is, with what compaction took out of memory."""
        self.states: list[State] = [state(self.journal)]
        self.forgotten = 0
        """Entries below it may be gone from the disk."""
        self.under_way = 0
        """How much the batch under way adds."""

    def added(self) -> None:
        self.states.append((list(self.log), *state(self.journal)[1:]))
        assert len(self.states) == self.journal.position + 1

    def step(self) -> None:
        (name,) = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        getattr(self, name)()
        self.an_index_called_durable_can_not_be_lost()

    # -- what the library and compaction do ------------------------------------------------------

    def add(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            index = self.journal.last_index + 1
            command = b"%d of %d" % (self.journal.position, self.term)
            command += bytes(self.random.choice((0, 3, 40, 120)))
            self.journal.add(command, index, self.term)
            self.log.append((command, index, self.term))
            self.added()

    def truncate(self) -> None:
        if len(self.journal) > 1:
            place = self.random.randint(1, min(4, len(self.journal) - 1))
            self.journal.deleteEntriesFrom(len(self.journal) - place)
            del self.log[-place:]
            self.added()
            self.done["truncated in a batch"] += self.journal.durable + 1 < self.journal.position

    def vote(self) -> None:
        self.term += self.random.randint(0, 1)
        self.journal.setCurrentTerm(self.term, self.random.choice((None, "n1", "n2")))
        self.added()

    def restart(self) -> None:
        self.journal.restart_at(self.journal.last_index + self.random.randint(1, 5), self.term)
        self.log = self.journal[:]
        self.added()

    def forget(self) -> None:
        index = self.random.randint(0, self.journal.last_index + 2)
        for name in self.journal.forget_before(index):
            self.storage.delete(name)
            self.done["segments deleted"] += 1
        kept = min(self.journal.first_index, self.journal.durable_index)
        self.forgotten = max(self.forgotten, kept)

    # -- what the disk does ----------------------------------------------------------------------

    def room_ends(self) -> None:
        self.storage.fails = {"allocate": errno.ENOSPC}

    def room_comes(self) -> None:
        self.storage.fails = {}

    def flush(self) -> None:
        before = len(self.writer.waiting)
        waiting = len(self.journal._pending)
        self.writer.at_once = self.random.random() < 0.1
        if self.journal.flush(self.writer, ignore):
            assert self.under_way == 0, "one batch at a time"
            assert self.journal.durable == self.journal.position - len(self.journal._pending)
            self.done["made durable at once"] += 1
        if len(self.writer.waiting) > before:
            assert self.under_way == 0, "one batch at a time"
            self.under_way = waiting - len(self.journal._pending)

    def work(self) -> None:
        if self.writer.waiting:
            self.writer.work()

    def report(self) -> None:
        if self.writer.done:
            durable = self.journal.durable
            failed = self.writer.done[0][1] is not None
            self.writer.report()
            assert self.journal.full == failed
            assert self.journal.durable == durable + (0 if failed else self.under_way)
            self.under_way = 0
            self.done["no room" if failed else "synced"] += 1

    def crash(self) -> None:
        """Some sectors of the batch under way arrived; the node starts again on what is there."""
        files, all_of_it = self.left_by_crash()
        again = reopened(files, segment_bytes=SEGMENT_BYTES)
        found = state(again)
        before, after = self.possible()
        expected = after if all_of_it else before
        assert found[1:] == expected[1:]
        assert self.is_rest_of(found[0], expected[0]), (found, expected)
        self.done["torn" if again.bytes_cut else "clean"] += 1
        self.done["segments"] += again.segments
        self.begin(Memory(files))
        assert state(self.journal) == found

    def left_by_crash(self) -> tuple[Files, bool]:
        """The files after a crash, and whether all of the batch under way is in them."""
        if self.writer.done:
            return self.storage.copy(), self.writer.done[0][1] is None
        if not self.writer.waiting or self.storage.fails:
            return self.storage.copy(), False
        before = self.storage.copy()
        self.writer.work()
        whole, likely = True, self.random.choice((0.0, 0.5, 0.9, 1.0))
        files = {}
        for name, data in self.storage.copy().items():
            torn = bytearray(before.get(name, b"").ljust(len(data), b"\0"))
            changed = {at // SECTOR_BYTES for at in range(len(data)) if torn[at] != data[at]}
            for sector in sorted(changed):
                start, end = sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES
                if self.random.random() < likely:
                    torn[start:end] = data[start:end]
                else:
                    whole = False
            files[name] = bytes(torn)
        return files, whole

    # -- what must hold --------------------------------------------------------------------------

    def possible(self) -> list[State]:
        """The states that a crash now may leave."""
        durable = self.journal.durable
        return [self.states[durable], self.states[durable + self.under_way]]

    def an_index_called_durable_can_not_be_lost(self) -> None:
        journal = self.journal
        assert 0 <= journal.durable_index <= journal.last_index
        if journal.durable == journal.position:
            assert journal.durable_index == journal.last_index
        for entries, _, _ in self.possible():
            held = {entry[1]: entry for entry in entries}
            for entry in journal[:]:
                if entry[1] <= journal.durable_index:
                    assert held.get(entry[1]) == entry

    def is_rest_of(self, found: list[LogEntry], expected: list[LogEntry]) -> bool:
        """Whether ``found`` is ``expected`` but for what was forgotten in front."""
        missing = len(expected) - len(found)
        if missing < 0:
            return False
        lost = expected[:missing]
        return found == expected[missing:] and all(entry[1] < self.forgotten for entry in lost)


def run(seed: int) -> StoppedAnywhere:
    anywhere = StoppedAnywhere(seed)
    with patch.object(journal_module, "BATCH_BYTES_MAX", anywhere.random.choice((1, 150, 10_000))):
        for _ in range(STEPS):
            anywhere.step()
    return anywhere


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whenever_it_stops_what_was_durable_is_there_and_nothing_else(seed: int) -> None:
    """Broken: a crash takes back a vote or an acknowledged entry, brings back half a batch, or
    keeps a node from starting that lost nothing."""
    run(seed)


def test_the_runs_see_what_they_are_for() -> None:
    """Broken: the test above passes because nothing happens in it."""
    seen: Counter[str] = Counter()
    for seed in range(30):
        seen += run(seed).done
    for what in ("truncated in a batch", "segments deleted", "no room", "synced", "torn", "clean"):
        assert seen["made durable at once"] >= 5, seen
        assert seen[what] >= 20, seen
    assert seen["segments"] > 2 * (seen["torn"] + seen["clean"])
