"""How a fault is measured: an outage that is told too short is worse than none that is told."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import failover, faults, harness
from bench.failover import figures, histogram, lines
from bench.faults import FAILURES_MAX, Fault, Stream, one_fault, rolling_restart
from bench.fleets import Place, RotatingWriter
from bench.namespaces import Network


def state(pid: int) -> str:
    """One letter: Z has ended, T stands still."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


class FakeFleet:
    """Three nodes that are processes doing nothing; no write is acknowledged during an outage.

    It begins with what happens to the leader ``f2`` and lasts ``outage_s``; until then it does not
    come back.
    """

    network: Network | None = None

    def __init__(self, outage_s: float) -> None:
        self.nodes = ["f1", "f2", "f3"]
        self.events: list[str] = []
        self.elected = 0
        self._outage_s = outage_s
        self._over_at: float | None = None
        self._lock = threading.Lock()
        self._processes = {node: self._process() for node in self.nodes}

    @staticmethod
    def _process() -> subprocess.Popen[bytes]:
        return subprocess.Popen(["cat"], stdin=subprocess.PIPE)

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.communicate()

    def wait_ready(self) -> str:
        return "f2"

    def term(self) -> int:
        return 1 + self.elected

    def pid(self, node: str) -> int:
        return self._processes[node].pid

    def start(self, node: str) -> None:
        while not self.serving():
            time.sleep(0.001)
        old = self._processes[node]
        old.communicate(timeout=10)
        self.events.append(f"{node} ended by {-old.returncode}")
        self._processes[node] = self._process()
        self._over_at = None

    def writer(self, attached_to: str) -> FakeWriter:
        self.events.append(f"writer at {attached_to}")
        return FakeWriter(self)

    def logs(self) -> list[Path]:
        return []

    def serving(self) -> bool:
        """Whether a write is acknowledged now."""
        struck = state(self.pid("f2")) in "ZT"
        with self._lock:
            if struck and self._over_at is None:
                self._over_at = time.monotonic() + self._outage_s
                self.elected += 1
            return self._over_at is None or time.monotonic() >= self._over_at


class FakeWriter:
    def __init__(self, fleet: FakeFleet) -> None:
        self._fleet = fleet

    def write(self, key: str, deadline_s: float) -> None:
        limit = time.monotonic() + deadline_s
        while not self._fleet.serving():
            assert time.monotonic() < limit
            time.sleep(0.001)

    def close(self) -> None:
        self._fleet.events.append("closed")


@pytest.fixture
def fleet() -> Iterator[FakeFleet]:
    made = FakeFleet(outage_s=0.05)
    yield made
    made.close()


@pytest.mark.parametrize("fault", [Fault.KILL, Fault.TERM])
def test_a_fault_is_measured_over_the_whole_outage(fleet: FakeFleet, fault: Fault) -> None:
    """Broken: the failover benchmark would measure something shorter than the outage."""
    values = one_fault(fleet, fault, "t")

    assert values["attached_ms"] >= 49 and values["follower_ms"] >= 49
    assert values["write_before_ms"] < 49
    assert values["elections"] == 1 and values["failed_calls"] == 0
    number = signal.SIGKILL if fault is Fault.KILL else signal.SIGTERM
    assert fleet.events == [
        "writer at f2",
        "writer at f1",
        "closed",
        "closed",
        f"f2 ended by {number}",
    ]


def test_a_stopped_leader_goes_on_afterwards(fleet: FakeFleet) -> None:
    """Broken: the next fault would strike a leader that still stands still."""
    values = one_fault(fleet, Fault.STOP, "t")

    assert values["attached_ms"] >= 49
    assert state(fleet.pid("f2")) != "T"


def test_a_rolling_restart_stops_every_node_once(fleet: FakeFleet) -> None:
    """Broken: "no failed call in a rolling restart" would be said of fewer restarts."""
    values = rolling_restart(fleet, "t", clients=4)

    stopped = [event for event in fleet.events if "ended" in event]
    assert stopped == [f"{node} ended by {signal.SIGTERM}" for node in fleet.nodes]
    assert fleet.events[:4] == [f"writer at f{n}" for n in (1, 2, 3, 1)]
    assert values["failed_calls"] == 0 and values["calls"] > 0
    assert values["longest_silence_ms"] >= 49, "f2 was away for so long"


def test_a_process_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a tracker that ignores SIGTERM would hang the benchmark without a word."""
    monkeypatch.setattr(faults, "GONE_S", 0.05)
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; read x"], stdin=-1, stdout=-1) as deaf:
        assert deaf.stdout is not None and deaf.stdout.readline() == b"\n"
        try:
            with pytest.raises(TimeoutError, match=r"still runs 0\.05 s after SIGTERM"):
                faults.end_process(deaf.pid, signal.SIGTERM)
        finally:
            deaf.kill()


def test_a_write_in_flight_at_the_kill_does_not_count(fleet: FakeFleet) -> None:
    """Broken: an answer the dead leader had already sent would pass for a failover of 0 ms."""
    stream = Stream(FakeWriter(fleet), "t")
    stream.acked = [(0.0, 1.0), (2.9, 3.1), (3.1, 9.0), (9.0, 9.1)]
    assert stream.first_ack_begun_after(3.0) == 9.0


def test_silence_is_counted_from_the_fault_and_from_every_ack(fleet: FakeFleet) -> None:
    """Broken: a leader that serves a moment longer than its SIGTERM would hide the hand-over."""
    stream = Stream(FakeWriter(fleet), "t")
    stream.acked = [(0.0, 1.0), (1.0, 3.5), (3.5, 8.0), (8.0, 8.5)]
    assert stream.longest_silence(3.0, 8.5) == 4.5
    assert stream.longest_silence(3.6, 3.9) == pytest.approx(0.3)


class Failing(FakeWriter):
    """Fails the calls whose numbers are named, or all of them."""

    def __init__(self, fleet: FakeFleet, numbers: set[int] | None = None) -> None:
        super().__init__(fleet)
        self._numbers = numbers

    def write(self, key: str, deadline_s: float) -> None:
        if self._numbers is None or int(key.rpartition("/")[2]) in self._numbers:
            raise OSError(f"refused {key}")


def test_a_failed_call_is_counted_and_the_client_goes_on(fleet: FakeFleet) -> None:
    """Broken: a rolling restart that fails calls would end the run, or be told as clean."""
    with Stream(Failing(fleet, {2, 4}), "t") as stream:
        stream.wait_for(lambda acked: len(acked) >= 3)
    assert [str(error) for _, error in stream.failed] == ["refused t/2", "refused t/4"]


def test_a_client_that_only_fails_ends_the_run(fleet: FakeFleet) -> None:
    """Broken: a benchmark would wait half a minute and then hide why its client gave up."""
    with (
        Stream(Failing(fleet), "t") as stream,
        pytest.raises(OSError, match=f"refused t/{FAILURES_MAX}"),
    ):
        stream.wait_for(lambda acked: len(acked) > 0)


class Turning(RotatingWriter):
    """Its places answer from the ``answers``-th try on."""

    def __init__(self, places: list[Place], answers: int) -> None:
        self.tried: list[tuple[Place, float]] = []
        self._answers = answers
        super().__init__(places)

    def connect(self, place: Place, timeout_s: float) -> None:
        self.tried.append((place, timeout_s))

    def put(self, key: str, value: bytes) -> None:
        if len(self.tried) < self._answers:
            raise TimeoutError("silent")

    def patient(self) -> None:
        self.tried[-1] = (self.tried[-1][0], self.attempt_s)

    def close(self) -> None:
        pass


def test_a_rivals_client_asks_the_next_place_soon() -> None:
    """Broken: the rival's outage would be its client's patience."""
    places = [("a", 1), ("b", 2), ("c", 3)]
    writer = Turning(places, answers=5)
    writer.write("k", 10.0)

    patient, hasty = RotatingWriter.attempt_s, RotatingWriter.retry_s
    assert writer.tried == [
        (places[0], patient),
        (places[1], hasty),
        (places[2], hasty),
        (places[0], hasty),
        (places[1], patient),
    ]
    with pytest.raises(TimeoutError, match=r"no write was taken for 0\.0 s"):
        Turning(places, answers=99).write("k", 0.0)


def test_a_figure_tells_how_many_elections_there_were() -> None:
    """Broken: a fault that took three elections would pass for one that took a single one."""
    result = harness.Result("t", {})
    for elections, took in ((1, 10.0), (1, 30.0), (3, 50.0)):
        values = {"attached_ms": took, "follower_ms": 1.0, "failed_calls": 1.0}
        sample = harness.Sample("tracker-raft kill", 1, {**values, "elections": elections})
        result.samples.append(sample)
    result.samples.append(harness.Sample("etcd kill", 1, {**values, "elections": 1.0}))
    result.absent["pysyncobj"] = "not asked for"
    result.figures = figures(result)

    ours = result.figures["tracker-raft kill"]
    assert ours["elections"] == {"1": 2, "3": 1} and ours["failed_calls"] == 3
    assert ours["attached_ms"]["p50"] == 30.0 and ours["attached_ms"]["worst"] == 50.0
    assert result.figures["ours_to_etcd kill"] == {"of_medians": 0.6, "n": [3, 1]}
    told = "\n".join(lines(result))
    assert "1×2 3×1" in told and "ours / etcd: 0.600" in told
    assert "pysyncobj: absent, not asked for" in told


def test_a_turn_that_breaks_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: one outage without end would lose all other samples, or be left out silently."""
    made: list[FakeFleet] = []

    def strike(fleet: FakeFleet) -> dict[str, float]:
        if len(made) % 2:
            raise TimeoutError("not within 35 s")
        return {"attached_ms": 1.0}

    @contextmanager
    def running(*_: object) -> Iterator[FakeFleet]:
        made.append(FakeFleet(0))
        try:
            yield made[-1]
        finally:
            made[-1].close()

    monkeypatch.setattr(failover, "running", running)
    monkeypatch.setattr(failover, "measure_of", lambda *_: strike)
    result = harness.Result("t", {})
    settings = failover.Settings(70, 70, 1.0, 1.0, None)
    failover.run_kind("kill", ["tracker-raft"], settings, result)

    assert list(result.absent) == [f"tracker-raft kill, turn {turn}" for turn in (1, 3, 5)]
    assert set(result.absent.values()) == {"broken off: not within 35 s"}
    assert len(result.samples) == 2 * failover.BLOCK, "given up after the third"


def test_an_interrupted_run_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: Ctrl-C after half an hour of faults would throw all of them away."""

    def run_kind(kind: str, contenders: object, settings: object, result: harness.Result) -> None:
        values = {"attached_ms": 1.0, "follower_ms": 1.0, "failed_calls": 0.0, "elections": 1.0}
        result.samples.append(harness.Sample("tracker-raft kill", 1, values))
        raise KeyboardInterrupt

    monkeypatch.setattr(failover, "run_kind", run_kind)
    arguments = ["--kind", "kill", "--rival", "none", "--out", str(tmp_path)]
    run = CliRunner().invoke(failover.failover, arguments)

    assert run.exit_code == 0 and "the rest: absent, interrupted" in run.output
    (kept,) = tmp_path.iterdir()
    assert len(json.loads(kept.read_text(encoding="utf-8"))["samples"]) == 1


def test_every_sample_is_in_one_bucket() -> None:
    """Broken: an outlier would fall out of the picture of the distribution."""
    assert histogram([1.0, 5.0, 5.1, 2000.0, 2000.1]).split() == (["2", "1", *["."] * 8, "1", "1"])
