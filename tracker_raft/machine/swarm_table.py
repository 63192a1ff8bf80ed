"""Which peer serves which content: the passing half of the tracker's state. Pure.

Rules
-----
* A peer has one *lease*: its address, its zone and a logical time at which it ends. What the peer
  serves hangs on the lease and ends with it. Joining opens or renews the lease; the lease ends
  early with the last content the peer leaves.
* A *membership* is one peer in the swarm of one content, complete or partial. Complete never
  becomes partial again.
* Time is handed in and never goes back. A lease with ``expires_ms`` <= time is over.

How it is kept
--------------
All swarms are **one sorted list** of ``content + (0 complete | 1 partial) + peer``. A swarm is a
run of neighbours in it, complete peers first, each part in peer order, so a window into a swarm
of any size is one binary search and a slice, and a content with one seeder costs no list of its
own. The peer's side is a dict on its lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sortedcontainers import SortedDict, SortedList

from tracker_raft.commands import CONTENT_ID_BYTES, Complete, Join, Leave, PeerRecord, Peers
from tracker_raft.config import MachineLimits
from tracker_raft.errors import BadRequest, LimitReached, NotFound
from tracker_raft.machine.digest import Digest, Item
from tracker_raft.machine.snapshot_cursor import Row, Table
from tracker_raft.machine.wide_dict import WideDict

_COMPLETE: Final = b"\x00"
_PARTIAL: Final = b"\x01"


@dataclass(slots=True)
class Lease:
    """One peer. ``contents`` says of each content it serves whether it has all of it."""

    peer: str
    address: str
    zone: str
    ttl_ms: int
    expires_ms: int
    contents: dict[bytes, bool] = field(default_factory=dict)

    def item(self) -> tuple[str, str, str, str, int, int]:
        """What the digest hashes of it; the memberships are items of their own."""
        return ("lease", self.peer, self.address, self.zone, self.ttl_ms, self.expires_ms)


class SwarmTable:
    """All leases. Methods that change it check first, so a refusal has changed nothing."""

    def __init__(self, limits: MachineLimits, digest: Digest) -> None:
        self.memberships = 0
        self._limits = limits
        self._digest = digest
        self._leases: SortedDict[str, Lease] = SortedDict()
        self._expiries: SortedList[tuple[int, str]] = SortedList()
        """(expires_ms, peer), one for each lease."""
        self._swarms: SortedList[bytes] = SortedList()
        self._sizes: WideDict[bytes, int] = WideDict()
        """Peers of each content that has any."""

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def contents(self) -> int:
        """Contents that at least one peer serves."""
        return len(self._sizes)

    # -- writes -----------------------------------------------------------------------------------

    def join(self, wanted: Join, now_ms: int) -> dict[str, Any]:
        """Raises :class:`LimitReached`; then the lease was not renewed either."""
        lease = self._leases.get(wanted.peer)
        if lease is None or wanted.content not in lease.contents:
            self._require_room(wanted, lease)
        if lease is None:
            lease = Lease(wanted.peer, wanted.address, wanted.zone, wanted.lease_ms, now_ms)
            self._leases[wanted.peer] = lease
        else:
            self._unlist(lease)
        lease.address, lease.zone, lease.ttl_ms = wanted.address, wanted.zone, wanted.lease_ms
        lease.expires_ms = now_ms + wanted.lease_ms
        self._list(lease)
        if wanted.content not in lease.contents:
            self._add(lease, wanted.content, wanted.complete)
        elif wanted.complete and not lease.contents[wanted.content]:
            self._promote(lease, wanted.content)
        return {"lease_ms": lease.ttl_ms}

    def complete(self, wanted: Complete) -> dict[str, Any]:
        """Raises :class:`NotFound` when the peer has not joined, or its lease is over."""
        lease = self._leases.get(wanted.peer)
        if lease is None or wanted.content not in lease.contents:
            raise NotFound(
                f"peer {wanted.peer!r} has not joined content {wanted.content.hex()}, or its "
                f"lease is over; join again"
            )
        if not lease.contents[wanted.content]:
            self._promote(lease, wanted.content)
        return {}

    def leave(self, wanted: Leave) -> dict[str, Any]:
        lease = self._leases.get(wanted.peer)
        if lease is None:
            return {"left": 0}
        if not wanted.content:
            left = len(lease.contents)
            self._end(lease)
            return {"left": left}
        if wanted.content not in lease.contents:
            return {"left": 0}
        self._remove(lease, wanted.content)
        if not lease.contents:
            self._end(lease)
        return {"left": 1}

    def renew(self, peers: object, now_ms: int) -> dict[str, Any]:
        """Renew each lease named in ``peers``; what is no known peer is passed over.

        Raises :class:`BadRequest` when ``peers`` is no array.
        """
        if not isinstance(peers, tuple | list):
            raise BadRequest(f"peers is {type(peers).__name__}, expected an array")
        renewed = 0
        for peer in dict.fromkeys(peer for peer in peers if type(peer) is str):
            lease = self._leases.get(peer)
            if lease is not None:
                self._unlist(lease)
                lease.expires_ms = now_ms + lease.ttl_ms
                self._list(lease)
                renewed += 1
        return {"renewed": renewed}

    def expire(self, now_ms: int) -> None:
        """End each lease that is over, in the order of (expires_ms, peer)."""
        while self._expiries and self._expiries[0][0] <= now_ms:
            self._end(self._leases[self._expiries[0][1]])

    def _require_room(self, wanted: Join, lease: Lease | None) -> None:
        limits = self._limits
        size = self._sizes.get(wanted.content) or 0
        if lease is None and len(self._leases) >= limits.leases_max:
            found, limit = f"{len(self._leases)} leases", limits.leases_max
        elif lease is not None and len(lease.contents) >= limits.contents_per_lease_max:
            found, limit = f"{len(lease.contents)} contents", limits.contents_per_lease_max
        elif size >= limits.peers_per_content_max:
            found, limit = f"{size} peers of this content", limits.peers_per_content_max
        else:
            return
        raise LimitReached(f"{found}, limit {limit}; peer {wanted.peer!r} has not joined")

    # -- the steps, each keeping table, index and digest together ---------------------------------

    def _list(self, lease: Lease) -> None:
        self._expiries.add((lease.expires_ms, lease.peer))
        self._digest.add(*lease.item())

    def _unlist(self, lease: Lease) -> None:
        self._expiries.remove((lease.expires_ms, lease.peer))
        self._digest.remove(*lease.item())

    def _end(self, lease: Lease) -> None:
        for content in list(lease.contents):
            self._remove(lease, content)
        self._unlist(lease)
        del self._leases[lease.peer]

    def _add(self, lease: Lease, content: bytes, complete: bool) -> None:
        lease.contents[content] = complete
        self._sizes[content] = (self._sizes.get(content) or 0) + 1
        self.memberships += 1
        self._swarms.add(_key(content, complete, lease.peer))
        self._digest.add("member", lease.peer, content, complete)

    def _remove(self, lease: Lease, content: bytes) -> None:
        complete = lease.contents.pop(content)
        self._swarms.remove(_key(content, complete, lease.peer))
        self._digest.remove("member", lease.peer, content, complete)
        self.memberships -= 1
        self._sizes[content] -= 1
        if not self._sizes[content]:
            del self._sizes[content]

    def _promote(self, lease: Lease, content: bytes) -> None:
        self._remove(lease, content)
        self._add(lease, content, True)

    # -- reads ------------------------------------------------------------------------------------

    def peers(self, wanted: Peers) -> dict[str, Any]:
        """The window of ``limit`` peers that starts at ``skip``, wrapped round at the end."""
        total = self._sizes.get(wanted.content) or 0
        if not total:
            return {"peers": [], "total": 0}
        first = self._swarms.bisect_left(wanted.content)
        start = first + wanted.skip % total
        stop = start + min(wanted.limit, total)
        end = first + total
        keys = [*self._swarms.islice(start, min(stop, end))]
        if stop > end:
            keys += self._swarms.islice(first, first + stop - end)
        return {"peers": [self._record(key).to_wire() for key in keys], "total": total}

    def has(self, content: bytes) -> bool:
        """Whether a peer serves it, be it a part."""
        return content in self._sizes

    def _record(self, key: bytes) -> PeerRecord:
        _, complete, peer = _parts(key)
        lease = self._leases[peer]
        return PeerRecord(lease.peer, lease.address, complete, lease.zone)

    def expires_ms(self, peer: str) -> int | None:
        lease = self._leases.get(peer)
        return None if lease is None else lease.expires_ms

    def next_expiry_ms(self) -> int | None:
        return self._expiries[0][0] if self._expiries else None

    # -- snapshot ---------------------------------------------------------------------------------

    def tables(self) -> tuple[Table, ...]:
        """``leases``: (peer, address, zone, ttl_ms, expires_ms) in peer order.

        ``members``: (peer, content, complete), by content, complete ones first, in peer order.
        """
        return (
            Table("leases", "lease", lambda item: item[1], self._leases_after),
            Table("members", "member", _item_key, self._members_after),
        )

    def _leases_after(self, peer: str | None) -> Iterator[tuple[str, Row]]:
        for found in self._leases.irange(peer, inclusive=(False, True)):
            yield found, self._leases[found].item()[1:]

    def _members_after(self, key: bytes | None) -> Iterator[tuple[bytes, Row]]:
        for found in self._swarms.irange(key, inclusive=(False, True)):
            content, complete, peer = _parts(found)
            yield found, (peer, content, complete)

    def load_leases(self, rows: Iterable[tuple[str, str, str, int, int]]) -> None:
        for row in rows:
            lease = Lease(*row)
            self._leases[lease.peer] = lease
            self._list(lease)

    def load_members(self, rows: Iterable[tuple[str, bytes, bool]]) -> None:
        """After the leases. Raises KeyError for a member without one."""
        for peer, content, complete in rows:
            self._add(self._leases[peer], content, complete)


def _key(content: bytes, complete: bool, peer: str) -> bytes:
    return content + (_COMPLETE if complete else _PARTIAL) + peer.encode()


def _parts(key: bytes) -> tuple[bytes, bool, str]:
    complete = key[CONTENT_ID_BYTES] == _COMPLETE[0]
    return key[:CONTENT_ID_BYTES], complete, key[CONTENT_ID_BYTES + 1 :].decode()


def _item_key(item: Item) -> bytes:
    _, peer, content, complete = item
    return _key(content, complete, peer)
