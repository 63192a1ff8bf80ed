"""One blocking TCP connection between peers: tuned, with exact reads and a progress deadline.

The sockets stay in blocking mode: ``MSG_WAITALL`` then fills a whole piece in one call, which a
Python time-out (it makes the socket non-blocking) would undo. Time limits are the kernel's,
``SO_RCVTIMEO`` and ``SO_SNDTIMEO``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from tracker_raft import wire
from tracker_raft.config import Address, is_loopback
from tracker_raft.errors import Unavailable

TCP_CONGESTION = 13
"""``socket.TCP_CONGESTION`` where Python has it; the number is Linux's."""
_TIMEVAL = struct.Struct("@ll")


class Lost(Unavailable):
    """A peer closed, broke or stalled; ``str()`` says which."""

    code = "lost"


def tune(endpoint: socket.socket, host: str) -> None:
    """No delay for small frames, and a congestion control that does not pace loopback.

    Call it before ``listen`` or ``connect``; what is accepted inherits it. ``host`` is the
    address of the socket's own or other end. Where bbr is the default it paces loopback to a
    fraction of what cubic reaches, and a connection that began under bbr goes on being paced
    whatever is chosen later. reno is what an unprivileged process may always choose. Links to
    other machines keep the default: there pacing is what bbr is good at.
    """
    endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not is_loopback(host):
        return
    for name in (b"cubic", b"reno"):
        try:
            endpoint.setsockopt(socket.IPPROTO_TCP, TCP_CONGESTION, name)
        except OSError:
            continue  # not built in, or not allowed here
        return


def set_timeouts(connection: socket.socket, receive_s: float, send_s: float) -> None:
    """Kernel time limits of one ``recv`` and one ``send``; the call then fails with EAGAIN."""
    for option, seconds in ((socket.SO_RCVTIMEO, receive_s), (socket.SO_SNDTIMEO, send_s)):
        whole = int(seconds)
        packed = _TIMEVAL.pack(whole, int((seconds - whole) * 1_000_000))
        connection.setsockopt(socket.SOL_SOCKET, option, packed)


def close(connection: socket.socket) -> None:
    """Close, waking a thread that is blocked on it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class Link:
    """The asking side of a connection. All reads are exact; one thread uses it.

    Every method raises :class:`Lost` when the peer closes, breaks, or sends less than
    ``progress_bytes_min`` in ``progress_timeout_s`` while it is waited for.
    """

    def __init__(
        self, connection: socket.socket, *, progress_timeout_s: float, progress_bytes_min: int
    ) -> None:
        self._socket = connection
        self._timeout_s = progress_timeout_s
        self._bytes_min = progress_bytes_min
        self._header = memoryview(bytearray(wire.HEADER_BYTES))

    @classmethod
    def connect(
        cls,
        address: Address,
        *,
        connect_timeout_s: float,
        progress_timeout_s: float,
        progress_bytes_min: int,
    ) -> Link:
        connection = _connect(address, connect_timeout_s)
        set_timeouts(connection, progress_timeout_s, progress_timeout_s)
        return cls(
            connection,
            progress_timeout_s=progress_timeout_s,
            progress_bytes_min=progress_bytes_min,
        )

    def send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except BlockingIOError:
            raise Lost(f"took no request for {self._timeout_s:g} s") from None
        except OSError as error:
            raise Lost(f"connection broke: {error.strerror or error}") from error

    def receive_frame(self, frame_bytes_max: int) -> wire.Message:
        """The next frame. Raises also what :mod:`tracker_raft.wire` does for a malformed one."""
        self.receive_into(self._header)
        body = memoryview(bytearray(wire.frame_length(self._header, frame_bytes_max)))
        self.receive_into(body)
        return wire.decode_body(body)

    def receive_into(self, view: memoryview) -> None:
        """Fill ``view``."""
        filled, size = 0, len(view)
        while filled < size:
            started_s = time.monotonic()
            try:
                got = self._socket.recv_into(view[filled:], 0, socket.MSG_WAITALL)
            except BlockingIOError:
                raise Lost(f"sent nothing for {self._timeout_s:g} s") from None
            except OSError as error:
                raise Lost(f"connection broke: {error.strerror or error}") from error
            if got == 0:
                raise Lost("closed the connection")
            filled += got
            # A short read is the time limit, or a signal; only the first is a stall.
            if filled < size and got < self._bytes_min:
                waited_s = time.monotonic() - started_s
                if waited_s >= self._timeout_s * 0.9:
                    raise Lost(f"sent {got} bytes in {waited_s:.1f} s")

    def fileno(self) -> int:
        """To poll for something to receive."""
        return self._socket.fileno()

    def abort(self) -> None:
        """Make every call fail, now and later; from any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        close(self._socket)


def _connect(address: Address, timeout_s: float) -> socket.socket:
    """A tuned, connected, blocking socket. Tries every address that a name has."""
    trouble: OSError | None = None
    try:
        places = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # the second: no name could look like this
        raise Lost(f"cannot connect to {address}: {error}") from error
    for family, kind, protocol, _, place in places:
        connection = None
        try:
            connection = socket.socket(family, kind, protocol)
            tune(connection, str(place[0]))
            connection.settimeout(timeout_s)
            connection.connect(place)
            connection.settimeout(None)
            return connection
        except OSError as error:
            if connection is not None:
                connection.close()
            trouble = error
    text = (trouble.strerror or str(trouble)) if trouble else "the name has no address"
    raise Lost(f"cannot connect to {address}: {text}") from trouble
