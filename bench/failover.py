"""``failover``: milliseconds from SIGKILL of the leader to the next acknowledged write.

Two clients write one after another without pause: one attached to the leader that is killed, one
attached to a follower. What the first sees beyond the second is the cost of finding another
tracker; what the second sees is the election alone.

What counts is the first write *begun after* the kill. The one in flight may have been answered
just before the leader died, its answer still in the socket; counting it could only flatter, and
waiting for the next one costs at most one ordinary write.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, Self

import click

from bench import etcd, harness
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster

OURS, ETCD = "tracker-raft", "etcd"
PLACES = {"attached": "the leader", "follower": "a follower"}
PIECE_BYTES = 512 * 1024
WARM_WRITES = 20
"""Acknowledged writes of each client before the leader is killed."""
DEADLINE_S = 30.0


class Writer(Protocol):
    """A client: one write at a time, failing over by itself."""

    def write(self, key: str, deadline_s: float) -> None: ...

    def close(self) -> None: ...


class Fleet(Protocol):
    """Three nodes that can be killed."""

    nodes: list[str]

    def wait_ready(self) -> str:
        """The leader, once every node is back and follows it."""

    def kill(self, node: str) -> None:
        """SIGKILL, returning at once."""

    def restart(self, node: str) -> None: ...

    def writer(self, attached_to: str) -> Writer: ...


class Stream(threading.Thread):
    """Writes without pause and notes when each write began and was acknowledged (monotonic s)."""

    def __init__(self, writer: Writer, prefix: str) -> None:
        super().__init__(name=f"stream {prefix}")
        self.acked: list[tuple[float, float]] = []
        self.failure: BaseException | None = None
        self._writer = writer
        self._prefix = prefix
        self._ending = threading.Event()

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                begun = time.monotonic()
                self._writer.write(f"{self._prefix}/{len(self.acked)}", DEADLINE_S)
                self.acked.append((begun, time.monotonic()))
        except Exception as error:  # noqa: BLE001 - the thread's boundary: told by wait_for()
            self.failure = error

    def wait_for(self, met: Callable[[list[tuple[float, float]]], bool]) -> None:
        """Wait until ``met`` holds of the writes so far. Raises what the writer raised."""
        limit = time.monotonic() + DEADLINE_S
        while not met(self.acked):
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > limit:
                raise TimeoutError(f"{self.name}: not within {DEADLINE_S} s")
            time.sleep(0.001)

    def first_ack_begun_after(self, moment: float) -> float:
        self.wait_for(lambda acked: bool(acked) and acked[-1][0] >= moment)
        return next(done for begun, done in self.acked if begun >= moment)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self.join()


def one_fault(fleet: Fleet, prefix: str) -> dict[str, float]:
    """Kill the leader under two writing clients, measure, and bring it back."""
    leader = fleet.wait_ready()
    follower = next(node for node in fleet.nodes if node != leader)
    with ExitStack() as stack:
        streams = []
        for node in (leader, follower):
            writer = stack.enter_context(closing(fleet.writer(node)))
            streams.append(stack.enter_context(Stream(writer, f"{prefix}/{node}")))
        for stream in streams:
            stream.wait_for(lambda acked: len(acked) >= WARM_WRITES)
        killed = time.monotonic()
        fleet.kill(leader)
        dead = time.monotonic()
        attached, other = (stream.first_ack_begun_after(dead) - killed for stream in streams)
        before = [done - begun for begun, done in streams[0].acked if done <= killed]
    fleet.restart(leader)
    return {
        "attached_ms": attached * 1e3,
        "follower_ms": other * 1e3,
        "write_before_ms": harness.summary(before)["median"] * 1e3,
    }


class OurFleet:
    """Three trackers of ours."""

    def __init__(self, cluster: Cluster) -> None:
        self.nodes = list(cluster.nodes)
        self._cluster = cluster

    def wait_ready(self) -> str:
        return self._cluster.wait_ready()

    def kill(self, node: str) -> None:
        pid = self._cluster.pid(node)
        assert pid is not None, f"{node} was seen ready"
        os.kill(pid, signal.SIGKILL)

    def restart(self, node: str) -> None:
        self._cluster.restart(node)

    def writer(self, attached_to: str) -> OurWriter:
        return OurWriter(self._cluster.endpoint(attached_to))


class OurWriter:
    """A client that is told of one tracker and learns of the others from it."""

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


@click.command()
@click.option(
    "--faults",
    "--runs",
    "faults",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    help="How often the leader is killed.",
)
@click.option(
    "--rival",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "etcd", "none"]),
    help="auto: etcd when it is installed.",
)
@harness.common_options
def failover(faults: int, rival: str, as_json: bool, out: Path) -> None:
    """SIGKILL of the leader to the next acknowledged write of a client attached to it."""
    result = harness.Result("failover", {"faults": faults, "rival": rival, "nodes": 3})
    rival_version = etcd.version() if rival != "none" else None
    if rival == "etcd" and rival_version is None:
        raise click.UsageError("--rival etcd: there is no etcd in PATH")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        fleets: dict[str, Fleet] = {OURS: OurFleet(stack.enter_context(Cluster.up(3)))}
        if rival_version is not None:
            fleets[ETCD] = stack.enter_context(etcd.EtcdFleet(Path(folder)))
            result.settings["etcd"] = rival_version
        else:
            result.absent[ETCD] = "not asked for" if rival == "none" else "no etcd in PATH"
        numbers = itertools.count(1)

        def measure(fleet: Fleet) -> dict[str, float]:
            return one_fault(fleet, f"fault-{next(numbers)}")

        contenders = {name: functools.partial(measure, fleet) for name, fleet in fleets.items()}
        result.samples = harness.alternate(faults, contenders, harness.progress)
    result.figures = figures(result)
    harness.finish(result, lines(result), as_json=as_json, out=out)


def figures(result: harness.Result) -> dict[str, Any]:
    """p50, p90, p99 and worst of each contender; ours through the rival's, round by round."""
    found: dict[str, Any] = {}
    for name in (OURS, ETCD):
        if attached := result.values(name, "attached_ms"):
            found[name] = {
                "attached_ms": harness.spread(attached),
                "follower_ms": harness.spread(result.values(name, "follower_ms")),
                "write_before_ms": harness.summary(result.values(name, "write_before_ms")),
            }
    if ETCD in found:
        pair = [result.values(name, "attached_ms") for name in (OURS, ETCD)]
        found["ours_to_etcd"] = harness.ratio(*pair)
    return found


def lines(result: harness.Result) -> list[str]:
    """The table a reader sees."""
    shown = [
        f"{'ms from SIGKILL to next ack':32}{'p50':>8}{'p90':>8}{'p99':>8}{'worst':>8}{'n':>5}"
    ]
    for name in (OURS, ETCD):
        if name in result.absent:
            shown.append(f"{name}: absent, {result.absent[name]}")
            continue
        for client in ("attached", "follower"):
            one = result.figures[name][f"{client}_ms"]
            cells = "".join(f"{one[key]:8.1f}" for key in ("p50", "p90", "p99", "worst"))
            shown.append(f"{f'{name}, client at {PLACES[client]}':32}{cells}{one['n']:5}")
    if one := result.figures.get("ours_to_etcd"):
        shown.append(f"ours / etcd: {one['median']:.3f} ({one['min']:.3f} to {one['max']:.3f})")
    return shown
