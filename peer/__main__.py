"""``python -m peer``: the same as ``p2p-cluster``, also where that is not installed."""

from __future__ import annotations

from peer.cli import main

if __name__ == "__main__":
    main(prog_name="p2p-cluster")
