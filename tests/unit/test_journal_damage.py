"""A journal that is damaged, another's, or none is never taken for something else.

The directory of :func:`journal_driver.story` is cut and flipped at every byte, so it is kept
small.
"""

from __future__ import annotations

import errno
import os
from itertools import pairwise
from pathlib import Path

import pytest
from journal_driver import (
    IDENTITY,
    SEGMENT_BYTES,
    Files,
    Memory,
    State,
    opened,
    reopened,
    state,
    story,
    told_story,
)

from tracker_raft.errors import Damaged, LocalError, P2PError, Unsupported
from tracker_raft.raft import records
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory


@pytest.fixture(scope="module")
def told() -> tuple[Files, list[tuple[str, int]], list[State]]:
    """The files of the story, where each batch ends, the state after it."""
    return told_story()


# -- damage ----------------------------------------------------------------------------------------


def test_cut_at_every_byte_it_opens_with_what_is_whole(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: a torn write stops a node for good, or brings back half of it."""
    files, ends, states = told
    newest = max(files)
    number = [name for name, _ in ends].index(newest)
    for size in range(len(files[newest])):
        whole = max(
            (n for n, (name, end) in enumerate(ends) if name == newest and end <= size),
            default=number - 1,
        )
        cut = {**files, newest: files[newest][:size]}
        storage = Memory(cut)
        journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
        assert state(journal) == states[whole], f"cut to {size} bytes"
        end = ends[whole][1] if ends[whole][0] == newest else 0
        assert journal.bytes_cut == len(cut[newest][end:].rstrip(b"\0"))
        journal.setCurrentTerm(9, None)
        journal.sync()
        again = reopened(storage.copy())
        assert (again.getCurrentTerm(), again.bytes_cut) == (9, 0)
        assert again[:] == states[whole][0]


def test_an_older_segment_cut_anywhere_is_damage(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: entries in the middle of the log are missing and nobody notices."""
    files, ends, states = told
    for name in sorted(files)[:-1]:
        last = max(end for where, end in ends if where == name)
        for size in range(len(files[name])):
            cut = {**files, name: files[name][:size]}
            if size >= last:
                assert state(reopened(cut)) == states[-1], "only unused space is missing"
            else:
                with pytest.raises(Damaged, match="othing was changed"):
                    reopened(cut)


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_flipped_at_every_byte_it_is_never_taken_for_something_else(
    told: tuple[Files, list[tuple[str, int]], list[State]], mask: int
) -> None:
    """Broken: damage is applied as data, or quietly cuts off entries that were acknowledged.

    Only in the very last batch can damage not be told from a torn write.
    """
    files, ends, states = told
    newest, last_end = ends[-1]
    last_begins = ends[-2][1]
    for name, data in files.items():
        for place in range(len(data)):
            flipped = bytearray(data)
            flipped[place] ^= mask
            storage = Memory({**files, name: bytes(flipped)})
            if name == newest and place >= last_begins:
                found = state(SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES))
                assert found == states[-1 if place >= last_end else -2], f"{name} byte {place}"
            else:
                with pytest.raises(Damaged, match="othing was changed"):
                    SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
                assert storage.copy() == {**files, name: flipped}, "the evidence was touched"


def test_a_missing_segment_is_damage(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: entries in the middle of the log are gone and nobody notices.

    That the first segments are gone is what compaction leaves; whether a snapshot is there
    instead is for who opens both to see.
    """
    files, _, states = told
    names = sorted(files)
    for missing in names[1:-1]:
        with pytest.raises(Damaged, match="does not follow"):
            reopened({name: data for name, data in files.items() if name != missing})
    rest = reopened({name: data for name, data in files.items() if name != names[0]})
    assert state(rest) == states[-1], "the log was replaced by a snapshot further on"


def test_the_only_segment_left_by_compaction_is_not_taken_for_one_just_begun(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: a flip in the header of a compacted log leaves an empty one, that votes again."""
    files, _, _ = told
    newest = max(files)
    for place in range(40):
        flipped = bytearray(files[newest])
        flipped[place] ^= 1
        with pytest.raises(Damaged):
            reopened({newest: bytes(flipped)})
    with pytest.raises(Damaged, match="does not begin like a journal"):
        reopened({newest: bytes(400)})


def test_a_segment_of_zeros_in_the_middle_is_damage(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: a file whose contents were lost passes for one that was never used."""
    files, _, _ = told
    for first, second in pairwise(sorted(files)):
        for blank in ({first: bytes(400)}, {first: b""}, {first: bytes(400), second: bytes(400)}):
            if max(files) in blank and len(blank) == 1:
                continue
            with pytest.raises(Damaged, match="othing was changed"):
                reopened({**files, **blank})


def test_a_segment_of_an_older_life_is_refused(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: files of two journals are read as one log."""
    files, _, _ = told
    names = sorted(files)
    stranger = Memory()
    journal = SegmentJournal(stranger, Identity("c", "n1", "other life"), segment_bytes=400)
    for term in range(1, 60):
        journal.setCurrentTerm(term, None)
        journal.sync()
    with pytest.raises(Damaged, match="does not follow"):
        reopened({**files, names[-1]: stranger.copy()[names[-1]]})
    with pytest.raises(Damaged, match="is segment 2 by its header"):
        reopened({"log-000000000009": files[names[1]]})


def test_a_segment_allocated_and_never_used_is_cleared_away(
    told: tuple[Files, list[tuple[str, int]], list[State]],
) -> None:
    """Broken: after a crash between two steps of beginning a segment the node does not start, or
    not the second time."""
    files, _, states = told
    following = f"log-{int(max(files)[4:]) + 1:012d}"
    for blank in (b"", bytes(10), bytes(400)):
        storage = Memory({**files, following: blank})
        journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
        assert (state(journal), journal.bytes_cut) == (states[-1], 0)
        assert storage.copy() == files
        storage = Memory({"log-000000000001": blank})
        journal = SegmentJournal(storage, IDENTITY, segment_bytes=SEGMENT_BYTES)
        assert (state(journal), storage.names()) == (([], 0, None), [])
        journal.add(b"\x01", 1, 0)
        journal.sync()
        assert reopened(storage.copy()).last_index == 1


# -- files that are not ours -----------------------------------------------------------------------


def on_disk(files: Files, directory: Path) -> dict[str, bytes]:
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return dict(files)


def held(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("cluster", "node", "found"),
    [("other", "n1", "cluster 'c'"), ("c", "n2", "node 'n1'")],
)
def test_the_journal_of_another_is_refused(
    told: tuple[Files, list[tuple[str, int]], list[State]],
    tmp_path: Path,
    cluster: str,
    node: str,
    found: str,
) -> None:
    """Broken: a node votes with somebody else's log and votes."""
    before = on_disk(told[0], tmp_path)
    with pytest.raises(LocalError, match=found) as error:
        SegmentJournal(Directory(tmp_path), Identity(cluster, node, "birth"))
    assert "nothing was changed" in str(error.value)
    assert held(tmp_path) == before


def test_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: an older version reads what it does not understand, and cuts it off."""
    storage = Memory()
    with monkeypatch.context() as patched:
        patched.setattr(records, "FORMAT", 2)
        story(storage)
    before = storage.copy()
    with pytest.raises(Unsupported, match="format 2, this version reads 1; nothing was changed"):
        SegmentJournal(storage, IDENTITY)
    assert storage.copy() == before


def test_a_kind_of_record_from_the_future_is_refused() -> None:
    """Broken: a record this version does not know is passed over."""
    storage = Memory()
    journal = SegmentJournal(storage, IDENTITY)
    journal.add(b"\x01", 1, 0)
    journal.sync()
    data, _ = records.pack_batch([records.Body(7, b"new")], 2, journal._files._chain)  # type: ignore[arg-type]  # from the future
    storage.write("log-000000000001", journal._files._offset, data)
    before = storage.copy()
    with pytest.raises(Unsupported, match="record of kind 7"):
        SegmentJournal(storage, IDENTITY)
    assert storage.copy() == before


@pytest.mark.parametrize("text", [b"Dear diary", b"Dear diary, today I was taken for a log.\n" * 9])
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, text: bytes) -> None:
    """Broken: pointing the data directory at the wrong place empties somebody's file."""
    before = on_disk({"log-000000000001": text, "letters": b"mine"}, tmp_path)
    with (
        pytest.raises(Damaged, match="does not begin like a journal; nothing was changed"),
        opened(tmp_path),
    ):
        pass
    assert held(tmp_path) == before


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    """Broken: the lock or a snapshot is read as a piece of the log."""
    before = on_disk({"lock": b"", "snapshot": b"not a log"}, tmp_path)
    with opened(tmp_path) as journal:
        journal.add(b"\x01", 1, 0)
        journal.sync()
    with opened(tmp_path) as journal:
        assert journal.last_index == 1
    assert {name: held(tmp_path)[name] for name in before} == before


def test_a_disk_that_cannot_be_read_is_said_in_our_words() -> None:
    """Broken: a failing disk at the start ends in a traceback."""
    storage = Memory({"log-000000000001": b""})
    storage.fails["read"] = errno.EIO
    with pytest.raises(LocalError, match=r"cannot be opened: .*read fails"):
        SegmentJournal(storage, IDENTITY)


def test_a_refused_journal_leaves_no_file_open(
    told: tuple[Files, list[tuple[str, int]], list[State]], tmp_path: Path
) -> None:
    """Broken: each refused start leaks a descriptor."""
    on_disk(told[0], tmp_path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 a count is wanted, not paths
    for _ in range(3):
        with pytest.raises(P2PError):
            SegmentJournal(Directory(tmp_path), Identity("other", "n1", "birth"))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
