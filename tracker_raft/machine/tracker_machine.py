"""The replicated state machine: log entries in, replies out. Pure, total, deterministic.

Rules
-----
* The state follows from the entries applied and from nothing else: no clock, no randomness, no
  iteration over a set, nothing that depends on the version of Python or on the order in which a
  dict was filled (a machine restored from a snapshot filled it in another).
* :meth:`TrackerMachine.apply` never raises, whatever the bytes. A refusal is a reply.
* An entry's time comes first, then what it ends (leases, then sessions), then its operations in
  order, then what nobody serves any more (:mod:`~tracker_raft.machine.sweep`). Time never goes
  back: an entry of a leader with an older time finds the time there is.
* What this version does not know stops the node **before** anything of the entry is applied, and
  so does a cluster version above its own (:mod:`tracker_raft.versions`).
  Passing over it would leave this replica different from those that know it.
* A write runs exactly once (:mod:`tracker_raft.machine.sessions`); only ``open_session`` and the
  trackers' own ``renew`` stand outside of a session.

The parts, each with its own rules: :mod:`~tracker_raft.machine.registry` (names and versions),
:mod:`~tracker_raft.machine.history` (the newest changes of them),
:mod:`~tracker_raft.machine.vocabulary` (the words of the log),
:mod:`~tracker_raft.machine.swarm_table` (leases and swarms), :mod:`~tracker_raft.machine.sessions`,
:mod:`~tracker_raft.machine.settings`,
:mod:`~tracker_raft.machine.digest` (the state hash), :mod:`~tracker_raft.machine.snapshot_cursor`
(a snapshot beside the changes), :mod:`~tracker_raft.machine.snapshot_format`.

What to re-check when you change it: that every table reports each change to the digest (a
restored machine computes it anew and refuses a difference, and a snapshot under way learns of
changes there), and that what an old log says still
gives what it gave: replicas of the versions before and after your change run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any, Final

from tracker_raft.commands import (
    RENEW_MANY,
    List,
    Lookup,
    OpenSession,
    Operation,
    Peers,
    PublishMany,
    Retention,
    check_int,
)
from tracker_raft.config import MachineLimits
from tracker_raft.entries import ROWS_SINCE, LoggedOperation, unpack_entry, word_of
from tracker_raft.errors import BadRequest, Damaged, P2PError, Unsupported
from tracker_raft.machine.applied import Applied, Outcome
from tracker_raft.machine.carrying_out import Tables, carry_out
from tracker_raft.machine.digest import Digest
from tracker_raft.machine.history import RUNS_SINCE, ChangeHistory
from tracker_raft.machine.marks import Marks
from tracker_raft.machine.publishing import are_candidates, is_candidate, run_together
from tracker_raft.machine.registry import Registry
from tracker_raft.machine.restoring import Restoring
from tracker_raft.machine.sessions import SessionTable
from tracker_raft.machine.settings import Settings
from tracker_raft.machine.snapshot_cursor import SnapshotCursor
from tracker_raft.machine.swarm_table import SwarmTable
from tracker_raft.machine.sweep import Sweep
from tracker_raft.machine.vocabulary import OUTSIDE_SESSIONS, parse, unknown, width
from tracker_raft.versions import NEWEST, OLDEST

_LIMITS: Final = MachineLimits()


class TrackerMachine:
    """The whole state of one tracker. One thread at a time."""

    def __init__(self, limits: MachineLimits = _LIMITS) -> None:
        self.time_ms = 0
        """Logical time: the newest time of any entry."""
        self.applied = 0
        """Index of the newest entry applied."""
        self.version = OLDEST
        """Of the cluster (:mod:`tracker_raft.versions`)."""
        self._digest = Digest()
        self.changes = ChangeHistory(limits, self._digest)
        """Of the files, for those who watch; to be read only."""
        self._limits = limits
        self._changed: Callable[[], None] | None = None
        self._settings = Settings(self._digest)
        self._marks = Marks(self._digest)
        tables = self._digest, self.changes, self._settings, self._marks
        self._registry = Registry(limits, *tables)
        self._swarm = SwarmTable(limits, self._digest)
        self._sweep = Sweep(self._settings, self._marks, self._registry, self._swarm, self._digest)
        self._sessions = SessionTable(limits, self._digest)
        more = self._sweep, self._marks, self._settings
        self._tables = Tables(self._registry, self._swarm, self._sessions, *more)

    # -- writes -----------------------------------------------------------------------------------

    def apply(self, index: int, entry: bytes) -> Applied:
        """Apply the entry at ``index``, which is above ``applied``. Never raises.

        An entry that cannot be read is the same nothing on every replica: no replies, no time.
        """
        try:
            decoded = unpack_entry(entry, rows=self.version >= ROWS_SINCE)
        except Unsupported as error:
            return Applied((), f"entry {index}: {error}; a newer version of this program wrote it")
        except BadRequest:
            self.applied = index
            return Applied(())
        operations = decoded.operations
        together = are_candidates(operations)
        stop = None if together else unknown(decoded)
        if stop is not None:
            return Applied((), f"entry {index}: {stop}")
        self.applied = index
        if decoded.time_ms > self.time_ms:
            self.time_ms = decoded.time_ms
            self._swarm.expire(self.time_ms)
            self._sessions.expire(self.time_ms)
        horizon, kept = self.changes.horizon, len(self.changes)
        positions: list[int] | None = None
        end = len(operations)
        if not together and any(word_of(body) == PublishMany.op for *_, body in operations):
            *positions, end = accumulate((width(body) for *_, body in operations), initial=0)
        outcomes = self._run(operations, positions or range(end), together)
        self._sweep.run(self.time_ms, (index, end))
        self.changes.trim()
        if self._changed and (len(self.changes) != kept or self.changes.horizon != horizon):
            self._changed()
        return Applied(tuple(outcomes), positions=positions)

    def _run(
        self, operations: Sequence[LoggedOperation], positions: Sequence[int], together: bool
    ) -> list[Outcome]:
        """Run the operations in order, those together that can be; ``together``: it may be all."""
        outcomes: list[Outcome] = []
        parts = self._sessions, self._registry, self.time_ms
        groups = [(True, operations)] if together else groupby(operations, is_candidate)
        for alike, group in groups:
            at, row = len(outcomes), tuple(group)
            self.changes.place = self.applied, positions[at]
            done = run_together(row, positions[at], *parts) if alike else None
            if done is None:
                done = [self._answer(positions[at + n], one) for n, one in enumerate(row)]
            outcomes += done
        return outcomes

    def skip(self, index: int) -> None:
        """Pass over an entry of the consensus engine itself; only ``applied`` moves."""
        self.applied = index

    def _answer(self, position: int, logged: LoggedOperation) -> dict[str, Any]:
        """Run one operation, unless its session has the reply already."""
        session, seq, low, body = logged
        try:
            if isinstance(body, dict) and body.get("op") in OUTSIDE_SESSIONS:
                return {"ok": self._outside(body)}
            recorded = self._sessions.recall(session, seq, low, self.time_ms)
        except P2PError as error:
            return error.to_wire()
        if recorded is not None:
            return recorded
        self.changes.place = self.applied, position
        try:
            reply = {"ok": carry_out(parse(body, self.version), self._tables, self.time_ms)}
        except P2PError as error:
            reply = error.to_wire()
        self._sessions.record(session, seq, reply)
        return reply

    def _outside(self, body: dict[str, Any]) -> dict[str, Any]:
        """Run what stands outside of sessions."""
        word = body["op"]
        if word == RENEW_MANY:
            return self._swarm.renew(body.get("peers"), self.time_ms)
        if word == OpenSession.op:
            return self._sessions.open(self.time_ms)
        return self._raise_version(body)

    def _raise_version(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = check_int("version", body.get("version"), OLDEST, NEWEST)
        self._is_at(max(self.version, asked))
        return {"version": self.version}

    def _is_at(self, version: int) -> None:
        self.version = version
        self.changes.in_runs = version >= RUNS_SINCE

    def on_changes(self, changed: Callable[[], None] | None) -> None:
        """Call ``changed`` after each entry that changed the files. It must only take note."""
        self._changed = changed

    def succeed(self, before: TrackerMachine) -> None:
        """Take the place of ``before``, which is behind: who was told by it is told by this."""
        self._changed = before._changed
        if self._changed:
            self._changed()

    def refounded(self, index: int) -> TrackerMachine:
        """What a new cluster that begins at entry ``index`` takes over: the files, the settings and
        the time.

        Leases, request sessions and changes stay behind. What the old cluster went on to promise
        about them is not known here, so every number that it may have told somebody (a session, a
        place in the log) must be one that the new cluster never gives to anything else: ``index``
        is to lie beyond all of them (:func:`tracker_raft.raft.founding.next_era`).
        """
        machine = TrackerMachine(self._limits)
        machine.time_ms, machine.applied = self.time_ms, index
        machine._is_at(self.version)
        machine._sessions.opened = index
        machine.changes.horizon = index, 0
        for table in self._registry.tables():
            machine._registry.load(row for _, row in table.after(None) if row is not None)
        for table in self._settings.tables():
            machine._settings.load(row for _, row in table.after(None) if row is not None)
        machine._sweep.begin(machine.time_ms)
        return machine

    # -- reads ------------------------------------------------------------------------------------

    def query(self, operation: Operation) -> dict[str, Any]:
        """The ``ok`` map of a :class:`Lookup`, :class:`List`, :class:`Peers` or
        :class:`Retention`.

        Raises :class:`~tracker_raft.errors.NotFound`, and :class:`BadRequest` for what is no read.
        """
        match operation:
            case Lookup(content=b""):
                found = {"files": [self._registry.by_name(operation.name).to_wire()]}
            case Lookup():
                found = self._registry.by_content(operation.content)
            case List():
                found = self._registry.page(operation)
            case Peers():
                return self._swarm.peers(operation)
            case Retention():
                return self._settings.shown()
            case _:
                raise BadRequest(f"{operation.op!r} is not a read")
        return self._sweep.show(found, self.time_ms)

    def lease_left_ms(self, peer: str) -> int | None:
        """Logical time until the lease of ``peer`` ends; None when it has none."""
        expires_ms = self._swarm.expires_ms(peer)
        return None if expires_ms is None else expires_ms - self.time_ms

    def is_due(self, now_ms: int) -> bool:
        """Whether :meth:`next_expiry_ms` is at ``now_ms`` or earlier; cheaper than to ask when."""
        others = self._swarm.next_expiry_ms(), self._sweep.due_ms
        due = any(time_ms is not None and time_ms <= now_ms for time_ms in others)
        return due or self._sessions.is_due(now_ms)

    def next_expiry_ms(self) -> int | None:
        """The earliest logical time at which something ends or a sweep is due; None: at none."""
        ends = (self._swarm.next_expiry_ms(), self._sessions.next_expiry_ms())
        times = (*ends, self._sweep.due_ms)
        return min((time_ms for time_ms in times if time_ms is not None), default=None)

    @property
    def state_hash(self) -> str:
        """64 hexadecimal digits, equal on two machines exactly when their states are.

        Covers logical time, every table and the recorded replies; not ``applied``, which is a
        place in the log, nor the texts of recorded refusals. Costs the same for any state.
        """
        scalars = (self.time_ms, self._sessions.opened, *self.changes.horizon)
        if self.version == OLDEST:  # which the release that knew no versions must agree with
            return self._digest.hex(*scalars)
        return self._digest.hex(*scalars, self.version)

    def counts(self) -> dict[str, int]:
        """Sizes of the tables. ``contents`` are those that at least one peer serves."""
        return {
            "files": len(self._registry),
            "versions": self._registry.versions,
            "contents": self._swarm.contents,
            "leases": len(self._swarm),
            "memberships": self._swarm.memberships,
            "sessions": len(self._sessions),
        }

    def __repr__(self) -> str:
        return f"<TrackerMachine applied={self.applied} time_ms={self.time_ms} {self.counts()}>"

    # -- snapshot ---------------------------------------------------------------------------------

    def begin_snapshot(self) -> SnapshotCursor:
        """A cursor over the state as it is now, to be read while entries go on being applied.

        What it gives is what :meth:`snapshot` would give now. There is one at a time: beginning
        another abandons the one before. Read it to its end or close it, or every change beyond
        its position is remembered for it, for ever. It takes no time, whatever the state.
        """
        return self._cursor(tracked=True)

    def snapshot(self) -> Iterator[bytes]:
        """Blocks that :meth:`restore` makes an equal machine of; the same bytes for equal states.

        The machine must not be changed until the iterator is used up: RuntimeError.
        """
        cursor = self._cursor(tracked=False)

        def blocks() -> Iterator[bytes]:
            while (block := cursor.next()) is not None:
                if self.applied != cursor.applied:
                    raise RuntimeError("machine changed while its snapshot was read as a whole")
                if block:
                    yield block

        return blocks()

    def _cursor(self, *, tracked: bool) -> SnapshotCursor:
        head = {
            "applied": self.applied,
            "time_ms": self.time_ms,
            "sessions_opened": self._sessions.opened,
            "horizon_index": self.changes.horizon[0],
            "horizon_position": self.changes.horizon[1],
        }
        if self.version > OLDEST:
            head["cluster_version"] = self.version
        # The changes first: they are soon written, and what comes after is not remembered.
        parts = (self.changes, self._registry, self._swarm, self._sessions)
        more = (self._settings, self._marks, self._sweep)
        tables = [table for part in (*parts, *more) for table in part.tables()]
        return SnapshotCursor(head, self.state_hash, tables, self._digest, tracked=tracked)

    @classmethod
    def restoring(cls, limits: MachineLimits = _LIMITS) -> Restoring[TrackerMachine]:
        """Feed it the bytes of a snapshot bit by bit; its :meth:`~Restoring.finish` is a machine.

        The state hash is computed anew from what was loaded and must be the one that the snapshot
        names.
        """
        machine = cls(limits)
        return Restoring(machine, machine._load)

    @classmethod
    def restore(cls, chunks: Iterable[bytes], limits: MachineLimits = _LIMITS) -> TrackerMachine:
        """The machine of a snapshot, however its bytes were cut into chunks since.

        Raises :class:`Damaged` or :class:`Unsupported`.
        """
        restoring = cls.restoring(limits)
        for chunk in chunks:
            restoring.feed(chunk)
        return restoring.finish()

    def _load(self, kind: str, body: Any) -> None:
        match kind:
            case "head":
                self.applied, self.time_ms = body["applied"], body["time_ms"]
                self._sessions.opened = body["sessions_opened"]
                self.changes.horizon = body["horizon_index"], body["horizon_position"]
                self._is_at(body.get("cluster_version", OLDEST))
            case "files":
                self._registry.load(body)
            case "changes":
                self.changes.load(body)
            case "leases":
                self._swarm.load_leases(body)
            case "members":
                self._swarm.load_members(body)
            case "sessions":
                self._sessions.load_sessions(body)
            case "settings":
                self._settings.load(body)
            case "marks":
                self._marks.load(body)
            case "sweep":
                self._sweep.load(body)
            case "replies":
                self._sessions.load_replies(body)
            case "end" if body["state_hash"] != self.state_hash:
                raise Damaged(
                    f"snapshot says state hash {body['state_hash']}, what it holds has "
                    f"{self.state_hash}"
                )
            case "end":
                pass
            case _:
                raise Damaged(f"snapshot has a block of unknown kind {kind!a}")
