"""A swarm of real processes, some of which are killed, paused, lie or come late.

If a test here fails, one bad peer keeps the honest ones from their content.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from swarm_child import UP_BYTES_S
from workload import wait_until

from tracker_raft import Cluster

CHILD = Path(__file__).with_name("swarm_child.py")
MIB = 1024 * 1024
PEAK_MIB_MAX = 64


class Child:
    """One peer; its words are in a file, so that nothing waits for who reads them."""

    def __init__(self, stack: ExitStack, role: str, name: str, cluster: Cluster, path: Path):
        self.name, self.path = name, path
        self._log = path.with_name(f"{name}.log")
        output = stack.enter_context(self._log.open("wb"))
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), role, name, ",".join(cluster.endpoints), str(path)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stack.callback(self.end)

    def said(self, event: str) -> dict[str, Any] | None:
        for line in self._log.read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                facts: dict[str, Any] = json.loads(line)
                if facts["event"] == event:
                    return facts
        return None

    def result(self, limit_s: float) -> dict[str, Any]:
        ended = self.process.poll
        wait_until(
            f"{self.name} is done",
            lambda: bool(self.said("done") or self.said("failed") or ended() is not None),
            limit_s,
        )
        done = self.said("done")
        assert done is not None, f"{self.name}: {self._log.read_text()[-2000:]}"
        return done

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Let it finish what it does, and reap it."""
        if self.process.poll() is None:
            self.send(signal.SIGCONT)
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
            self.process.wait(10)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


def swarm_under_fire(tmp_path: Path, mib: int, peers: int, limit_s: float) -> None:
    """Two seeders of which one dies, a liar, and ``peers`` that fetch: one killed, one paused,
    the last ones late. All others end with the same bytes."""
    source = tmp_path / "source"
    with source.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    spoiled = tmp_path / "spoiled"
    shutil.copy2(source, spoiled)
    expected = hashlib.sha256(source.read_bytes()).hexdigest()

    with Cluster.up(1) as cluster, ExitStack() as stack:

        def start(role: str, name: str, path: Path) -> Child:
            return Child(stack, role, name, cluster, path)

        serving = [
            start("share", "seeder", source),
            start("share", "mortal", source),
            start("lie", "liar", spoiled),
        ]
        for child in serving:
            wait_until(f"{child.name} serves", lambda c=child: c.said("serves"))
        late = max(1, peers // 5)
        names = [f"p{number:02}" for number in range(peers)]
        fetching = [start("fetch", name, tmp_path / name) for name in names[:-late]]
        killed, paused, *honest = fetching
        started_s = time.monotonic()
        for child in (killed, paused):
            wait_until(f"{child.name} has some", lambda c=child: c.said("some"))
        killed.send(signal.SIGKILL)
        paused.send(signal.SIGSTOP)
        serving[1].send(signal.SIGKILL)
        honest += [start("fetch", name, tmp_path / name) for name in names[-late:]]
        results = [child.result(limit_s) for child in honest]
        took_s = time.monotonic() - started_s
        paused.send(signal.SIGCONT)
        results.append(paused.result(limit_s))

    assert [one["sha256"] for one in results] == [expected] * len(results)
    banned = {reason.split()[0] for one in results for reason in one["banned"]}
    assert banned == {"liar"}, f"only the liar is banned: {results}"
    assert all("liar" not in one["taken"] for one in results)
    assert max(one["peak_mib"] for one in results) < PEAK_MIB_MAX
    seeders = {"seeder", "mortal"}
    traded = sum(n for one in results for peer, n in one["taken"].items() if peer not in seeders)
    assert traded > mib * MIB, "nobody took anything from another"
    alone_s = len(results) * mib * MIB / UP_BYTES_S
    print(
        f"{took_s:.1f} s; one seeder alone would take {alone_s:.1f} s; {traded // MIB} MiB traded"
    )


def test_a_small_swarm_under_fire(tmp_path: Path) -> None:
    """Broken if killed, paused and lying peers keep four honest ones from a file."""
    swarm_under_fire(tmp_path, mib=32, peers=6, limit_s=30)


@pytest.mark.slow
def test_a_swarm_of_sixteen_under_fire(tmp_path: Path) -> None:
    """Broken if the same happens to a swarm of sixteen around a larger file."""
    swarm_under_fire(tmp_path, mib=96, peers=13, limit_s=60)
