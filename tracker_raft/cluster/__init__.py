"""Tracker processes on this machine, to use and to break.

In the order to read them: :mod:`.local` (:class:`Cluster` and its faults), :mod:`.launch` (in which
order nodes are started and undone), :mod:`.process` (started, signalled, recognised again),
:mod:`.state` (what is on disk), :mod:`.status` (what nodes say), :mod:`.ports`.
"""

from tracker_raft.cluster.local import Cluster

__all__ = ["Cluster"]
