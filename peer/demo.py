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

from peer.demo_actors import PIECE_BYTES, Acknowledged, PeerProcess, Writer
from peer.display import size
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster
from tracker_raft.errors import LocalError
from tracker_raft.terminal import EXIT_FAILED, emit_json, sigterm_interrupts

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

    def tell(self, text: str) -> None:
        at_s = self.elapsed_s
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
    type=Path,
    metavar="F",
    help="The file to move. Default: 256 MiB of random bytes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
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
        raise click.UsageError(f"--file {file}: no such file")
    report = Report()
    timeline = Timeline(report, quiet=as_json)
    with sigterm_interrupts(), tempfile.TemporaryDirectory(prefix="p2p-demo-") as directory:
        _play(Path(directory), file, report, timeline)
    seconds = timeline.elapsed_s
    if as_json:
        emit_json({"ok": report.ok, **vars(report), "seconds": round(seconds, 3)})
    else:
        end = "all is right" if report.ok else "; ".join(report.problems)
        click.echo(f"\n{end} ({seconds:.1f} s)")
    if not report.ok:
        raise click.exceptions.Exit(EXIT_FAILED)


def _play(directory: Path, file: Path | None, report: Report, timeline: Timeline) -> None:
    """The story from the first act to the last; everybody has left the stage on return."""
    source = _prepare(directory, file, report, timeline)
    patience_s = WAIT_S + report.bytes / SEED_BYTES_S_MIN
    with ExitStack() as stage:
        cluster = stage.enter_context(Cluster.up(TRACKERS, data_dir=directory / "trackers"))
        victim = cluster.leader()
        report.leader_killed = victim
        timeline.tell(f"{TRACKERS} trackers serve; {victim} leads")
        trackers = ",".join(cluster.endpoints)

        words = ["share", source, "--name", NAME, "--trackers", trackers, "--json"]
        seeder = stage.enter_context(PeerProcess("seeder", words, directory))
        address = seeder.answer(patience_s)["address"]
        timeline.tell(f"the seeder serves {NAME} at {address}")

        writer = stage.enter_context(Writer(cluster.endpoint(victim)))
        _wait(lambda: bool(writer.acknowledged) or writer.error is not None, "the first write")
        timeline.tell(f"a client is attached to {victim} and writes without pause")

        fetchers = []
        for number in range(1, FETCHERS + 1):
            words = ["get", NAME, "-o", directory / f"copy-{number}"]
            words += ["--trackers", trackers, "--json"]
            peer = PeerProcess(f"peer-{number}", words, directory)
            fetchers.append(stage.enter_context(peer))
        timeline.tell(f"{FETCHERS} peers fetch it")

        killed_s = _kill_mid_transfer(cluster, writer, fetchers, report, timeline)
        _tell_failover(cluster, writer, killed_s, report, timeline)
        for number, peer in enumerate(fetchers, 1):
            _check_copy(peer, directory / f"copy-{number}", patience_s, report, timeline)
        writer.stop()
        _check_writes(cluster, writer, report, timeline)


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


def _kill_mid_transfer(
    cluster: Cluster,
    writer: Writer,
    fetchers: list[PeerProcess],
    report: Report,
    timeline: Timeline,
) -> float:
    """Kill the leader once the peers have bytes; when that was, on the monotonic clock."""
    first = max(1, min(report.bytes, PIECE_BYTES))
    while any(peer.running for peer in fetchers):
        have = [peer.bytes_written for peer in fetchers if peer.running]
        if min(have, default=0) >= first or max(have, default=0) >= KILL_AT_MOST * report.bytes > 0:
            break
        time.sleep(POLL_S)
    victim = report.leader_killed
    attached = writer.attached_to == cluster.endpoint(victim)
    leads = cluster.leader() == victim
    parts = [peer.bytes_written / max(1, report.bytes) for peer in fetchers]
    under_way = [peer.running and part < 1 for peer, part in zip(fetchers, parts, strict=True)]
    killed_s = time.monotonic()
    cluster.kill(victim)
    report.mid_transfer = any(under_way)
    if report.mid_transfer:
        shares = ", ".join(f"{part:.0%}" for part in parts)
        when = f"while {sum(under_way)} of {FETCHERS} transfers are under way ({shares} there)"
    else:
        when = "after the transfers: they were over too soon to be caught in the middle"
    timeline.tell(f"{victim} is killed with SIGKILL {when}")
    if not leads:
        timeline.problem(f"{victim} did not lead any more when it was killed")
    if not attached:
        timeline.problem(f"the client was not attached to {victim} any more when it was killed")
    return killed_s


def _tell_failover(
    cluster: Cluster, writer: Writer, killed_s: float, report: Report, timeline: Timeline
) -> None:
    victim = cluster.endpoint(report.leader_killed)

    def next_write() -> Acknowledged | None:
        return writer.first_after(killed_s, victim)

    _wait(lambda: next_write() is not None or writer.error is not None, "the next write")
    write = next_write()
    if write is None:
        timeline.problem(f"the client cannot write any more: {writer.error}")
        return
    report.failover_ms = round((write.at_s - killed_s) * 1000, 1)
    by = next(node for node in cluster.nodes if cluster.endpoint(node) == write.endpoint)
    timeline.tell(
        f"the next write of the client is acknowledged, by {by}: {report.failover_ms} ms after "
        f"the kill"
    )
    report.new_leader = cluster.leader()
    timeline.tell(f"{report.new_leader} leads now")


def _check_copy(
    peer: PeerProcess, copy: Path, patience_s: float, report: Report, timeline: Timeline
) -> None:
    try:
        answer = peer.answer(patience_s)
    except LocalError as error:
        timeline.problem(str(error))
        return
    seconds = float(answer["seconds"])
    rate_mb_s = report.bytes / 1e6 / seconds if seconds > 0 else 0.0
    equal = copy.stat().st_size == report.bytes and _sha256(copy) == report.sha256
    report.peers.append(
        {"peer": peer.label, "seconds": seconds, "mb_s": round(rate_mb_s, 1), "equal": equal}
    )
    if equal:
        took = f"{size(report.bytes)} in {seconds:.2f} s, {rate_mb_s:.0f} MB/s"
        timeline.tell(f"{peer.label}: {took}; SHA-256 equal")
    else:
        timeline.problem(f"{peer.label}: the copy has another SHA-256")


def _check_writes(cluster: Cluster, writer: Writer, report: Report, timeline: Timeline) -> None:
    """Every write that was acknowledged before, during and after the kill must be there."""
    acknowledged = {write.name for write in writer.acknowledged}
    with TrackerClient(cluster.endpoints) as client:
        found = {record.name for record in client.files("demo/writes/")}
    report.writes_acknowledged = len(acknowledged)
    report.writes_lost = len(acknowledged - found)
    if writer.error is not None:
        timeline.problem(f"the client's writing ended: {writer.error}")
    if report.writes_lost:
        timeline.problem(f"{report.writes_lost} of {len(acknowledged)} acknowledged writes lost")
    else:
        timeline.tell(f"all {len(acknowledged)} acknowledged writes are there")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wait(met: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not met():
        if time.monotonic() >= until:
            raise LocalError(f"{what} did not come within {WAIT_S} s")
        time.sleep(POLL_S)
