"""How a log moves: entries in, sent, committed, applied. Every write passes here on each tracker.

The library does this in its tick, among much else; a tick is due when time asks for one. A write
asks for the log alone, several times on each tracker, and with one client all of it is paid with
cold caches: so what a write needs of a tick stands here by itself, in as few steps as it takes. It
comes to the same as a tick (``tests/property/test_log_motion.py``).

Knows the library's private names, as :mod:`engine` does, whose class is made on this one.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from pysyncobj import FAIL_REASON, SyncObj, syncobj

from tracker_raft.raft.journal import SegmentJournal

APPLY_BYTES_MAX: Final = 64 * 1024
"""Commands applied in one step: about 10 ms of work for the state machine."""
ENTRY_BYTES_LEAST: Final = 64
"""What an entry counts for at least, however short its command."""
COMMIT_TOLD_S: Final = 0.001
"""Followers are told of a new commit index after this time, or with what they are sent before. Told
at once it would be a message of its own for each entry, as dear to all as the entry."""
LEADS: Final = 2
"""The state of a leader, in the library's words."""


class LogMotion(SyncObj):  # type: ignore[misc]  # the library is untyped
    """The part of an engine that moves its log."""

    _log: SegmentJournal
    _last_index_seen: int
    _followers: list[Any]
    """The library's objects for all others, those that learn as well."""

    if TYPE_CHECKING:
        raftCommitIndex: int
        raftLastApplied: int
        raftCurrentTerm: int
        standing: tuple[object, ...]
        """Role, leader and term: what elections go by."""
    else:  # asked for dozens of times for each write
        raftCommitIndex = property(attrgetter("_SyncObj__raftCommitIndex"))
        raftLastApplied = property(attrgetter("_SyncObj__raftLastApplied"))
        raftCurrentTerm = property(attrgetter("_SyncObj__raftCurrentTerm"))
        standing = property(
            attrgetter("_SyncObj__raftState", "_SyncObj__raftLeader", "_SyncObj__raftCurrentTerm")
        )

    # -- what there is to do -----------------------------------------------------------------------

    @property
    def applies_more(self) -> bool:
        """Whether something committed was left for the next step to apply."""
        return bool(self._SyncObj__raftLastApplied < self._SyncObj__raftCommitIndex)

    def _agreed(self) -> int:
        """The commit index as it is to be, which is the present one unless this node leads.

        Only an entry of the leader's own term moves it (Raft paper, 5.4.2). Without that check
        :attr:`advances` would stay true, and the loop spin, while a follower catches up on older
        terms.
        """
        committed: int = self._SyncObj__raftCommitIndex
        last = self._log.last_index
        if self._SyncObj__raftState != LEADS or last <= committed:
            return committed
        matched = self._SyncObj__raftMatchIndex
        match = [matched[node] for node in self._SyncObj__otherNodes]
        match.append(last)
        match.sort(reverse=True)
        agreed: int = match[len(match) // 2]
        if agreed <= committed or self._log.term_at(agreed) != self._SyncObj__raftCurrentTerm:
            return committed
        return agreed

    @property
    def advances(self) -> bool:
        """Whether the next step would commit or apply something."""
        return self.applies_more or self._agreed() > self._SyncObj__raftCommitIndex

    @property
    def has_more(self) -> bool:
        """After a step, which commits all that can be: whether another one has work at once."""
        new: bool = self._log.last_index != self._last_index_seen
        return new or self._SyncObj__raftLastApplied < self._SyncObj__raftCommitIndex

    # -- what is asked -----------------------------------------------------------------------------

    def enter(self, command: bytes, callback: Callable[[Any, int], None]) -> int:
        """As the leader: a command stands in the log when this returns its index, and the next step
        sends it. One of members is in force then. The library would queue it for the end of a tick,
        and so send it in the one after. ``callback`` gets what the applier returned, or why it did
        not; it may never come when another one leads."""
        if self._SyncObj__raftState != LEADS:
            raise RuntimeError("an entry proposed by a node that does not lead")
        index, term = self._log.last_index + 1, self._SyncObj__raftCurrentTerm
        self._SyncObj__commandsWaitingCommit[index].append((term, callback))
        self._log.add(command, index, term)
        return index

    def send_now(self) -> None:
        """Let the next step of a leader send what is new, not only when its period is over."""
        self._SyncObj__newAppendEntriesTime: float = 0.0

    def send_what_is_new(self, now_s: float) -> None:
        """Before a step: let it send new entries, and soon a commit index that it will raise."""
        last = self._log.last_index
        if last != self._last_index_seen:
            self._SyncObj__newAppendEntriesTime = 0.0
            self._last_index_seen = last
        elif self._agreed() > self._SyncObj__raftCommitIndex:
            due_s = self._SyncObj__newAppendEntriesTime
            self._SyncObj__newAppendEntriesTime = min(due_s, now_s + COMMIT_TOLD_S)

    def move_log(self, now_s: float) -> None:
        """Commit, apply, send: what a tick does about the log. Elections, and whether a majority
        still follows, are left to a tick."""
        leads = self._SyncObj__raftState == LEADS
        if leads:
            agreed = self._agreed()
            self._SyncObj__raftCommitIndex = self._SyncObj__leaderCommitIndex = agreed
        if self._SyncObj__raftLastApplied < self._SyncObj__raftCommitIndex:
            self._SyncObj__applyLogEntries()
        if leads and now_s > self._SyncObj__newAppendEntriesTime:
            self._SyncObj__sendAppendEntries()

    # -- what a tick asks as well ------------------------------------------------------------------

    def _SyncObj__applyLogEntries(self) -> bool:
        """Apply a slice of what is committed, not all of it in one step.

        A node that comes back has a whole log to apply. It votes, acknowledges and answers pings
        meanwhile, which none of that waits for; blocked for seconds it would be taken for dead.
        """
        waiting = self._SyncObj__commandsWaitingCommit
        for command, index, term in self._slice():
            callbacks = waiting.pop(index, ())
            result = self._SyncObj__doApplyCommand(command)
            for asked_in, callback in callbacks:
                if asked_in == term:
                    callback(result, FAIL_REASON.SUCCESS)
                else:
                    callback(None, FAIL_REASON.DISCARDED)
            self._SyncObj__raftLastApplied = index
        return False

    def _slice(self) -> list[tuple[bytes, int, int]]:
        """What one step applies: one entry, and more while they are small."""
        log = self._log
        start = self._SyncObj__raftLastApplied + 1 - log.first_index
        stop = self._SyncObj__raftCommitIndex + 1 - log.first_index
        end, size = start, 0
        while end < stop and size < APPLY_BYTES_MAX:
            size += len(log.entries[end][0]) + ENTRY_BYTES_LEAST
            end += 1
        return log.entries[start:end]

    def _SyncObj__sendAppendEntries(self) -> None:
        """Send each follower what it lacks. That is nothing or the newest entry nearly always;
        whatever else it is the library does."""
        log, connected = self._log, self._SyncObj__connectedNodes
        following = self._SyncObj__raftNextIndex
        nodes = [node for node in self._followers if node in connected]
        newest, last, _ = log.entries[-1]
        small = len(newest) < self._SyncObj__conf.appendEntriesBatchSizeBytes
        lacking = [last + 1 - following[node] for node in nodes]
        if last == log.first_index or not small or not {0, 1}.issuperset(lacking):
            super()._SyncObj__sendAppendEntries()
            return
        period_s = self._SyncObj__conf.appendEntriesPeriod
        self._SyncObj__newAppendEntriesTime = syncobj.monotonicTime() + period_s
        for node, lacks in zip(nodes, lacking, strict=True):
            following[node] = last + 1
            message = {
                "type": "append_entries",
                "term": self._SyncObj__raftCurrentTerm,
                "commit_index": self._SyncObj__raftCommitIndex,
                "entries": log.entries[-1:] if lacks else [],
                "prevLogIdx": last - lacks,
                "prevLogTerm": log.entries[-1 - lacks][2],
            }
            self._SyncObj__transport.send(node, message)
