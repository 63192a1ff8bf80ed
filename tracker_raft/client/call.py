"""One call of a client: what its attempts have in common, and what they have learned so far. Pure.

The question that matters is :attr:`Call.may_have_run`. Once an attempt of a write has left this
machine as a whole and no reply came, "it did not happen" cannot be said any more; only the reply
to the same ``(session, seq)`` can settle it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tracker_raft import wire
from tracker_raft.client.deadline import Deadline
from tracker_raft.client.request_session import RequestSession
from tracker_raft.commands import Level, Operation
from tracker_raft.config import Address
from tracker_raft.errors import (
    LocalError,
    NoTracker,
    OutcomeUnknown,
    P2PError,
    Unavailable,
    Unsupported,
)

ANSWER_MARGIN_S = 0.1
"""Between the end of a tracker's time for an attempt and the end of the client's patience; a
quarter of the time left when that is less."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a tracker answered. ``index`` and ``position`` say which log entry it reflects."""

    body: dict[str, Any]
    index: int
    position: int
    endpoint: Address
    attempts: int
    """How many times the operation was sent or tried to be sent; 1 when all went well."""


@dataclass(slots=True, eq=False)
class Call:
    """What one call has learned so far."""

    operation: Operation
    deadline: Deadline
    level: Level | None = None
    session: RequestSession | None = None
    """With ``seq``: what makes all attempts of a write one operation. None for all others."""
    first_for: Operation | None = None
    """The write that this call prepares: error texts are about that one."""
    seq: int = 0
    attempt_s: float | None = None
    """Time for one tracker to answer, when it is alive; None: the configured time."""
    silence_s: float | None = None
    """After so long without a word it is pinged; None: the configured time."""
    attempts: int = 0
    silences: int = 0
    """How many attempts ended because not even a ping was answered."""
    may_have_run: bool = False
    """Some attempt of this write may have been run: from now on "no" cannot be said."""
    happened: dict[Address, str] = field(default_factory=dict)
    """The last thing that happened at each endpoint that was asked."""
    declined: dict[Address, P2PError] = field(default_factory=dict)
    """Of those, the ones that answered but could not serve or settle it."""

    def is_over(self, last_attempt_s: float) -> bool:
        """Whether no further attempt may begin: the deadline is over, or so near that an attempt
        could only spoil what is certain so far, that nothing happened."""
        left_s = self.deadline.left_s()
        return left_s <= 0 or (
            self.attempts > 0 and not self.may_have_run and left_s < last_attempt_s
        )

    def envelope(self, seen: int, waiting: Deadline) -> wire.Message:
        """The request map, without its id, of an attempt that waits until ``waiting``.

        The tracker is given a little less time than that: its "no leader, not run" must arrive
        before the client gives up on it, for silence after a write says much less.
        """
        message = self.operation.to_wire()
        if self.session is not None:
            message["session"] = self.session.session
            message["seq"] = self.seq
            message["low"] = self.session.low()
        if self.level is not None:
            message["level"] = str(self.level)
            if self.level is Level.SESSION:
                message["seen"] = seen
        left_s = waiting.left_s()
        left_s -= min(ANSWER_MARGIN_S, left_s / 4)
        message["deadline_ms"] = max(1, int(left_s * 1000))
        return message

    def note_lost(self, address: Address, what: str, *, sent: bool) -> None:
        """An attempt ended without a reply; ``sent``: its whole request had left this machine."""
        self.happened[address] = what
        self.declined.pop(address, None)
        self._note_sent(sent)

    def note_declined(self, address: Address, error: P2PError) -> None:
        """A tracker answered what does not settle the call."""
        self.happened[address] = f"answered {error.code} ({error.message})"
        self.declined.pop(address, None)  # so that the last one stands last
        self.declined[address] = error
        self._note_sent(isinstance(error, OutcomeUnknown))

    def _note_sent(self, sent: bool) -> None:
        """Only writes in a session matter: all other operations may be repeated at will."""
        self.may_have_run = self.may_have_run or (sent and self.session is not None)

    def story(self, addresses: Sequence[Address]) -> str:
        """What happened at each endpoint, for an error text."""
        return "; ".join(
            f"{address} {self.happened.get(address, 'was not asked')}" for address in addresses
        )

    def foreign(self, addresses: Sequence[Address]) -> Unsupported | None:
        """The refusal when all of ``addresses`` speak another version of the protocol."""
        answers = [self.declined.get(address) for address in addresses]
        foreign = [answer for answer in answers if isinstance(answer, Unsupported)]
        return foreign[-1] if foreign and len(foreign) == len(answers) else None

    def failure(self, addresses: Sequence[Address], *, closed: bool = False) -> P2PError:
        """The error of a call that ends without an answer that settles it."""
        elapsed_s = self.deadline.seconds - self.deadline.left_s()
        tries = f"{self.attempts} attempt{'' if self.attempts == 1 else 's'}"
        text = f"in {elapsed_s:.2f} s and {tries}: {self.story(addresses)}"
        op = (self.first_for or self.operation).op
        if self.may_have_run:
            closing = "; the client was closed" if closed else ""
            return OutcomeUnknown(f"{op} may or may not have happened; no answer {text}{closing}")
        nothing = f"{op} did not happen" if self.session or self.first_for else op
        if closed:
            return LocalError(f"{nothing}: the client was closed; no answer {text}")
        for error in reversed(self.declined.values()):
            if isinstance(error, Unavailable):
                text = f"{nothing}: no tracker could serve it {text}"
                return type(error)(text, retry_after_s=error.retry_after_s)
        return NoTracker(f"{nothing}: no tracker answered {text}")
