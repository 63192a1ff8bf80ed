"""Bounds and timing of a peer. Units are in the names.

:class:`ManifestLimits` belongs to the manifest format: a decoder that allowed less would refuse
what others share, so these are no options. :class:`PeerLimits` concerns one process.
"""

from __future__ import annotations

from dataclasses import dataclass

from tracker_raft.commands import PIECE_BYTES_MIN
from tracker_raft.config import KIB, MIB

PEER_PROTOCOL_VERSION = 1
"""Version of the peer protocol; the first frame of a connection says it."""


@dataclass(frozen=True, slots=True)
class ManifestLimits:
    """What a manifest may describe."""

    manifest_bytes_max: int = 64 * MIB
    entries_max: int = 1_000_000
    """Files, empty directories and links together."""
    path_bytes_max: int = 4096
    segment_bytes_max: int = 255
    """One name between two slashes: what Linux file systems hold."""
    target_bytes_max: int = 4095
    size_max: int = 2**63 - 1
    """Of one file, and of all files together."""
    piece_bytes_min: int = PIECE_BYTES_MIN
    piece_bytes_max: int = 4 * MIB
    """A connection holds one piece in memory, so this bounds what a publisher can make it hold."""


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """How one peer serves and fetches. Times in seconds."""

    frame_bytes_max: int = 64 * KIB
    run_pieces_max: int = 64
    run_bytes_max: int = 16 * MIB
    """Most that one request may ask for."""
    run_bytes_target: int = 2 * MIB
    """Most that is asked for at once: large enough that a request costs nothing beside its
    bytes, small enough that a lost peer gives little back."""
    run_bytes_first: int = 512 * KIB
    """Asked for at once while nothing is known of a peer's rate."""
    run_s: float = 0.15
    """A run takes a peer about this long, between one piece and ``run_bytes_target``."""
    ahead_s: float = 0.4
    """Runs that a peer delivers in this time are asked of it ahead; two at least."""
    requests_in_flight_max: int = 8
    """To one peer, over all connections to it."""
    requests_in_flight_crowd: int = 3
    """The same from ``many_peers`` on: what is asked of the only peer that has it now, others
    have a moment later."""
    requests_in_flight_spared: int = 1
    """The same to a complete peer while ``many_peers - 1`` partial ones are asked for pieces."""
    requests_queued_max: int = 64
    """On one connection, at the serving side; who sends more ahead floods."""

    steal_factor: float = 4.0
    """What a peer would deliver later than another by this factor is taken from it."""
    steal_after_s: float = 0.25
    """Nothing that comes within this time is taken or asked for twice."""
    endgame_bytes_max: int = 4 * MIB
    """Asked for twice at any moment, over all peers; one piece at least."""
    manifest_wait_s: float = 1.0
    """Then the next peer is asked for the manifest as well."""

    serve_connections_max: int = 64
    """A thread each; connections beyond it are answered ``busy`` and closed. With more a crowd
    gathers around the first peers of a swarm, and those who came later have nobody to serve."""
    upload_slots_max: int = 32
    """Connections that are sent pieces in turn; others are answered ``busy``."""
    slot_idle_s: float = 1.0
    """A slot that is not used for this long is free."""
    slot_turn_s: float = 10.0
    """After this time a slot goes to who was refused one."""
    turns_max: int = 4
    """Runs that are begun at a time, over all connections; others wait for their turn."""
    turn_s: float = 0.2
    """A run that takes longer does not count: its receiver is slower than the link."""
    up_bytes_s: int | None = None
    """Pieces are sent at this rate at most, over all connections; None: as fast as it goes."""
    down_bytes_s: int | None = None
    """Pieces are received at this rate at most; None: as fast as it goes."""
    tell_interval_s: float = 0.05
    """New pieces are told to others together, after this time."""
    open_files_max: int = 128
    """Descriptors kept open for files of more than one piece."""
    hello_timeout_s: float = 5.0
    idle_timeout_s: float = 120.0
    """A connection without a request for this long is closed by the serving side."""
    send_timeout_s: float = 30.0
    """A reader that takes nothing for this long is closed."""

    connect_timeout_s: float = 3.0
    progress_timeout_s: float = 10.0
    """A source must send at least ``progress_bytes_min`` in this time while it is asked."""
    progress_bytes_min: int = 16 * KIB
    fetch_peers_max: int = 16
    """Peers connected to at a time."""
    far_peers_min: int = 2
    """Places among them that are kept for peers of other zones."""
    rechoose_s: float = 5.0
    """How often the slowest peer may have to make room for one that was not tried."""
    idle_close_s: float = 20.0
    """A peer that had nothing to give for this long is let go, and tried again later."""
    connections_per_peer: int = 2
    """Two overlap hashing with receiving; from ``many_peers`` on one each is enough."""
    many_peers: int = 4
    ask_interval_min_s: float = 0.1
    ask_interval_s: float = 1.5
    """Between two questions to the trackers for more peers while a download runs: short at
    first, doubled up to the second."""
    retry_min_s: float = 0.25
    retry_max_s: float = 5.0
    """Back-off, exponential with full jitter, before a lost peer is tried again."""
    patience_s: float = 30.0
    """A download with no source at all for this long fails."""
    grace_s: float = 1.0
    """It fails after this time already when every peer that the trackers know was given up."""
