"""What a node begins with: its snapshot, its log, and whether the two fit.

A log may end before the snapshot: entries are applied once a majority has them, maybe before they
are durable here, and the snapshot holds them. It must not begin behind it: then entries are
missing that nobody says were ever applied, and the node neither votes nor leads.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracker_raft.errors import Damaged, LocalError
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft import snapshots
from tracker_raft.raft.journal import SEGMENT_BYTES, SegmentJournal
from tracker_raft.raft.membership import Placed
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.snapshots import Snapshot
from tracker_raft.raft.storage import Storage


@dataclass(frozen=True, slots=True)
class Recovered:
    """The parts of a replica that come from disk."""

    machine: TrackerMachine
    journal: SegmentJournal
    snapshot: Snapshot | None

    @property
    def members(self) -> Placed | None:
        """As the snapshot says; None while only the settings do."""
        return None if self.snapshot is None else self.snapshot.members


def recover(
    storage: Storage, identity: Identity, *, segment_bytes: int = SEGMENT_BYTES
) -> Recovered:
    """Open a node's directory, or begin in an empty one.

    Raises :class:`Damaged`, :class:`Unsupported` or :class:`LocalError`, and then has changed
    nothing but, at most, cut off a torn tail.
    """
    try:
        found = snapshots.load(storage, identity.cluster)
    except OSError as error:
        raise LocalError(f"{snapshots.NAME} cannot be read: {error}") from error
    journal = SegmentJournal(storage, identity, segment_bytes=segment_bytes)
    if found is None:
        if journal.first_index > 1:
            raise Damaged(
                f"the log begins at entry {journal.first_index} and there is no snapshot before "
                f"it; the node must neither vote nor lead. Nothing was changed"
            )
        return Recovered(TrackerMachine(), journal, None)
    snapshot, machine = found
    if journal.first_index > snapshot.index:
        raise Damaged(
            f"the log begins at entry {journal.first_index}, the snapshot ends at "
            f"{snapshot.index}; the node must neither vote nor lead. Nothing was changed"
        )
    if journal.term_at(snapshot.index) != snapshot.term:
        journal.restart_at(snapshot.index, snapshot.term)
    return Recovered(machine, journal, snapshot)
