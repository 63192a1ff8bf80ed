"""The replicated state machine: log entries in, replies out. Pure, total, deterministic.

In the order to read them: :mod:`.tracker_machine` (the rules, apply and query), :mod:`.applied`
(what became of an entry), :mod:`.vocabulary` (the words of the log), :mod:`.carrying_out` (what
each does), :mod:`.publishing` (most of them at once), :mod:`.registry` (names and versions),
:mod:`.names` (one of them), :mod:`.name_index` (all in order), :mod:`.wide_dict` (millions of
them), :mod:`.settings` (what an operator has set), :mod:`.swarm_table` (leases and swarms),
:mod:`.sessions` (exactly once), :mod:`.digest` (the state hash), :mod:`.snapshot_cursor` (a
snapshot beside the changes), :mod:`.snapshot_format`, :mod:`.restoring`.
"""

from tracker_raft.machine.applied import Applied, Outcome
from tracker_raft.machine.names import bound
from tracker_raft.machine.restoring import Restoring
from tracker_raft.machine.snapshot_cursor import SnapshotCursor
from tracker_raft.machine.tracker_machine import TrackerMachine
from tracker_raft.machine.vocabulary import LOG_WORDS, ROW_WORDS

__all__ = [
    "LOG_WORDS",
    "ROW_WORDS",
    "Applied",
    "Outcome",
    "Restoring",
    "SnapshotCursor",
    "TrackerMachine",
    "bound",
]
