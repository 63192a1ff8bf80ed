"""The rivals' clients, as :mod:`bench.clients` drives them: etcd's and stock PySyncObj's.

etcd is spoken to as its own clients do, by gRPC over HTTP/2; its JSON gateway, which stands
between, would cost more than etcd itself. A library for that would cost several times what etcd
does, so the few frames that are needed are made by hand here.

Every put is of a key never used before; its value is random, and as long as what our log holds for
one publish.
"""

from __future__ import annotations

import random
import struct

from bench.clients import Client, Tally

VALUE_BYTES = 105
"""What :func:`bench.clients_ours.logged_bytes` says, less ten bytes of sizes."""


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _literal(index: int, value: bytes) -> bytes:
    """A header field whose name is in HPACK's static table, to be remembered (RFC 7541, 6.2.1)."""
    return bytes((0x40 | index, len(value))) + value


class EtcdPuts(Client):
    """Puts by gRPC: ``etcdserverpb.KV/Put``, or ``/Txn`` when a request holds several.

    HTTP/2 (RFC 9113), as far as one call after the other needs it. The headers are spelled out
    once and then referred to by their numbers, as any client does. An answer with a message was a
    success: a call that failed ends without one.
    """

    DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
    FRAME_BYTES_MAX = 16_384
    WINDOW_MAX = 2**31 - 1

    def __init__(self, tally: Tally, operations: int) -> None:
        super().__init__(tally, operations)
        self._run = f"{random.getrandbits(32):08x}".encode()
        self._number = 0
        self._stream = -1
        self._answered = False
        self._window = 65_535
        self._waiting: list[bytes] = []
        path = b"/etcdserverpb.KV/Put" if operations == 1 else b"/etcdserverpb.KV/Txn"
        self._headers = b"".join(
            (
                b"\x83\x86",  # :method POST, :scheme http
                _literal(4, path),
                _literal(1, b"etcd"),
                _literal(31, b"application/grpc"),
                b"\x40\x02te\x08trailers",
            )
        )

    def greeting(self) -> bytes:
        wide = struct.pack(">I", self.WINDOW_MAX - 65_535)  # all that is ever sent to us fits
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        return (
            preface
            + self._frame(self.SETTINGS, 0, 0, b"")
            + self._frame(self.WINDOW_UPDATE, 0, 0, wide)
        )

    @staticmethod
    def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        head = struct.pack(">BHBBI", 0, len(payload), kind, flags, stream)
        return head + payload

    def request(self) -> bytes:
        self._stream += 2
        self._answered = False
        message = self._message()
        body = b"\0" + struct.pack(">I", len(message)) + message
        headers, self._headers = self._headers, b"\x83\x86\xc1\xc0\xbf\xbe"
        out = [self._frame(self.HEADERS, 4, self._stream, headers)]
        for start in range(0, len(body), self.FRAME_BYTES_MAX):
            part = body[start : start + self.FRAME_BYTES_MAX]
            last = start + self.FRAME_BYTES_MAX >= len(body)
            self._waiting.append(self._frame(self.DATA, int(last), self._stream, part))
        return b"".join((*out, *self._allowed()))

    def _allowed(self) -> list[bytes]:
        """The frames that the server has room for."""
        count = 0
        for frame in self._waiting:
            if len(frame) - 9 > self._window:
                break
            self._window -= len(frame) - 9
            count += 1
        out, self._waiting = self._waiting[:count], self._waiting[count:]
        return out

    def _message(self) -> bytes:
        if self.operations == 1:
            return self._put()
        return b"".join(_field(2, _field(2, self._put())) for _ in range(self.operations))

    def _put(self) -> bytes:
        self._number += 1
        key = b"%s%08x" % (self._run, self._number)
        value = random.randbytes(VALUE_BYTES)
        return b"".join((b"\x0a", bytes((len(key),)), key, b"\x12", bytes((len(value),)), value))

    def answers(self, data: bytes) -> int:
        start, end, settled = 0, len(data), 0
        while end - start >= 9:
            stop = start + 9 + (data[start] << 16 | data[start + 1] << 8 | data[start + 2])
            if stop > end:
                break
            kind, flags = data[start + 3], data[start + 4]
            if kind == self.DATA:
                self._answered = True
            elif kind == self.HEADERS:
                if flags & 1:
                    settled = 1
                    if not self._answered:
                        self.fail()
            else:
                self._control(kind, flags, data[start + 5 : start + 9], data[start + 9 : stop])
            start = stop
        self._rest = data[start:]
        return settled

    def _control(self, kind: int, flags: int, stream: bytes, payload: bytes) -> None:
        assert self.transport is not None
        if kind == self.SETTINGS and not flags:
            self.transport.write(self._frame(self.SETTINGS, 1, 0, b""))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == self.PING and not flags:
            self.transport.write(self._frame(self.PING, 1, 0, payload))
        elif kind == self.WINDOW_UPDATE and stream == b"\0\0\0\0":
            self._window += int.from_bytes(payload, "big")
            self.transport.write(b"".join(self._allowed()))
        elif kind in (self.RST_STREAM, self.GOAWAY):
            self.fail()


# -- stock PySyncObj ------------------------------------------------------------------------------


class StockPuts(Client):
    """Lines of :mod:`bench.stock_node`."""

    def __init__(self, tally: Tally, operations: int) -> None:
        super().__init__(tally, operations)
        self._run = f"{random.getrandbits(32):08x}"
        self._number = 0

    def greeting(self) -> bytes:
        self.ready.set_result(None)
        return b""

    def request(self) -> bytes:
        pairs = []
        for _ in range(self.operations):
            self._number += 1
            # Half as many bytes, in hexadecimal: the same entropy costs it no more room.
            value = random.randbytes(VALUE_BYTES // 2).hex()
            pairs.append(f"{self._run}{self._number:08x} {value}")
        return f"put {' '.join(pairs)}\n".encode()

    def answers(self, data: bytes) -> int:
        if not data.endswith(b"\n"):
            self._rest = data
            return 0
        self._rest = b""
        if data != b"ok\n":
            self.fail()
        return 1
