"""The child processes of ``tls``: ``python -m bench.tls_ends ROLE ...``; one JSON line each.

* ``serve PATH CERTIFICATE KEY``: says ``{"port": n}``. A connection says first how it is to be
  served (:class:`Way`, u32 length and JSON, in the clear), then asks for ranges of the file with
  two u64 each, offset and length. Serves until its standard input ends.
* ``receive PORT SIZE OUT CERTIFICATE WAY``: fetches the file as ``WAY`` says, a thread for each
  connection; says ``{"seconds", "cpu_s", "cipher"}``, from before the first connection until the
  file stands under its final name.

The shape is that of a verified download with nothing else around it: each thread receives, hashes
and writes its pieces in place, in a buffer that it keeps.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import mmap
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from bench.ends import HOST, PIECE_BYTES, RANGE, at_once, cpu_s, say
from bench.harness import set_congestion

LENGTH = struct.Struct(">I")
MEMORY_BYTES = 256 * 1024
"""Taken from the socket at once where TLS runs in memory."""
OP_ENABLE_KTLS = 8
"""``ssl.OP_ENABLE_KTLS`` of Python 3.12."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a file goes from one end to the other."""

    connections: int = 2
    tls: bool = False
    cipher: str = ""
    """A cipher suite of TLS 1.3 that must be the one in use; empty: what the two ends agree on."""
    source: str = "pread"
    """Where what is encrypted comes from: ``pread`` into a buffer that is kept, or ``mmap``."""
    send_bytes: int = PIECE_BYTES
    """Handed to TLS at once."""
    engine: str = "socket"
    """``socket``: TLS reads and writes the socket, a record at a time. ``memory``: it works on
    buffers in memory, and the socket is read and written in large steps."""
    hash: str = "sha256"
    """``sha256``, ``blake3``, or ``none``."""
    written: bool = True
    """False: what arrives is thrown away."""
    ktls: bool = False
    """Ask the kernel to do the encryption."""


class Channel(Protocol):
    """What both ends need of a connection, encrypted or not."""

    def recv_into(self, buffer: memoryview) -> int: ...
    def sendall(self, data: memoryview) -> None: ...


class Memory:
    """TLS on buffers in memory: fewer and larger system calls, one copy more."""

    def __init__(self, context: ssl.SSLContext, connection: socket.socket, server: bool) -> None:
        self._socket = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._buffer = memoryview(bytearray(MEMORY_BYTES))
        name = None if server else HOST
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server, name)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
        self._flush()

    def recv_into(self, buffer: memoryview) -> int:
        while True:
            try:
                # It returns a count when it is given a buffer, whatever its declared type.
                return int(self.tls.read(len(buffer), buffer))
            except ssl.SSLWantReadError:
                self._fill()
            except ssl.SSLEOFError:
                return 0  # the socket was closed without a farewell, as the other engine does

    def sendall(self, data: memoryview) -> None:
        self.tls.write(data)
        self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())

    def _fill(self) -> None:
        size = self._socket.recv_into(self._buffer)
        if size:
            self._incoming.write(self._buffer[:size])
        else:
            self._incoming.write_eof()


def fill(channel: Channel, view: memoryview) -> bool:
    """Receive exactly ``view``. False when the connection ended before its first byte."""
    filled = 0
    while filled < len(view):
        size = channel.recv_into(view[filled:])
        if size == 0:
            if filled:
                raise ConnectionError("the sender broke off")
            return False
        filled += size
    return True


def wrapped(context: ssl.SSLContext, connection: socket.socket, way: Way, server: bool) -> Channel:
    if way.engine == "memory":
        return Memory(context, connection, server)
    name = None if server else HOST
    return context.wrap_socket(connection, server_side=server, server_hostname=name)


# -- the sending end ------------------------------------------------------------------------------


def serve(path: str, certificate: str, key: str) -> None:
    with socket.create_server((HOST, 0)) as listener:
        say(port=listener.getsockname()[1])
        accept = threading.Thread(
            target=_accept, args=(listener, path, certificate, key), daemon=True
        )
        accept.start()
        sys.stdin.read()


def _accept(listener: socket.socket, path: str, certificate: str, key: str) -> None:
    while True:
        connection, _ = listener.accept()
        arguments = (connection, path, certificate, key)
        threading.Thread(target=_send_ranges, args=arguments, daemon=True).start()


def _send_ranges(connection: socket.socket, path: str, certificate: str, key: str) -> None:
    set_congestion(connection)
    size = LENGTH.unpack(connection.recv(LENGTH.size, socket.MSG_WAITALL))[0]
    way = Way(**json.loads(connection.recv(size, socket.MSG_WAITALL)))
    channel: Channel = connection
    if way.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # nobody comes back to this session
        context.load_cert_chain(certificate, key)
        if way.ktls:
            context.options |= OP_ENABLE_KTLS
        channel = wrapped(context, connection, way, server=True)
    asked = memoryview(bytearray(RANGE.size))
    with connection, Path(path).open("rb") as file:
        send = _sender(channel, file.fileno(), way)
        while fill(channel, asked):
            send(*RANGE.unpack(asked))


def _sender(channel: Channel, fd: int, way: Way) -> Callable[[int, int], None]:
    """Sends ``length`` bytes from ``offset``."""

    def by_sendfile(offset: int, length: int) -> None:
        assert isinstance(channel, socket.socket)
        while length:
            sent = os.sendfile(channel.fileno(), fd, offset, length)
            offset, length = offset + sent, length - sent

    def by_pread(offset: int, length: int) -> None:
        while length:
            size = os.preadv(fd, [buffer[: min(length, way.send_bytes)]], offset)
            channel.sendall(buffer[:size])
            offset, length = offset + size, length - size

    def by_mmap(offset: int, length: int) -> None:
        for start in range(offset, offset + length, way.send_bytes):
            channel.sendall(mapped[start : min(start + way.send_bytes, offset + length)])

    if not way.tls:
        return by_sendfile
    if way.source == "mmap":
        mapped = memoryview(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
        return by_mmap
    buffer = memoryview(bytearray(way.send_bytes))
    return by_pread


# -- the receiving end ----------------------------------------------------------------------------


def hasher(name: str) -> Callable[[memoryview], object]:
    """Raises ImportError where ``blake3`` is not installed."""
    if name == "blake3":
        blake3 = importlib.import_module("blake3").blake3  # no dependency of ours
        return lambda piece: blake3(piece).digest()
    if name == "none":
        return lambda piece: None
    return lambda piece: hashlib.sha256(piece).digest()


def receive(port: int, size: int, out: Path, certificate: str, way: Way) -> None:
    context = ssl.create_default_context(cafile=certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if way.ktls:
        context.options |= OP_ENABLE_KTLS
    digest = hasher(way.hash)
    part = out.with_suffix(".part")
    failures: list[BaseException] = []
    ciphers: set[str] = set()
    cpu, begun = cpu_s(), time.monotonic()
    with part.open("wb", buffering=0) as file:
        if way.written:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))

        def fetch(offset: int, end: int) -> None:
            try:
                with socket.create_connection((HOST, port)) as connection:
                    channel = _open(connection, context, way, ciphers)
                    _fetch_range(channel, offset, end, digest, file.fileno() if way.written else -1)
            except OSError as error:
                failures.append(error)

        pieces = -(-size // PIECE_BYTES)
        shares = [pieces * n // way.connections * PIECE_BYTES for n in range(way.connections)]
        at_once(fetch, zip(shares, [*shares[1:], size], strict=True))
    if failures:
        raise failures[0]
    part.replace(out)
    cipher = ", ".join(sorted(ciphers))
    say(seconds=time.monotonic() - begun, cpu_s=cpu_s() - cpu, cipher=cipher)


def _open(
    connection: socket.socket, context: ssl.SSLContext, way: Way, ciphers: set[str]
) -> Channel:
    set_congestion(connection)
    said = json.dumps(asdict(way)).encode()
    connection.sendall(LENGTH.pack(len(said)) + said)
    if not way.tls:
        return connection
    channel = wrapped(context, connection, way, server=False)
    tls = channel.tls if isinstance(channel, Memory) else channel
    assert isinstance(tls, ssl.SSLSocket | ssl.SSLObject)
    found = tls.cipher()
    ciphers.add(f"{tls.version()} {found[0] if found else 'none'}")
    return channel


def _fetch_range(
    channel: Channel, offset: int, end: int, digest: Callable[[memoryview], object], fd: int
) -> None:
    """``fd``: -1 writes nothing."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    channel.sendall(memoryview(RANGE.pack(offset, end - offset)))
    while offset < end:
        piece = buffer[: min(PIECE_BYTES, end - offset)]
        if not fill(channel, piece):
            raise ConnectionError("the sender broke off")
        digest(piece)
        if fd >= 0:
            os.pwrite(fd, piece, offset)
        offset += len(piece)


def main(role: str, *rest: str) -> None:
    match role, *rest:
        case "serve", path, certificate, key:
            serve(path, certificate, key)
        case "receive", port, size, out, certificate, way:
            receive(int(port), int(size), Path(out), certificate, Way(**json.loads(way)))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
