"""Bringing the nodes of a cluster up: what must be true before, and what is undone in vain.

The rules:

* Only one process starts nodes of a data directory at a time (:func:`locked`).
* Ports are tried before anything is written, so that the usual obstacle costs nothing.
* A cluster that does not come up leaves no process, and no file that was not there before.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tracker_raft.cluster import ports, status
from tracker_raft.cluster.process import Processes, log_tail
from tracker_raft.cluster.state import (
    LAUNCH_NAME,
    LAYOUT_NAME,
    Layout,
    NodePlace,
    read_json,
    require_directory,
    write_whole,
)
from tracker_raft.cluster.status import NodeReport, leader_of
from tracker_raft.errors import BadRequest, Damaged, LocalError
from tracker_raft.log_format import FORMATS, LOG_LEVELS

NODES_MAX = 9
"""On one machine; each more is one more copy of every write and survives no other machine."""
START_ATTEMPTS = 5
"""With ports of our choice: somebody may take one between our look and the node's."""
POLL_S = 0.03
LOG_LINES_SHOWN = 5
NODE_COMMAND = (sys.executable, "-m", "tracker_raft", "node")


@dataclass(frozen=True, slots=True)
class Launch:
    """How nodes are started."""

    tied: bool = False
    """Whether they end with this process; see :mod:`tracker_raft.cluster.process`."""
    log_level: str = "info"
    log_format: str = "text"
    command: Sequence[str] = NODE_COMMAND

    def remember(self, data_dir: Path) -> None:
        """Write down how nodes are to speak, for :meth:`as_before`. Raises :class:`LocalError`."""
        value = {"log_level": self.log_level, "log_format": self.log_format}
        with _usable(data_dir):
            write_whole(data_dir / LAUNCH_NAME, json.dumps(value) + "\n")


def as_before(data_dir: Path) -> Launch:
    """Detached, and speaking as when the cluster there was brought up last."""
    try:
        value = read_json(data_dir / LAUNCH_NAME) or {}
    except (Damaged, OSError):
        value = {}  # how a log looks is no reason not to start a node
    level, form = value.get("log_level"), value.get("log_format")
    return Launch(
        log_level=level if level in LOG_LEVELS else "info",
        log_format=form if form in FORMATS else "text",
    )


class Crew:
    """The nodes of one data directory: where they are, how they are started, which run."""

    def __init__(self, data_dir: Path, layout: Layout, launch: Launch) -> None:
        self.data_dir = data_dir
        self.layout = layout
        self.launch = launch
        self.processes = Processes(data_dir, tied=launch.tied)

    def running(self) -> list[str]:
        return [node for node in self.layout.ids if self.processes.find(node) is not None]

    def reports(self) -> list[NodeReport]:
        """All nodes in order, those that run asked at once."""
        return status.ask([self.processes.report(place) for place in self.layout.nodes])

    def start(self, place: NodePlace) -> None:
        command = [*self.launch.command, "--id", place.node]
        command += ["--data-dir", str(self.data_dir / place.node)]
        command += ["--listen", str(place.endpoint), "--raft-listen", str(place.raft)]
        if place.joined:  # what it knows of the others is in its log, or told by them
            others = [str(one.endpoint) for one in self.layout.nodes if one is not place]
            command += ["--join", ",".join(others or [str(place.endpoint)])]
        for member in self.layout.nodes:
            if member is place or not (place.joined or member.joined):
                command += ["--member", f"{member.node}={member.raft}"]
        command += ["--cluster", self.layout.cluster, "--log-level", self.launch.log_level]
        if self.launch.log_format != "text":  # a command in its place need not know the option
            command += ["--log-format", self.launch.log_format]
        self.processes.spawn(place.node, command)

    def start_all(self, until: float) -> None:
        """Start every node and wait until they serve. Errors as :meth:`wait_serving`."""
        for place in self.layout.nodes:
            self.start(place)
        self.wait_serving(self.layout.ids, until)

    def wait_serving(self, started: Sequence[str], until: float) -> None:
        """Wait until the nodes just started serve, and know the leader where there can be one.

        Raises :class:`LocalError` as soon as one of them has ended, with the end of its log.
        """
        majority = len(self.layout.ids) // 2 + 1
        while True:
            reports = self.reports()
            for report in reports:
                if report.node in started and not report.alive:
                    raise LocalError(self._why_gone(report.node))
            leader = leader_of(reports)
            electable = sum(r.condition in ("serving", "silent") for r in reports) >= majority
            fresh = [report for report in reports if report.node in started]
            if electable and leader is not None:
                ready = all(report.get("leader") == leader for report in fresh)
            else:
                ready = not electable and all(report.reachable for report in fresh)
            if ready:
                return
            if time.monotonic() >= until:
                said = "; ".join(map(str, reports))
                raise LocalError(f"{', '.join(started)} did not come to serve in time: {said}")
            time.sleep(POLL_S)

    def _why_gone(self, node: str) -> str:
        code = self.processes.exit_status(node)
        said = " | ".join(log_tail(self.processes.log_path(node), LOG_LINES_SHOWN))
        how = "" if code is None else f" with status {code}"
        return f"{node} ended{how} while it was started: {said or 'it said nothing'}"

    def stop_all(self, grace_s: float) -> None:
        """SIGTERM to all, SIGKILL after ``grace_s``; then they count as stopped on purpose."""
        self.processes.terminate(self.layout.ids, grace_s)
        for node in self.layout.ids:
            self.processes.forget(node)
        self.processes.close()

    def erase(self) -> None:
        """Remove everything that was made in a directory where no cluster was before."""
        for name in (LAYOUT_NAME, LAUNCH_NAME):
            (self.data_dir / name).unlink(missing_ok=True)
        for node in self.layout.ids:
            self.processes.log_path(node).unlink(missing_ok=True)
            shutil.rmtree(self.data_dir / node, ignore_errors=True)


def bring_up(
    directory: Path, nodes: int, base_port: int | None, until: float, launch: Launch
) -> Crew:
    """Start the cluster in ``directory``, or a new one there; returns when it serves.

    Promises and errors are those of :meth:`tracker_raft.cluster.Cluster.up`.
    """
    with suppress(OSError):  # whoever uses the directory next says what is wrong with it
        if Layout.load(directory) is None:
            check_nodes(nodes)
    made = require_directory(directory)
    try:
        with locked(directory, 0):
            layout = Layout.load(directory)
            if layout is None:
                return _start_new(directory, nodes, base_port, until, launch)
            _check_same(directory, layout, nodes, base_port)
            return _start_again(Crew(directory, layout, launch), until)
    except BaseException:
        if made:
            with suppress(OSError):
                directory.rmdir()
        raise


def _start_again(crew: Crew, until: float) -> Crew:
    running = crew.running()
    if running:
        dead = [node for node in crew.layout.ids if node not in running]
        hint = f"; restart {' and '.join(dead)} to mend it" if dead else ""
        raise LocalError(
            f"the cluster in {crew.data_dir} is up already ({', '.join(running)} running); "
            f"nothing was done{hint}"
        )
    ports.require_free(crew.layout.nodes)
    crew.launch.remember(crew.data_dir)
    try:
        crew.start_all(until)
    except BaseException:
        crew.stop_all(0)
        raise
    return crew


def _start_new(
    directory: Path, nodes: int, base_port: int | None, until: float, launch: Launch
) -> Crew:
    others = sorted(entry.name for entry in directory.iterdir())
    if others:
        raise LocalError(
            f"{directory} holds {others[0]!r} and no {LAYOUT_NAME}, expected an empty directory "
            f"or a cluster's; nothing was done"
        )
    for attempts_left in reversed(range(START_ATTEMPTS)):
        created = datetime.now(UTC).isoformat(timespec="seconds")
        layout = Layout(new_name(), created, ports.places(nodes, base_port))
        crew = Crew(directory, layout, launch)
        try:
            with _usable(directory):
                layout.save(directory)
            launch.remember(directory)
            crew.start_all(until)
            return crew
        except BaseException as error:
            crew.stop_all(0)
            crew.erase()
            lost_race = isinstance(error, LocalError) and ports.busy(layout.nodes)
            if base_port is not None or not lost_race or not attempts_left:
                raise
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def _usable(directory: Path) -> Iterator[None]:
    """What the system refuses there is a :class:`LocalError`."""
    try:
        yield
    except OSError as error:
        raise LocalError(
            f"data directory {directory} cannot be used: {error.strerror or error}; "
            f"nothing was started"
        ) from error


def new_name() -> str:
    """The name of a cluster that no other one has."""
    return f"p2p-{secrets.token_hex(4)}"


def check_nodes(nodes: int) -> None:
    """Raise :class:`BadRequest` unless ``nodes`` is odd and from 1 to 9."""
    if not 1 <= nodes <= NODES_MAX:
        raise BadRequest(f"{nodes} nodes asked for, expected an odd number from 1 to {NODES_MAX}")
    if nodes % 2 == 0:
        raise BadRequest(
            f"{nodes} nodes asked for, expected an odd number: {nodes} tolerate no more failures "
            f"than {nodes - 1} (a majority must live) and cost one copy more"
        )


def _check_same(directory: Path, layout: Layout, nodes: int, base_port: int | None) -> None:
    """Refuse to bring a cluster back as something else than it is."""
    if len(layout.nodes) != nodes:
        raise BadRequest(
            f"found {len(layout.nodes)} nodes in {directory}, asked for {nodes}; "
            f"a new cluster needs another data directory"
        )
    found = layout.nodes[0].endpoint.port
    if base_port is not None and found != base_port:
        raise BadRequest(f"the cluster in {directory} has base port {found}, asked for {base_port}")


@contextmanager
def locked(directory: Path, timeout_s: float) -> Iterator[None]:
    """Only one process starts nodes of a directory at a time. :class:`LocalError` in vain."""
    until = time.monotonic() + timeout_s
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise LocalError(
                        f"another process is starting nodes in {directory}; nothing was done"
                    ) from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(handle)
