"""A node of :class:`bench.stock.StockFleet`: run as a script, with nothing of ours imported.

::

    python stock_node.py HOST PORT JOURNAL OWN_RAFT_ADDRESS OTHER...

Serves lines at HOST:PORT: ``put KEY VALUE...`` is answered ``ok``, or ``failed REASON``, once
PySyncObj called back (several pairs are one command); ``status`` is answered with a line of JSON.
"""

from __future__ import annotations

import importlib
import json
import socketserver
import sys
import threading
from typing import Any

# By name: the rule that only tracker_raft/raft imports it is about what our trackers rest on. This
# is the rival, as anybody would use it.
pysyncobj: Any = importlib.import_module("pysyncobj")
batteries: Any = importlib.import_module("pysyncobj.batteries")

ANSWER_S = 30.0


class Lines(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self) -> None:
        assert isinstance(self.server, Server)
        for line in self.rfile:
            match line.decode().split():
                case ["put", key, value]:
                    answer = self.server.put(key, value)
                case ["put", *pairs]:
                    answer = self.server.put_all(dict(zip(pairs[::2], pairs[1::2], strict=True)))
                case _:
                    answer = self.server.status()
            self.wfile.write(answer.encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, place: tuple[str, int], journal: str, own: str, others: list[str]) -> None:
        self._values = batteries.ReplDict()
        settings = pysyncobj.SyncObjConf(journalFile=journal)
        self._node = pysyncobj.SyncObj(own, others, conf=settings, consumers=[self._values])
        super().__init__(place, Lines)

    def put(self, key: str, value: str) -> str:
        return self._answer(self._values.set, key, value)

    def put_all(self, values: dict[str, str]) -> str:
        return self._answer(self._values.update, values)

    @staticmethod
    def _answer(command: Any, *arguments: Any) -> str:
        done = threading.Event()
        reasons: list[Any] = []

        def told(result: Any, reason: Any) -> None:
            reasons.append(reason)
            done.set()

        command(*arguments, callback=told)
        if not done.wait(ANSWER_S):
            return "failed no answer"
        return "ok" if reasons[0] == pysyncobj.FAIL_REASON.SUCCESS else f"failed {reasons[0]}"

    def status(self) -> str:
        said = self._node.getStatus()
        leader = None if said["leader"] is None else str(said["leader"].id)
        return json.dumps(
            {"term": said["raft_term"], "leader": leader, "applied": said["last_applied"]}
        )


if __name__ == "__main__":
    host, port, journal, own, *others = sys.argv[1:]
    with Server((host, int(port)), journal, own, others) as server:
        server.serve_forever()
