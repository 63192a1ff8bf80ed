"""What a replica tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    role: str
    leader: str | None
    term: int
    commit: int
    applied: int
    state_hash: str
    log_entries: int
    journal_syncs: int
    disk_full: bool
    snapshot: int
    """Index of the newest durable snapshot, 0 for none."""
    election_timeout_s: float
    """In force now: the setting, or more while this tracker's loop is late."""
