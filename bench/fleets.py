"""Fleets: three nodes of one make that can be struck, and clients that find a living one.

What :mod:`bench.faults` measures is a :class:`Fleet`, whoever made it. Ours is here; the rivals are
in :mod:`bench.etcd` and :mod:`bench.stock`, on top of :class:`ProcessFleet`, which knows processes
and places, and :class:`RotatingWriter`, which knows how to leave a node that does not answer.

A rival's client must not be what is measured: a dead endpoint is left at once, a silent one after
``attempt_s``, and after a failure the request is asked anew every ``retry_s``, at one endpoint
after the other, until one answers. So a rival's figure is too long by ``retry_s`` at most where its
node was killed, and by ``attempt_s`` more where it went silent.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from bench.namespaces import Network, tracker_cluster
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster

READY_S = 60.0
POLL_S = 0.02
REFUSED_PAUSE_S = 0.001
"""A refusal comes at once: without a pause a client would use the processor that the others need
to elect a leader."""
HOST = "127.0.0.1"
VALUE_BYTES = 150
PIECE_BYTES = 512 * 1024


class Writer(Protocol):
    """A client: one write at a time, failing over by itself. For one thread."""

    def write(self, key: str, deadline_s: float) -> None:
        """Return when it is acknowledged. Raises an :class:`Exception` when it failed for good."""

    def close(self) -> None: ...


class Fleet(Protocol):
    """Nodes that can be struck. A context manager of its maker's; here it runs."""

    nodes: list[str]
    network: Network | None
    """Where it runs; None: on loopback, where nothing can be cut."""

    def wait_ready(self) -> str:
        """The leader, once every node is back and follows it, and none lags behind."""

    def term(self) -> int:
        """The highest term of any node: it grows by one with every election."""

    def pid(self, node: str) -> int:
        """Process number of a node that runs."""

    def start(self, node: str) -> None:
        """Start a node whose process has ended, with its data."""

    def writer(self, attached_to: str) -> Writer: ...

    def logs(self) -> list[Path]: ...


def cpu_s(fleet: Fleet) -> dict[str, float]:
    """Processor time of each node's process so far."""
    found = {}
    for node in fleet.nodes:
        used = psutil.Process(fleet.pid(node)).cpu_times()
        found[node] = float(used.user + used.system)
    return found


# -- ours -----------------------------------------------------------------------------------------


class OurFleet:
    """Context manager: three trackers of ours, on loopback or on the machines of ``network``."""

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        self.folder = folder
        self.network = network
        self.nodes: list[str] = []
        self._stack = ExitStack()
        self._cluster: Cluster

    def __enter__(self) -> Self:
        made: Any = (
            Cluster.up(3, data_dir=self.folder)
            if self.network is None
            else tracker_cluster(self.network, self.folder)
        )
        self._cluster = self._stack.enter_context(made)
        self.nodes = list(self._cluster.nodes)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def endpoints(self) -> list[str]:
        return self._cluster.endpoints

    def endpoint_of(self, node: str) -> str:
        return self._cluster.endpoint(node)

    def wait_ready(self) -> str:
        limit = time.monotonic() + READY_S
        while True:
            leader = self._cluster.wait_ready(READY_S)
            reports = self._cluster.reports()
            if all(report.reachable for report in reports) and (
                len({report.get("applied") for report in reports}) == 1
            ):
                return leader
            if time.monotonic() > limit:
                raise TimeoutError(f"not level within {READY_S} s: {reports}")
            time.sleep(POLL_S)

    def term(self) -> int:
        return max(int(report.get("term") or 0) for report in self._cluster.reports())

    def pid(self, node: str) -> int:
        pid = self._cluster.pid(node)
        assert pid is not None, f"{node} was seen to run"
        return pid

    def start(self, node: str) -> None:
        self._cluster.restart(node)

    def writer(self, attached_to: str) -> Writer:
        return OurWriter(self._cluster.endpoint(attached_to))

    def logs(self) -> list[Path]:
        return [self._cluster.log_path(node) for node in self.nodes]


class OurWriter:
    """A client at its defaults that is told of one tracker and learns of the others from it."""

    def __init__(self, endpoint: str) -> None:
        self._client = TrackerClient([endpoint])

    def write(self, key: str, deadline_s: float) -> None:
        self._client.publish(
            key,
            content=os.urandom(32),
            size=1,
            manifest_bytes=1,
            piece_bytes=PIECE_BYTES,
            deadline_s=deadline_s,
        )

    def close(self) -> None:
        self._client.close()


# -- rivals ---------------------------------------------------------------------------------------

Place = tuple[str, int]
"""Host and port."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


class ProcessFleet(ABC):
    """Context manager: three processes, data and logs below ``folder``."""

    def __init__(self, folder: Path, network: Network | None = None) -> None:
        self.folder = folder
        self.network = network
        self.nodes = ["n1", "n2", "n3"]
        hosts = [HOST if network is None else network.address[node] for node in self.nodes]
        ports = free_ports(6) if network is None else [7000] * 3 + [7001] * 3
        self.client_place = dict(zip(self.nodes, zip(hosts, ports[:3], strict=True), strict=True))
        self.peer_place = dict(zip(self.nodes, zip(hosts, ports[3:], strict=True), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @abstractmethod
    def command(self, node: str, again: bool) -> list[str]:
        """What starts ``node``; ``again``: not for the first time."""

    @abstractmethod
    def ask_status(self, node: str) -> tuple[int, str | None, object]:
        """(term, leader or None, how far it is) of a node. Raises OSError when it is silent."""

    @abstractmethod
    def writer(self, attached_to: str) -> Writer: ...

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for node in self.nodes:
                self._spawn(node, again=False)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _spawn(self, node: str, again: bool) -> None:
        command = self.command(node, again)
        if self.network is not None:
            command = [*self.network.enter(node), *command]
        if shutil.which("setpriv") is not None:
            # They know nothing of us: without this they would outlive a bench that is killed.
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        with self._log(node).open("ab") as log:
            self._processes[node] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _log(self, node: str) -> Path:
        return self.folder / f"{node}.log"

    def wait_ready(self) -> str:
        """The leader, once all nodes follow it. Raises TimeoutError after :data:`READY_S`."""
        limit = time.monotonic() + READY_S
        while True:
            said: object = None
            try:
                statuses = {self.ask_status(node) for node in self.nodes}
                said = statuses
                if len(statuses) == 1 and (leader := statuses.pop()[1]) is not None:
                    return leader
            except OSError as error:
                said = error
            if time.monotonic() > limit:
                raise TimeoutError(f"not ready within {READY_S} s: {said}; see {self.folder}")
            time.sleep(POLL_S)

    def term(self) -> int:
        return max(self.ask_status(node)[0] for node in self.nodes)

    def pid(self, node: str) -> int:
        return self._processes[node].pid

    def start(self, node: str) -> None:
        self._processes[node].wait()
        self._spawn(node, again=True)

    def places(self, first: str) -> list[Place]:
        """Where clients are served, ``first`` before the others."""
        return [self.client_place[node] for node in sorted(self.nodes, key=lambda n: n != first)]

    def logs(self) -> list[Path]:
        return [self._log(node) for node in self.nodes]


class RotatingWriter(ABC):
    """A client with one kept connection, to the first place until that fails."""

    attempt_s: float = 0.05
    """For an answer of a place that has answered before: twenty times what a write takes."""
    retry_s: float = 0.02
    """For an answer after a failure: ten times what a write takes."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._at = 0
        self.connect(places[0], self.attempt_s)

    @abstractmethod
    def connect(self, place: Place, timeout_s: float) -> None:
        """Prepare for :meth:`put` at this place; may raise OSError, also later from there."""

    @abstractmethod
    def put(self, key: str, value: bytes) -> None:
        """One attempt. Raises OSError when it was not acknowledged in time."""

    @abstractmethod
    def patient(self) -> None:
        """From now on wait ``attempt_s`` for an answer at this place: it has answered."""

    @abstractmethod
    def close(self) -> None: ...

    def write(self, key: str, deadline_s: float) -> None:
        """Put until it is acknowledged. Raises TimeoutError after ``deadline_s``."""
        limit = time.monotonic() + deadline_s
        value = os.urandom(VALUE_BYTES)
        while True:
            try:
                self.put(key, value)
                self.patient()
                return
            except OSError as error:
                if time.monotonic() > limit:
                    raise TimeoutError(f"no write was taken for {deadline_s} s") from error
                self._turn(isinstance(error, ConnectionRefusedError))

    def _turn(self, refused: bool) -> None:
        self.close()
        if refused:
            time.sleep(REFUSED_PAUSE_S)
        self._at = (self._at + 1) % len(self._places)
        self.connect(self._places[self._at], self.retry_s)


def keep_logs(fleet: Fleet, folder: Path) -> None:
    """Copy what its nodes said into ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in fleet.logs():
        if path.exists():
            shutil.copy(path, folder / path.name)
