"""The journal's files: segments found, checked, cut, filled a batch at a time, deleted.

Knows the order of things on disk and nothing of what the log in memory looks like. The format
and what a bad record means: :mod:`records`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracker_raft.errors import Damaged, LocalError, Unsupported
from tracker_raft.raft import records
from tracker_raft.raft.records import Body, Kind, Record, Scan
from tracker_raft.raft.storage import Storage

PREFIX = "log-"
RECORD_OVERHEAD_BYTES = 32

Vote = tuple[int, str | None]
"""(term, node voted for in it)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose journal it is. ``birth`` is drawn when the directory is made and never again: a
    member that comes back with another one has lost its memory."""

    cluster: str
    node: str
    birth: str


@dataclass(slots=True)
class Segment:
    number: int
    last_index: int = 0
    """The highest index any entry in it ever had."""

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.number:012d}"


@dataclass(slots=True)
class Batch:
    """One batch on its way to the disk. :meth:`write` may run on the writer's thread."""

    storage: Storage
    segment: Segment
    allocate: int
    """Bytes to allocate first: the batch begins a segment. 0: it goes on in one."""
    offset: int
    data: bytes
    chain: int
    bodies: list[Body]
    allocated: bool = False

    def write(self) -> None:
        """Make it durable. Raises ``OSError``."""
        name = self.segment.name
        if self.allocate:
            self.storage.allocate(name, self.allocate)
            self.allocated = True
        self.storage.write(name, self.offset, self.data)
        self.storage.sync(name)


class SegmentFiles:
    """All segments of one journal, oldest first; the last one is being filled."""

    def __init__(self, storage: Storage, identity: Identity, segment_bytes: int) -> None:
        self.identity = identity
        """With the birth that was found, once :meth:`recover` has run."""
        self.segments: list[Segment] = []
        self.vote: Vote = (0, None)
        """As of the end of what is durable."""
        self.bytes_cut = 0
        self._storage = storage
        self._segment_bytes = segment_bytes
        self._offset = 0
        self._chain = 0
        self._batch = 0

    @property
    def disk_bytes(self) -> int:
        return len(self.segments) * self._segment_bytes

    # -- opening ---------------------------------------------------------------------------------

    def recover(self, replay: Callable[[Record], None]) -> None:
        """Hand every durable record but headers to ``replay``, in order; cut a torn tail.

        A header sets :attr:`vote`. Raises :class:`Damaged`, :class:`Unsupported`,
        :class:`LocalError`, and what ``replay`` raises as ``ValueError`` as damage.
        """
        names = [name for name in self._storage.names() if name.startswith(PREFIX)]
        scan = Scan([], 0, 0, 0, damaged=False)
        for name in names:
            scan = self._read(name, newest=name == names[-1])
            if scan.records:
                self._begin_with(name, scan)
                self._replay(name, scan, replay)
        if names and not scan.records:
            self._storage.delete(names[-1])  # the machine stopped before its first batch
        elif names:
            if scan.torn_bytes:
                self._storage.write(names[-1], scan.end, bytes(scan.torn_bytes))
            # A process that was killed wrote what it had no time to sync: read back it looks
            # durable, and is about to be promised.
            self._storage.sync(names[-1])
        self.bytes_cut = scan.torn_bytes
        self._storage.sync_names()

    def _read(self, name: str, *, newest: bool) -> Scan:
        data = memoryview(self._storage.read(name))
        scan = records.scan(data, self._batch + 1)
        if scan.damaged or (scan.torn_bytes and not newest):
            raise Damaged(
                f"{name}: the record at byte {scan.end} is damaged and later ones are intact; "
                f"the node must neither vote nor lead with this log. Nothing was changed"
            )
        begun = newest and name == Segment(self._number + 1).name
        if not scan.records and not (begun and records.may_be_begun(data, self._batch + 1)):
            raise Damaged(f"{name}: does not begin like a journal; nothing was changed")
        return scan

    @property
    def _number(self) -> int:
        return self.segments[-1].number if self.segments else 0

    def _begin_with(self, name: str, scan: Scan) -> None:
        fields = _header_fields(name, scan)
        identity = self.identity
        if (fields["cluster"], fields["node"]) != (identity.cluster, identity.node):
            raise LocalError(
                f"{name}: belongs to node {fields['node']!r} of cluster {fields['cluster']!r}, "
                f"expected {identity.node!r} of {identity.cluster!r}; nothing was changed"
            )
        segment = Segment(fields["segment"])
        if segment.name != name:
            raise Damaged(f"{name}: is segment {segment.number} by its header; nothing was changed")
        if self.segments:
            follows = (self._number + 1, self._chain, identity.birth)
            if (segment.number, fields["chain"], fields["birth"]) != follows:
                raise Damaged(f"{name}: does not follow the segment before; nothing was changed")
        self.identity = Identity(fields["cluster"], fields["node"], fields["birth"])
        self.segments.append(segment)
        self.vote = fields["term"], fields["voted_for"]

    def _replay(self, name: str, scan: Scan, replay: Callable[[Record], None]) -> None:
        segment = self.segments[-1]
        for end, record in scan.records[1:]:
            try:
                if record.kind not in (Kind.ENTRY, Kind.TRUNCATE, Kind.VOTE, Kind.RESET):
                    raise Unsupported(
                        f"{name}: record of kind {record.kind} at byte {end}, which this version "
                        f"does not know; nothing was changed"
                    )
                self._note(Body(Kind(record.kind), bytes(record.body)), segment)
                replay(record)
            except (ValueError, LookupError) as error:
                raise Damaged(f"{name}: the record ending at byte {end}: {error}") from error
        self._offset, self._chain = scan.end, scan.chain
        self._batch = scan.records[-1][1].batch

    # -- filling ---------------------------------------------------------------------------------

    def begin(self, bodies: list[Body]) -> Batch:
        """The batch that makes ``bodies`` durable; one at a time, ended by :meth:`ended`."""
        size = sum(len(body.data) + RECORD_OVERHEAD_BYTES for body in bodies)
        if self.segments and self._offset + size <= self._segment_bytes:
            data, chain = records.pack_batch(bodies, self._batch + 1, self._chain)
            return Batch(self._storage, self.segments[-1], 0, self._offset, data, chain, bodies)
        segment = Segment(self._number + 1)
        rows = [self._header(segment), *bodies]
        data, chain = records.pack_batch(rows, self._batch + 1, 0)
        allocate = max(self._segment_bytes, len(data))
        return Batch(self._storage, segment, allocate, 0, data, chain, bodies)

    def _header(self, segment: Segment) -> Body:
        return records.header(
            {
                "cluster": self.identity.cluster,
                "node": self.identity.node,
                "birth": self.identity.birth,
                "segment": segment.number,
                "chain": self._chain,
                "term": self.vote[0],
                "voted_for": self.vote[1],
            }
        )

    def ended(self, batch: Batch) -> None:
        """``batch`` is durable."""
        if batch.allocate:
            self.segments.append(batch.segment)
        self._offset, self._chain = batch.offset + len(batch.data), batch.chain
        self._batch += 1
        for body in batch.bodies:
            self._note(body, batch.segment)

    def _note(self, body: Body, segment: Segment) -> None:
        data = memoryview(body.data)
        if body.kind is Kind.VOTE:
            self.vote = records.read_vote(data)
        elif body.kind is not Kind.TRUNCATE:
            segment.last_index = max(segment.last_index, records.read_index_of(body))

    def forget_before(self, index: int) -> list[str]:
        """Give up the segments in which no entry has ``index`` or a later one, but the last.

        Returns their names, to be deleted: one that is left is found again at opening, harmless.
        """
        names = []
        while len(self.segments) > 1 and self.segments[0].last_index < index:
            names.append(self.segments.pop(0).name)
        return names


def _header_fields(name: str, scan: Scan) -> dict[str, Any]:
    record = scan.records[0][1]
    try:
        fields = records.read_header(record.body) if record.kind == Kind.HEADER else {}
    except ValueError:
        fields = {}
    if "format" not in fields:
        raise Damaged(f"{name}: does not begin like a journal; nothing was changed")
    if fields["format"] != records.FORMAT:
        raise Unsupported(
            f"{name}: journal of format {fields['format']}, this version reads {records.FORMAT}; "
            f"nothing was changed"
        )
    return fields
