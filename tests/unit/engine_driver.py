"""One real engine with a real journal, a line that only remembers, and no clock to wait for.

``raw`` hands a message to the library as it came, ``filtered`` the way the replica does: what
differs between the two is what the filters are for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracker_raft.config import RaftTiming
from tracker_raft.raft import filters
from tracker_raft.raft.engine import Engine, Role, Transport
from tracker_raft.raft.engine import Member as Node
from tracker_raft.raft.filters import Message, Verdict
from tracker_raft.raft.journal import SegmentJournal
from tracker_raft.raft.segments import Identity
from tracker_raft.raft.storage import Directory

PATIENT = RaftTiming(election_timeout_s=60.0)
"""Nothing happens by itself: the test moves every deadline."""

REGULAR = b"\x00"
NO_OP = b"\x01"


class Line(Transport):  # type: ignore[misc]  # the library is untyped
    """Keeps what the engine sends."""

    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.sent: list[tuple[str, Message]] = []
        self.term = 0

    def send(self, node: Node, message: Message) -> bool:
        self.sent.append((str(node.id), message))
        return True


class Member:
    """Node ``n1`` of three (or another of others), its log in ``directory``."""

    def __init__(
        self,
        directory: Path,
        *,
        others: tuple[str, ...] = ("n2", "n3"),
        timing: RaftTiming = PATIENT,
        node: str = "n1",
        line: Line | None = None,
    ) -> None:
        self.line = line or Line()
        self.storage = Directory(directory)
        self.journal = SegmentJournal(self.storage, Identity("test", node, f"birth of {node}"))
        self.applied: list[tuple[int, bytes | None]] = []
        self.roles: list[Role] = []
        self.nodes = {other: Node(other) for other in others}
        self.engine = Engine(
            node,
            others,
            transport=self.line,
            journal=self.journal,
            timing=timing,
            applier=lambda index, payload: self.applied.append((index, payload)),
            on_role=lambda old, new: self.roles.append(new),
        )

    def close(self) -> None:
        self.engine.destroy()
        self.storage.close()

    # -- messages in -----------------------------------------------------------------------------

    def raw(self, sender: str, message: Message) -> None:
        """What the library makes of the message as it was sent."""
        self.engine._SyncObj__onMessageReceived(self.nodes[sender], message)

    def judge(self, message: Message) -> Verdict:
        engine = self.engine
        return filters.incoming(
            message,
            filters.Situation(
                engine.raftCurrentTerm, engine.raftCommitIndex, engine.raftLastApplied, self.journal
            ),
        )

    def filtered(self, sender: str, message: Message) -> Verdict:
        """What the replica makes of it."""
        verdict = self.judge(message)
        if verdict.deliver is not None:
            self.engine.deliver(self.nodes[sender], verdict.deliver)
        if verdict.answer is not None:
            self.line.send(self.nodes[sender], verdict.answer)
        return verdict

    # -- the way to a situation ------------------------------------------------------------------

    def follow(self, terms: list[int], *, leader: str = "n2", commit: int = 1) -> None:
        """Take the entries 2, 3... of these terms from ``leader``, and apply up to ``commit``."""
        entries = [entry(index, term) for index, term in enumerate(terms, 2)]
        self.raw(leader, append(terms[-1], (1, 0), entries, commit=commit))
        self.engine.doTick(0)
        self.line.sent.clear()

    def lead(self, votes: tuple[str, ...] = ("n2",)) -> int:
        """Win an election; returns the new term. The no-op is in the log, not committed."""
        for node in self.nodes.values():
            self.line._onNodeConnected(node)
        self.engine.stand()
        self.engine.doTick(0)
        for voter in votes:
            self.raw(voter, {"type": "response_vote", "term": self.engine.raftCurrentTerm})
        assert self.engine.role is Role.LEADER
        return int(self.engine.raftCurrentTerm)

    def propose(self, count: int) -> None:
        for _ in range(count):
            self.engine.propose(b"mine", lambda result, reason: None)

    # -- what came of it -------------------------------------------------------------------------

    @property
    def terms(self) -> list[int]:
        """The terms of the whole log, entry 1 first."""
        return [term for _, _, term in self.journal[:]]

    def sent(self, kind: str) -> list[Message]:
        return [message for _, message in self.line.sent if message["type"] == kind]


def entry(index: int, term: int) -> tuple[bytes, int, int]:
    return REGULAR + b"entry %d of term %d" % (index, term), index, term


def append(
    term: int, before: tuple[int, int], entries: list[tuple[bytes, int, int]], *, commit: int = 1
) -> Message:
    """An append_entries of the leader of ``term``, behind ``before`` = (index, term)."""
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit,
        "prevLogIdx": before[0],
        "prevLogTerm": before[1],
        "entries": tuple(entries),
    }


def acknowledgement(term: int, next_index: int, **more: Any) -> Message:
    fields = {"success": True, "reset": False, **more}
    return {"type": "next_node_idx", "term": term, "next_node_idx": next_index, **fields}
