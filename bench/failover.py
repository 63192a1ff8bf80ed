"""``failover``: milliseconds from SIGKILL of the leader to the next acknowledged write.

Two clients write one after another without pause: one attached to the leader that is killed, one
attached to a follower. What the first sees beyond the second is the cost of finding another
tracker; what the second sees is the election alone.

What counts is the first write *begun after* the kill. The one in flight may have been answered
just before the leader died, its answer still in the socket; counting it could only flatter, and
waiting for the next one costs at most one ordinary write.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, Self

import click

from bench import etcd, harness

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
    """Three trackers of ours, behind the same face as the rival."""


@click.command()
@click.option("--faults", default=20, show_default=True, type=click.IntRange(1))
@click.option(
    "--rival", default="auto", show_default=True, type=click.Choice(["auto", "etcd", "none"])
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole result as JSON.")
def failover(faults: int, rival: str, as_json: bool) -> None:
    """SIGKILL of the leader to the next acknowledged write of a client attached to it."""
