"""Bytes of a journal as format 1 has them. They never change: another format gets a number."""

from __future__ import annotations

from pathlib import Path

from tracker_raft.raft.journal import FileJournal

GOLDEN = bytes.fromhex(
    "00000021db6e4e520083a6666f726d617401a7636c7573746572a6676f6c64656ea46e6f6465a26e31"
    "000000129a3d31c6010000000000000001000000000000000001"
    "0000000bf6147b400300000000000000016e31"
    "00000012d1248eb3010000000000000002000000000000000101"
    "00000018f114a235010000000000000003000000000000000100676f6c64656e"
    "000000098071aac5030000000000000007"
    "00000009cc841f96020000000000000003"
    "000000149b079b22010000000000000003000000000000000700ff00"
)
"""Header, first entry, vote for n1 in term 1, two entries, term 7 without a vote, entry 3 taken
back, another entry 3."""


def test_a_journal_written_today_has_the_golden_bytes(tmp_path: Path) -> None:
    """Broken: the format on disk changed; nodes cannot go back to the version before this one."""
    journal = FileJournal(tmp_path / "journal", cluster="golden", node="n1")
    journal.add(b"\x01", 1, 0)
    journal.setCurrentTerm(1, "n1")
    journal.add(b"\x01", 2, 1)
    journal.add(b"\x00golden", 3, 1)
    journal.setCurrentTerm(7, None)
    journal.deleteEntriesFrom(2)
    journal.add(b"\x00\xff\x00", 3, 7)
    journal._destroy()
    assert (tmp_path / "journal").read_bytes() == GOLDEN


def test_the_golden_journal_is_read(tmp_path: Path) -> None:
    """Broken: an upgraded node cannot start from the directory of the version before."""
    (tmp_path / "journal").write_bytes(GOLDEN)
    journal = FileJournal(tmp_path / "journal", cluster="golden", node="n1")
    try:
        assert journal[:] == [(b"\x01", 1, 0), (b"\x01", 2, 1), (b"\x00\xff\x00", 3, 7)]
        assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (7, None)
        assert journal.bytes_cut == 0
    finally:
        journal._destroy()
    assert (tmp_path / "journal").read_bytes() == GOLDEN
