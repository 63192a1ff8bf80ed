"""A small real tracker for the client's tests: sockets and frames are real, the cluster is not.

A :class:`FakeCluster` is what consensus would give its trackers: one table of files, request
sessions with a reply table, and a count of what was run. A :class:`FakeTracker` listens on a free
port of loopback and answers from it, unless a behaviour was scripted: :meth:`FakeTracker.script`
queues behaviours for the next requests, ``always`` holds for all.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tracker_raft import commands, wire
from tracker_raft.config import Address
from tracker_raft.errors import NotFound, OutcomeUnknown, P2PError, SessionExpired

FRAME_BYTES_MAX = 1024 * 1024
WRITE_WORDS = {cls.op for cls in commands.WRITES}


class FakeCluster:
    """Files, sessions, replies: shared by its trackers, each operation run under one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: dict[str, dict[str, Any]] = {}
        self.index = 0
        self.runs: list[str] = []
        """The word of each write that was run, in order; a retry answered from the table is not."""
        self.sessions: dict[int, dict[int, wire.Message]] = {}
        self.lows: dict[int, int] = {}
        self.sessions_opened = 0

    def serve(self, request: wire.Message) -> wire.Message:
        """The reply of one request, run at most once per (session, seq)."""
        with self.lock:
            try:
                word = request["op"]
                if word in WRITE_WORDS and word != "open_session":
                    return self._once(request)
                return self._answer(word, self._run(request))
            except P2PError as error:
                return error.to_wire()

    def _once(self, request: wire.Message) -> wire.Message:
        session, seq, low = request["session"], request["seq"], request["low"]
        if session not in self.sessions:
            raise SessionExpired(f"session {session} is not known")
        if seq < self.lows[session]:
            raise OutcomeUnknown(f"seq {seq} is below {self.lows[session]}")
        replies = self.sessions[session]
        self.lows[session] = max(self.lows[session], low)
        for old in [number for number in replies if number < low]:
            del replies[old]
        if seq not in replies:
            try:
                reply = self._answer(request["op"], self._run(request))
            except P2PError as error:
                reply = error.to_wire()
            replies[seq] = reply
        return replies[seq]

    def _answer(self, word: str, body: dict[str, Any]) -> wire.Message:
        if word in WRITE_WORDS:
            self.index += 1
            self.runs.append(word)
        return {"ok": body, "at": [self.index, 0]}

    def _run(self, request: wire.Message) -> dict[str, Any]:
        match commands.parse(request):
            case commands.OpenSession():
                self.sessions_opened += 1
                self.sessions[self.sessions_opened] = {}
                self.lows[self.sessions_opened] = 1
                return {"session": self.sessions_opened, "ttl_ms": 60_000}
            case commands.CloseSession(target):
                self.sessions.pop(target, None)
                return {}
            case commands.Publish(name, content, size, manifest_bytes, piece_bytes):
                created = name not in self.files
                self.files[name] = commands.FileRecord(
                    name, 1, content, size, manifest_bytes, piece_bytes
                ).to_wire()
                return {"file": self.files[name], "created": created}
            case commands.Remove(name):
                if name not in self.files:
                    raise NotFound(f"no file {name!r}")
                return {"removed": [self.files.pop(name)]}
            case commands.Lookup(name, content):
                found = [
                    file
                    for file in self.files.values()
                    if file["name"] == name or file["content"] == content
                ]
                if not found:
                    raise NotFound(f"no file {name or content.hex()!r}")
                return {"files": found}
            case commands.List(prefix, after, limit):
                names = sorted(n for n in self.files if n.startswith(prefix) and n > after)
                return {
                    "files": [self.files[name] for name in names[:limit]],
                    "more": len(names) > limit,
                }
            case commands.Join(lease_ms=lease_ms):
                return {"lease_ms": lease_ms}
            case commands.Leave():
                return {"left": 1}
            case commands.Renew(peer):
                raise NotFound(f"no lease of {peer!r}")
            case commands.Peers():
                return {
                    "peers": [commands.PeerRecord("p1", "127.0.0.1:9", True).to_wire()],
                    "total": 1,
                }
            case _:
                return {}


class Line:
    """One accepted connection, as a behaviour sees it."""

    def __init__(self, tracker: FakeTracker, sock: socket.socket) -> None:
        self.tracker = tracker
        self.sock = sock
        self.mute = False
        """Not even pings are answered any more."""
        self.pings = 0
        self.held: tuple[wire.Message, int] | None = None
        """A request, to be answered once so many pings have come."""

    def ping(self, request: wire.Message) -> None:
        """A ping came; none is a request of the test's story."""
        self.pings += 1
        if self.mute:
            return
        self.answer(request, {"ok": {}})
        if self.held is not None and self.pings >= self.held[1]:
            held, self.held = self.held[0], None
            serve(self, held)

    def send(self, message: wire.Message) -> None:
        self.sock.sendall(wire.encode(message, FRAME_BYTES_MAX))

    def answer(self, request: wire.Message, reply: wire.Message) -> None:
        self.send({"id": request["id"], **reply})

    def hang_up(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)


Behaviour = Callable[[Line, wire.Message], None]


def serve(line: Line, request: wire.Message) -> None:
    line.answer(request, line.tracker.cluster.serve(request))


def silent(line: Line, request: wire.Message) -> None:
    """Take the request, say nothing any more, run nothing."""
    line.mute = True


def run_and_stay_silent(line: Line, request: wire.Message) -> None:
    line.mute = True
    line.tracker.cluster.serve(request)


def take_time(pings: int) -> Behaviour:
    """Serve the request only once the client asked so often whether anybody is there."""

    def behaviour(line: Line, request: wire.Message) -> None:
        line.held = request, pings

    return behaviour


def run_and_hang_up(line: Line, request: wire.Message) -> None:
    line.tracker.cluster.serve(request)
    line.hang_up()


def hang_up(line: Line, request: wire.Message) -> None:
    line.hang_up()


def run_and_die_in_mid_reply(line: Line, request: wire.Message) -> None:
    reply = {"id": request["id"], **line.tracker.cluster.serve(request)}
    line.sock.sendall(wire.encode(reply, FRAME_BYTES_MAX)[:-3])
    line.hang_up()


def talk_http(line: Line, request: wire.Message) -> None:
    line.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    line.hang_up()


def fail(code: str, retry_after_ms: int | None = None, message: str = "as scripted") -> Behaviour:
    """Answer with an error word."""
    reply: wire.Message = {"error": code, "message": message}
    if retry_after_ms is not None:
        reply["retry_after_ms"] = retry_after_ms
    return lambda line, request: line.answer(request, reply)


def refuse_hello(code: str) -> Behaviour:
    """Refuse the whole connection in place of the hello's answer, and close it."""

    def behaviour(line: Line, request: wire.Message) -> None:
        line.send({"id": 0, "error": code, "message": "as scripted"})
        line.hang_up()

    return behaviour


class FakeTracker:
    """A listening tracker. ``requests`` has all in order of arrival, but for hellos and pings."""

    def __init__(
        self,
        cluster: FakeCluster | None = None,
        *,
        always: Behaviour = serve,
        hello: Behaviour | None = None,
        told: list[str] | None = None,
        port: int = 0,
    ) -> None:
        self.cluster = cluster or FakeCluster()
        self.always = always
        self.hello = hello
        self.told = told if told is not None else []
        self.requests: list[wire.Message] = []
        self.connections = 0
        self.problems: list[BaseException] = []
        self._script: deque[Behaviour] = deque()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = Address("127.0.0.1", self._listener.getsockname()[1])
        self._start(self._accept)

    def script(self, *behaviours: Behaviour) -> Self:
        """For the next requests, one each, in order."""
        with self._lock:
            self._script.extend(behaviours)
        return self

    def words(self) -> list[str]:
        with self._lock:
            return [request["op"] for request in self.requests]

    def hang_up_all(self) -> None:
        """Close every connection, as a restart does, and go on listening."""
        with self._lock:
            lines = list(self._open)
        for sock in lines:
            _shutdown(sock)

    def close(self) -> None:
        """Die: the listener and every connection are closed, all threads have ended."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        _shutdown(self._listener)
        self._listener.close()
        self.hang_up_all()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), "a thread of the fake tracker did not end"
        assert not self.problems, self.problems

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="fake-tracker")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                closed = self._closed
                if not closed:
                    self._open.add(sock)
            if closed:
                sock.close()
                return
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        line, decoder = Line(self, sock), wire.FrameDecoder(FRAME_BYTES_MAX)
        try:
            while data := sock.recv(65536):
                for request in decoder.feed(data):
                    self._handle(line, request)
        except OSError:
            pass  # hung up by the client, by a behaviour or by close()
        except Exception as error:  # noqa: BLE001 - reported by close(), in the test's thread
            self.problems.append(error)
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _handle(self, line: Line, request: wire.Message) -> None:
        if request["op"] == "hello":
            assert request == {"id": 0, "op": "hello", "protocol": 1, "features": ()}
            if self.hello is not None:
                self.hello(line, request)
                return
            line.send(
                {
                    "id": 0,
                    "ok": {
                        "protocol": 1,
                        "features": [],
                        "node": "n1",
                        "cluster": "p2p",
                        "trackers": self.told,
                    },
                }
            )
            return
        if request["op"] == "ping":
            line.ping(request)
            return
        with self._lock:
            self.requests.append(request)
            behaviour = self._script.popleft() if self._script else self.always
        behaviour(line, request)


def _shutdown(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def dead_address() -> Address:
    """An address of loopback where nobody listens: it was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return Address("127.0.0.1", listener.getsockname()[1])
