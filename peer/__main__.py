"""``python -m peer``: the same as ``p2p-cluster``, also where that is not installed."""

from __future__ import annotations

from peer.cli import main
from tracker_raft import interrupt

if __name__ == "__main__":
    interrupt.as_usual()
    main(prog_name="p2p-cluster")
