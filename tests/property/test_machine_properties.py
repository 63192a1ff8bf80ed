"""Any entries at all: the machine is total and deterministic, and keeps its limits."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgpack
from hypothesis import assume, given
from hypothesis import strategies as st
from machine_logs import (
    CONTENTS,
    LIMITS,
    OPEN,
    PEERS,
    Logged,
    logs,
    run,
)

from tracker_raft.commands import BY_WORD, Peers
from tracker_raft.config import MachineLimits
from tracker_raft.errors import BY_CODE
from tracker_raft.machine import LOG_WORDS, TrackerMachine

# -- total ----------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_are_applied_without_an_exception_or_a_change(data: bytes) -> None:
    """If this fails, one damaged entry crashes every tracker of the cluster."""
    machine = TrackerMachine(LIMITS)
    run(machine, [OPEN])
    before = machine.state_hash

    applied = machine.apply(2, data)

    assert applied.replies == ()
    assert machine.state_hash == before
    assert machine.applied == (1 if applied.stop else 2)


@given(logs(), st.data())
def test_a_damaged_entry_among_sound_ones_raises_nothing(log: list[Logged], data: Any) -> None:
    """If this fails, a flipped bit that decodes by chance crashes every tracker."""
    machine = TrackerMachine(LIMITS)
    run(machine, log[:-1])
    packed = bytearray(log[-1].pack())
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    before = machine.state_hash

    applied = machine.apply(len(log), bytes(packed))

    if applied.stop is not None:
        assert machine.state_hash == before
        assert applied.replies == ()


@given(logs())
def test_each_operation_has_one_reply_of_a_standard_form(log: list[Logged]) -> None:
    """If this fails, a client waits for ever, or gets a word that it cannot place."""
    machine = TrackerMachine(LIMITS)

    for entry, applied in zip(log, run(machine, log), strict=True):
        assert applied.stop is None
        assert len(applied.replies) == len(entry.rows)
        for reply in applied.replies:
            if "ok" in reply:
                assert set(reply) == {"ok"}
            else:
                assert set(reply) == {"error", "message"}
                assert reply["error"] in BY_CODE
            msgpack.packb(reply)


@given(logs(), st.text(max_size=8) | st.sampled_from(sorted(BY_WORD)), st.integers(0, 3))
def test_an_unknown_word_anywhere_stops_and_changes_nothing(
    log: list[Logged], word: str, position: int
) -> None:
    """If this fails, part of an entry is applied that others apply as a whole."""
    assume(word not in LOG_WORDS)
    machine = TrackerMachine(LIMITS)
    run(machine, log[:-1])
    before = machine.state_hash, machine.applied, machine.time_ms
    mixed = list(log[-1].rows)
    mixed.insert(position, (1, 99, 99, {"op": word}))

    applied = machine.apply(len(log), Logged(log[-1].time_ms, tuple(mixed)).pack())

    assert applied.stop is not None
    assert applied.replies == ()
    assert (machine.state_hash, machine.applied, machine.time_ms) == before


# -- deterministic --------------------------------------------------------------------------------


@given(logs(), st.data())
def test_replicas_stay_equal_also_through_a_snapshot(log: list[Logged], data: Any) -> None:
    """If this fails, two trackers that applied the same log answer differently.

    Restoring computes the state hash anew, so it also proves the incremental one.
    """
    cut = data.draw(st.integers(0, len(log)))
    one, other, late = (TrackerMachine(LIMITS) for _ in range(3))
    replies = run(one, log)
    run(other, log)
    run(late, log[:cut])

    late = TrackerMachine.restore(late.snapshot(), LIMITS)
    replies_late = run(late, log[cut:], cut + 1)

    assert replies_late == replies[cut:]
    assert one.state_hash == other.state_hash == late.state_hash
    assert one.counts() == late.counts()
    assert one.next_expiry_ms() == late.next_expiry_ms()
    assert list(one.snapshot()) == list(other.snapshot()) == list(late.snapshot())
    for content in CONTENTS:
        assert one.query(Peers(content)) == late.query(Peers(content))
    restored = TrackerMachine.restore(one.snapshot(), LIMITS)
    assert restored.state_hash == one.state_hash


@given(logs(), logs())
def test_the_state_hash_is_equal_exactly_when_the_state_is(
    log: list[Logged], other_log: list[Logged]
) -> None:
    """If this fails, a comparison of hashes misses divergence, or cries wolf."""
    one, other = TrackerMachine(LIMITS), TrackerMachine(LIMITS)
    run(one, log)
    run(other, other_log)

    assert (one.state_hash == other.state_hash) == (visible(one) == visible(other))


def visible(machine: TrackerMachine) -> Any:
    """The state as a snapshot tells it, without the place in the log and the refusals' texts."""
    state: dict[str, Any] = {"time_ms": machine.time_ms, "version": machine.version}
    for block in machine.snapshot():
        message = msgpack.unpackb(block[4:])
        decoded = msgpack.unpackb(message["body"])
        match message["kind"]:
            case "head":
                state["opened"] = decoded["sessions_opened"]
            case "replies":
                state["replies"] = [
                    (session, seq, reply if isinstance(reply, bytes) else reply[0])
                    for session, seq, reply in decoded
                ]
            case "end":
                pass
            case kind:
                state[kind] = decoded
    return state


# -- limits ---------------------------------------------------------------------------------------


@given(logs())
def test_no_limit_is_ever_exceeded(log: list[Logged]) -> None:
    """If this fails, some sequence of operations grows a tracker past its memory."""
    machine = TrackerMachine(LIMITS)
    for index, entry in enumerate(log, 1):
        machine.apply(index, entry.pack())
        counts = machine.counts()
        assert counts["files"] <= LIMITS.files_max
        assert counts["versions"] <= LIMITS.files_max * LIMITS.versions_per_name_max
        assert counts["leases"] <= LIMITS.leases_max
        assert counts["memberships"] <= LIMITS.leases_max * LIMITS.contents_per_lease_max
        assert counts["sessions"] <= LIMITS.sessions_max
        for content in CONTENTS:
            assert machine.query(Peers(content))["total"] <= LIMITS.peers_per_content_max
        for peer in PEERS:
            left_ms = machine.lease_left_ms(peer)
            assert left_ms is None or 0 < left_ms <= 3_600_000
        next_ms = machine.next_expiry_ms()
        assert next_ms is None or next_ms > machine.time_ms
        assert sum(recorded(machine).values()) <= counts["sessions"] * LIMITS.session_window_max


def recorded(machine: TrackerMachine) -> dict[int, int]:
    """How many replies each session has on record, as the snapshot tells it."""
    found: dict[int, int] = {}
    for session, _, _ in visible(machine).get("replies", []):
        found[session] = found.get(session, 0) + 1
    assert all(count <= LIMITS.session_window_max for count in found.values())
    return found


# -- exactly once ---------------------------------------------------------------------------------


@given(logs())
def test_repeating_an_entry_at_once_changes_nothing(log: list[Logged]) -> None:
    """If this fails, an operation sent through two trackers runs twice.

    Opening a session is outside of the scheme: asked twice it opens two.
    """
    machine = TrackerMachine(LIMITS)
    *earlier, last = log
    run(machine, earlier)
    once = Logged(
        last.time_ms,
        tuple(row for row in last.rows if row[3].get("op") not in ("open_session", "renew")),
    )
    machine.apply(len(log), once.pack())
    counts, before = machine.counts(), machine.state_hash

    for session, seq, low, operation in once.rows:
        repeat = Logged(once.time_ms, ((session, seq, low, operation),))
        machine.apply(machine.applied + 1, repeat.pack())

    assert machine.counts() == counts
    assert machine.state_hash == before


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=40))
def test_each_number_runs_at_most_once_and_always_has_the_same_reply(
    deliveries: list[tuple[int, int]],
) -> None:
    """If this fails, some order of late, doubled and lost messages runs a write twice.

    Each run of the write makes a version, so versions count the runs.
    """
    machine = TrackerMachine(MachineLimits(session_window_max=4, versions_per_name_max=1_000))
    run(machine, [OPEN])
    seen: dict[int, dict[str, Any]] = {}
    lowest = 1
    for index, (seq, back) in enumerate(deliveries, 2):
        low = max(1, seq - back)
        write = {
            "op": "publish",
            "name": "a",
            "content": sha256(b"%d" % index).digest(),
            "size": 1,
            "manifest_bytes": 1,
            "piece_bytes": 16384,
            "replace": True,
        }
        (reply,) = machine.apply(index, Logged(0, ((1, seq, low, write),)).pack()).replies
        lowest = max(lowest, low)
        if seq < lowest:
            assert reply["error"] == "outcome_unknown"
        elif seq >= lowest + 4:
            assert reply["error"] == "limit_reached"
        else:
            assert reply == seen.setdefault(seq, reply)
            assert "ok" in reply
        assert machine.counts()["versions"] == len(seen)
