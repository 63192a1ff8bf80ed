"""Three etcd nodes: the rival of a replicated tracker, at its defaults or with shorter times.

Driven through the JSON gateway that every etcd serves, so that nothing but its binary is needed.
A request that met no leader is not answered once there is one (seen with 3.4: with 0.1 s between
two tries every outage was a multiple of 0.1 s); hence the short pauses of
:class:`~bench.fleets.RotatingWriter`.
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.fleets import Place, ProcessFleet, RotatingWriter
from bench.namespaces import Network

STATUS_S = 1.0
TUNED = ("--heartbeat-interval", "5", "--election-timeout", "50")
"""Milliseconds: a twentieth of the defaults, ten heartbeats to a time-out as there."""


def version() -> str | None:
    """What the installed etcd calls itself, or None when there is none."""
    binary = shutil.which("etcd")
    if binary is None:
        return None
    run = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30)
    return run.stdout.partition("\n")[0].strip() or None


def ask(place: Place, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """One call of the gateway on a connection of its own. OSError when it did not answer well."""
    with closing(http.client.HTTPConnection(*place, timeout=timeout_s)) as connection:
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


class EtcdFleet(ProcessFleet):
    """Three nodes; ``options`` are added to each one's command line."""

    def __init__(
        self, folder: Path, network: Network | None = None, options: tuple[str, ...] = ()
    ) -> None:
        super().__init__(folder, network)
        self._options = options
        self._node_of: dict[str, str] = {}

    def command(self, node: str, again: bool) -> list[str]:
        def url(place: Place) -> str:
            return f"http://{place[0]}:{place[1]}"

        client, peer = url(self.client_place[node]), url(self.peer_place[node])
        everyone = ",".join(f"{name}={url(place)}" for name, place in self.peer_place.items())
        command = ["etcd", "--name", node, "--data-dir", str(self.folder / node)]
        command += ["--listen-client-urls", client, "--advertise-client-urls", client]
        command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        command += ["--initial-cluster", everyone]
        command += ["--initial-cluster-state", "existing" if again else "new"]
        return [*command, "--logger", "zap", "--log-level", "info", *self._options]

    def ask_status(self, node: str) -> tuple[int, str | None, object]:
        status = ask(self.client_place[node], "/v3/maintenance/status", {}, STATUS_S)
        self._node_of[status["header"]["member_id"]] = node
        leader = self._node_of.get(status.get("leader", "0"))
        return int(status.get("raftTerm", 0)), leader, status.get("raftIndex")

    def writer(self, attached_to: str) -> EtcdWriter:
        return EtcdWriter(self.places(attached_to))


class EtcdWriter(RotatingWriter):
    """Puts over HTTP."""

    _connection: http.client.HTTPConnection

    def connect(self, place: Place, timeout_s: float) -> None:
        self._connection = http.client.HTTPConnection(*place, timeout=timeout_s)

    def put(self, key: str, value: bytes) -> None:
        body = {
            "key": base64.b64encode(key.encode()).decode(),
            "value": base64.b64encode(value).decode(),
        }
        _call(self._connection, "/v3/kv/put", body)

    def patient(self) -> None:
        if self._connection.sock is not None:  # None when etcd closed it after answering
            self._connection.sock.settimeout(self.attempt_s)

    def close(self) -> None:
        self._connection.close()
