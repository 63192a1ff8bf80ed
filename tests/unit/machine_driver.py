"""A client of the state machine for the tests: packs entries, numbers writes, reads replies."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from tracker_raft.commands import Operation
from tracker_raft.config import MachineLimits
from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.machine import Applied, TrackerMachine

Row = tuple[int, int, int, dict[str, Any]]


def content(label: str) -> bytes:
    """A content id that stands for ``label``."""
    return sha256(label.encode()).digest()


def publish(name: str, label: str, **more: Any) -> dict[str, Any]:
    """The log operation that publishes the content of ``label`` as ``name``."""
    fields = {"size": 10, "manifest_bytes": 100, "piece_bytes": 524288, **more}
    return {"op": "publish", "name": name, "content": content(label), **fields}


def publish_many(*files: tuple[Any, ...]) -> dict[str, Any]:
    """The log operation that publishes these: rows of the eight fields, right or wrong."""
    names, contents, sizes, manifests, pieces, owners, groups, replaces = zip(*files, strict=True)
    return {
        "op": "publish_many",
        "names": names,
        "contents": b"".join(contents),
        "sizes": sizes,
        "manifest_bytes": manifests,
        "piece_bytes": pieces,
        "owners": owners,
        "groups": groups,
        "replaces": replaces,
    }


def join(peer: str, label: str, **more: Any) -> dict[str, Any]:
    fields = {"address": "10.0.0.1:7000", "lease_ms": 1000, **more}
    return {"op": "join", "peer": peer, "content": content(label), **fields}


class Driver:
    """A machine and one client that has a request session and never repeats itself."""

    def __init__(self, limits: MachineLimits | None = None) -> None:
        self.machine = TrackerMachine(limits or MachineLimits())
        self.index = 0
        self.seq = 0
        self.session = self.open()

    def open(self) -> int:
        session: int = self.ok({"op": "open_session"})["session"]
        return session

    def entry(self, *rows: Row, at_ms: int = 0) -> Applied:
        """Apply one entry of exactly these rows."""
        self.index += 1
        packed = [pack_operation(*row) for row in rows]
        return self.machine.apply(self.index, pack_entry(at_ms, packed))

    def raw(self, session: int, seq: int, low: int, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to one operation in an entry of its own."""
        (reply,) = self.entry((session, seq, low, body)).replies
        return reply

    def run(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to the client's next write."""
        if body["op"] in ("open_session", "renew"):
            return self.raw(0, 0, 0, body)
        self.seq += 1
        return self.raw(self.session, self.seq, self.seq, body)

    def ok(self, body: dict[str, Any]) -> dict[str, Any]:
        reply = self.run(body)
        assert set(reply) == {"ok"}, reply
        result: dict[str, Any] = reply["ok"]
        return result

    def refused(self, body: dict[str, Any]) -> tuple[str, str]:
        """(error word, text) of a write that must be refused without any change but its record."""
        before = self.machine.counts()
        reply = self.run(body)
        assert set(reply) == {"error", "message"}, reply
        assert self.machine.counts() == before
        return reply["error"], reply["message"]

    def tick(self, at_ms: int) -> None:
        """Move logical time on."""
        assert self.entry(at_ms=at_ms) == Applied(())

    def query(self, operation: Operation) -> dict[str, Any]:
        return self.machine.query(operation)
