"""One peer of a swarm under fire, in a process of its own.

``share`` serves a file; ``lie`` serves it after spoiling it; ``fetch`` fetches and goes on
serving. What happens is said in lines on standard output; all end when standard input does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path

from peer import Peer, PeerLimits, Progress
from tracker_raft.errors import P2PError

NAME = "chaos/swarm"
UP_BYTES_S = 40_000_000
"""Slow enough that peers can be killed in the middle, on any machine."""
LIMITS = dataclasses.replace(
    PeerLimits(), up_bytes_s=UP_BYTES_S, progress_timeout_s=5.0, patience_s=20.0
)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def spoil(path: Path) -> None:
    """Other bytes everywhere, and neither size nor time tell of it."""
    before = path.stat()
    with path.open("r+b") as file:
        for offset in range(0, before.st_size, 256 * 1024):
            file.seek(offset)
            file.write(os.urandom(16))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def peak_mib() -> int:
    """Of this process, since it became this program."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    return 0


def fetch(peer: Peer, path: Path) -> None:
    told: list[Progress] = []

    def progress(moment: Progress) -> None:
        if moment.bytes_done and not told:
            told.append(moment)
            say(event="some")

    try:
        fetched = peer.fetch(NAME, path, seed=True, progress=progress)
    except P2PError as error:
        say(event="failed", error=str(error))
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    say(
        event="done",
        sha256=digest,
        banned=fetched.banned,
        taken=dict(fetched.taken),
        peak_mib=peak_mib(),
    )


def main(role: str, name: str, trackers: str, path: Path) -> None:
    with Peer(trackers.split(","), peer_id=name, limits=LIMITS) as peer:
        if role == "fetch":
            fetch(peer, path)
        else:
            peer.share(path, NAME)
            if role == "lie":
                spoil(path)
            say(event="serves")
        sys.stdin.read()
        say(event="served", bytes=peer.bytes_served)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
