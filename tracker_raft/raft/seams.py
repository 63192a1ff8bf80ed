"""What the replica is handed from outside: time and turns, and lines to the other trackers.

Declared by their user, so that the same replica runs on an asyncio loop with sockets and in one
thread on a virtual clock with a simulated network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tracker_raft.raft.configuration import Facts
from tracker_raft.raft.election import Reconnect
from tracker_raft.raft.membership import Roster

Message = dict[str, Any]


class Handle(Protocol):
    """A call that was asked for and may be taken back."""

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """An ``asyncio`` event loop, as far as it is used here. Times in seconds, monotonic."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[..., object], *args: Any) -> Handle: ...
    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Handle: ...


class Lines(Protocol):
    """The connections to the other trackers, first in first out each."""

    @property
    def connected(self) -> tuple[str, ...]:
        """Ids of the members there is a link to, in order."""

    def linked(self, node: str) -> bool: ...

    def newest_version(self, node: str) -> int:
        """The newest cluster version that the software of ``node`` supports; 0 without a link."""

    def send(self, node: str, message: Message) -> bool:
        """Queue a message; False when there is no link. Raises :class:`TooLarge`."""

    def flush(self) -> None:
        """Let what was queued leave."""

    def backlog(self, node: str) -> int:
        """Bytes that wait because the link is slower than what is sent."""

    def admit(self, roster: Roster) -> None:
        """Link with these from now on, and with nobody else; called when it may have changed."""

    def identity(self, node: str) -> Facts:
        """What is known of ``node``, this one included."""

    def sits(self, node: str) -> bool:
        """Whether who is linked as ``node`` is the member that is meant: its word counts."""

    def drop(self, node: str, reason: str) -> None:
        """Break the link with a member that does not speak the protocol."""

    def reconnect(self, node: str, done: Callable[[Reconnect], None]) -> None:
        """Find out whether the process of ``node`` still runs; ``done`` is called once, later."""
