"""The replicated state machine: log entries in, replies out. Pure, total, deterministic.

In the order to read them: :mod:`.tracker_machine` (the rules, apply and query), :mod:`.registry`
(names and versions), :mod:`.swarm_table` (leases and swarms), :mod:`.sessions` (exactly once),
:mod:`.digest` (the state hash), :mod:`.snapshot_format`.
"""

from tracker_raft.machine.tracker_machine import LOG_WORDS, Applied, TrackerMachine

__all__ = ["LOG_WORDS", "Applied", "TrackerMachine"]
