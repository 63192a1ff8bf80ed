"""Writers under fire, and the checks every chaos test ends with."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

from tracker_raft import Cluster, Conflict, NotFound, OutcomeUnknown, TrackerClient, Unavailable

PIECE_BYTES = 512 * 1024


def content_of(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def wait_until(what: str, condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    """Poll ``condition`` until it holds; fail with ``what`` after ``limit_s`` seconds."""
    until = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < until, f"after {limit_s} s still not: {what}"
        pause.wait(0.02)


class Writers:
    """Threads that publish names of their own, one after the other, until told to stop.

    ``acknowledged``: names whose publish was answered. ``unknown``: answered "may have happened".
    ``refused``: answered "did not happen". ``replaced``: by ``replace=True``, name -> version.
    """

    def __init__(self, endpoints: list[str], threads: int, deadline_s: float = 20.0) -> None:
        self.endpoints = endpoints
        self.acknowledged: set[str] = set()
        self.unknown: set[str] = set()
        self.refused: set[str] = set()
        self.versions: dict[str, int] = {}
        self.errors: list[Exception] = []
        self._deadline_s = deadline_s
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"writer-{number}")
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(self._deadline_s + 10)
            assert not thread.is_alive(), f"{thread.name} hangs past its deadline"
        if error is None and self.errors:
            raise self.errors[0]

    def wait_for(self, more: int) -> None:
        """Wait until that many more publishes were acknowledged from now on."""
        goal = len(self.acknowledged) + more
        wait_until(
            f"{more} more acknowledged publishes",
            lambda: len(self.acknowledged) >= goal or bool(self.errors),
        )

    def _run(self, number: int) -> None:
        endpoints = self.endpoints[number % len(self.endpoints) :] + self.endpoints
        try:
            with TrackerClient(endpoints) as client:
                for step in itertools.count():
                    if self._stop.is_set():
                        return
                    self._publish(client, f"chaos/{number}/{step}")
                    self._replace(client, f"versions/{number}", step)
        except Exception as error:  # noqa: BLE001 handed to the main thread
            self.errors.append(error)

    def _publish(self, client: TrackerClient, name: str) -> None:
        try:
            client.publish(name, deadline_s=self._deadline_s, **self._binding(name))
            self.acknowledged.add(name)
        except OutcomeUnknown:
            self.unknown.add(name)
        except Unavailable:
            self.refused.add(name)

    def _replace(self, client: TrackerClient, name: str, step: int) -> None:
        """Each replacement makes exactly one version: a second run of it would show as a gap."""
        binding = self._binding(f"{name} at step {step}")
        try:
            published = client.publish(name, replace=True, deadline_s=self._deadline_s, **binding)
        except (OutcomeUnknown, Unavailable):
            self.versions.pop(name, None)  # how many versions there are is not known any more
            return
        before = self.versions.get(name)
        version = published.file.version
        assert before is None or version == before + 1, f"{name}: {before} then {version}"
        self.versions[name] = version

    @staticmethod
    def _binding(text: str) -> dict[str, Any]:
        return {
            "content": content_of(text),
            "size": len(text),
            "manifest_bytes": 100,
            "piece_bytes": PIECE_BYTES,
        }


def check_nothing_lost(
    cluster: Cluster, writers: Writers, among: Collection[str] | None = None
) -> None:
    """What was acknowledged is there, what was refused is not, the replicas are equal.

    ``among``: the nodes that are still of the cluster; None: all.
    """
    with TrackerClient(cluster.endpoints) as client:
        present = {record.name: record for record in client.files("chaos/")}
        lost = writers.acknowledged - present.keys()
        assert not lost, f"{len(lost)} of {len(writers.acknowledged)} lost: {sorted(lost)[:5]}"
        risen = writers.refused & present.keys()
        assert not risen, f"refused and there all the same: {sorted(risen)[:5]}"
        surplus = present.keys() - writers.acknowledged - writers.unknown
        assert not surplus, f"nobody published: {sorted(surplus)[:5]}"
        for name, record in present.items():
            assert record.content == content_of(name), f"{name} is bound to other content"
        for name, version in writers.versions.items():
            assert client.lookup(name).version == version, name
        with_conflict = min(writers.acknowledged)
        try:
            client.publish(with_conflict, **Writers._binding("something else"))
        except Conflict:
            pass
        else:
            raise AssertionError(f"{with_conflict} was rebound without replace")
        try:
            client.lookup("chaos/never published")
        except NotFound:
            pass
        else:
            raise AssertionError("a name nobody published was found")
    check_replicas_equal(cluster, among)


def check_replicas_equal(cluster: Cluster, among: Collection[str] | None = None) -> None:
    """All replicas, or those of the nodes ``among``, reach the same index and state hash."""

    def settled() -> bool:
        nodes = cluster.status()["nodes"]
        nodes = [node for node in nodes if among is None or node["id"] in among]
        return len({(node["applied"], node["state_hash"]) for node in nodes}) == 1

    wait_until(f"equal replicas: {cluster.status()['nodes']}", settled, 15.0)
