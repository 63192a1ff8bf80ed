"""Frozen settings. Units are in the names; relations are checked where a value enters.

Two kinds, kept apart on purpose:

* :class:`MachineLimits` decides what the replicated state machine accepts. Two trackers with
  different values would diverge, so they are part of the log format version, never an option.
* everything else (:class:`WireLimits`, :class:`RaftTiming`, :class:`NodeConfig`,
  :class:`ClientConfig`) concerns one process and may differ from tracker to tracker.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from tracker_raft.errors import BadRequest

KIB = 1024
MIB = 1024 * KIB

PROTOCOL_VERSION = 1
"""Version of the client and link protocols; the first frame of a connection says it."""

ELECTION_TIMEOUT_MIN_S, ELECTION_TIMEOUT_MAX_S = 0.05, 60.0

NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """What one replicated tracker holds at most. The same on every tracker of every cluster."""

    files_max: int = 4_000_000
    versions_per_name_max: int = 16
    """Versions kept of one name; publishing one more drops the oldest without a tag."""
    tags_per_name_max: int = 8
    leases_max: int = 200_000
    contents_per_lease_max: int = 100_000
    peers_per_content_max: int = 100_000
    sessions_max: int = 100_000
    session_window_max: int = 256
    """Operations of one request session that may be unanswered at once, hence replies kept."""
    session_ttl_ms: int = 3_600_000
    """A request session not used for this long of logical time is forgotten."""
    changes_kept_max: int = 16_384
    """Changes of files kept for those who watch; a watch from before them is refused."""
    lease_ttl_min_ms: int = 1_000
    lease_ttl_max_ms: int = 3_600_000


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds on what one tracker process reads, keeps and sends."""

    client_frame_bytes_max: int = 1 * MIB
    link_frame_bytes_max: int = 8 * MIB
    client_connections_max: int = 10_000
    """Clients beyond it are answered ``busy`` and closed."""
    requests_in_flight_max: int = 1_024
    """Unanswered requests of one client connection; reading stops until some are answered."""
    intake_max: int = 20_000
    """Operations under way on one tracker, at most; fewer if its log answers slowly."""
    reads_max: int = 20_000
    """Reads waiting on one tracker for a majority or for an entry; beyond it ``busy``."""
    hello_timeout_s: float = 5.0
    send_buffer_bytes_max: int = 8 * MIB
    """A client that does not read its replies is closed beyond this."""
    link_buffer_bytes_soft: int = 8 * MIB
    """Entries for a follower whose link holds more than this are dropped and sent again later."""
    link_buffer_bytes_max: int = 64 * MIB
    """A link that holds more than this is closed."""
    watches_max: int = 10_000
    """Watches that wait on one tracker; beyond it ``busy``."""
    watches_per_connection_max: int = 64
    page_items_max: int = 1_000
    peers_per_reply_max: int = 200
    request_deadline_max_s: float = 120.0


TOGETHER_BYTES_MAX = 64 * KIB


@dataclass(frozen=True, slots=True)
class RaftTiming:
    """Timing of consensus on one tracker, in seconds, and what goes into one message.

    One setting, ``election_timeout_s``; all other times follow from it. It should be well above
    the round trip between trackers and a sync of their disks together. Trackers of one cluster
    should have the same.
    """

    election_timeout_s: float = 0.2
    """A leader silent for this long is replaced, and one that hears no majority for this long
    stops leading. A tracker whose own loop is late waits longer (:mod:`~tracker_raft.raft.lag`)."""
    reconnect_min_s: float = 0.01
    reconnect_max_s: float = 0.5
    entry_bytes_max: int = 512 * KIB
    """One Raft entry. Below half of the batch size, so the library never chunks it (S15)."""
    append_batch_bytes: int = 2 * MIB

    @property
    def together_bytes(self) -> int:
        """Operations that share an entry, or a message between trackers; one alone may be longer.
        To apply so many takes a tracker some 10 ms, and as long again to answer them: a second in
        which many wait must not become one entry, for while it is applied nothing is heard."""
        return min(TOGETHER_BYTES_MAX, self.entry_bytes_max)

    @property
    def heartbeat_s(self) -> float:
        """Between two signs of life of an idle leader: three may be late."""
        return self.election_timeout_s / 4

    @property
    def stagger_s(self) -> float:
        """Between two candidates by rank: enough for the first one to have won."""
        return self.election_timeout_s / 8

    def __post_init__(self) -> None:
        if not ELECTION_TIMEOUT_MIN_S <= self.election_timeout_s <= ELECTION_TIMEOUT_MAX_S:
            raise BadRequest(
                f"election time-out of {self.election_timeout_s * 1000:g} ms: expected "
                f"{ELECTION_TIMEOUT_MIN_S * 1000:g} to {ELECTION_TIMEOUT_MAX_S * 1000:g} ms"
            )
        if not 0 < self.reconnect_min_s <= self.reconnect_max_s:
            raise BadRequest(
                f"reconnect_min_s={self.reconnect_min_s} must be above 0 and not above "
                f"reconnect_max_s={self.reconnect_max_s}"
            )
        if self.entry_bytes_max * 2 > self.append_batch_bytes:
            raise BadRequest(
                f"entry_bytes_max={self.entry_bytes_max} must be at most half of "
                f"append_batch_bytes={self.append_batch_bytes}"
            )


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """When one tracker takes snapshots, and how gently."""

    log_bytes_min: int = 16 * MIB
    """Logged since the last snapshot before the next one; at least as much as that one's size."""
    entries_kept: int = 1_000
    """Entries kept before a snapshot, so that a member a little behind needs none."""
    slice_rows: int = 1_000
    slice_pause_s: float = 0.005
    """Between two slices of a snapshot that is being made."""
    part_bytes: int = 256 * KIB
    """Of a snapshot on its way to a member."""
    offer_period_s: float = 0.5


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host and a TCP port. ``str()`` gives ``host:port`` (IPv6 hosts in brackets)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port`` or ``[v6]:port``. Raises :class:`BadRequest`."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise BadRequest(f"address {text!r}: an IPv6 host needs brackets, as in [::1]:7000")
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise BadRequest(f"address {text!r}: expected host:port")
        number = int(port)
        if not 0 < number < 65536 or len(host) > 253 or any(c <= " " or c > "~" for c in host):
            raise BadRequest(f"address {text!r}: expected a host name and a port from 1 to 65535")
        return cls(host, number)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only mean this machine; of names only localhost does."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_loopback(what: str, address: Address, insecure: bool) -> None:
    """Refuse to listen beyond this machine unless asked to: nothing here authenticates yet."""
    if not insecure and not is_loopback(address.host):
        raise BadRequest(
            f"{what} {address} is not a loopback address and connections are not authenticated; "
            f"nothing was started. Use --insecure to listen there all the same"
        )


@dataclass(frozen=True, slots=True)
class Member:
    """One voter as the others see it: its id and where its Raft link is reached (D12)."""

    node: str
    raft: Address

    @classmethod
    def parse(cls, text: str) -> Member:
        """Read ``id=host:port``. Raises :class:`BadRequest`."""
        node, equals, address = text.partition("=")
        if not equals or not NODE_ID.fullmatch(node):
            raise BadRequest(f"member {text!r}: expected id=host:port")
        return cls(node, Address.parse(address))


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One tracker process. Bind addresses are where it listens, advertised ones what it tells."""

    node: str
    data_dir: Path
    members: tuple[Member, ...]
    """All voters, this one included; its own entry gives the advertised Raft address."""
    client_bind: Address
    raft_bind: Address
    client_advertised: Address
    cluster: str = "p2p"
    """Name of the cluster: links and directories of another are refused."""
    insecure: bool = False
    joining: bool = False
    """It is no founding member: ``members`` only says where others are reached, and the log, once
    it comes, who they are."""
    founded: tuple[Member, ...] = ()
    """The founding members where they were at first; empty: where ``members`` says."""
    timing: RaftTiming = field(default_factory=RaftTiming)
    limits: WireLimits = field(default_factory=WireLimits)
    snapshots: SnapshotPolicy = field(default_factory=SnapshotPolicy)

    def __post_init__(self) -> None:
        if not NODE_ID.fullmatch(self.node):
            raise BadRequest(f"node id {self.node!r}: expected {NODE_ID.pattern}")
        ids = [member.node for member in self.members]
        if len(set(ids)) != len(ids):
            raise BadRequest(f"members {ids}: an id stands twice")
        if self.node not in ids:
            raise BadRequest(f"members {ids}: this node, {self.node!r}, is not among them")
        require_loopback("client address", self.client_bind, self.insecure)
        require_loopback("raft address", self.raft_bind, self.insecure)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How a :class:`~tracker_raft.client.TrackerClient` behaves. Times in seconds."""

    deadline_s: float = 10.0
    """For a whole call, retries and failovers included, unless the call names its own."""
    connect_timeout_s: float = 1.0
    silence_s: float = 0.08
    """A tracker that says nothing for this long is pinged, and one that does not answer the ping
    within the same time is left for the next one, which gets the same request id."""
    attempt_timeout_s: float = 1.5
    """Time for one tracker to answer, when it is alive; then the next one is asked."""
    backoff_min_s: float = 0.005
    backoff_max_s: float = 0.5
    """Exponential back-off with full jitter between rounds over all trackers."""
    breaker_failures: int = 2
    """Consecutive failures of one endpoint that open its circuit breaker."""
    breaker_open_min_s: float = 0.25
    breaker_open_max_s: float = 5.0
    watch_wait_s: float = 5.0
    """How long a tracker is asked to wait for a change before it says that there was none. One
    that has lost the others is left after it, one that hangs by the same time or before."""
    idle_connections_max: int = 8
    """Kept per endpoint for reuse."""
    frame_bytes_max: int = 1 * MIB
