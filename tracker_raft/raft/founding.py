"""A new cluster that begins with the files of an old one: from a backup, or from what one node has.

Rules
-----
* The new cluster has another name, so that members of the old one and of the new one refuse each
  other, whatever addresses they have; its directories get births of their own when they are first
  started, and begin with a snapshot of term 0, like the first entry of any log.
* It takes over the files and the logical time. Leases, request sessions and changes stay behind:
  what the old cluster went on to promise about them after this state is not known here.
* Every number the old cluster may have told somebody (a place in the log, a request session) is
  one that the new cluster never gives to anything else. So the new one begins an *era* further
  on. A late write in an old session finds ``session_expired`` and cannot be taken for another
  one's; a watch from an old place is told ``compacted`` and lists anew, where it would otherwise
  miss what the new cluster logs below that place.
* All members of the new cluster begin with the same state: the era follows from the old index
  and the new name, not from chance, so that each machine can make its own directory.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from tracker_raft.errors import LocalError, Unsupported
from tracker_raft.machine import TrackerMachine
from tracker_raft.raft import snapshots
from tracker_raft.raft.engine import REGULAR
from tracker_raft.raft.recovery import recover
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.snapshots import Snapshot
from tracker_raft.raft.storage import Storage
from tracker_raft.raft.verify import ReadOnly, identity_of

ERA_BITS = 36
"""2**36 entries: at a thousand a second two years. The old cluster may have gone on for so long
after the state that the new one begins with."""
ERAS_SKIPPED = 128
"""Two clusters founded from one state begin the same era with one chance in so many."""


def next_era(index: int, cluster: str) -> int:
    """The index at which a new cluster of this name begins, whose state was that at ``index``."""
    skipped = zlib.crc32(cluster.encode()) % ERAS_SKIPPED
    return ((index >> ERA_BITS) + 2 + skipped) << ERA_BITS


def found(storage: Storage, machine: TrackerMachine, cluster: str) -> Snapshot:
    """Make an empty directory that of a member of a new cluster. Raises ``OSError``."""
    new = machine.refounded(next_era(machine.applied, cluster))
    return snapshots.write(storage, new, cluster, term=0)


@dataclass(frozen=True, slots=True)
class LastState:
    """All that one node's directory holds, its log applied to its end."""

    identity: Identity
    machine: TrackerMachine
    index: int
    """Of the last entry."""
    term: int
    """Of the last entry."""
    current_term: int
    """The highest term the node has seen."""
    snapshot: int
    """Known to be committed up to here; 0 for none. Whether what follows was committed, the
    directory does not say."""

    @property
    def uncertain(self) -> int:
        """Entries that are not known to be committed."""
        return self.index - max(self.snapshot, 1)

    def better_than(self, other: LastState) -> bool:
        """Whether this log would win an election against the other (Raft paper, 5.4.1)."""
        return (self.term, self.index) > (other.term, other.index)


def last_state(storage: Storage) -> LastState:
    """Read a directory that no process uses, and change nothing.

    All entries of the log are applied. Some may never have been acknowledged; to leave them out
    could lose some that were. Raises
    :class:`~tracker_raft.errors.Damaged`, :class:`Unsupported`, :class:`LocalError`, ``OSError``.
    """
    identity = identity_of(storage)
    if identity is None:
        raise LocalError("no node ever ran in it: there is neither a journal nor a snapshot")
    recovered = recover(ReadOnly(storage), identity)
    machine, journal = recovered.machine, recovered.journal
    if not len(journal):
        raise LocalError("nothing was ever written there whole; there is nothing to recover")
    for command, index, _ in journal[:]:
        if index <= machine.applied:
            continue
        if command[0] != REGULAR:
            machine.skip(index)
            continue
        applied = machine.apply(index, command[1:])
        if applied.stop is not None:
            raise Unsupported(applied.stop)
    _, index, term = journal[-1]
    snapshot = 0 if recovered.snapshot is None else recovered.snapshot.index
    return LastState(
        identity, machine, int(index), int(term), int(journal.getCurrentTerm()), snapshot
    )
