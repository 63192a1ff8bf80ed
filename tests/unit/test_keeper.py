"""Snapshots made, served and received: what is renamed when, what is cut when, who is told when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from keeper_driver import SMALL, Clock, Side, pair
from machine_driver import publish

from tracker_raft.machine import SnapshotCursor, TrackerMachine
from tracker_raft.raft import snapshots
from tracker_raft.raft.seams import Message


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def side(clock: Clock, tmp_path: Path) -> Iterator[Side]:
    side = Side(clock, tmp_path / "n1")
    yield side
    side.close()


@pytest.fixture
def two(clock: Clock, tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    leader, laggard = pair(clock, tmp_path)
    yield leader, laggard
    leader.close()
    laggard.close()


def loaded_hash(side: Side) -> str:
    """The state hash of what lies on disk, verified."""
    found = snapshots.load(side.storage, "test")
    assert found is not None
    return found[1].state_hash


# -- when one is due -------------------------------------------------------------------------------


def test_a_snapshot_is_due_when_enough_was_logged(side: Side, clock: Clock) -> None:
    """Broken: the log grows without a limit, or a snapshot is made for every few writes."""
    side.write(10)
    side.keeper.consider()
    assert not side.making
    side.write(20)
    side.keeper.consider()
    clock.run(lambda: not side.making)
    first = side.keeper.durable
    assert first is not None
    assert (first.index, first.term) == (side.machine.applied, 1)
    assert first.size == len(side.file())
    side.keeper.consider()
    assert not side.making, "nothing was logged since"


def test_the_next_one_waits_until_as_much_was_logged_as_the_last_is_large(
    side: Side, clock: Clock
) -> None:
    """Broken: a large state is written out again and again for a small log."""
    side.write(300)
    last = side.snapshot()
    assert last.size > 3 * SMALL.log_bytes_min
    before = side.journal.bytes_added
    while not side.making:
        side.write(1)
        side.keeper.consider()
        assert side.journal.bytes_added - before <= last.size + 200
    assert side.journal.bytes_added - before >= last.size


def test_none_is_made_of_a_state_that_has_one(side: Side, clock: Clock) -> None:
    """Broken: an idle node writes the same snapshot for ever."""
    side.write(5)
    side.snapshot()
    side.keeper.consider(force=True)
    assert not side.making


def test_the_log_found_at_the_start_counts_once_it_is_applied(side: Side, clock: Clock) -> None:
    """Broken: a node that is restarted often never takes a snapshot and its log only grows; or
    it takes one of a state that lacks most of the log it is about to apply."""
    side.write(40)
    whole = side.machine
    part = TrackerMachine()
    for index in range(1, whole.applied):
        part.skip(index)
    side.driver.machine = part
    side.open()
    side.keeper.consider()
    assert not side.making
    side.driver.machine = whole
    side.keeper.consider()
    assert side.making


def test_what_an_earlier_run_left_unfinished_is_cleared(side: Side, clock: Clock) -> None:
    """Broken: the half of a snapshot takes its room on the disk for ever."""
    side.write(5)
    side.snapshot()
    for name in ("snapshot.making", "snapshot.coming"):
        (side.storage.path / name).write_bytes(b"half")
    side.open()
    clock.run(seconds=1)
    assert side.files == {"snapshot"}


# -- making ----------------------------------------------------------------------------------------


def test_the_loop_is_free_between_two_slices(
    side: Side, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a large state stops heartbeats while its snapshot is made."""
    read: list[tuple[float, int]] = []
    following = SnapshotCursor.next

    def spy(cursor: SnapshotCursor, rows_max: int) -> bytes | None:
        read.append((clock.now_s, rows_max))
        return following(cursor, rows_max)

    monkeypatch.setattr(SnapshotCursor, "next", spy)
    side.write(200)
    side.keeper.consider(force=True)
    assert read == [], "nothing is read in the turn that begins it"
    clock.run(lambda: not side.making)
    assert len(read) > 200 / SMALL.slice_rows
    assert {rows for _, rows in read} == {SMALL.slice_rows}
    times = [at for at, _ in read]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= SMALL.slice_pause_s * 0.999


def test_no_slice_is_read_before_the_one_before_is_synced(side: Side, clock: Clock) -> None:
    """Broken: a slow disk makes a whole state wait in memory, and every sync of the log with it."""
    side.write(50)
    clock.run(seconds=1)
    side.writer.held = lambda: True
    side.keeper.consider(force=True)
    clock.run(seconds=5)
    assert len(side.writer._waiting) <= 2, "the clearing and the head"
    side.writer.held = lambda: False
    side.writer.go_on()
    clock.run(lambda: not side.making)
    calls = [call for call, name in side.storage.calls if name == "snapshot.making"]
    assert calls == ["write", "sync"] * (len(calls) // 2)


def test_a_state_that_changes_meanwhile_gives_the_one_it_was(side: Side, clock: Clock) -> None:
    """Broken: a snapshot is a mixture of states that no node ever had."""
    side.write(100)
    wanted, index = side.machine.state_hash, side.machine.applied
    side.keeper.consider(force=True)
    while side.making:
        before = clock.happened
        clock.run(lambda before=before: clock.happened > before)  # type: ignore[misc]
        side.driver.ok(publish("f/2/0", f"changed {before}", replace=True))
        side.log()
    assert side.machine.applied > index + 10
    assert loaded_hash(side) == wanted
    assert side.keeper.durable is not None
    assert side.keeper.durable.index == index


def test_nothing_is_forgotten_before_the_rename_is_durable(side: Side, clock: Clock) -> None:
    """Broken (S6): a crash leaves a log without its beginning and no snapshot before it."""
    side.write(100)
    segments = side.segments()
    side.writer.held = lambda: ("rename", "snapshot") in side.storage.calls
    side.keeper.consider(force=True)
    lengths: list[int] = []
    while side.journal.first_index == 1:
        before = clock.happened
        clock.run(lambda before=before: clock.happened > before)  # type: ignore[misc]
        if ("rename", "snapshot") not in side.storage.calls:
            lengths.append(len(side.journal))
            assert side.keeper.durable is None
            assert side.segments() == segments
    assert set(lengths) == {side.machine.applied}
    side.writer.held = lambda: False
    side.writer.go_on()
    clock.run(seconds=1)
    calls = side.storage.calls
    renamed = calls.index(("rename", "snapshot"))
    deleted = [
        place for place, (call, name) in enumerate(calls) if (call, name[:4]) == ("delete", "log-")
    ]
    assert calls[renamed + 1] == ("sync_names", "")
    assert deleted, "most segments hold nothing that is still needed"
    assert min(deleted) > renamed + 1
    for place in deleted:
        assert calls[place + 1] == ("sync_names", ""), "a gap could be left by a crash"


def test_log_files_that_could_not_be_deleted_go_first_the_next_time(
    side: Side, clock: Clock
) -> None:
    """Broken: one failed deletion leaves a gap in the log, and the next start refuses it."""
    side.write(100)
    oldest, *_ = found = side.segments()
    side.storage.fails["delete", oldest] = 0
    side.snapshot()
    clock.run(seconds=1)
    assert side.segments() == found
    side.write(100)
    side.snapshot()
    clock.run(seconds=1)
    assert side.segments()[0] > found[-2], "all that is not needed is gone"
    side.open()
    assert side.journal.last_index == side.machine.applied


def test_some_entries_are_kept_for_members_a_little_behind(side: Side) -> None:
    """Broken: a follower that missed one entry is sent the whole state."""
    side.write(100)
    taken = side.snapshot()
    assert side.journal.first_index == taken.index - SMALL.entries_kept
    assert side.journal.last_index == taken.index
    side.clock.run(seconds=1)
    side.open()
    assert side.journal.first_index <= taken.index - SMALL.entries_kept


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("good", [0, 1, 3, 6])
def test_a_snapshot_that_cannot_be_written_leaves_all_as_it_was(
    side: Side, clock: Clock, call: str, good: int
) -> None:
    """Broken: a disk that is full for a moment replaces a good snapshot by one with a hole."""
    side.write(20)
    first = side.snapshot()
    side.write(150)
    before, log = side.file(), len(side.journal)
    side.storage.fails[call, "snapshot.making"] = good
    side.keeper.consider(force=True)
    clock.run(seconds=5)
    assert not side.storage.fails, "it was to fail"
    assert (side.keeper.durable, side.file(), len(side.journal)) == (first, before, log)
    assert side.files == {"snapshot"}, "what was written takes no room"
    assert side.failures == []
    side.write(1)
    assert side.snapshot().index == side.machine.applied
    assert loaded_hash(side) == side.machine.state_hash


@pytest.mark.parametrize(("call", "name"), [("rename", "snapshot"), ("sync_names", "")])
def test_a_rename_that_fails_stops_the_node(side: Side, clock: Clock, call: str, name: str) -> None:
    """Broken: a node goes on that does not know which of two snapshots it has."""
    side.write(20)
    side.storage.fails[call, name] = 0
    side.keeper.consider(force=True)
    clock.run(seconds=5)
    assert len(side.failures) == 1
    assert "cannot be put in its place" in side.failures[0]
    assert (side.keeper.durable, side.journal.first_index) == (None, 1)


def test_a_closed_keeper_begins_nothing_more(side: Side, clock: Clock) -> None:
    """Broken: a stopping node works on a machine and a storage that are gone."""
    side.write(50)
    side.keeper.consider(force=True)
    clock.run(seconds=0.05)
    side.keeper.close()
    clock.run(seconds=5)
    assert side.files <= {"snapshot.making"}
    assert side.journal.first_index == 1


# -- serving ---------------------------------------------------------------------------------------


def test_a_laggard_is_offered_the_snapshot_once_in_a_while(
    two: tuple[Side, Side], clock: Clock
) -> None:
    """Broken: a follower without the log is never helped, or drowned in offers."""
    leader, _ = two
    leader.line.spoils = lambda message: None
    for _ in range(3):
        for _ in range(10):
            leader.keeper.lags("n2")
        clock.run(seconds=SMALL.offer_period_s)
    assert leader.line.kinds() == ["offer"] * 3
    leader.keeper.lags("n3")
    assert len(leader.line.sent) == 4, "each has its own turn"


def test_who_has_no_snapshot_offers_none(side: Side) -> None:
    """Broken: a node offers what it cannot give."""
    side.keeper.lags("n2")
    assert side.line.sent == []


def test_the_parts_are_the_file(two: tuple[Side, Side], clock: Clock) -> None:
    """Broken: a follower puts together something else than its leader has."""
    leader, _ = two
    durable = leader.keeper.durable
    assert durable is not None
    leader.line.spoils = lambda message: None
    whole = b""
    while len(whole) < durable.size:
        get = {"type": "snapshot_get", "sha256": durable.sha256, "offset": len(whole)}
        leader.take("n2", get)
        clock.run(seconds=0.1)
        part = leader.line.sent.pop()
        assert (part["type"], part["offset"]) == ("snapshot_part", len(whole))
        assert part["sha256"] == durable.sha256
        assert 0 < len(part["data"]) <= SMALL.part_bytes
        whole += part["data"]
    assert whole == leader.file()
    for offset, sha256 in ((durable.size, durable.sha256), (0, bytes(32))):
        leader.take("n2", {"type": "snapshot_get", "sha256": sha256, "offset": offset})
        clock.run(seconds=0.1)
        assert leader.line.sent == []


def test_no_part_of_another_file_is_sent(two: tuple[Side, Side], clock: Clock) -> None:
    """Broken: a follower is sent the bytes of a newer snapshot under the name of the older."""
    leader, _ = two
    durable = leader.keeper.durable
    assert durable is not None
    leader.line.spoils = lambda message: None
    leader.write(10)
    leader.keeper.consider(force=True)
    asked = 0
    while leader.making:
        get = {"type": "snapshot_get", "sha256": durable.sha256, "offset": 300}
        leader.take("n2", get)
        asked += 1
        clock.run(seconds=0.001)
    clock.run(seconds=0.1)
    old = leader.line.sent
    assert 0 < len(old) < asked
    assert len({message["data"] for message in old}) == 1


def test_a_snapshot_that_cannot_be_read_is_not_sent(two: tuple[Side, Side], clock: Clock) -> None:
    """Broken: a bad sector stops a leader that works."""
    leader, laggard = two
    leader.storage.fails["read_part", "snapshot"] = 2
    leader.keeper.lags("n2")
    clock.run(seconds=2)
    assert leader.failures == []
    assert laggard.installed == []
    leader.keeper.lags("n2")
    clock.run(lambda: bool(laggard.installed), seconds=20)
    assert laggard.machine.state_hash == leader.machine.state_hash


# -- receiving -------------------------------------------------------------------------------------


def come(leader: Side, laggard: Side) -> None:
    """Offer until it is installed, as the engine does."""
    clock = leader.clock
    for _ in range(20):
        leader.keeper.lags("n2")
        clock.run(lambda: bool(laggard.installed), seconds=0.6)
        if laggard.installed:
            return
    raise AssertionError(f"not installed: {leader.line.kinds()[-5:]}, {laggard.line.kinds()[-5:]}")


def test_what_comes_replaces_state_log_and_snapshot(two: tuple[Side, Side]) -> None:
    """Broken: a laggard never catches up, or its log does not fit its state."""
    leader, laggard = two
    leader.write(20)
    come(leader, laggard)
    durable = leader.keeper.durable
    assert durable is not None
    assert laggard.installed == [(durable, "n1")]
    assert laggard.keeper.durable == durable
    assert laggard.file() == leader.file()
    assert laggard.files == {"snapshot"}
    assert laggard.machine.applied == durable.index
    assert loaded_hash(laggard) == laggard.machine.state_hash
    assert laggard.journal[:] == [(b"\x01", durable.index, 1)]
    laggard.journal.sync()
    laggard.open()
    assert laggard.machine.applied == durable.index
    assert laggard.journal.last_index == durable.index


def test_it_is_installed_only_when_it_is_durable(two: tuple[Side, Side], clock: Clock) -> None:
    """Broken (S3): a snapshot is acknowledged that a crash takes away."""
    leader, laggard = two
    laggard.writer.held = lambda: ("rename", "snapshot") in laggard.storage.calls
    leader.keeper.lags("n2")
    clock.run(lambda: ("rename", "snapshot") in laggard.storage.calls)
    assert laggard.installed == []
    assert laggard.journal.first_index == 1
    calls = laggard.storage.calls
    assert calls[-2:] == [("rename", "snapshot"), ("sync_names", "")]
    assert calls[-3] == ("sync", "snapshot.coming"), "all of it is synced before the rename"
    clock.run(seconds=1)
    assert len(laggard.installed) == 1


def test_a_broken_link_costs_what_was_in_flight(two: tuple[Side, Side], clock: Clock) -> None:
    """Broken: a large snapshot begins anew with each lost packet and never arrives."""
    leader, laggard = two
    lost = 0

    def lose_every_fifth(message: Message) -> Message | None:
        nonlocal lost
        if message["type"] != "snapshot_part":
            return message
        lost += 1
        return message if lost % 5 else None

    leader.line.spoils = lose_every_fifth
    come(leader, laggard)
    offsets = [message["offset"] for message in laggard.line.sent]
    assert offsets == sorted(offsets)
    assert offsets.count(0) == 1
    assert len(offsets) > len(set(offsets)), "what was lost is asked for again"
    assert laggard.file() == leader.file()


def test_parts_that_come_twice_do_no_harm(two: tuple[Side, Side]) -> None:
    """Broken: an offer repeated while parts are on their way spoils what comes."""
    leader, laggard = two
    for line in leader.line, laggard.line:
        line.spoils = lambda message, line=line: line.twice(message)  # type: ignore[misc]
    leader.keeper.lags("n2")
    leader.clock.run(seconds=SMALL.offer_period_s / 2)
    assert len(laggard.installed) == 1
    assert laggard.file() == leader.file()


def test_a_log_that_goes_on_behind_what_came_is_kept_and_cut(two: tuple[Side, Side]) -> None:
    """Broken: a node that only had not applied its log yet loses it, or never shortens it."""
    leader, laggard = two
    durable = leader.keeper.durable
    assert durable is not None
    for index in range(laggard.journal.last_index + 1, durable.index + 4):
        laggard.journal.add(b"\x00" + b"entry %d" % index * 10, index, 1)
    laggard.journal.sync()
    come(leader, laggard)
    assert laggard.journal.last_index == durable.index + 3
    assert laggard.journal.first_index == durable.index - SMALL.entries_kept


@pytest.mark.parametrize("which", ["made", "came"])
def test_who_closes_during_the_rename_neither_cuts_nor_installs(
    two: tuple[Side, Side], clock: Clock, which: str
) -> None:
    """Broken: a replica that is being closed gets another state and log under its hands."""
    leader, laggard = two
    laggard.write(30)
    if which == "made":
        laggard.keeper.consider(force=True)
    else:
        leader.keeper.lags("n2")
    clock.run(lambda: ("rename", "snapshot") in laggard.storage.calls)
    laggard.keeper.close()
    clock.run(seconds=1)
    assert (laggard.installed, laggard.journal.first_index) == ([], 1)


@pytest.mark.parametrize("where", ["the head", "the middle", "the last byte"])
def test_a_part_that_was_changed_on_its_way_is_never_installed(
    two: tuple[Side, Side], clock: Clock, where: str
) -> None:
    """Broken (S3): a bit that flips on the way becomes the state of a node, or lies on its disk
    until the next start finds it."""
    leader, laggard = two
    durable = leader.keeper.durable
    assert durable is not None
    place = {"the head": 9, "the middle": durable.size // 2, "the last byte": durable.size - 1}
    spoilt: list[int] = []

    def flip(message: Message) -> Message:
        if message["type"] == "snapshot_part" and not spoilt:
            inside = place[where] - message["offset"]
            if 0 <= inside < len(message["data"]):
                data = bytearray(message["data"])
                data[inside] ^= 4
                message["data"] = bytes(data)
                spoilt.append(message["offset"])
        return message

    leader.line.spoils = flip
    leader.keeper.lags("n2")
    clock.run(lambda: bool(spoilt))
    clock.run(seconds=5)
    assert laggard.installed == []
    assert laggard.keeper.durable is None
    assert laggard.journal.first_index == 1
    assert laggard.files == set(), "and nothing of it is left"
    come(leader, laggard)
    assert laggard.machine.state_hash == leader.machine.state_hash
    assert laggard.file() == leader.file()


@pytest.mark.parametrize("call", ["write", "sync"])
@pytest.mark.parametrize("good", [0, 3, -1])
def test_a_part_that_cannot_be_kept_is_asked_for_again(
    two: tuple[Side, Side], clock: Clock, call: str, good: int
) -> None:
    """Broken: a follower whose disk was full for a moment has a snapshot with a hole."""
    leader, laggard = two
    parts = -(-len(leader.file()) // SMALL.part_bytes)
    laggard.storage.fails[call, "snapshot.coming"] = good if good >= 0 else parts - 1
    leader.keeper.lags("n2")
    clock.run(seconds=3)
    assert not laggard.storage.fails, "it was to fail"
    assert laggard.installed == []
    come(leader, laggard)
    assert laggard.failures == []
    assert loaded_hash(laggard) == leader.machine.state_hash


def test_who_is_too_old_for_the_snapshot_of_its_leader_stops(
    two: tuple[Side, Side], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a tracker of an old release stays behind for ever and says nothing, or one flipped
    bit stops a tracker for good."""
    leader, laggard = two
    monkeypatch.setattr("tracker_raft.machine.snapshot_format.FORMAT", 1)  # of who reads
    monkeypatch.setattr("tracker_raft.machine.snapshot_format.FORMAT_VERSIONED", 1)
    leader.keeper.lags("n2")
    clock.run(seconds=0.6)
    assert (laggard.failures, laggard.installed) == ([], [])
    leader.keeper.lags("n2")
    clock.run(lambda: bool(laggard.failures))
    assert "snapshot of format 2" in laggard.failures[0]
    assert laggard.installed == []


def test_who_is_ahead_meanwhile_discards_what_came(two: tuple[Side, Side], clock: Clock) -> None:
    """Broken: a node replaces its newer snapshot by an older one, behind which its log begins;
    the next start refuses."""
    leader, laggard = two
    parts = -(-len(leader.file()) // SMALL.part_bytes)
    leader.keeper.lags("n2")
    clock.run(lambda: len(laggard.line.sent) == parts)
    laggard.write(120)
    newer = laggard.snapshot()
    clock.run(seconds=5)
    assert laggard.installed == []
    assert laggard.keeper.durable == newer
    assert laggard.files == {"snapshot"}
    assert loaded_hash(laggard) == laggard.machine.state_hash
    laggard.open()
    assert laggard.keeper.durable == newer


@pytest.mark.parametrize("slices", range(14))
def test_one_that_is_being_made_never_replaces_the_newer_that_came(
    two: tuple[Side, Side], clock: Clock, slices: int
) -> None:
    """Broken: the older snapshot is renamed over the newer one and the log begins behind it."""
    leader, laggard = two
    laggard.write(30)
    parts = -(-len(leader.file()) // SMALL.part_bytes)
    laggard.keeper._policy = replace(SMALL, slice_pause_s=0.0, slice_rows=100)
    leader.keeper.lags("n2")
    clock.run(lambda: len(laggard.line.sent) == parts)
    clock.run(seconds=0.001 * slices)
    laggard.keeper.consider(force=True)
    clock.run(seconds=5)
    assert [snapshot for snapshot, _ in laggard.installed] == [leader.keeper.durable]
    assert laggard.file() == leader.file()
    assert laggard.files == {"snapshot"}
    laggard.journal.sync()
    laggard.open()
    assert laggard.keeper.durable == leader.keeper.durable


def test_an_older_offer_or_one_of_an_older_term_is_passed_over(two: tuple[Side, Side]) -> None:
    """Broken: a node goes back to a state it has left, or listens to a leader that was."""
    leader, laggard = two
    durable = leader.keeper.durable
    assert durable is not None
    offer = {**OFFER, "index": durable.index, "bytes": durable.size, "sha256": durable.sha256}
    laggard.take("n1", {**offer, "index": laggard.machine.applied})
    laggard.term = 2
    laggard.take("n1", offer)
    assert laggard.line.sent == []
    laggard.take("n1", {**offer, "term": 2})
    assert laggard.line.kinds() == ["get"]


OFFER: Message = {
    "type": "snapshot_offer",
    "term": 1,
    "index": 99,
    "entry_term": 1,
    "bytes": 900,
    "sha256": bytes(32),
}
MALFORMED: list[Message] = [
    {"type": "snapshot_offer"},
    {**OFFER, "term": float("inf")},
    {**OFFER, "index": "99"},
    {**OFFER, "entry_term": -1},
    {**OFFER, "bytes": 2**62},
    {**OFFER, "sha256": bytes(31)},
    {**OFFER, "sha256": "text"},
    {"type": "snapshot_get"},
    {"type": "snapshot_get", "sha256": bytes(32), "offset": float("inf")},
    {"type": "snapshot_get", "sha256": bytes(32), "offset": -1},
    {"type": "snapshot_part", "sha256": bytes(32), "offset": 0},
    {"type": "snapshot_part", "sha256": bytes(32), "offset": 0, "data": "text"},
    {"type": "snapshot_part", "sha256": bytes(32), "offset": None, "data": b"x"},
]


@pytest.mark.parametrize("message", MALFORMED, ids=str)
def test_a_message_that_makes_no_sense_is_refused(side: Side, message: Message) -> None:
    """Broken: a member with a defect stops this node instead of losing its link."""
    with pytest.raises((KeyError, ValueError)):
        side.keeper.received("n2", message)


def test_other_messages_are_left_to_others(side: Side) -> None:
    """Broken: what others are to answer ends here."""
    assert not side.keeper.received("n2", {"type": "forward"})
    assert not side.keeper.received("n2", {"type": {}})


# -- one that was asked for ------------------------------------------------------------------------

Answers = list[tuple[int, str]]


def asked(side: Side, index: int, answers: Answers) -> None:
    """Ask for one of ``index``; the index it has, and why there is none, go to ``answers``."""
    side.keeper.take(
        index,
        lambda snapshot, error: answers.append(
            (0 if snapshot is None else snapshot.index, "" if error is None else error.message)
        ),
    )


def test_who_asks_gets_one_that_is_new_enough(side: Side, clock: Clock) -> None:
    """Broken: a backup lacks what was acknowledged before it was asked for."""
    side.write(10)
    first: Answers = []
    asked(side, side.machine.applied, first)
    old = side.machine.applied
    side.write(5)  # while it is made, and not in it
    second: Answers = []
    asked(side, side.machine.applied, second)
    assert (first, second) == ([], []), "nobody is told before it is durable"
    clock.run()
    assert first == [(old, "")]
    assert second == [(side.machine.applied, "")]
    third: Answers = []
    asked(side, 1, third)
    assert third == [(side.machine.applied, "")], "the one on disk will do"
    assert side.keeper.made == 2


def test_who_asks_is_told_when_it_cannot_be_written(side: Side, clock: Clock) -> None:
    """Broken: a backup waits for ever for a disk that is full, or asks it without a pause."""
    side.write(10)
    side.storage.fails["write", "snapshot.making"] = 1
    answers: Answers = []
    asked(side, side.machine.applied, answers)
    clock.run()
    assert answers == [(0, "no snapshot could be written: [Errno 28] no room")]
    assert not side.making
    side.keeper.consider()
    assert not side.making, "nobody waits any more"


def test_who_asks_is_told_when_the_node_stops(side: Side, clock: Clock) -> None:
    """Broken: a client hangs on a tracker that stops."""
    side.write(10)
    answers: Answers = []
    asked(side, side.machine.applied, answers)
    side.keeper.close()
    assert answers == [(0, "this tracker is stopping; no snapshot was taken")]


def test_one_that_came_will_do(two: tuple[Side, Side], clock: Clock) -> None:
    """Broken: who waits is forgotten when the leader's snapshot takes the place of the own one."""
    leader, laggard = two
    laggard.write(10)
    laggard.keeper._policy = replace(SMALL, slice_pause_s=1e6)
    answers: Answers = []
    asked(laggard, laggard.machine.applied, answers)
    leader.keeper.lags("n2")
    clock.run()
    assert answers == [(leader.machine.applied, "")]
