"""One connection to one tracker, spoken to word by word: nothing is retried behind its back."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any, Self

from tracker_raft import commands, wire
from tracker_raft.config import MIB, PROTOCOL_VERSION, Address

WAIT_S = 20.0


class Raw:
    """Sends requests, now or many at once, and takes their replies by id."""

    def __init__(self, endpoint: str) -> None:
        address = Address.parse(endpoint)
        self.endpoint = endpoint
        self._socket = socket.create_connection((address.host, address.port), WAIT_S)
        self._decoder = wire.FrameDecoder(MIB)
        self._replies: dict[int, dict[str, Any]] = {}
        self._sent = 0
        self._write({"id": 0, "op": "hello", "protocol": PROTOCOL_VERSION})
        self.reply(0)

    def send(self, operation: commands.Operation, **envelope: Any) -> int:
        """Send one request and return its id; the reply waits for :meth:`reply`."""
        self._sent += 1
        self._write({"id": self._sent, **operation.to_wire(), **envelope})
        return self._sent

    def reply(self, number: int) -> dict[str, Any]:
        """The reply of that request. Raises TimeoutError or ConnectionError."""
        while number not in self._replies:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError(f"{self.endpoint} hung up")
            self._replies.update((reply["id"], reply) for reply in self._decoder.feed(data))
        return self._replies.pop(number)

    def ask(self, operation: commands.Operation, **envelope: Any) -> dict[str, Any]:
        return self.reply(self.send(operation, **envelope))

    def _write(self, message: dict[str, Any]) -> None:
        self._socket.sendall(wire.encode(message, MIB))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
