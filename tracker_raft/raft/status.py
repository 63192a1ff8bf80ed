"""What a replica tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Election:
    """One that was won, as one node saw it."""

    term: int
    leader: str
    reason: str
    """For people; empty when this node noticed none."""
    at_s: float
    """Time of the replica's clock."""


@dataclass(frozen=True, slots=True)
class Sight:
    """How the log of this node and its leadership stand now."""

    election_timeout_s: float
    """In force now: the setting, or more while this tracker's loop is late."""
    election: Election | None
    """The last one that this process knows of."""
    election_ago_s: float | None
    leader_silent_s: float | None
    """Since when the leader was not heard here; 0 for the leader itself, None without one."""
    behind: dict[str, int] | None
    """As the leader: entries that each other member is not known to have. None when following."""
    log_bytes: int
    """Space that the log takes on the disk."""


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
    sight: Sight
