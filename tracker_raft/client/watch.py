"""A watch: the changes of the files as an iterator that no lost tracker ends.

Each question to a tracker says from which place in the log on changes are wanted, and waits there
until there are some (a long poll). All that is known of a watch is the place it has come to, and
that is known here alone: when a tracker is lost the next one is asked the same question. The same
:class:`~tracker_raft.client.requester.Requester` does it that does it for all calls, one of its
own, so that waiting takes no connection from others and can be ended by closing it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any, Final, Self

from tracker_raft import commands
from tracker_raft.changes import Change, Place
from tracker_raft.client.call import Reply
from tracker_raft.client.deadline import Clock, Deadline
from tracker_raft.client.requester import Requester
from tracker_raft.config import ClientConfig
from tracker_raft.errors import BadRequest, LocalError

CHANGES_MAX: Final = 500
"""In one answer; at most 1 KiB each, so half a frame's limit."""
SILENCE_S: Final = 0.5
"""A tracker is pinged after so long, then after twice that: waiting is silent by nature, and
thousands who wait should not ask ten times a second whether it is still there."""


class Watch:
    """Changes in the order of the log, each exactly once, whichever trackers are lost meanwhile.

    ``for change in watch`` goes on until :meth:`close`, or until no change came for ``idle_s``. It
    raises, and may then be iterated on without a gap or a repeat unless the first of these:

    * :class:`~tracker_raft.errors.Compacted`: changes from :attr:`place` on are not kept any more.
      List anew, and begin a watch with the ``index`` of the listing + 1.
    * :class:`~tracker_raft.errors.Unavailable`: no tracker answered, or none knew a leader, for
      ``deadline_s``.
    * :class:`~tracker_raft.errors.BadRequest`: prefix or place cannot be; or a tracker answered
      what this version cannot read.
    * :class:`~tracker_raft.errors.LocalError`: the client it was made by has been closed.

    One thread iterates; :meth:`close` may come from any.
    """

    def __init__(
        self,
        requester: Requester,
        prefix: str,
        place: Place,
        *,
        config: ClientConfig,
        idle_s: float | None,
        deadline_s: float,
        clock: Clock,
    ) -> None:
        self.prefix = prefix
        self._place = place
        self._requester = requester
        self._config = config
        self._idle_s = math.inf if idle_s is None else idle_s
        self._deadline_s = deadline_s
        self._clock = clock
        self._told: deque[Change] = deque()
        """Answered by a tracker, not yet taken."""
        self._closed = False
        self._question(0.0)  # raises now what the first question would raise
        Deadline(deadline_s, clock)

    @property
    def place(self) -> Place:
        """(index, position) to go on from: behind the last change taken, and behind all that is
        known not to concern this watch."""
        return self._told[0].place if self._told else self._place

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        idle_until_s = self._clock() + self._idle_s
        while not self._told:
            idle_s = idle_until_s - self._clock()
            if self._closed or idle_s <= 0:
                raise StopIteration
            try:
                # Of the time without an answer half is left, to find another tracker in.
                self._ask(min(idle_s, self._config.watch_wait_s, self._deadline_s / 2))
            except LocalError:
                if self._closed:
                    raise StopIteration from None
                raise
        return self._told.popleft()

    def _question(self, wait_s: float) -> commands.Watch:
        index, position = self._place
        wait_ms = math.ceil(wait_s * 1000)
        return commands.Watch(index, position, self.prefix, CHANGES_MAX, wait_ms)

    def _ask(self, wait_s: float) -> None:
        """Take in the next changes; there may be none."""
        reply = self._requester.wait(
            self._question(wait_s),
            Deadline(self._deadline_s, self._clock),
            attempt_s=wait_s + self._config.attempt_timeout_s,
            silence_s=max(SILENCE_S, self._config.silence_s),
        )
        changes, place = _answer(reply)
        for change in changes:
            # A tracker answers from the place on. One that did not must not make a repeat of it.
            if change.place >= self._place:
                self._told.append(change)
                self._place = change.next
        self._place = max(self._place, place)

    def close(self) -> None:
        """End it: a thread that waits for the next change gets the end of the iteration.

        Idempotent. Changes that were answered already may still be taken.
        """
        self._closed = True
        self._requester.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        index, position = self.place
        return f"<Watch {self.prefix!r} from {index}.{position} closed={self._closed}>"


def _answer(reply: Reply) -> tuple[list[Change], Place]:
    """The changes in order, and from where to ask next. Raises :class:`BadRequest`."""
    body: dict[str, Any] = reply.body
    try:
        changes = [Change.from_wire(change) for change in body["changes"]]
        index, position = body["next"]
        return changes, (int(index), int(position))
    except (KeyError, TypeError, ValueError, BadRequest) as error:
        raise BadRequest(
            f"{reply.endpoint} answered watch in a way this version cannot read: {error!r}"
        ) from error
