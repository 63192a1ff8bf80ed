"""The machine against a naive model of it: the same answers, operation by operation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine_logs import (
    LIMITS,
    OPEN,
    PEERS,
    RISE,
    Logged,
    body,
    completes,
    contents,
    joins,
    leaves,
    names,
    publishes,
    removes,
    renews,
    retentions,
    run,
    tag_words,
)

from tracker_raft.commands import List, Lookup, Peers, Retention
from tracker_raft.errors import NotFound
from tracker_raft.machine import TrackerMachine

unsourced = body(
    "set_retention",
    unsourced_after_ms=st.sampled_from([None, 0, 1_000, 2_000]),
    remove_unsourced_after_ms=st.sampled_from([None, 0, 2_000, 4_000]),
)


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
        self.tags: dict[str, dict[str, int]] = {}
        self.settings = {
            "versions_kept": 0,
            "unsourced_after_ms": 0,
            "remove_unsourced_after_ms": 0,
        }
        self.marks: dict[bytes, int] = {}
        self.due_ms: int | None = None
        self.leases: dict[str, NaivePeer] = {}
        self.time_ms = 0

    def apply(self, op: dict[str, Any]) -> Any:
        """The ok map, or the word of the refusal."""
        return getattr(self, op["op"])(op)

    def publish(self, op: dict[str, Any]) -> Any:
        reply = self.published(op)
        if isinstance(reply, dict):
            self.marks.pop(op["content"], None)
        return reply

    def published(self, op: dict[str, Any]) -> Any:
        kept = self.names.get(op["name"], [])
        if kept and kept[-1]["content"] == op["content"]:
            if kept[-1]["size"] != op["size"]:
                return "bad_request"
            return {"file": self.shown(kept[-1]), "created": False}
        if kept and not op["replace"]:
            return "conflict"
        if not kept and len(self.names) == LIMITS.files_max:
            return "limit_reached"
        tagged = self.tags.get(op["name"], {}).values()
        if self.settings["versions_kept"]:
            newest = [*kept, None][-self.settings["versions_kept"] :]
            kept = [r for r in kept if r in newest or r["version"] in tagged]
        if len(kept) == LIMITS.versions_per_name_max:
            free = [r for r in kept if r["version"] not in tagged]
            if not free:
                return "limit_reached"
            kept = [r for r in kept if r is not free[0]]
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
        self.names[op["name"]] = [*kept, record]
        return {"file": self.shown(record), "created": True}

    def shown(self, record: dict[str, Any]) -> dict[str, Any]:
        tags = self.tags.get(record["name"])
        return {**record, "tags": dict(sorted(tags.items()))} if tags else record

    def unsourced(self, record: dict[str, Any]) -> dict[str, Any]:
        """As a read shows it."""
        least_ms, since_ms = self.settings["unsourced_after_ms"], self.marks.get(record["content"])
        if not least_ms or since_ms is None or self.time_ms - since_ms < least_ms:
            return record
        return {**record, "unsourced_ms": self.time_ms - since_ms}

    def set_retention(self, op: dict[str, Any]) -> Any:
        for key in self.settings:
            if op.get(key) is not None:
                self.settings[key] = op[key]
        if self.swept or self.marks:
            self.due_ms = self.time_ms
        return dict(self.settings)

    @property
    def swept(self) -> bool:
        settings = self.settings
        return bool(settings["unsourced_after_ms"] or settings["remove_unsourced_after_ms"])

    def served(self, content: bytes) -> bool:
        return any(content in lease.contents for lease in self.leases.values())

    def end_of_entry(self) -> None:
        """All names fit one slice here."""
        bound = {r["content"] for kept in self.names.values() for r in kept}
        self.marks = {content: at for content, at in self.marks.items() if content in bound}
        if self.due_ms is None or self.time_ms < self.due_ms:
            return
        if not self.swept:
            self.marks, self.due_ms = {}, None
            return
        limit_ms = self.settings["remove_unsourced_after_ms"]
        for name in sorted(self.names, key=str.encode):
            for record in self.names[name]:
                if not self.served(record["content"]):
                    since_ms = self.marks.setdefault(record["content"], self.time_ms)
                    tagged = self.tags.get(name, {}).values()
                    over = limit_ms and self.time_ms - since_ms >= limit_ms
                    if over and record["version"] not in tagged:
                        self.remove({"name": f"{name}@v{record['version']}"})
        bound = {r["content"] for kept in self.names.values() for r in kept}
        self.marks = {content: at for content, at in self.marks.items() if content in bound}
        times = [self.settings["unsourced_after_ms"], limit_ms]
        self.due_ms = self.time_ms + max(1_000, min(t for t in times if t) // 8)

    def tag(self, op: dict[str, Any]) -> Any:
        found = [r for r in self.names.get(op["name"], []) if r["version"] == op["version"]]
        tags = self.tags.get(op["name"], {})
        before = tags.get(op["tag"], 0)
        if not found:
            return "not_found"
        if op["expected"] not in (None, before):
            return "conflict"
        if not before and len(tags) == LIMITS.tags_per_name_max:
            return "limit_reached"
        self.tags[op["name"]] = {**tags, op["tag"]: op["version"]}
        changed = before != op["version"]
        return {"file": self.shown(found[0]), "before": before, "changed": changed}

    def untag(self, op: dict[str, Any]) -> Any:
        version = self.tags.get(op["name"], {}).get(op["tag"])
        if version is None:
            return "not_found"
        if op["expected"] not in (None, version):
            return "conflict"
        del self.tags[op["name"]][op["tag"]]
        record = next(r for r in self.names[op["name"]] if r["version"] == version)
        return {"file": self.shown(record)}

    def remove(self, op: dict[str, Any]) -> Any:
        name, _, version = op["name"].partition("@v")
        kept = self.names.get(name, [])
        removed = [r for r in kept if not version or r["version"] == int(version)]
        if not removed:
            return "not_found"
        shown = [self.shown(r) for r in removed]
        gone = [r["version"] for r in removed]
        tags = self.tags.get(name, {}).items()
        self.tags[name] = {tag: version for tag, version in tags if version not in gone}
        self.names[name] = [r for r in kept if r not in removed]
        if not self.names[name]:
            del self.names[name], self.highest[name]
        return {"removed": shown}

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
        self.marks.pop(content, None)
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
        run(self.machine, [OPEN, RISE])
        self.seq = 0

    @rule(op=publishes)
    def publish(self, op: dict[str, Any]) -> None:
        self.write(op)

    @rule(op=joins)
    def join(self, op: dict[str, Any]) -> None:
        self.write(op)

    @rule(op=retentions | unsourced)
    def set_retention(self, op: dict[str, Any]) -> None:
        self.write(op)
        assert self.machine.query(Retention()) == self.model.settings

    @rule(op=tag_words)
    def move_a_tag(self, op: dict[str, Any]) -> None:
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
        self.model.end_of_entry()

    @rule(step_ms=st.sampled_from([1, 500, 999, 1_000, 3_000]))
    def tick(self, step_ms: int) -> None:
        time_ms = self.model.time_ms + step_ms
        self.machine.apply(self.machine.applied + 1, Logged(time_ms, ()).pack())
        self.model.tick(time_ms)
        self.model.end_of_entry()

    @rule()
    def restart(self) -> None:
        self.machine = TrackerMachine.restore(self.machine.snapshot(), self.limits)

    @rule(prefix=st.sampled_from(["", "a", "a/", "b", "z"]), after=names | st.just(""))
    def page(self, prefix: str, after: str) -> None:
        found = [
            self.model.unsourced(self.model.shown(self.model.names[name][-1]))
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
            assert self.machine.query(Lookup(name=name)) == {
                "files": [self.model.unsourced(self.model.shown(kept[-1]))]
            }
        for record in kept:
            shown = {"files": [self.model.unsourced(self.model.shown(record))]}
            versioned = f"{name}@v{record['version']}"
            assert self.machine.query(Lookup(name=versioned)) == shown
            for tag, version in self.model.tags.get(name, {}).items():
                if version == record["version"]:
                    assert self.machine.query(Lookup(name=f"{name}@{tag}")) == shown

    @rule(content=contents)
    def lookup_content(self, content: bytes) -> None:
        found = [
            self.model.unsourced(record)
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
