"""What is done to a fleet, and what its clients notice of it.

Two clients write one after another without pause: one attached to the leader that is struck, one
attached to a follower. What the first sees beyond the second is the cost of finding another node;
what the second sees is the election alone.

Rules
-----
* What counts is the first write *begun after* the fault. The one in flight may have been answered
  just before the leader fell silent, its answer still in the socket; counting it could only
  flatter, and waiting for the next one costs at most one ordinary write.
* A leader asked to stop (``term``) may serve on before it hands over, so that rule would count a
  write of the old leader. There it is the longest time without an acknowledgement that counts,
  between the signal and the first acknowledgement of a write begun after the process had ended.
* The clock starts before the fault is brought about: before the signal is sent, or before the
  packet filter is told.
* Bringing the victim back, and waiting until all nodes are level, is not measured.
* A write that fails for good is a failed call: counted, and never repeated by us.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from enum import StrEnum
from itertools import cycle, islice, pairwise
from typing import Self

import psutil

from bench import harness
from bench.fleets import Fleet, Writer, cpu_s

WARM_WRITES = 20
WARM_WRITES_MIN = 3
WARM_S = 1.0
"""A client that is slow by nature is warm after this, or after three writes."""
DEADLINE_S = 30.0
FAILURES_MAX = 5
"""In a row: then a client is given up, and the run with it."""
GONE_S = 20.0
"""For a process that was asked to end or to stand still."""
ROLL_CLIENTS = 6
POLL_S = 0.001


class Fault(StrEnum):
    """What happens to the leader."""

    KILL = "kill"
    """SIGKILL: gone at once; its kernel closes its connections."""
    TERM = "term"
    """SIGTERM: asked to stop, which it does in its own time."""
    STOP = "stop"
    """SIGSTOP: keeps its connections and says nothing."""
    DROP = "drop"
    """No packet from or to it arrives any more, at the nodes or the clients."""
    SPLIT = "split"
    """The same among the nodes only: clients still reach it."""

    @property
    def needs_network(self) -> bool:
        return self in (Fault.DROP, Fault.SPLIT)

    @property
    def ends_process(self) -> bool:
        return self in (Fault.KILL, Fault.TERM)


SIGNALS = {
    Fault.KILL: signal.SIGKILL,
    Fault.TERM: signal.SIGTERM,
    Fault.STOP: signal.SIGSTOP,
}


class Stream(threading.Thread):
    """Writes without pause and notes when each write began and was acknowledged (monotonic s)."""

    def __init__(self, writer: Writer, prefix: str) -> None:
        super().__init__(name=f"stream {prefix}")
        self.acked: list[tuple[float, float]] = []
        self.failed: list[tuple[float, Exception]] = []
        """When a call that failed had begun, and how it failed."""
        self.given_up: Exception | None = None
        self._writer = writer
        self._prefix = prefix
        self._ending = threading.Event()

    def run(self) -> None:
        number = in_a_row = 0
        while not self._ending.is_set():
            begun = time.monotonic()
            number += 1
            try:
                self._writer.write(f"{self._prefix}/{number}", DEADLINE_S)
            except Exception as error:  # noqa: BLE001 - any failure of any client is a failed call
                self.failed.append((begun, error))
                in_a_row += 1
                if in_a_row == FAILURES_MAX:
                    self.given_up = error
                    return
            else:
                self.acked.append((begun, time.monotonic()))
                in_a_row = 0

    def wait_for(
        self,
        met: Callable[[list[tuple[float, float]]], bool],
        limit_s: float = DEADLINE_S + 5,
    ) -> None:
        """Wait until ``met`` holds of the writes so far. Raises what the writer failed with."""
        limit = time.monotonic() + limit_s
        while not met(self.acked):
            if self.given_up is not None:
                raise self.given_up
            if time.monotonic() > limit:
                raise TimeoutError(f"{self.name}: not within {limit_s} s")
            time.sleep(POLL_S)

    def wait_warm(self) -> None:
        warm = time.monotonic() + WARM_S
        self.wait_for(
            lambda acked: (
                len(acked) >= WARM_WRITES
                or (len(acked) >= WARM_WRITES_MIN and time.monotonic() > warm)
            )
        )

    def first_ack_begun_after(self, moment: float) -> float:
        self.wait_for(lambda acked: bool(acked) and acked[-1][0] >= moment)
        return next(done for begun, done in self.acked if begun >= moment)

    def longest_silence(self, start: float, end: float) -> float:
        """The longest time without an acknowledgement between two moments."""
        moments = [start, *(done for _, done in self.acked if start < done < end), end]
        return max(after - before for before, after in pairwise(moments))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self.join()


def one_fault(fleet: Fleet, fault: Fault, prefix: str) -> dict[str, float]:
    """Strike the leader under two writing clients, measure, and bring it back."""
    leader = fleet.wait_ready()
    term = fleet.term()
    follower = next(node for node in fleet.nodes if node != leader)
    found: dict[str, float] = {"struck_at": 0.0}
    with ExitStack() as stack:
        streams = []
        for node in (leader, follower):
            writer = stack.enter_context(closing(fleet.writer(node)))
            streams.append(stack.enter_context(Stream(writer, f"{prefix}/{node}")))
        for stream in streams:
            stream.wait_warm()
        found["struck_at"] = time.time()
        struck, done = _strike(fleet, fault, leader)
        ends = [stream.first_ack_begun_after(done) for stream in streams]
        before = [done - begun for begun, done in streams[0].acked if done <= struck]
    for name, stream, end in zip(("attached", "follower"), streams, ends, strict=True):
        outage = end - struck
        if fault is Fault.TERM:
            outage = stream.longest_silence(struck, end)
        found[f"{name}_ms"] = outage * 1e3
    if fault is Fault.TERM:
        found["ended_ms"] = (done - struck) * 1e3
    found["write_before_ms"] = harness.summary(before)["median"] * 1e3
    found["failed_calls"] = float(sum(len(stream.failed) for stream in streams))
    if fault.ends_process:
        fleet.start(leader)
    elif fault is Fault.STOP:
        os.kill(fleet.pid(leader), signal.SIGCONT)
    elif fleet.network is not None:
        fleet.network.heal()
    fleet.wait_ready()
    found["elections"] = float(fleet.term() - term)
    return found


def _strike(fleet: Fleet, fault: Fault, node: str) -> tuple[float, float]:
    """Bring it about; returns the moment before, and the one when it was done.

    It is done when the process has ended, or stands still, if that is what the fault does: until
    then it may still answer.
    """
    pid, network = fleet.pid(node), fleet.network
    if fault.needs_network:
        assert network is not None, f"{fault} needs namespaces"
        struck = time.monotonic()
        network.cut(node, client=fault is Fault.DROP)
    elif fault.ends_process:
        struck = end_process(pid, SIGNALS[fault])
    else:
        victim = psutil.Process(pid)
        struck = time.monotonic()
        os.kill(pid, SIGNALS[fault])
        while victim.status() != psutil.STATUS_STOPPED:
            if time.monotonic() > struck + GONE_S:
                raise TimeoutError(f"process {pid} is {victim.status()} {GONE_S} s after {fault}")
            time.sleep(POLL_S)
    return struck, time.monotonic()


def end_process(pid: int, number: signal.Signals) -> float:
    """Send it a signal and wait until it has ended; returns the moment before the signal.

    Raises TimeoutError when it still runs :data:`GONE_S` seconds later.
    """
    handle = os.pidfd_open(pid)  # tells of the end by itself: looking again and again costs time
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        struck = time.monotonic()
        signal.pidfd_send_signal(handle, number)
        if not waiting.poll(GONE_S * 1000):
            raise TimeoutError(f"process {pid} still runs {GONE_S} s after {number.name}")
        return struck
    finally:
        os.close(handle)


def rolling_restart(fleet: Fleet, prefix: str, clients: int = ROLL_CLIENTS) -> dict[str, float]:
    """Ask every node in turn to stop and start it again, under ``clients`` that write all along.

    The clients are spread over the nodes, so each node takes a third of them down with it.
    """
    fleet.wait_ready()
    term = fleet.term()
    with ExitStack() as stack:
        streams = []
        for number, node in enumerate(islice(cycle(fleet.nodes), clients)):
            writer = stack.enter_context(closing(fleet.writer(node)))
            streams.append(stack.enter_context(Stream(writer, f"{prefix}/{number}")))
        for stream in streams:
            stream.wait_warm()
        begun = time.monotonic()
        for node in fleet.nodes:
            end_process(fleet.pid(node), signal.SIGTERM)
            fleet.start(node)
            fleet.wait_ready()
        ended = time.monotonic()
        ends = [stream.first_ack_begun_after(ended) for stream in streams]
    pairs = zip(streams, ends, strict=True)
    silences = [stream.longest_silence(begun, end) for stream, end in pairs]
    return {
        "calls": float(sum(len(stream.acked) + len(stream.failed) for stream in streams)),
        "failed_calls": float(sum(len(stream.failed) for stream in streams)),
        "longest_silence_ms": max(silences) * 1e3,
        "seconds": ended - begun,
        "elections": float(fleet.term() - term),
    }


def idle(fleet: Fleet, seconds: float) -> dict[str, float]:
    """Leave a fleet alone for so long: its elections, and the processor time of each node."""
    fleet.wait_ready()
    term, before, begun = fleet.term(), cpu_s(fleet), time.monotonic()
    time.sleep(seconds)
    took, after = time.monotonic() - begun, cpu_s(fleet)
    used = [(after[node] - before[node]) / took * 100 for node in fleet.nodes]
    return {
        "elections": float(fleet.term() - term),
        "cpu_percent": sum(used) / len(used),
        "cpu_percent_worst": max(used),
        "seconds": took,
    }
