"""The client's half of exactly once: which sequence numbers are still waited for. No I/O.

Each write carries ``(session, seq, low)``. The replicated machine keeps the reply of every ``seq``
from ``low`` on, so a write may be sent again, through any tracker, and is run once. The client's
duties, kept here:

* a ``seq`` belongs to one operation for ever; only retries of that operation carry it again;
* ``low`` is the lowest ``seq`` still waited for. It only grows. What is below it is forgotten by
  the machine, hence never asked for again: giving an operation up counts as answering it;
* ``seq`` - ``low`` stays below the window, for the machine keeps no more replies than that. Who
  would go beyond waits until older operations are answered.
"""

from __future__ import annotations

import threading

from tracker_raft.client.deadline import Deadline
from tracker_raft.errors import Busy


class RequestSession:
    """One open request session, shared by all threads of a client."""

    def __init__(self, session: int, window_max: int) -> None:
        self.session = session
        self.window_max = window_max
        self._waiting: set[int] = set()
        self._next_seq = 1
        self._changed = threading.Condition()

    def take(self, deadline: Deadline) -> int:
        """A fresh ``seq``; the caller hands it back by :meth:`answered` whatever happens.

        Waits while the window is full. Raises :class:`Busy` when the deadline ends first.
        """
        with self._changed:
            while self._next_seq - self._low() >= self.window_max:
                if deadline.over:
                    raise Busy(
                        f"{len(self._waiting)} operations of this client are unanswered, limit "
                        f"{self.window_max}; this one was not sent within {deadline.seconds} s"
                    )
                self._changed.wait(deadline.left_s())
            seq = self._next_seq
            self._next_seq += 1
            self._waiting.add(seq)
            return seq

    def answered(self, seq: int) -> None:
        """``seq`` is settled or given up: it will never be sent again."""
        with self._changed:
            self._waiting.discard(seq)
            self._changed.notify_all()

    def low(self) -> int:
        """The lowest ``seq`` still waited for, or the next one when there is none."""
        with self._changed:
            return self._low()

    def _low(self) -> int:
        return min(self._waiting, default=self._next_seq)

    def __repr__(self) -> str:
        with self._changed:
            return (
                f"<RequestSession {self.session} next={self._next_seq} low={self._low()} "
                f"waiting={len(self._waiting)}>"
            )
