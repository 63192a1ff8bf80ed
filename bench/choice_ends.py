"""The child processes of ``choice``: ``python -m bench.choice_ends ROLE ...``; JSON lines.

* ``source PATH NAME TRACKERS``: a seeder behind a relay that paces what it sends. Says
  ``{"peer": id}``; each line it is sent is the rate from now on, in bytes a second.
* ``fetch CHOICE SEED PLACES RECHOOSE_S NAME OUT TRACKERS``: says ``{"ready": true}``, begins at
  the next line, says ``{"begun", "ended", "taken"}``.

The relay stands between two real ends, so what is measured is the product as it is; a link that
gets slower is all that is made up.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import threading
import time
from pathlib import Path

import peer
from bench.ends import HOST, say
from bench.swarm_world import CHOICES
from peer.downloader import Download
from peer.limits import PeerLimits
from peer.throttle import TokenBucket
from peer.trackers import PeerFinder
from tracker_raft.client import TrackerClient

SLICE_BYTES = 32 * 1024


class Relay:
    """Passes connections on to ``target``; all that comes back shares one rate."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        self._target = target
        self._lock = threading.Lock()
        self._bucket = TokenBucket(10**12, time.monotonic())
        threading.Thread(target=self._accept, daemon=True).start()

    def set_rate(self, bytes_s: int) -> None:
        with self._lock:
            self._bucket = TokenBucket(bytes_s, time.monotonic())

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._target)
            # Little is to wait between the seeder and the pace, as if there were no relay.
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * SLICE_BYTES)
            threading.Thread(target=self._pass, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, paced: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(SLICE_BYTES):
                if paced:
                    with self._lock:
                        wait_s = self._bucket.take(len(data), time.monotonic())
                    time.sleep(wait_s)
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def source(path: str, name: str, trackers: str) -> None:
    with socket.create_server((HOST, 0)) as held:
        port = held.getsockname()[1]  # free again in a moment, for the seeder
    relay = Relay((HOST, port))
    bind = f"{HOST}:{port}"
    with peer.Peer(trackers.split(","), bind=bind, advertise=relay.address) as sharing:
        sharing.share(path, name)
        say(peer=sharing.id)
        for line in sys.stdin:
            relay.set_rate(int(json.loads(line)))


def fetch(
    choice: str, seed: str, places: int, rechoose_s: float, name: str, out: Path, trackers: str
) -> None:
    client = TrackerClient(trackers.split(","))
    record = client.lookup(name)
    content = record.content
    chance = random.Random(seed)
    download = Download(
        content,
        out,
        PeerFinder(client, content),
        own_peer="fetches",
        limits=PeerLimits(fetch_peers_max=places, rechoose_s=rechoose_s),
        choice=CHOICES[choice](chance),
        random_source=chance,
    )
    say(ready=True)
    sys.stdin.readline()
    begun = time.monotonic()
    fetched = download.run()
    say(begun=begun, ended=time.monotonic(), taken=dict(fetched.taken))
    client.close()


def main(role: str, *rest: str) -> None:
    match role, *rest:
        case "source", path, name, trackers:
            source(path, name, trackers)
        case "fetch", choice, seed, places, rechoose_s, name, out, trackers:
            fetch(choice, seed, int(places), float(rechoose_s), name, Path(out), trackers)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
