"""Clients of a simulated cluster: they publish, replace, remove, join, leave and read, with
request sessions, and do not take "I do not know" for an answer before their deadline."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

from tests.sim.cluster import SimCluster, SimNode
from tests.sim.invariants import Acknowledged, Violation, Watch
from tests.sim.world import Process
from tracker_raft import commands
from tracker_raft.commands import Level, Operation
from tracker_raft.entries import pack_operation
from tracker_raft.errors import P2PError
from tracker_raft.raft.intake import Position, Reply, opened

ATTEMPT_S = 0.7
DEADLINE_S = 6.0
HOP_S = (0.0001, 0.0005)
SLACK_S = 1.0
RETRY = ("no_leader", "busy", "shutting_down", "outcome_unknown")
PIECE_BYTES = 512 * 1024


class SimClient:
    """One client: one operation at a time, at whichever node answers."""

    def __init__(self, cluster: SimCluster, watch: Watch, name: str, stop_s: float) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.watch = watch
        self.name = name
        self.stop_s = stop_s
        self.session = 0
        self.seq = 0
        self.outcomes = {"ok": 0, "refused": 0, "unknown": 0}
        self.versions: dict[str, int | None] = {}
        self._steps = itertools.count()
        self._call: _Call | None = None
        self.world.after(self.world.random.uniform(0, 0.05), None, self._next)

    @property
    def idle(self) -> bool:
        return self._call is None

    def _next(self) -> None:
        if self.world.now_s >= self.stop_s:
            self._call = None
            return
        random = self.world.random
        if not self.session:
            self._begin(commands.OpenSession(), self._opened)
        elif random.random() < 0.2:
            self._begin_read()
        else:
            self.seq += 1
            self._begin(self._operation(next(self._steps)), self._done)

    def _operation(self, step: int) -> Operation:
        random = self.world.random
        text = f"{self.name}/{step}"
        content = hashlib.sha256(text.encode()).digest()
        match random.randrange(10):
            case 0 | 1 | 2:
                return commands.Publish(text, content, 1, 100, PIECE_BYTES)
            case 3 | 4 | 5:
                return commands.Publish(
                    f"{self.name}/newest", content, 1, 100, PIECE_BYTES, replace=True
                )
            case 6:
                return commands.Remove(f"{self.name}/{random.randrange(step + 1)}")
            case 7 | 8:
                return commands.Join(self.name, "127.0.0.1:1", content, lease_ms=2_000)
            case _:
                return commands.Leave(self.name)

    # -- one call ----------------------------------------------------------------------------------

    def _begin(self, operation: Operation, done: Callable[[_Call], None]) -> None:
        session, seq = (self.session, self.seq) if self.session else (0, 0)
        self._call = _Call(self, operation, session, seq, done)
        self._call.attempt()

    def _opened(self, call: _Call) -> None:
        if call.reply is not None and "ok" in call.reply:
            self.session, self.seq = call.reply["ok"]["session"], 0
        self._pause()

    def _done(self, call: _Call) -> None:
        reply, operation = call.reply, call.operation
        if reply is None:
            self.outcomes["unknown"] += 1
            self.versions = {}
        elif reply.get("error") == "session_expired":
            self.session = 0
        else:
            self.outcomes["ok" if "ok" in reply else "refused"] += 1
            self.watch.acknowledged.append(
                Acknowledged(
                    call.asked_s, self.world.now_s, reply, call.at, f"{self.name} {operation}"
                )
            )
            self._check_version(operation, reply)
        self._pause()

    def _check_version(self, operation: Operation, reply: dict[str, Any]) -> None:
        """Names of single publishes are never used twice; a replacement makes one version."""
        if not isinstance(operation, commands.Publish) or "ok" not in reply:
            return
        if not operation.replace:
            if not reply["ok"]["created"]:
                raise Violation(f"{operation.name}: published once, and it was there already")
        else:
            version = reply["ok"]["file"]["version"]
            before = self.versions.get(operation.name)
            if before is not None and version != before + 1:
                raise Violation(f"{operation.name}: version {before}, then {version}")
            self.versions[operation.name] = version

    def _pause(self) -> None:
        self.world.after(self.world.random.uniform(0, 0.08), None, self._next)

    # -- reads -------------------------------------------------------------------------------------

    def _begin_read(self) -> None:
        node = self._some_node()
        if node is None or node.replica is None or node.process is None:
            self._pause()
            return
        self._call = None
        replica, process, asked_s = node.replica, node.process, self.world.now_s
        deadline_s = process.time() + ATTEMPT_S

        def done(error: P2PError | None) -> None:
            if error is None:
                self.watch.reads.append(
                    (asked_s, replica.machine.applied, f"{self.name} read at {node.node}")
                )

        process.run(replica.reads.read, Level.LINEARIZABLE, 0, deadline_s, done)
        self.world.after(self.world.random.uniform(0.001, 0.02), None, self._next)

    def _some_node(self) -> SimNode | None:
        up = [node for node in self.cluster.nodes.values() if node.answers and node.replica]
        return self.world.random.choice(up) if up else None


class _Call:
    """One write until it is answered, or its deadline is over."""

    def __init__(
        self,
        client: SimClient,
        operation: Operation,
        session: int,
        seq: int,
        done: Callable[[_Call], None],
    ) -> None:
        self.client = client
        self.operation = operation
        self.session = session
        self.asked_s = client.world.now_s
        self.reply: dict[str, Any] | None = None
        self.at = (0, 0)
        self._packed = pack_operation(session, seq, seq, operation.to_wire())
        self._done = done
        self._attempts = 0
        self._over = False

    def attempt(self) -> None:
        world = self.client.world
        if world.now_s >= self.asked_s + DEADLINE_S:
            self._finish(None, (0, 0))
            return
        self._attempts += 1
        number = self._attempts
        node = self.client._some_node()
        if node is None or node.process is None or node.replica is None:
            world.after(0.05, None, self._again, number)
            return
        process, replica = node.process, node.replica
        world.after(world.random.uniform(*HOP_S), process, self._submit, process, replica, number)
        world.after(ATTEMPT_S, None, self._again, number)

    def _submit(self, process: Process, replica: Any, number: int) -> None:
        answered = [False]

        def sink(packed: Reply, at: Position) -> None:
            reply = opened(packed)
            if answered[0]:
                raise Violation(f"{self.operation} was answered twice by one attempt")
            answered[0] = True
            hop_s = self.client.world.random.uniform(*HOP_S)
            self.client.world.after(hop_s, None, self._told, number, reply, at)

        deadline_s = process.time() + ATTEMPT_S
        try:
            replica.submit(self._packed, deadline_s, sink)
        except P2PError as error:
            sink(error.to_wire(), (0, 0))
        process.call_at(deadline_s + SLACK_S, self._check_soon, process, replica, answered)

    def _check_soon(self, process: Process, replica: Any, answered: list[bool]) -> None:
        """A process that stood still gets a moment to do what it missed."""
        process.call_at(process.time() + SLACK_S / 4, self._check_answered, replica, answered)

    def _check_answered(self, replica: Any, answered: list[bool]) -> None:
        if not answered[0] and not replica._closed:
            raise Violation(f"{self.operation}: no answer {SLACK_S} s after its deadline")

    def _again(self, number: int) -> None:
        if not self._over and number == self._attempts:
            self.attempt()

    def _told(self, number: int, reply: dict[str, Any], at: tuple[int, int]) -> None:
        if self._over or number != self._attempts:
            return
        if at == (0, 0) and reply.get("error") in RETRY:
            self.client.world.after(0.01, None, self._again, number)
            return
        self._finish(reply, at)

    def _finish(self, reply: dict[str, Any] | None, at: tuple[int, int]) -> None:
        self._over = True
        self.reply, self.at = reply, at
        self._done(self)
