"""A replicated tracker: who has which file, agreed on by a majority of processes.

Use it through two names::

    from tracker_raft import Cluster, TrackerClient

    with Cluster.up(3) as cluster, TrackerClient(cluster.endpoints) as client:
        client.list()

The map, in the order to read it:

======================  ==========================================================================
:mod:`.errors`          the error tree: refused, unavailable, outcome unknown
:mod:`.config`          settings and limits, units in their names
:mod:`.wire`            frames: u32 length and one msgpack map; knows no command
:mod:`.commands`        the vocabulary: requests, replies, records, and their checks
:mod:`.entries`         one log entry: many operations, one stamp of logical time
:mod:`.changes`         one change of the files, as a watch tells it
:mod:`.machine`         the replicated state machine: apply, query, snapshot. Pure
:mod:`.raft`            consensus: PySyncObj ticked by hand, and everything that makes it safe
:mod:`.server`          client connections: decode, ask the replica, reply
:mod:`.watching`        the watches that wait on one tracker
:mod:`.client`          TrackerClient: find a live tracker, fail over, run each write once
:mod:`.node`            the composition root of one tracker process
:mod:`.cluster`         Cluster.up(3): tracker processes on this machine, to use and to break
:mod:`.restore`         a new cluster from a backup (``client.backup`` takes one)
:mod:`.rescue`          a new cluster from one node, when a majority is lost
:mod:`.cli`             the cluster words of ``p2p-cluster``
======================  ==========================================================================

The package stands by itself: it imports nothing from ``peer``.
"""

from tracker_raft import interrupt  # noqa: F401 before all others: it says why
from tracker_raft.changes import Change
from tracker_raft.client import Page, Published, Swarm, TrackerClient, Watch
from tracker_raft.cluster import Cluster
from tracker_raft.commands import FileRecord, Level, NewFile, PeerRecord
from tracker_raft.config import Address, ClientConfig
from tracker_raft.errors import (
    BadRequest,
    Compacted,
    Conflict,
    LimitReached,
    NoLeader,
    NotFound,
    NoTracker,
    OutcomeUnknown,
    P2PError,
    Refused,
    Unavailable,
    Unsupported,
)
from tracker_raft.versions import SOFTWARE

__version__ = SOFTWARE

__all__ = [
    "Address",
    "BadRequest",
    "Change",
    "ClientConfig",
    "Cluster",
    "Compacted",
    "Conflict",
    "FileRecord",
    "Level",
    "LimitReached",
    "NewFile",
    "NoLeader",
    "NoTracker",
    "NotFound",
    "OutcomeUnknown",
    "P2PError",
    "Page",
    "PeerRecord",
    "Published",
    "Refused",
    "Swarm",
    "TrackerClient",
    "Unavailable",
    "Unsupported",
    "Watch",
]
