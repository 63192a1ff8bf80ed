"""libtorrent as the rival of ``download``: ``python -m bench.rival_libtorrent ROLE ...``.

* ``torrent SOURCE OUT [TRACKER]``: make a torrent of a file.
* ``seed TORRENT DIRECTORY``: says ``{"port": n}``; each line it is then sent is answered with
  ``{"sent": bytes}``, until its standard input ends.
* ``fetch TORRENT DIRECTORY``: says ``{"port": n}``; the line it is then sent is a list of ports
  to connect to; says ``{"begun", "ended"}`` on the monotonic clock, and serves on until its
  standard input ends.

It is driven at its best: its own preset for seeding boxes, plain TCP without encryption, no
choking, queues as deep as they pay (deeper ones are slower: the seeder searches them), SHA-1
torrents, which cost it less than SHA-256. Counted from the first connection until it says that
every piece is verified and written.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from bench.ends import HOST, PIECE_BYTES, say

STARTED_S = 30.0


def settings(lt: Any) -> dict[str, Any]:
    chosen = dict(lt.high_performance_seed())
    alerts = lt.alert.category_t
    chosen.update(
        listen_interfaces=f"{HOST}:0",
        alert_mask=int(alerts.status_notification | alerts.error_notification),
        allow_multiple_connections_per_ip=True,
        # No discovery: peers are told, as ours are by the trackers.
        enable_dht=False,
        enable_lsd=False,
        enable_natpmp=False,
        enable_upnp=False,
        # TCP without encryption only.
        enable_incoming_utp=False,
        enable_outgoing_utp=False,
        in_enc_policy=int(lt.enc_policy.disabled),
        out_enc_policy=int(lt.enc_policy.disabled),
        mixed_mode_algorithm=0,
        # Everybody is served at once and as fast as it goes.
        unchoke_slots_limit=-1,
        connection_speed=500,
        smooth_connects=False,
        max_out_request_queue=500,
        max_allowed_in_request_queue=2000,
        whole_pieces_threshold=20,
        max_queued_disk_bytes=64 * 1024 * 1024,
        send_buffer_watermark=3 * 1024 * 1024,
        send_buffer_low_watermark=1024 * 1024,
        aio_threads=4,
        hashing_threads=2,
    )
    known = lt.default_settings()
    return {name: value for name, value in chosen.items() if name in known}


def make_torrent(source: Path, out: Path, tracker: str = "") -> None:
    import libtorrent as lt

    # The old calls: they are in every 2.x, their successors in the newest only.
    warnings.simplefilter("ignore", DeprecationWarning)
    files = lt.file_storage()
    lt.add_files(files, str(source))
    torrent = lt.create_torrent(files, PIECE_BYTES, lt.create_torrent.v1_only)
    if tracker:
        torrent.add_tracker(tracker)
    lt.set_piece_hashes(torrent, str(source.parent))
    out.write_bytes(lt.bencode(torrent.generate()))


def _start(torrent: str, directory: str, seeding: bool) -> tuple[Any, Any]:
    """A session with the torrent in it, listening."""
    import libtorrent as lt

    session = lt.session(settings(lt))
    until_s = time.monotonic() + STARTED_S
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = directory
    flags = lt.torrent_flags
    parameters.flags &= ~flags.auto_managed & ~flags.paused
    if seeding:
        parameters.flags |= flags.seed_mode
    handle = session.add_torrent(parameters)
    ready = lt.torrent_status.seeding if seeding else lt.torrent_status.downloading
    while not session.listen_port() or handle.status().state != ready:
        if time.monotonic() > until_s:
            raise TimeoutError(f"libtorrent is {handle.status().state} after {STARTED_S} s")
        time.sleep(0.02)
    session.pop_alerts()
    say(port=session.listen_port())
    return session, handle


def seed(torrent: str, directory: str) -> None:
    session, handle = _start(torrent, directory, seeding=True)
    for _ in sys.stdin:
        say(sent=handle.status().total_payload_upload)
    session.pause()


def fetch(torrent: str, directory: str) -> None:
    session, handle = _start(torrent, directory, seeding=False)
    ports = json.loads(sys.stdin.readline())
    begun = time.monotonic()
    for port in ports:
        handle.connect_peer((HOST, port))
    _wait_until_finished(session)
    say(begun=begun, ended=time.monotonic())
    sys.stdin.read()


def _wait_until_finished(session: Any) -> None:
    import libtorrent as lt

    while True:
        session.wait_for_alert(1000)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.torrent_finished_alert):
                return
            if "error" in alert.what():
                raise RuntimeError(alert.message())


def main(role: str, *rest: str) -> None:
    match role, *rest:
        case "torrent", source, out, *tracker:
            make_torrent(Path(source), Path(out), *tracker)
        case "seed", torrent, directory:
            seed(torrent, directory)
        case "fetch", torrent, directory:
            fetch(torrent, directory)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
