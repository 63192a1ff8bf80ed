"""A replicated tracker on this machine: N tracker processes, and the faults to try on them.

::

    with Cluster.up(3) as cluster:
        client = TrackerClient(cluster.endpoints)
        cluster.kill(cluster.leader())      # another one leads some milliseconds later

What is on disk is in :mod:`tracker_raft.cluster.state`, processes are started and signalled in
:mod:`tracker_raft.cluster.process`, what nodes say is read in :mod:`tracker_raft.cluster.status`,
and the order in which all of it happens stands in :mod:`tracker_raft.cluster.launch`.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tracker_raft.client import TrackerClient
from tracker_raft.cluster import growth, ports, status
from tracker_raft.cluster.launch import (
    NODE_COMMAND,
    POLL_S,
    Crew,
    Launch,
    as_before,
    bring_up,
    check_nodes,
    locked,
)
from tracker_raft.cluster.state import Layout, NodePlace
from tracker_raft.cluster.status import NodeReport, leader_of
from tracker_raft.errors import BadRequest, LocalError, NotFound, P2PError

STOP_GRACE_S = 10.0
RESTART_TIMEOUT_S = 30.0
LOCK_TIMEOUT_S = 2.0
CHANGE_S = 60.0
"""For a change of the members, catching up included."""


class Cluster:
    """The tracker processes of one data directory. Made by :meth:`up` or :meth:`attach`.

    A context manager: leaving it stops a cluster of :meth:`up` and removes its temporary
    directory, and leaves a detached or attached one as it is. Not for several threads at once,
    except that asking (``leader``, ``status``) may run beside anything.
    """

    def __init__(
        self, crew: Crew, temporary: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        """Use :meth:`up` or :meth:`attach`; this starts nothing."""
        self._crew = crew
        self._processes = crew.processes
        self._temporary = temporary
        self.data_dir = crew.data_dir

    # -- making one -------------------------------------------------------------------------------

    @classmethod
    def up(
        cls,
        nodes: int = 3,
        *,
        data_dir: Path | str | None = None,
        base_port: int | None = None,
        timeout_s: float = 30.0,
        detach: bool = False,
        log_level: str = "info",
        log_format: str = "text",
        command: Sequence[str] = NODE_COMMAND,
    ) -> Cluster:
        """Start ``nodes`` trackers (odd, 1 to 9) and wait until they serve.

        ``data_dir``: where they keep their data; the nodes of a cluster found there come back
        with their data and addresses. None: a temporary directory, removed by :meth:`down`.
        ``base_port`` P: node i listens at P + 2(i-1) for clients and at the next port for the
        other nodes. None: free ports. ``timeout_s``: for all of it. ``detach``: they outlive this
        process; otherwise they end with it, even when it is killed. ``log_level``, ``log_format``:
        as for ``p2p-cluster node``. ``command``: what to run in
        the place of ``python -m tracker_raft node``.

        Raises :class:`BadRequest` when what is asked makes no sense or is not what ``data_dir``
        holds, :class:`LocalError` when ports, directory or processes stand in the way. After an
        error nothing runs, and what was not there before is gone again.
        """
        if data_dir is None:
            check_nodes(nodes)
        launch = Launch(not detach, log_level, log_format, command)
        until = time.monotonic() + timeout_s
        if data_dir is not None:
            directory = Path(data_dir).expanduser().absolute()
            return cls(bring_up(directory, nodes, base_port, until, launch))
        if detach:
            raise BadRequest(
                "a detached cluster needs a data directory: a temporary one would stay"
            )
        temporary = tempfile.TemporaryDirectory(prefix="p2p-cluster-", ignore_cleanup_errors=True)
        try:
            crew = bring_up(Path(temporary.name), nodes, base_port, until, launch)
        except BaseException:
            temporary.cleanup()
            raise
        return cls(crew, temporary)

    @classmethod
    def attach(cls, data_dir: Path | str) -> Cluster:
        """The cluster in ``data_dir``, running or not. Nodes it restarts are detached, and speak
        as they did before.

        Raises :class:`NotFound` if there is none, :class:`Damaged` if its description is.
        """
        directory = Path(data_dir).expanduser().absolute()
        layout = Layout.load(directory)
        if layout is None:
            raise NotFound(f"no cluster in {directory}: it holds no cluster.json")
        return cls(Crew(directory, layout, as_before(directory)))

    # -- what it is -------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        """Its description, as of the last :meth:`refresh`."""
        return self._crew.layout

    def refresh(self) -> None:
        """Take notice of nodes that another process has added or removed meanwhile."""
        growth.reload(self._crew)

    @property
    def endpoints(self) -> list[str]:
        """Client addresses (``host:port``) of all nodes, in node order, dead ones included."""
        return self.layout.endpoints

    @property
    def nodes(self) -> tuple[str, ...]:
        """Ids of all nodes, in order: ``("n1", "n2", "n3")``."""
        return self.layout.ids

    def endpoint(self, node: str) -> str:
        """Client address of ``node``. Raises :class:`BadRequest` for an unknown one."""
        return str(self._place(node).endpoint)

    def pid(self, node: str) -> int | None:
        """Process number of ``node``; None when it does not run."""
        process = self._processes.find(self._place(node).node)
        return None if process is None else process.pid

    def log_path(self, node: str) -> Path:
        """The file with what ``node`` said; there once it was started."""
        return self._processes.log_path(self._place(node).node)

    def reports(self) -> list[NodeReport]:
        """All nodes in order, asked at once; one second at most, whoever is dead or paused."""
        return self._crew.reports()

    def status(self) -> dict[str, Any]:
        """``{"leader": id or None, "election": {...} or None, "nodes": [{"id", "role", "pid",
        "endpoint", "raft", "term", "commit", "applied", "state_hash", "snapshot", "log_entries",
        "log_bytes", "leader_silent_ms", "refused", "alive", "paused", "reachable", "lag"}...]}``.

        What only the node itself knows is None when it does not answer. One second at most.
        """
        return status.to_json(self.reports())

    def leader(self, timeout_s: float = 10.0) -> str:
        """The node that a majority follows; waits for one.

        Raises :class:`LocalError` with what each node says when there is none in time.
        """
        until = time.monotonic() + timeout_s
        while True:
            reports = self.reports()
            leader = leader_of(reports)
            if leader is not None:
                return leader
            if time.monotonic() >= until:
                said = "; ".join(map(str, reports))
                raise LocalError(f"no leader within {timeout_s} s: {said}")
            time.sleep(POLL_S)

    def wait_ready(self, timeout_s: float = 30.0) -> str:
        """Wait until every live node that is not paused knows the leader; returns the leader.

        Raises :class:`LocalError` with what each node says when that is not so in time.
        """
        until = time.monotonic() + timeout_s
        while True:
            reports = self.reports()
            leader = leader_of(reports)
            live = [report for report in reports if report.alive and not report.paused]
            if leader is not None and all(report.get("leader") == leader for report in live):
                return leader
            if time.monotonic() >= until:
                said = "; ".join(map(str, reports))
                raise LocalError(f"the cluster is not ready within {timeout_s} s: {said}")
            time.sleep(POLL_S)

    def transfer_leadership(self, to: str | None = None) -> str:
        """Let node ``to`` lead, None: whoever is most up to date; the id of the new leader.

        Raises what :meth:`TrackerClient.transfer_leadership` does.
        """
        with TrackerClient(self.endpoints) as client:
            return client.transfer_leadership(to)

    def add_node(
        self,
        node: str | None = None,
        *,
        timeout_s: float = CHANGE_S,
        progress: Callable[[str], None] = lambda text: None,
    ) -> str:
        """Start one more node, of this id or the next free one, and return its id once it votes.

        Raises :class:`BadRequest` or :class:`LocalError`, and what :meth:`TrackerClient.add_node`
        does; the same call with the id goes on.
        """
        return growth.add(self._crew, node, timeout_s, progress)

    def remove_node(
        self,
        node: str,
        *,
        timeout_s: float = CHANGE_S,
        progress: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Make ``node`` no member any more; returns when it has stopped. Its data stays.

        Raises what :meth:`TrackerClient.remove_node` does.
        """
        growth.remove(self._crew, node, timeout_s, progress)

    def replace_node(
        self,
        node: str,
        new: str | None = None,
        *,
        timeout_s: float = CHANGE_S,
        progress: Callable[[str], None] = lambda text: None,
    ) -> str:
        """Add a node as :meth:`add_node`, and then remove ``node``; the id of the new one."""
        until = time.monotonic() + timeout_s
        self._place(node)
        added = growth.add(self._crew, new, timeout_s, progress)
        try:
            growth.remove(self._crew, node, max(1.0, until - time.monotonic()), progress)
        except P2PError as error:
            text = f"{added} was added and votes; {node} is not known to be removed"
            raise type(error)(f"{text}: {error.message}. 'remove-node {node}' goes on") from error
        return added

    # -- faults and their ends --------------------------------------------------------------------

    def kill(self, node: str) -> None:
        """SIGKILL: the process is gone on return. A node that does not run is left so."""
        self._processes.kill(self._place(node).node)

    def pause(self, node: str) -> None:
        """SIGSTOP: it keeps its sockets and says nothing; stands still on return.

        Raises :class:`LocalError` if it is dead.
        """
        if not self._processes.pause(self._place(node).node):
            raise LocalError(f"{node} is not running; nothing was done")

    def resume(self, node: str) -> None:
        """SIGCONT: a paused node goes on; no change for another. :class:`LocalError` if dead."""
        if not self._processes.signal(self._place(node).node, signal.SIGCONT):
            raise LocalError(f"{node} is not running; nothing was done")

    def terminate(self, node: str, grace_s: float = STOP_GRACE_S) -> None:
        """SIGTERM: it hands leadership over and stops; gone on return.

        A paused one is woken; SIGKILL after ``grace_s``. A node that does not run is left so.
        """
        self._processes.terminate([self._place(node).node], grace_s)

    def restart(self, node: str, wait: bool = True, timeout_s: float = RESTART_TIMEOUT_S) -> None:
        """Start ``node`` again with its data, killed first if it runs.

        ``wait``: return when it serves, which includes that it knows the leader when a majority
        of the nodes runs. Raises :class:`LocalError` when it does not start.
        """
        place = self._place(node)
        until = time.monotonic() + timeout_s
        with locked(self.data_dir, timeout_s):
            self._processes.kill(node)
            ports.require_free((place,))
            self._crew.start(place)
        if wait:
            self._crew.wait_serving((node,), until)

    def start_if_down(self, node: str) -> bool:
        """Start ``node`` unless it runs; True if it was started. Does not wait until it serves.

        Raises :class:`LocalError` when that cannot be, now.
        """
        place = self._place(node)
        with locked(self.data_dir, 0):
            if self.stopped or self._processes.find(node) is not None:
                return False
            ports.require_free((place,))
            self._crew.start(place)
        return True

    def down(self, grace_s: float = STOP_GRACE_S) -> list[str]:
        """Stop all nodes, paused ones too: SIGTERM, then SIGKILL after ``grace_s``.

        Returns those that ran. The data stays, unless the directory is a temporary one.
        """
        ran = self._crew.running()
        try:
            with self._nobody_starts():
                self._crew.stop_all(grace_s)
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()
        return ran

    @property
    def stopped(self) -> bool:
        """Whether :meth:`down` has stopped it, here or in another process."""
        return not any(self._processes.mark_path(node).exists() for node in self.nodes)

    def close(self) -> None:
        """Let go of the nodes: tied ones end, detached ones run on."""
        self._processes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._crew.launch.tied:
            self.down()
        else:
            self.close()

    def __repr__(self) -> str:
        return f"<Cluster {self.layout.cluster} nodes={','.join(self.nodes)} in {self.data_dir}>"

    @contextmanager
    def _nobody_starts(self) -> Iterator[None]:
        """Keep a supervisor from starting what is being stopped, as far as that is possible."""
        with ExitStack() as stack:
            with suppress(LocalError, OSError):  # who wants to stop is not kept from it
                stack.enter_context(locked(self.data_dir, LOCK_TIMEOUT_S))
            yield

    # -- inside -----------------------------------------------------------------------------------

    def _place(self, node: str) -> NodePlace:
        for place in self.layout.nodes:
            if place.node == node:
                return place
        raise BadRequest(f"no node {node!r} in this cluster; it has {', '.join(self.nodes)}")
