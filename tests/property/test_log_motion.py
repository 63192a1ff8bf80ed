"""What moves the log by itself comes to the same as the library's tick."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from pysyncobj import SyncObj

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))

from engine_driver import Member, acknowledgement, append, entry

from tracker_raft.raft.engine import Engine, Role


class LibraryEngine(Engine):
    """Does in a tick what the library does in it."""

    _SyncObj__applyLogEntries = SyncObj._SyncObj__applyLogEntries
    _SyncObj__sendAppendEntries = SyncObj._SyncObj__sendAppendEntries


class MovesLikeTheLibrary(RuleBasedStateMachine):
    """If this fails, what is sent, committed or applied is not what Raft says; see the steps."""

    @initialize(learner=st.booleans(), earlier=st.integers(0, 3))
    def start(self, learner: bool, earlier: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.answers: list[list[Any]] = [[], []]
        folders = [Path(self.folder.name) / name for name in ("ours", "library")]
        for folder in folders:
            folder.mkdir()
        self.members = [Member(folder) for folder in folders]
        self.members[1].engine.__class__ = LibraryEngine
        for member in self.members:
            if learner:
                member.engine.members_are(("n2", "n3"), ("n4",))
                member.nodes["n4"] = member.engine.nodes["n4"]
            if earlier:
                member.follow([1] * earlier)
            member.lead()
        self.move()

    @property
    def leads(self) -> bool:
        return self.members[0].engine.role is Role.LEADER

    def teardown(self) -> None:
        for member in self.members:
            member.close()
        self.folder.cleanup()

    def move(self) -> None:
        ours, library = self.members
        for member in self.members:
            member.engine.send_now()
        ours.engine.move_log(time.monotonic())
        while ours.engine.applies_more:  # in slices
            ours.engine.move_log(time.monotonic())
        library.engine.doTick(0)
        assert ours.line.sent == library.line.sent
        assert ours.applied == library.applied
        assert self.answers[0] == self.answers[1]
        for member in self.members:
            member.line.sent.clear()
        for what in ("raftCommitIndex", "raftLastApplied", "raftCurrentTerm", "role"):
            assert getattr(ours.engine, what) == getattr(library.engine, what)
        assert not ours.engine.advances

    def told(self, node: str, message: dict[str, Any]) -> None:
        for member in self.members:
            if node in member.nodes:
                member.filtered(node, message)

    @precondition(lambda self: self.leads)
    @rule(bytes_=st.sampled_from([1, 1, 1, 200_000]))
    def propose(self, bytes_: int) -> None:
        for member, answers in zip(self.members, self.answers, strict=True):
            member.engine.propose(
                bytes(bytes_), lambda result, reason, heard=answers: heard.append((result, reason))
            )

    @rule()
    def moves(self) -> None:
        self.move()

    @rule(node=st.sampled_from(["n2", "n3", "n4"]), behind=st.integers(0, 3))
    def acknowledges(self, node: str, behind: int) -> None:
        last = self.members[0].journal.last_index - behind
        self.told(node, acknowledgement(self.members[0].engine.raftCurrentTerm, max(2, last + 1)))

    @rule(node=st.sampled_from(["n2", "n3", "n4"]), behind=st.integers(0, 6))
    def lacks(self, node: str, behind: int) -> None:
        term, last = self.members[0].engine.raftCurrentTerm, self.members[0].journal.last_index
        refusal = {"success": False, "reset": True}
        self.told(node, acknowledgement(term, max(2, last + 1 - behind), **refusal))

    @rule(node=st.sampled_from(["n2", "n3"]), there=st.booleans())
    def link(self, node: str, there: bool) -> None:
        for member in self.members:
            if there:
                member.line._onNodeConnected(member.nodes[node])
            else:
                member.line._onNodeDisconnected(member.nodes[node])

    @rule(entries=st.integers(1, 3), more=st.integers(0, 1))
    def another_leads(self, entries: int, more: int) -> None:
        """What was proposed here and not committed is replaced."""
        engine, journal = self.members[0].engine, self.members[0].journal
        term, last = engine.raftCurrentTerm + 1, engine.raftCommitIndex
        new = [entry(last + 1 + at, term) for at in range(entries)]
        before = last, journal.term_at(last)
        self.told("n3", append(term, before, new, commit=last + more))

    @precondition(lambda self: not self.leads)
    @rule()
    def leads_again(self) -> None:
        for member in self.members:
            member.lead()
            member.line.sent.clear()

    @rule(keep=st.integers(-1, 4))
    def compacts(self, keep: int) -> None:
        for member in self.members:
            applied = member.engine.raftLastApplied
            member.journal.sync()
            member.journal.forget_before(applied - keep)


MovesLikeTheLibrary.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None
)
TestMovesLikeTheLibrary = MovesLikeTheLibrary.TestCase
