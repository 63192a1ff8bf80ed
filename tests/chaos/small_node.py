"""A tracker process with smaller limits: ``small_node.py '{"log_bytes_min": 65536}' node ...``.

What is in the state machine's limits is set there, for every tracker of the cluster alike; the
rest is the policy of snapshots. Everything else is as in ``python -m tracker_raft``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys

from tracker_raft import cli_node
from tracker_raft.__main__ import main
from tracker_raft.config import MachineLimits, NodeConfig, SnapshotPolicy
from tracker_raft.machine import TrackerMachine

if __name__ == "__main__":
    given = json.loads(sys.argv.pop(1))
    names = {field.name for field in dataclasses.fields(MachineLimits)}
    limits = MachineLimits(**{name: value for name, value in given.items() if name in names})
    policy = SnapshotPolicy(**{name: value for name, value in given.items() if name not in names})
    for method in (TrackerMachine.__init__, TrackerMachine.restoring.__func__):
        method.__defaults__ = (limits,)
    TrackerMachine.restore.__func__.__defaults__ = (limits,)
    cli_node.NodeConfig = functools.partial(NodeConfig, snapshots=policy)
    main()
