"""Loading a machine from a snapshot, bit by bit. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from tracker_raft.errors import Damaged
from tracker_raft.machine import snapshot_format

Machine = TypeVar("Machine")


class Restoring(Generic[Machine]):
    """A machine that is being loaded. After an error it must be thrown away."""

    def __init__(self, machine: Machine, load: Callable[[str, Any], None]) -> None:
        self._machine = machine
        self._load = load
        self._reader = snapshot_format.Reader()

    def feed(self, chunk: bytes) -> None:
        """Load the blocks that ``chunk`` completes. Raises :class:`Damaged`, :class:`Unsupported`.

        Its time grows with the rows in these blocks, each of a thousand at most. Where others
        wait, feed 16 KiB at a time: that completes one or two of any kind, about ten milliseconds.
        """
        for kind, body in self._reader.feed(chunk):
            try:
                self._load(kind, body)
            except (TypeError, ValueError, LookupError, AttributeError) as error:
                # Sealed, so nobody changed it since it was written: the writer was at fault.
                raise Damaged(f"snapshot block {kind!r} cannot be loaded: {error!a}") from error

    def finish(self) -> Machine:
        """The machine, at once. Raises :class:`Damaged` unless the whole snapshot was fed."""
        self._reader.finish()
        return self._machine
