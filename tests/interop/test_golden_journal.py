"""Bytes of a journal as format 1 has them. They never change: another format gets a number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker_raft.raft.journal import NO_OP, SegmentJournal
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory

SEGMENT_BYTES = 256
GOLDEN = {
    "log-000000000001": (
        "0000005d455d3a97000000000188a6666f726d617401a7636c7573746572a6676f6c64656ea46e6f6465a26e31"
        "a56269727468b030313233343536373839616263646566a77365676d656e7401a5636861696e00a47465726d00"
        "a9766f7465645f666f72c0"
        "00000016094f1f5b81000000010000000000000001000000000000000001"
        "0000000f52bf4822030000000200000000000000016e31"
        "000000162fa72bb281000000020000000000000002000000000000000101"
        "0000001c0a56b7ce81000000030000000000000003000000000000000100676f6c64656e"
    ),
    "log-000000000002": (
        "00000063c70180ba000000000488a6666f726d617401a7636c7573746572a6676f6c64656ea46e6f6465a26e31"
        "a56269727468b030313233343536373839616263646566a77365676d656e7402a5636861696ece0a56b7cea474"
        "65726d01a9766f7465645f666f72a26e31"
        "0000000dd750e50503000000040000000000000007"
        "0000000da3a77d8002000000040000000000000003"
        "00000018f4611f3481000000040000000000000003000000000000000700ff00"
    ),
    "log-000000000003": (
        "00000061f77b14e4000000000588a6666f726d617401a7636c7573746572a6676f6c64656ea46e6f6465a26e31"
        "a56269727468b030313233343536373839616263646566a77365676d656e7403a5636861696ecef4611f34a474"
        "65726d07a9766f7465645f666f72c0"
        "0000001571475898040000000500000000000000140000000000000007"
        "0000001c21a590e881000000050000000000000015000000000000000700626568696e64"
    ),
}
"""Five batches. Segment 1: header and first entry; vote for n1 in term 1 and an entry; an entry.
Segment 2, its header with that vote: term 7 without a vote, entry 3 taken back, another entry 3.
Segment 3: a snapshot up to entry 20 of term 7, and an entry behind it. Zeros fill the segments."""


@contextmanager
def golden(path: Path, birth: str) -> Iterator[SegmentJournal]:
    storage = Directory(path)
    try:
        yield SegmentJournal(storage, Identity("golden", "n1", birth), segment_bytes=SEGMENT_BYTES)
    finally:
        storage.close()


def contents() -> dict[str, bytes]:
    return {name: bytes.fromhex(text).ljust(SEGMENT_BYTES, b"\0") for name, text in GOLDEN.items()}


def held(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_journal_written_today_has_the_golden_bytes(tmp_path: Path) -> None:
    """Broken: the format on disk changed; nodes cannot go back to the version before this one."""
    with golden(tmp_path, "0123456789abcdef") as journal:
        journal.add(b"\x01", 1, 0)
        journal.sync()
        journal.setCurrentTerm(1, "n1")
        journal.add(b"\x01", 2, 1)
        journal.sync()
        journal.add(b"\x00golden", 3, 1)
        journal.sync()
        journal.setCurrentTerm(7, None)
        journal.deleteEntriesFrom(2)
        journal.add(b"\x00\xff\x00", 3, 7)
        journal.sync()
        journal.restart_at(20, 7)
        journal.add(b"\x00behind", 21, 7)
        journal.sync()
    assert held(tmp_path) == contents()


def test_the_golden_journal_is_read(tmp_path: Path) -> None:
    """Broken: an upgraded node cannot start from the directory of the version before."""
    for name, data in contents().items():
        (tmp_path / name).write_bytes(data)
    with golden(tmp_path, "another birth") as journal:
        assert journal[:] == [(NO_OP, 20, 7), (b"\x00behind", 21, 7)]
        assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (7, None)
        assert journal.identity.birth == "0123456789abcdef"
        assert (journal.segments, journal.bytes_cut) == (3, 0)
    assert held(tmp_path) == contents()


def test_the_golden_journal_is_read_up_to_each_segment(tmp_path: Path) -> None:
    """Broken: what an older version wrote before its snapshot means something else now."""
    expected = {
        1: [(b"\x01", 1, 0), (b"\x01", 2, 1), (b"\x00golden", 3, 1)],
        2: [(b"\x01", 1, 0), (b"\x01", 2, 1), (b"\x00\xff\x00", 3, 7)],
    }
    votes = {1: (1, "n1"), 2: (7, None)}
    for number, (name, data) in enumerate(list(contents().items())[:2], 1):
        (tmp_path / name).write_bytes(data)
        with golden(tmp_path, "another birth") as journal:
            assert journal[:] == expected[number]
            assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == votes[number]
