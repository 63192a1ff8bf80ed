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

How it is kept
--------------
Every write moves its session, and most replies are forgotten with the next write: what the digest
must know of both is therefore reported late, for all sessions that were *touched* since the last
time (:class:`~tracker_raft.machine.digest.Part`). Until then a session stands under the time of an
earlier use in :attr:`SessionTable._by_use`; nothing that ends goes by that without a closer look.

The digest covers the word of a recorded refusal but not its text, which is for people: a version
that words it better, or another Python that quotes a name differently, has the same state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
from sortedcontainers import SortedDict

from tracker_raft.config import MachineLimits
from tracker_raft.errors import BadRequest, LimitReached, OutcomeUnknown, P2PError, SessionExpired
from tracker_raft.machine.digest import Digest
from tracker_raft.machine.names import NewName, bound
from tracker_raft.machine.snapshot_cursor import Row, Table

Reply = bytes | tuple[str, str]
"""A recorded reply: the msgpack of the ``ok`` map, or (error word, text)."""

TOUCHED_MAX: Final = 1_024
"""Sessions that wait to be reported: some milliseconds of work."""


@dataclass(slots=True)
class Session:
    used_ms: int
    low: int = 1
    replies: dict[int, Reply | NewName] = field(default_factory=dict)
    """By seq. One not reported yet may be the name that was bound, of which the reply can be made:
    most are forgotten before anybody needs their bytes."""
    fresh: list[int] = field(default_factory=list)
    """The seqs of replies not reported yet, and of some that are forgotten."""
    reported: dict[int, int] = field(default_factory=dict)
    """Seqs of replies to their hashes."""
    told: tuple[int, int] | None = None
    """low and used_ms as they were reported."""
    told_hash: int = 0


class SessionTable:
    """All open sessions."""

    def __init__(self, limits: MachineLimits, digest: Digest) -> None:
        self.opened = 0
        """Sessions ever opened; the newest has this number."""
        self._limits = limits
        self._digest = digest
        self._now_ms = self._reported_ms = 0
        """When :meth:`expire` was asked last, and what that was when all was reported last: what
        was touched since was not used before that."""
        self._sessions: SortedDict[int, Session] = SortedDict()
        self._touched: dict[int, Session] = {}
        """Those that have changed since they were last reported."""
        self._by_use: SortedDict[int, dict[int, None]] = SortedDict()
        """The sessions by used_ms as reported, the longest unused first."""
        self._pack = msgpack.Packer(use_bin_type=True).pack
        digest.join(self)

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
        self._touched[self.opened] = self._sessions[self.opened] = Session(now_ms)
        return {"session": self.opened, "ttl_ms": self._limits.session_ttl_ms}

    def close(self, number: int) -> None:
        """Forget a session and its replies, if it is known."""
        session = self._sessions.pop(number, None)
        if session is not None:
            self._touched.pop(number, None)
            self._forget_below(number, session, max(session.replies, default=0) + 1)
            self._untell({number: session})

    def expire(self, now_ms: int) -> None:
        """Close what was not used for too long. To be called once in an entry: it also keeps what
        waits to be reported within bounds."""
        self._now_ms = now_ms
        self._settle_many()
        while self.is_due(now_ms):
            for number in sorted(self._by_use.peekitem(0)[1]):
                self.close(number)

    def is_due(self, now_ms: int) -> bool:
        """Whether a session ends at ``now_ms`` or earlier."""
        if self._earliest_ms() > now_ms:
            return False
        self.settle()
        return self._earliest_ms() <= now_ms

    def next_expiry_ms(self) -> int | None:
        self.settle()
        return int(self._earliest_ms()) if self._by_use else None

    def _earliest_ms(self) -> float:
        """When the first session ends, or earlier: it may have been used since it was reported."""
        first_ms = self._by_use.peekitem(0)[0] if self._by_use else math.inf
        if self._touched:
            first_ms = min(first_ms, self._reported_ms)
        return float(first_ms + self._limits.session_ttl_ms)

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
        if low > session.low:
            self._forget_below(number, session, low)
            session.low = low
        session.used_ms = now_ms
        self._touched[number] = session
        if session.low <= seq < session.low + self._limits.session_window_max:
            reply = session.replies.get(seq)
            return None if reply is None else _answer(reply)
        if seq < session.low:
            raise OutcomeUnknown(
                f"write {seq} of session {number} is below {session.low}, the lowest its client "
                f"still waited for; if it ran before, its reply is forgotten. It was not run now"
            )
        raise LimitReached(
            f"write {seq} of session {number} with {session.low} unanswered: a session has "
            f"at most {self._limits.session_window_max} writes under way; not run"
        )

    def record(self, number: int, seq: int, reply: dict[str, Any]) -> None:
        """Keep the reply of a write that :meth:`recall` let run, unless it closed its session."""
        session = self._sessions.get(number)
        if session is None:
            return
        ok = reply.get("ok")
        kept = self._pack(ok) if ok is not None else (reply["error"], reply["message"])
        session.replies[seq] = kept
        session.fresh.append(seq)

    def recall_many(
        self, numbers: Sequence[int], seqs: Sequence[int], lows: Sequence[int], now_ms: int
    ) -> list[dict[str, Any] | None]:
        """:meth:`recall` for each, none of which is there twice; a refusal is the reply."""
        replies: list[dict[str, Any] | None] = []
        get, touched, window = self._sessions.get, self._touched, self._limits.session_window_max
        for number, seq, low in zip(numbers, seqs, lows, strict=True):
            session = get(number)
            if (
                session is not None
                and session.low <= low <= seq < low + window
                and seq not in session.replies
            ):  # most: the steps of recall that are left
                if low > session.low:
                    self._forget_below(number, session, low)
                    session.low = low
                session.used_ms = now_ms
                touched[number] = session
                replies.append(None)
                continue
            try:
                replies.append(self.recall(number, seq, low, now_ms))
            except P2PError as error:
                replies.append(error.to_wire())
        return replies

    def record_bound(
        self, numbers: Iterable[int], seqs: Iterable[int], files: Iterable[NewName]
    ) -> None:
        """:meth:`record` that these files were bound, unless nobody waits for that any more: a
        later write may have been recalled before."""
        sessions = self._sessions
        for number, seq, file in zip(numbers, seqs, files, strict=True):
            session = sessions[number]
            if seq >= session.low:
                session.replies[seq] = file
                session.fresh.append(seq)

    def _forget_below(self, number: int, session: Session, low: int) -> None:
        """Drop the replies below ``low``: by counting up, or by looking through a smaller table."""
        replies = session.replies
        if len(replies) == 1 and not session.reported:  # one write after the other
            (seq,) = replies
            if seq < low:
                del replies[seq]
            return
        if low - session.low < len(replies):
            gone = [seq for seq in range(session.low, low) if seq in replies]
        else:
            gone = [seq for seq in replies if seq < low]
        for seq in gone:
            reply, known = replies.pop(seq), session.reported.pop(seq, None)
            if known is not None:
                self._digest.go((known,), (("reply", number, seq, reply),))

    # -- what the digest is told ------------------------------------------------------------------

    def settle(self) -> None:
        """Report all that has changed since the last time."""
        touched, self._touched = self._touched, {}
        self._reported_ms = self._now_ms
        moved = {n: one for n, one in touched.items() if one.told != (one.low, one.used_ms)}
        self._untell(moved)
        items = [("session", number, one.low, one.used_ms) for number, one in moved.items()]
        for (number, one), known in zip(moved.items(), self._digest.come(items), strict=True):
            one.told, one.told_hash = (one.low, one.used_ms), known
            self._by_use.setdefault(one.used_ms, {})[number] = None
        rows = [
            ("reply", number, seq, self._packed(one, seq))
            for number, one in touched.items()
            for seq in one.fresh
            if seq in one.replies
        ]
        for (_, number, seq, _), known in zip(rows, self._digest.come(rows), strict=True):
            self._sessions[number].reported[seq] = known
        for one in touched.values():
            one.fresh.clear()

    def _settle_many(self) -> None:
        if len(self._touched) >= TOUCHED_MAX:
            self.settle()

    def _untell(self, sessions: Mapping[int, Session]) -> None:
        """Take back what was reported of these."""
        told = [(number, one.told_hash, *one.told) for number, one in sessions.items() if one.told]
        items = (("session", number, low, used_ms) for number, _, low, used_ms in told)
        self._digest.go([known for _, known, *_ in told], items)
        for number, _, _, used_ms in told:
            same = self._by_use[used_ms]
            del same[number]
            if not same:
                del self._by_use[used_ms]

    def _packed(self, session: Session, seq: int) -> Reply:
        reply = session.replies[seq]
        if isinstance(reply, tuple) and len(reply) != 2:
            reply = session.replies[seq] = self._pack(bound(reply))
        return reply

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
            self._touched[number] = self._sessions[number] = Session(used_ms, low)
            self._settle_many()

    def load_replies(self, rows: Iterable[tuple[int, int, Reply]]) -> None:
        """After the sessions. Raises KeyError for a reply without one."""
        for number, seq, reply in rows:
            session = self._sessions[number]
            session.replies[seq] = reply if isinstance(reply, bytes) else (reply[0], reply[1])
            session.fresh.append(seq)
            self._touched[number] = session
            self._settle_many()


def _answer(reply: Reply | NewName) -> dict[str, Any]:
    """What a client is told once more."""
    if isinstance(reply, bytes):
        return {"ok": msgpack.unpackb(reply)}
    if len(reply) == 2:
        word, text = reply
        return {"error": word, "message": text}
    return {"ok": bound(reply)}
