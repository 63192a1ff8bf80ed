"""The durable log and vote of one node: one append-only file of chained records.

Rules
-----
* Nothing is ever overwritten. A truncation of the log and a new vote are records like an entry.
* ``add`` and its like only buffer; :meth:`FileJournal.sync` writes and syncs them with one
  ``fdatasync``. The caller must not let anything leave the node that says "I have it" before.
* A failed write or sync is fatal for the journal: what the kernel then holds is unknown, so
  every later call raises (a retried ``fsync`` may report success for data that was dropped).

Format (integers big-endian)::

    record   u32 payload length | u32 CRC-32 of the payload, seeded with the record before | payload
    payload  u8 kind | body
    kinds    0 header    msgpack {"format": 1, "cluster": ..., "node": ...}
             1 entry     u64 index | u64 term | command
             2 truncate  u64 index: entries from here on are gone
             3 vote      u64 term | node id voted for in it, empty for none

The chained CRC ties a record to all before it, so records of another file or an older state of
this one do not verify. At opening, a bad record with no valid record after it is a torn tail
(it was never synced, so nobody was told of it) and is cut off. A bad record *with* a valid one
after it is damage to what others may rely on: :class:`~tracker_raft.errors.Damaged`. A flip in
the very last record cannot be told from a torn tail.

What to re-check when you change it: ``tests/unit/test_journal.py`` cuts and flips a file at
every byte; the format number and ``tests/interop`` when a byte on disk changes.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import msgpack
from pysyncobj.journal import Journal

from tracker_raft.errors import Damaged, LocalError, Unsupported

FORMAT = 1
RECORD_BYTES_MAX = 4 * 1024 * 1024
_RECORD = struct.Struct(">II")
_ENTRY = struct.Struct(">BQQ")
_INDEX = struct.Struct(">BQ")
HEADER, ENTRY, TRUNCATE, VOTE = range(4)

LogEntry = tuple[bytes, int, int]
"""(command, index, term), the shape PySyncObj keeps its log in."""


def _frame(payload: bytes, crc: int) -> tuple[bytes, int]:
    crc = zlib.crc32(payload, crc)
    return _RECORD.pack(len(payload), crc) + payload, crc


def _read_records(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (end offset, crc, payload) of each valid record from the start; stops at a bad one."""
    offset, crc = 0, 0
    while offset + _RECORD.size <= len(data):
        length, stored = _RECORD.unpack_from(data, offset)
        end = offset + _RECORD.size + length
        if not 0 < length <= RECORD_BYTES_MAX or end > len(data):
            return
        payload = data[offset + _RECORD.size : end]
        crc = zlib.crc32(payload, crc)
        if crc != stored:
            return
        yield end, crc, payload
        offset = end


def _header(identity: dict[str, Any]) -> bytes:
    return bytes([HEADER]) + bytes(msgpack.packb(identity))


def _torn_header(data: memoryview, identity: dict[str, Any]) -> bool:
    """Whether this is what a crash in the very first write of this journal can have left."""
    whole, _ = _frame(_header(identity), 0)
    return whole.startswith(bytes(data).rstrip(b"\0"))


def _record_at(data: memoryview, start: int) -> tuple[memoryview, int] | None:
    """Payload and stored CRC of what may be a record at ``start``; whether it is, its CRC tells."""
    if start + _RECORD.size > len(data):
        return None
    length, stored = _RECORD.unpack_from(data, start)
    end = start + _RECORD.size + length
    if not 0 < length <= RECORD_BYTES_MAX or end > len(data):
        return None
    return data[start + _RECORD.size : end], stored


def _valid_record_after(data: memoryview, bad: int, crc: int) -> bool:
    """Whether any record behind the bad one at offset ``bad`` verifies; ``crc`` is the one before.

    Where the next record begins is not known, the length may be what was damaged; so every offset
    is tried. What it is chained to is one of three: the CRC the bad record carries (its payload or
    length was damaged), the CRC of the bytes up to here as its payload (its header was), or, for a
    record further on, the CRC that the intact record in between carries.
    """
    body = bad + _RECORD.size
    if body > len(data):
        return False
    carried = _RECORD.unpack_from(data, bad)[1]
    for start in range(body, len(data)):
        if (found := _record_at(data, start)) is not None:
            payload, stored = found
            if stored in (zlib.crc32(payload, carried), zlib.crc32(payload, crc)):
                return True
            follower = _record_at(data, start + _RECORD.size + len(payload))
            if follower is not None and zlib.crc32(follower[0], stored) == follower[1]:
                return True
        crc = zlib.crc32(data[start : start + 1], crc)
    return False


class FileJournal(Journal):  # type: ignore[misc]  # the library is untyped
    """The journal PySyncObj writes to, behind the interface of ``pysyncobj.journal.Journal``.

    Positions in :meth:`deleteEntriesFrom` and ``[]`` count from the first entry kept; the
    library does that arithmetic. All entries are also held in memory.
    """

    def __init__(self, path: Path, *, cluster: str, node: str) -> None:
        """Open or create. Raises :class:`Damaged`, :class:`Unsupported`, :class:`LocalError`."""
        self.path = path
        self.syncs = 0
        self.bytes_cut = 0
        """Length of the torn tail cut off at opening, 0 for a clean file."""
        self._entries: list[LogEntry] = []
        self._term = 0
        self._voted_for: str | None = None
        self._buffer = bytearray()
        self._crc = 0
        self._failed: OSError | None = None
        existed = path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._recover({"format": FORMAT, "cluster": cluster, "node": node})
            if not existed:
                _sync_directory(path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def _recover(self, identity: dict[str, Any]) -> None:
        size = os.fstat(self._file).st_size
        data = memoryview(_read_all(self._file, size))
        good = 0
        for end, crc, payload in _read_records(data):
            self._replay(payload, first=good == 0, identity=identity)
            good, self._crc = end, crc
        if good < size:
            if good == 0 and not _torn_header(data, identity):
                raise Damaged(f"{self.path}: does not begin like a journal; nothing was changed")
            if _valid_record_after(data, good, self._crc):
                raise Damaged(
                    f"{self.path}: the record at byte {good} is damaged and valid ones follow; "
                    f"the node must not vote or lead with this log. Nothing was changed"
                )
            os.ftruncate(self._file, good)
            os.fsync(self._file)
            self.bytes_cut = size - good
        os.lseek(self._file, good, os.SEEK_SET)
        if good == 0:
            self._append(_header(identity))
            self.sync()

    def _replay(self, payload: memoryview, *, first: bool, identity: dict[str, Any]) -> None:
        kind = payload[0]
        if first or kind == HEADER:
            self._check_identity(payload, identity)
        elif kind == ENTRY:
            _, index, term = _ENTRY.unpack_from(payload)
            self._expect_next(index)
            self._entries.append((bytes(payload[_ENTRY.size :]), index, term))
        elif kind == TRUNCATE:
            self._drop_from(_INDEX.unpack_from(payload)[1])
        elif kind == VOTE:
            self._term = _INDEX.unpack_from(payload)[1]
            self._voted_for = str(payload[_INDEX.size :], "utf-8") or None
        else:
            raise Unsupported(
                f"{self.path}: record of kind {kind}, this version knows {HEADER} to {VOTE}; "
                f"nothing was changed"
            )

    def _check_identity(self, payload: memoryview, identity: dict[str, Any]) -> None:
        found = msgpack.unpackb(payload[1:]) if payload[0] == HEADER else None
        if not isinstance(found, dict):
            raise Damaged(f"{self.path}: does not begin like a journal; nothing was changed")
        if found.get("format") != FORMAT:
            raise Unsupported(
                f"{self.path}: journal of format {found.get('format')}, this version reads "
                f"{FORMAT}; nothing was changed"
            )
        if found != identity:
            raise LocalError(
                f"{self.path}: belongs to node {found.get('node')!r} of cluster "
                f"{found.get('cluster')!r}, expected {identity['node']!r} of "
                f"{identity['cluster']!r}; nothing was changed"
            )

    def _expect_next(self, index: int) -> None:
        if self._entries and index != self._entries[-1][1] + 1:
            raise Damaged(
                f"{self.path}: entry {index} follows entry {self._entries[-1][1]}; "
                f"nothing was changed"
            )

    # -- what the rest of the node asks ---------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether something was added that :meth:`sync` has not made durable yet."""
        return bool(self._buffer)

    @property
    def first_index(self) -> int:
        return self._entries[0][1] if self._entries else 0

    @property
    def last_index(self) -> int:
        return self._entries[-1][1] if self._entries else 0

    def term_at(self, index: int) -> int | None:
        """Term of the entry at ``index``; None when it is not in the log."""
        position = index - self.first_index
        if self._entries and 0 <= position < len(self._entries):
            return self._entries[position][2]
        return None

    def sync(self) -> None:
        """Write what is buffered and ``fdatasync`` it. Raises :class:`LocalError`, for good."""
        if self._failed is not None:
            raise LocalError(f"{self.path}: an earlier write failed: {self._failed}")
        if not self._buffer:
            return
        try:
            view = memoryview(self._buffer)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as error:
            self._failed = error
            raise LocalError(f"{self.path}: write failed: {error}") from error
        self._buffer = bytearray()
        self.syncs += 1

    def _append(self, payload: bytes) -> None:
        if len(payload) > RECORD_BYTES_MAX:  # written, it would be taken for a torn tail
            raise LocalError(
                f"{self.path}: record of {len(payload)} bytes, limit {RECORD_BYTES_MAX}; "
                f"not written"
            )
        record, self._crc = _frame(payload, self._crc)
        self._buffer += record

    def _drop_from(self, index: int) -> None:
        del self._entries[max(0, index - self.first_index) :]

    # -- the interface of pysyncobj.journal.Journal ---------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._expect_next(idx)
        self._append(_ENTRY.pack(ENTRY, idx, term) + command)
        self._entries.append((command, idx, term))

    def clear(self) -> None:
        if self._entries:
            self.deleteEntriesFrom(0)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        if entryFrom < len(self._entries):
            index = self._entries[entryFrom][1]
            self._append(_INDEX.pack(TRUNCATE, index))
            self._drop_from(index)

    def deleteEntriesTo(self, entryTo: int) -> None:
        raise LocalError("compaction is not part of this journal: it keeps the whole log")

    @overload
    def __getitem__(self, item: int) -> LogEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[LogEntry]: ...
    def __getitem__(self, item: int | slice) -> LogEntry | list[LogEntry]:
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._term, self._voted_for = term, votedForNodeId
        self._append(_INDEX.pack(VOTE, term) + (votedForNodeId or "").encode())

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._voted_for

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Not kept: a restarted node learns the commit index from a leader, never from itself."""

    def getRaftCommitIndex(self) -> int:
        return 1

    def _destroy(self) -> None:
        if self._file >= 0:
            try:
                if self._failed is None:
                    self.sync()
            finally:
                os.close(self._file)
                self._file = -1

    def __repr__(self) -> str:
        return f"<FileJournal {self.path.name} {self.first_index}..{self.last_index}>"


def _read_all(file: int, size: int) -> bytes:
    chunks, offset = [], 0
    while offset < size:
        chunk = os.pread(file, min(size - offset, 1 << 24), offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
