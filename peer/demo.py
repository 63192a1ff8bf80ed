"""``p2p-cluster demo``: the whole story on one machine, in a directory of its own.

Three trackers, a seeder and three fetching peers, each a process; the leader is killed with
SIGKILL while the file moves; a client that was attached to it goes on writing. In the end every
copy is compared by SHA-256 and every acknowledged write is looked up. Nothing is staged: what
did not happen as the story wants it is told as it happened.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from peer.demo_actors import PIECE_BYTES, WRITES, Acknowledged, PeerProcess, Writer
from peer.display import size
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster
from tracker_raft.errors import LocalError
from tracker_raft.terminal import (
    EXIT_FAILED,
    emit_json,
    given_path,
    json_option,
    sigterm_interrupts,
)

RANDOM_BYTES = 256 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
TRACKERS = 3
FETCHERS = 3
NAME = "demo/file"
POLL_S = 0.005
KILL_AT_MOST = 0.4
"""A peer that has this part of the file is reason enough to kill, though others have nothing."""
WAIT_S = 30.0
SEED_BYTES_S_MIN = 50e6
"""Hashing and fetching is given the time it takes at this rate, besides :data:`WAIT_S`."""


@dataclass
class Report:
    """What happened; ``--json`` prints it."""

    bytes: int = 0
    sha256: str = ""
    leader_killed: str = ""
    new_leader: str = ""
    failover_ms: float | None = None
    """From SIGKILL to the next write acknowledged to the client attached to the victim."""
    mid_transfer: bool = False
    peers: list[dict[str, Any]] = field(default_factory=list)
    from_seeder: int = 0
    """Bytes that the three took from the seeder."""
    from_peers: int = 0
    """Bytes that they took from each other."""
    writes_acknowledged: int = 0
    writes_lost: int = 0
    problems: list[str] = field(default_factory=list)
    timeline: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


class Timeline:
    """Tells each event with the seconds since the start."""

    def __init__(self, report: Report, quiet: bool) -> None:
        self._report = report
        self._quiet = quiet
        self._start_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start_s

    def tell(self, text: str, moment_s: float | None = None) -> None:
        """``moment_s``: when it was, on the monotonic clock; None is now."""
        at_s = (time.monotonic() if moment_s is None else moment_s) - self._start_s
        self._report.timeline.append({"s": round(at_s, 3), "text": text})
        if not self._quiet:
            click.echo(f"{at_s:7.3f} s  {text}")

    def problem(self, text: str) -> None:
        self._report.problems.append(text)
        self.tell(f"PROBLEM: {text}")


@click.command(short_help="Show the whole story: trackers, peers, a killed leader.")
@click.option(
    "--file",
    "file",
    type=given_path,
    metavar="F",
    help="The file to move. Default: 256 MiB of random bytes.",
)
@json_option
def demo(file: Path | None, as_json: bool) -> None:
    """Move a file from one peer to three while the leading tracker is killed.

    Everything happens in a temporary directory and is removed in the end. The exit status is 0
    only if every copy is right and no acknowledged write was lost.

    \b
    Examples:
      p2p-cluster demo
      p2p-cluster demo --file model.bin
    """
    if file is not None and not file.is_file():
        raise click.UsageError(
            f"--file {file}: {'not a regular file' if file.exists() else 'no such file'}"
        )
    report = Report()
    timeline = Timeline(report, quiet=as_json)
    with sigterm_interrupts(), tempfile.TemporaryDirectory(prefix="p2p-demo-") as directory:
        source = _prepare(Path(directory), file, report, timeline)
        _Play(Path(directory), source, report, timeline).run()
    seconds = timeline.elapsed_s
    if as_json:
        emit_json({"ok": report.ok, **vars(report), "seconds": round(seconds, 3)})
    else:
        end = "all is right" if report.ok else "; ".join(report.problems)
        click.echo(f"\n{end} ({seconds:.1f} s)")
    if not report.ok:
        raise click.exceptions.Exit(EXIT_FAILED)


class _Play:
    """The story from the first act to the last; everybody has gone home when it has run."""

    def __init__(self, directory: Path, source: Path, report: Report, timeline: Timeline) -> None:
        self._directory = directory
        self._source = source
        self._report = report
        self._timeline = timeline
        self._patience_s = WAIT_S + report.bytes / SEED_BYTES_S_MIN
        self._writers: list[Writer] = []
        self._fetchers: list[PeerProcess] = []
        self._seeder_id = ""

    def run(self) -> None:
        with ExitStack() as stage:
            self._start(stage)
            killed_s = self._kill_mid_transfer(stage)
            self._tell_failover(killed_s)
            for number, peer in enumerate(self._fetchers, 1):
                self._check_copy(peer, self._copy(number))
            self._tell_swarm()
            self._check_writes()

    def _copy(self, number: int) -> Path:
        return self._directory / f"copy-{number}"

    def _start(self, stage: ExitStack) -> None:
        tell = self._timeline.tell
        self._cluster = stage.enter_context(
            Cluster.up(TRACKERS, data_dir=self._directory / "trackers")
        )
        tell(f"{TRACKERS} trackers serve; {self._cluster.leader()} leads")
        trackers = ("--trackers", ",".join(self._cluster.endpoints), "--json")
        share = ("share", self._source, "--name", NAME, *trackers)
        seeder = stage.enter_context(PeerProcess("seeder", share, self._directory))
        served = seeder.answer(self._patience_s)
        self._seeder_id = str(served["peer"])
        tell(f"the seeder serves {NAME} at {served['address']}")
        self._attach(stage, self._cluster.leader())
        for number in range(1, FETCHERS + 1):
            get = ("get", NAME, "-o", self._copy(number), *trackers)
            peer = PeerProcess(f"peer-{number}", get, self._directory)
            self._fetchers.append(stage.enter_context(peer))
        tell(f"{FETCHERS} peers fetch it")

    def _attach(self, stage: ExitStack, leader: str) -> None:
        """A client writes without pause from now on, attached to the leader."""
        self._report.leader_killed = leader
        writer = stage.enter_context(Writer(self._cluster.endpoint(leader)))
        self._writers.append(writer)
        _wait(lambda: bool(writer.acknowledged) or writer.error is not None, "the first write")
        self._timeline.tell(f"a client is attached to {leader} and writes without pause")

    def _kill_mid_transfer(self, stage: ExitStack) -> float:
        """Kill the leader once the peers have bytes; when that was, on the monotonic clock."""
        cluster = self._cluster
        self._wait_for_bytes()
        leader = cluster.leader()
        if self._writers[-1].attached_to != cluster.endpoint(leader):
            self._timeline.tell(f"{leader} leads by now, without our doing")
            self._attach(stage, leader)
        parts = self._parts()
        killed_s = time.monotonic()
        cluster.kill(leader)
        self._report.mid_transfer = any(0 < part < 1 for part in parts)
        shares = ", ".join(f"{part:.0%}" for part in parts)
        when = f"while the peers have {shares} of the file"
        if not self._report.mid_transfer:
            when += ": no transfer was long enough to be caught in its middle"
        self._timeline.tell(f"{leader} is killed with SIGKILL {when}", killed_s)
        return killed_s

    def _parts(self) -> list[float]:
        """How much of the file each peer has, from 0 to 1; all of it has its final name."""
        return [
            1.0 if self._copy(number).exists() else peer.bytes_written / max(1, self._report.bytes)
            for number, peer in enumerate(self._fetchers, 1)
        ]

    def _wait_for_bytes(self) -> None:
        """Until there is a reason to kill, or nobody fetches: a peer that gets nothing gives up."""
        total = self._report.bytes
        first = max(1, min(total, PIECE_BYTES))
        while running := [peer for peer in self._fetchers if peer.running]:
            have = [peer.bytes_written for peer in running]
            if min(have) >= first or max(have) >= KILL_AT_MOST * total > 0:
                return
            time.sleep(POLL_S)

    def _tell_failover(self, killed_s: float) -> None:
        cluster, report, writer = self._cluster, self._report, self._writers[-1]
        victim = cluster.endpoint(report.leader_killed)

        def next_write() -> Acknowledged | None:
            return writer.first_after(killed_s, victim)

        _wait(lambda: next_write() is not None or writer.error is not None, "the next write")
        write = next_write()
        if write is None:
            self._timeline.problem(f"the client cannot write any more: {writer.error}")
            return
        report.failover_ms = round((write.at_s - killed_s) * 1000, 1)
        nodes = dict(zip(cluster.endpoints, cluster.nodes, strict=True))
        by = nodes.get(write.endpoint, write.endpoint)
        self._timeline.tell(
            f"{report.failover_ms} ms after the kill {by} acknowledges the client's next write",
            write.at_s,
        )
        report.new_leader = cluster.leader()
        self._timeline.tell(f"{report.new_leader} leads now")

    def _check_copy(self, peer: PeerProcess, copy: Path) -> None:
        report = self._report
        try:
            answer = peer.answer(self._patience_s)
        except LocalError as error:
            self._timeline.problem(str(error))
            return
        seconds = float(answer["seconds"])
        rate_mb_s = report.bytes / 1e6 / seconds if seconds > 0 else 0.0
        equal = copy.stat().st_size == report.bytes and _sha256(copy) == report.sha256
        taken: dict[str, int] = answer["taken"]
        from_seeder = taken.get(self._seeder_id, 0)
        report.peers.append(
            {
                "peer": peer.label,
                "seconds": seconds,
                "mb_s": round(rate_mb_s, 1),
                "equal": equal,
                "from_seeder": from_seeder,
                "from_peers": sum(taken.values()) - from_seeder,
            }
        )
        if equal:
            took = f"{size(report.bytes)} in {seconds:.2f} s, {rate_mb_s:.0f} MB/s"
            swarm = f"{size(from_seeder)} of it from the seeder"
            self._timeline.tell(f"{peer.label}: {took}, {swarm}; SHA-256 equal")
        else:
            self._timeline.problem(f"{peer.label}: the copy has another SHA-256")

    def _tell_swarm(self) -> None:
        """How much of the work the seeder was spared."""
        report = self._report
        report.from_seeder = sum(peer["from_seeder"] for peer in report.peers)
        report.from_peers = sum(peer["from_peers"] for peer in report.peers)
        if report.from_seeder + report.from_peers:
            copies = report.from_seeder / report.bytes
            self._timeline.tell(
                f"the swarm: {size(report.from_peers)} went from peer to peer; the seeder sent "
                f"{size(report.from_seeder)}, {copies:.2f} copies for {len(report.peers)} peers"
            )

    def _check_writes(self) -> None:
        """Every write that was acknowledged before, during and after the kill must be there."""
        for writer in self._writers:
            writer.stop()
            if writer.error is not None:
                self._timeline.problem(f"a client's writing ended: {writer.error}")
        acknowledged = {write.name for writer in self._writers for write in writer.acknowledged}
        with TrackerClient(self._cluster.endpoints) as client:
            found = {record.name for record in client.files(WRITES)}
        lost = len(acknowledged - found)
        self._report.writes_acknowledged = len(acknowledged)
        self._report.writes_lost = lost
        if lost:
            self._timeline.problem(f"{lost} of {len(acknowledged)} acknowledged writes are lost")
        else:
            self._timeline.tell(f"all {len(acknowledged)} acknowledged writes are there")


def _prepare(directory: Path, file: Path | None, report: Report, timeline: Timeline) -> Path:
    """The file to move, its size and hash; made here when none is given."""
    report.bytes = RANDOM_BYTES if file is None else file.stat().st_size
    copies = FETCHERS + (file is None)
    free = shutil.disk_usage(directory).free
    if free < copies * report.bytes:
        raise LocalError(
            f"{copies} copies of {size(report.bytes)} need {size(copies * report.bytes)}, found "
            f"{size(free)} free in {directory.parent} (TMPDIR names another); nothing was started"
        )
    if file is not None:
        report.sha256 = _sha256(file)
        timeline.tell(f"{file}: {size(report.bytes)}")
        return file.absolute()
    made = directory / "random"
    digest = hashlib.sha256()
    with made.open("wb") as out:
        for _ in range(RANDOM_BYTES // CHUNK_BYTES):
            chunk = os.urandom(CHUNK_BYTES)
            digest.update(chunk)
            out.write(chunk)
    report.sha256 = digest.hexdigest()
    timeline.tell(f"{size(report.bytes)} of random bytes made")
    return made


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wait(met: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not met():
        if time.monotonic() >= until:
            raise LocalError(f"{what} did not come within {WAIT_S} s")
        time.sleep(POLL_S)
