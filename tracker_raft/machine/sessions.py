"""Request sessions: each write runs exactly once, however often it is sent. Pure.

The scheme of the Raft thesis, section 6.3. A client opens a session through the log and numbers
its writes 1, 2, 3...; each also says ``low``, the lowest number whose reply it still waits for.
The table keeps the replies from ``low`` on, and so exactly those that may be asked for again.

Rules
-----
* seq with a reply on record: that reply, and nothing is run.
* seq below the recorded low: ``outcome_unknown``. It may have run once; it is never run again.
* seq at or beyond low + ``session_window_max``: ``limit_reached``, not run and not recorded.
* ``low`` never goes back, whatever order messages arrive in.
* A refusal is a reply like any other and is recorded: a repeat must answer the same.
* A session not used for ``session_ttl_ms`` of logical time is forgotten with its replies. Its
  number is never given out again, so a late write of it finds ``session_expired`` and cannot run.

The digest covers the word of a recorded refusal but not its text, which is for people: a version
that words it better, or another Python that quotes a name differently, has the same state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgpack
from sortedcontainers import SortedDict

from tracker_raft.config import MachineLimits
from tracker_raft.errors import BadRequest, LimitReached, OutcomeUnknown, SessionExpired
from tracker_raft.machine.digest import Digest
from tracker_raft.machine.snapshot_cursor import Row, Table

Reply = bytes | tuple[str, str]
"""A recorded reply: the msgpack of the ``ok`` map, or (error word, text). As bytes it is small,
and nobody who was handed the reply can change the record."""


@dataclass(slots=True)
class Session:
    used_ms: int
    low: int = 1
    replies: dict[int, Reply] = field(default_factory=dict)


class SessionTable:
    """All open sessions."""

    def __init__(self, limits: MachineLimits, digest: Digest) -> None:
        self.opened = 0
        """Sessions ever opened; the newest has this number."""
        self._limits = limits
        self._digest = digest
        self._sessions: SortedDict[int, Session] = SortedDict()
        self._by_use: SortedDict[int, dict[int, None]] = SortedDict()
        """The sessions by used_ms, the longest unused first. A write moves its session, so this
        must cost nothing: all writes of an entry move theirs to the same place."""
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, now_ms: int) -> dict[str, Any]:
        """Raises :class:`LimitReached` when the table is full: no live session is pushed out."""
        limit = self._limits.sessions_max
        if len(self._sessions) >= limit:
            raise LimitReached(
                f"{len(self._sessions)} request sessions, limit {limit}; none opened"
            )
        self.opened += 1
        self._sessions[self.opened] = Session(now_ms)
        self._used(self.opened, now_ms)
        self._digest.add("session", self.opened, 1, now_ms)
        return {"session": self.opened, "ttl_ms": self._limits.session_ttl_ms}

    def close(self, number: int) -> None:
        """Forget a session and its replies, if it is known."""
        session = self._sessions.pop(number, None)
        if session is not None:
            self._forget_below(number, session, max(session.replies, default=0) + 1)
            self._unused(number, session.used_ms)
            self._digest.remove("session", number, session.low, session.used_ms)

    def expire(self, now_ms: int) -> None:
        while (due_ms := self.next_expiry_ms()) is not None and due_ms <= now_ms:
            for number in sorted(self._by_use.peekitem(0)[1]):
                self.close(number)

    def next_expiry_ms(self) -> int | None:
        return self._by_use.peekitem(0)[0] + self._limits.session_ttl_ms if self._by_use else None

    def _used(self, number: int, used_ms: int) -> None:
        same = self._by_use.get(used_ms)
        if same is None:
            same = self._by_use[used_ms] = {}
        same[number] = None

    def _unused(self, number: int, used_ms: int) -> None:
        same = self._by_use[used_ms]
        del same[number]
        if not same:
            del self._by_use[used_ms]

    # -- one write --------------------------------------------------------------------------------

    def recall(self, number: int, seq: int, low: int, now_ms: int) -> dict[str, Any] | None:
        """The reply on record of write ``seq``, or None: run it, then :meth:`record` its reply.

        Counts as use of the session and moves its low. Raises :class:`SessionExpired`,
        :class:`BadRequest`, :class:`OutcomeUnknown` or :class:`LimitReached`: then the write must
        not be run, and the refusal is not recorded.
        """
        session = self._sessions.get(number)
        if session is None:
            raise SessionExpired(f"request session {number} is not known; nothing was run")
        if not 1 <= low <= seq:
            raise BadRequest(f"seq is {seq} and low is {low}, expected 1 <= low <= seq; not run")
        self._use(number, session, max(low, session.low), now_ms)
        if seq < session.low:
            raise OutcomeUnknown(
                f"write {seq} of session {number} is below {session.low}, the lowest its client "
                f"still waited for; if it ran before, its reply is forgotten. It was not run now"
            )
        if seq >= session.low + self._limits.session_window_max:
            raise LimitReached(
                f"write {seq} of session {number} with {session.low} unanswered: a session has "
                f"at most {self._limits.session_window_max} writes under way; not run"
            )
        reply = session.replies.get(seq)
        if reply is None:
            return None
        if isinstance(reply, bytes):
            return {"ok": msgpack.unpackb(reply)}
        word, text = reply
        return {"error": word, "message": text}

    def record(self, number: int, seq: int, reply: dict[str, Any]) -> None:
        """Keep the reply of a write that :meth:`recall` let run, unless it closed its session."""
        session = self._sessions.get(number)
        if session is None:
            return
        if "ok" in reply:
            self._put(number, session, seq, self._pack(reply["ok"]))
        else:
            self._put(number, session, seq, (reply["error"], reply["message"]))

    def _put(self, number: int, session: Session, seq: int, reply: Reply) -> None:
        session.replies[seq] = reply
        self._digest.add("reply", number, seq, reply)

    def _use(self, number: int, session: Session, low: int, now_ms: int) -> None:
        if low == session.low and now_ms == session.used_ms:
            return
        self._forget_below(number, session, low)
        self._digest.remove("session", number, session.low, session.used_ms)
        if now_ms != session.used_ms:
            self._unused(number, session.used_ms)
            self._used(number, now_ms)
        session.low, session.used_ms = low, now_ms
        self._digest.add("session", number, low, now_ms)

    def _forget_below(self, number: int, session: Session, low: int) -> None:
        """Drop the replies below ``low``: by counting up, or by looking through a smaller table."""
        replies = session.replies
        if low <= session.low or not replies:
            return
        if len(replies) == 1:  # one write after the other, and the last one is answered
            (seq,) = replies
            if seq < low:
                self._digest.remove("reply", number, seq, replies.pop(seq))
            return
        if low - session.low < len(replies):
            gone = [seq for seq in range(session.low, low) if seq in replies]
        else:
            gone = [seq for seq in replies if seq < low]
        for seq in gone:
            self._digest.remove("reply", number, seq, replies.pop(seq))

    # -- snapshot ---------------------------------------------------------------------------------

    def tables(self) -> tuple[Table, ...]:
        """``sessions``: (number, low, used_ms), the longest unused first, then by number.

        ``replies``: (session, seq, reply) in that order.
        """
        return (
            Table("sessions", "session", lambda item: (item[3], item[1]), self._sessions_after),
            Table("replies", "reply", lambda item: (item[1], item[2]), self._replies_after),
        )

    def _sessions_after(self, key: tuple[int, int] | None) -> Iterator[tuple[Any, Row]]:
        for used_ms in self._by_use.irange(None if key is None else key[0]):
            for number in sorted(self._by_use[used_ms]):
                if key is None or (used_ms, number) > key:
                    yield (used_ms, number), (number, self._sessions[number].low, used_ms)

    def _replies_after(self, key: tuple[int, int] | None) -> Iterator[tuple[Any, Row | None]]:
        """A session without replies stands in for itself as number 0, which no write has."""
        last, last_seq = key or (0, 0)
        for number in self._sessions.irange(last):
            replies = self._sessions[number].replies
            if number == last:
                replies = {seq: reply for seq, reply in replies.items() if seq > last_seq}
            elif not replies:
                yield (number, 0), None
            for seq in sorted(replies):
                yield (number, seq), (number, seq, replies[seq])

    def load_sessions(self, rows: Iterable[tuple[int, int, int]]) -> None:
        for number, low, used_ms in rows:
            self._sessions[number] = Session(used_ms, low)
            self._used(number, used_ms)
            self._digest.add("session", number, low, used_ms)

    def load_replies(self, rows: Iterable[tuple[int, int, Reply]]) -> None:
        """After the sessions. Raises KeyError for a reply without one."""
        for number, seq, reply in rows:
            recorded = reply if isinstance(reply, bytes) else (reply[0], reply[1])
            self._put(number, self._sessions[number], seq, recorded)
