"""Three etcd nodes at their defaults on loopback: the rival of a replicated tracker.

Driven through the JSON gateway that every etcd serves, so that nothing but its binary is needed.
The client must not be what is measured: a dead endpoint is left at once, and after a failure a
request is asked anew every :data:`RETRY_S`, at one endpoint after the other, until one answers.
A request that met no leader is not answered once there is one (seen with 3.4: with 0.1 s here,
every outage was a multiple of 0.1 s). So etcd's figures are too long by :data:`RETRY_S` at most.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

ATTEMPT_S = 0.5
"""For an answer of an endpoint that has answered before."""
RETRY_S = 0.02
"""For an answer after a failure: some ten times what a write takes."""
READY_S = 30.0
HOST = "127.0.0.1"


def version() -> str | None:
    """What the installed etcd calls itself, or None when there is none."""
    binary = shutil.which("etcd")
    if binary is None:
        return None
    run = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30)
    return run.stdout.partition("\n")[0].strip() or None


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]


def ask(port: int, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """One call of the gateway on a connection of its own. OSError when it did not answer well."""
    with closing(http.client.HTTPConnection(HOST, port, timeout=timeout_s)) as connection:
        return _call(connection, path, body)


def _call(
    connection: http.client.HTTPConnection, path: str, body: dict[str, Any]
) -> dict[str, Any]:
    try:
        connection.request("POST", path, json.dumps(body))
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise OSError(f"etcd answered {answer.status}: {data[:200]!r}")
        reply: dict[str, Any] = json.loads(data)
    except http.client.HTTPException as error:
        raise OSError(f"etcd broke off: {error!r}") from error
    return reply


class EtcdFleet:
    """Context manager: three nodes ``e1`` to ``e3``, data below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = free_ports(6)
        self.nodes = ["e1", "e2", "e3"]
        self.client_port = dict(zip(self.nodes, ports[:3], strict=True))
        self._peer_port = dict(zip(self.nodes, ports[3:], strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                self._start(node, "new")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _start(self, node: str, state: str) -> None:
        client = f"http://{HOST}:{self.client_port[node]}"
        peer = f"http://{HOST}:{self._peer_port[node]}"
        everyone = ",".join(f"{n}=http://{HOST}:{p}" for n, p in self._peer_port.items())
        command = ["etcd", "--name", node, "--data-dir", str(self.folder / node)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", everyone, "--initial-cluster-state", state]
        command += ["--logger", "zap", "--log-level", "error"]
        with (self.folder / f"{node}.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def leader(self) -> str | None:
        """The node that says of itself that it leads, when all three agree on it."""
        said = set()
        by_member = {}
        for node, port in self.client_port.items():
            try:
                status = ask(port, "/v3/maintenance/status", {}, 1.0)
            except OSError:
                return None
            by_member[status["header"]["member_id"]] = node
            said.add(status.get("leader", "0"))
        return by_member.get(said.pop()) if len(said) == 1 else None

    def wait_ready(self) -> str:
        """The leader, once all nodes follow it. Raises TimeoutError after :data:`READY_S`."""
        limit = time.monotonic() + READY_S
        while time.monotonic() < limit:
            leader = self.leader()
            if leader is not None:
                return leader
            time.sleep(0.05)
        raise TimeoutError(f"etcd was not ready within {READY_S} s; see {self.folder}")

    def kill(self, node: str) -> None:
        """SIGKILL, without waiting: the caller's clock runs."""
        os.kill(self._processes[node].pid, signal.SIGKILL)

    def restart(self, node: str) -> None:
        self._processes[node].wait()
        self._start(node, "existing")

    def writer(self, attached_to: str) -> EtcdWriter:
        others = [node for node in self.nodes if node != attached_to]
        return EtcdWriter([self.client_port[node] for node in (attached_to, *others)])


class EtcdWriter:
    """A client with one kept connection, to the first port until that fails."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._at = 0
        self._connection = self._connect(ATTEMPT_S)

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(HOST, self._ports[self._at], timeout=timeout_s)

    def write(self, key: str, deadline_s: float) -> None:
        """Put until it is acknowledged. Raises TimeoutError after ``deadline_s``."""
        limit = time.monotonic() + deadline_s
        body = {
            "key": base64.b64encode(key.encode()).decode(),
            "value": base64.b64encode(os.urandom(150)).decode(),
        }
        while True:
            try:
                _call(self._connection, "/v3/kv/put", body)
                if self._connection.sock is not None:  # None when etcd closed it after answering
                    self._connection.sock.settimeout(ATTEMPT_S)
                return
            except OSError as error:
                if time.monotonic() > limit:
                    raise TimeoutError(f"etcd took no write for {deadline_s} s") from error
                self._connection.close()
                self._at = (self._at + 1) % len(self._ports)
                self._connection = self._connect(RETRY_S)
                if isinstance(error, ConnectionRefusedError):
                    time.sleep(0.001)

    def close(self) -> None:
        self._connection.close()
