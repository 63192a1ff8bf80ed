"""Any entries at all: the machine is total and deterministic, and agrees with a naive model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine_logs import (
    CONTENTS,
    LIMITS,
    OPEN,
    PEERS,
    Logged,
    completes,
    contents,
    joins,
    leaves,
    logs,
    names,
    publishes,
    removes,
    renews,
    run,
)

from tracker_raft.commands import BY_WORD, List, Lookup, Peers
from tracker_raft.config import MachineLimits
from tracker_raft.errors import BY_CODE, NotFound
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


# -- against a naive model ------------------------------------------------------------------------


@dataclass
class NaivePeer:
    address: str
    zone: str
    ttl_ms: int
    expires_ms: int
    contents: dict[bytes, bool] = field(default_factory=dict)


class Naive:
    """What the registry and the swarm promise, written as plainly as possible and never fast."""

    def __init__(self) -> None:
        self.names: dict[str, list[dict[str, Any]]] = {}
        self.highest: dict[str, int] = {}
        self.leases: dict[str, NaivePeer] = {}
        self.time_ms = 0

    def apply(self, op: dict[str, Any]) -> Any:
        """The ok map, or the word of the refusal."""
        return getattr(self, op["op"])(op)

    def publish(self, op: dict[str, Any]) -> Any:
        kept = self.names.get(op["name"], [])
        if kept and kept[-1]["content"] == op["content"]:
            if kept[-1]["size"] != op["size"]:
                return "bad_request"
            return {"file": kept[-1], "created": False}
        if kept and not op["replace"]:
            return "conflict"
        if not kept and len(self.names) == LIMITS.files_max:
            return "limit_reached"
        version = self.highest.get(op["name"], 0) + 1
        record = {
            "name": op["name"],
            "version": version,
            "content": op["content"],
            "size": op["size"],
            "manifest_bytes": op["manifest_bytes"],
            "piece_bytes": op["piece_bytes"],
            "owner": "",
            "group": "",
        }
        self.highest[op["name"]] = version
        self.names[op["name"]] = [*kept, record][-LIMITS.versions_per_name_max :]
        return {"file": record, "created": True}

    def remove(self, op: dict[str, Any]) -> Any:
        name, _, version = op["name"].partition("@v")
        kept = self.names.get(name, [])
        removed = [r for r in kept if not version or r["version"] == int(version)]
        if not removed:
            return "not_found"
        self.names[name] = [r for r in kept if r not in removed]
        if not self.names[name]:
            del self.names[name], self.highest[name]
        return {"removed": removed}

    def join(self, op: dict[str, Any]) -> Any:
        peer, content = op["peer"], op["content"]
        lease = self.leases.get(peer)
        if lease is None or content not in lease.contents:
            swarm = [p for p in self.leases.values() if content in p.contents]
            if (
                (lease is None and len(self.leases) == LIMITS.leases_max)
                or (lease and len(lease.contents) == LIMITS.contents_per_lease_max)
                or len(swarm) == LIMITS.peers_per_content_max
            ):
                return "limit_reached"
        had = lease.contents if lease else {}
        lease = NaivePeer(op["address"], op["zone"], op["lease_ms"], 0, had)
        lease.expires_ms = self.time_ms + op["lease_ms"]
        lease.contents[content] = op["complete"] or lease.contents.get(content, False)
        self.leases[peer] = lease
        return {"lease_ms": op["lease_ms"]}

    def complete(self, op: dict[str, Any]) -> Any:
        lease = self.leases.get(op["peer"])
        if lease is None or op["content"] not in lease.contents:
            return "not_found"
        lease.contents[op["content"]] = True
        return {}

    def leave(self, op: dict[str, Any]) -> Any:
        lease = self.leases.get(op["peer"])
        if lease is None:
            return {"left": 0}
        left = [c for c in lease.contents if op["content"] in (b"", c)]
        for content in left:
            del lease.contents[content]
        if not lease.contents:
            del self.leases[op["peer"]]
        return {"left": len(left)}

    def renew(self, op: dict[str, Any]) -> Any:
        known = [p for p in self.leases if any(type(x) is str and x == p for x in op["peers"])]
        for peer in known:
            self.leases[peer].expires_ms = self.time_ms + self.leases[peer].ttl_ms
        return {"renewed": len(known)}

    def tick(self, time_ms: int) -> None:
        self.time_ms = max(self.time_ms, time_ms)
        self.leases = {
            peer: lease for peer, lease in self.leases.items() if lease.expires_ms > self.time_ms
        }

    def swarm(self, content: bytes) -> list[dict[str, Any]]:
        found = [
            (not lease.contents[content], peer.encode(), peer, lease)
            for peer, lease in self.leases.items()
            if content in lease.contents
        ]
        return [
            {"peer": peer, "address": lease.address, "complete": not partial, "zone": lease.zone}
            for partial, _, peer, lease in sorted(found, key=lambda row: row[:2])
        ]


class MachineAgainstModel(RuleBasedStateMachine):
    """If this fails, the tracker breaks a promise of its vocabulary; the steps are shown."""

    @initialize()
    def start(self) -> None:
        self.limits = replace(LIMITS, session_ttl_ms=10**12)
        self.machine = TrackerMachine(self.limits)
        self.model = Naive()
        run(self.machine, [OPEN])
        self.seq = 0

    @rule(op=publishes)
    def publish(self, op: dict[str, Any]) -> None:
        self.write(op)

    @rule(op=joins)
    def join(self, op: dict[str, Any]) -> None:
        self.write(op)

    @rule(op=publishes | removes)
    def change_the_registry(self, op: dict[str, Any]) -> None:
        self.write(op)

    @rule(op=completes | leaves | renews)
    def change_the_swarm(self, op: dict[str, Any]) -> None:
        self.write(op)

    def write(self, op: dict[str, Any]) -> None:
        self.seq += 1
        entry = Logged(0, ((1, self.seq, self.seq, op),))
        (reply,) = self.machine.apply(self.machine.applied + 1, entry.pack()).replies
        assert reply.get("ok", reply.get("error")) == self.model.apply(op)

    @rule(step_ms=st.sampled_from([1, 500, 999, 1_000, 3_000]))
    def tick(self, step_ms: int) -> None:
        time_ms = self.model.time_ms + step_ms
        self.machine.apply(self.machine.applied + 1, Logged(time_ms, ()).pack())
        self.model.tick(time_ms)

    @rule()
    def restart(self) -> None:
        self.machine = TrackerMachine.restore(self.machine.snapshot(), self.limits)

    @rule(prefix=st.sampled_from(["", "a", "a/", "b", "z"]), after=names | st.just(""))
    def page(self, prefix: str, after: str) -> None:
        found = [
            self.model.names[name][-1]
            for name in sorted(self.model.names, key=str.encode)
            if name.startswith(prefix) and name.encode() > after.encode()
        ]
        for limit in (1, 2, 100):
            assert self.machine.query(List(prefix, after, limit)) == {
                "files": found[:limit],
                "more": len(found) > limit,
            }

    @rule(name=names)
    def lookup(self, name: str) -> None:
        kept = self.model.names.get(name, [])
        if not kept:
            with pytest.raises(NotFound):
                self.machine.query(Lookup(name=name))
        else:
            assert self.machine.query(Lookup(name=name)) == {"files": [kept[-1]]}
        for record in kept:
            versioned = f"{name}@v{record['version']}"
            assert self.machine.query(Lookup(name=versioned)) == {"files": [record]}

    @rule(content=contents)
    def lookup_content(self, content: bytes) -> None:
        found = [
            record
            for name in sorted(self.model.names, key=str.encode)
            for record in self.model.names[name]
            if record["content"] == content
        ]
        if found:
            reply = {"files": found, "more": False}
            assert self.machine.query(Lookup(content=content)) == reply
        else:
            with pytest.raises(NotFound):
                self.machine.query(Lookup(content=content))

    @rule(content=contents, skip=st.integers(0, 7), limit=st.integers(1, 4))
    def peers(self, content: bytes, skip: int, limit: int) -> None:
        swarm = self.model.swarm(content)
        turn = skip % len(swarm) if swarm else 0
        assert self.machine.query(Peers(content, limit, skip)) == {
            "peers": (swarm[turn:] + swarm[:turn])[:limit],
            "total": len(swarm),
        }

    @invariant()
    def sizes_and_leases_agree(self) -> None:
        leases = self.model.leases
        assert self.machine.counts() == {
            "files": len(self.model.names),
            "versions": sum(map(len, self.model.names.values())),
            "contents": len({c for lease in leases.values() for c in lease.contents}),
            "leases": len(leases),
            "memberships": sum(len(lease.contents) for lease in leases.values()),
            "sessions": 1,
        }
        for peer in PEERS:
            expires_ms = leases[peer].expires_ms if peer in leases else None
            left_ms = None if expires_ms is None else expires_ms - self.model.time_ms
            assert self.machine.lease_left_ms(peer) == left_ms


TestMachineAgainstModel = MachineAgainstModel.TestCase
TestMachineAgainstModel.settings = settings(max_examples=100, stateful_step_count=40)
