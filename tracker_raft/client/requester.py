"""Carries one operation to whichever tracker is live, and runs it at most once.

How a call goes
---------------
1. One deadline is set where the call enters. A write takes ``(session, seq)`` of the request
   session, which is opened on the first write; every attempt of the call carries the same two.
2. A round asks each tracker that may be asked (``rotation.py``), the next one at once when one
   fails. After a round, exponential back-off with full jitter; then the next round.
3. The first answer that settles the call ends it. What does not settle it:

   =====================================  ===================================================
   no connection, or lost before sending  not run; next tracker; counts for the breaker
   silence (even to a ping, or for        may have run; next tracker; counts for the breaker
   ``attempt_timeout_s``), or lost
   after sending
   a pooled connection found closed       once more at once on a fresh one; does not count
   busy, no_leader, shutting_down         not run by this attempt; rests ``retry_after`` and up to
                                          half as long again; next
   outcome_unknown                        may have run; next tracker: its reply table knows
   session_expired                        not run by this attempt. Anew in a new session (once) if
                                          no attempt before may have run, else OutcomeUnknown
   unsupported, as answer to the hello    not run; next tracker; raised when all say so
   =====================================  ===================================================

4. When the deadline ends: :class:`OutcomeUnknown` if some attempt of a write may have run;
   otherwise what the trackers said last (``NoLeader``, ``Busy``...), or ``NoTracker`` when none
   said anything. The text names each tracker and what happened to it.

A refusal that is not recorded in the reply table (``bad_request`` and its kin) says nothing about
an earlier attempt of the same write, which may still be on its way to the log: after one that may
have run, it is reported as OutcomeUnknown too.

What to re-check when you change it: the table above against ``docs/protocol.md``, and
``tests/unit/test_client_exactly_once.py``.
"""

from __future__ import annotations

import os
import random as random_module
import threading
from collections.abc import Sequence
from contextlib import suppress
from weakref import WeakSet

from tracker_raft import commands, wire
from tracker_raft.client.breaker import Backoff
from tracker_raft.client.call import Call, Reply
from tracker_raft.client.connection import Connection, ConnectionLost, ConnectionPool
from tracker_raft.client.deadline import Clock, Deadline
from tracker_raft.client.request_session import RequestSession
from tracker_raft.client.rotation import ENDPOINTS_MAX, Choice, Rotation
from tracker_raft.commands import Level, Operation
from tracker_raft.config import Address, ClientConfig, MachineLimits
from tracker_raft.errors import (
    BadRequest,
    LocalError,
    NoTracker,
    OutcomeUnknown,
    P2PError,
    SessionExpired,
    Unavailable,
    Unsupported,
    from_wire,
)

CLOSE_SESSION_S = 0.5
"""A client that closes waits no longer than this for its request session to be closed."""
LAST_ATTEMPT_S = 0.05
"""No further attempt begins with less time than this while "it did not happen" can be said: a
write sent too late to be answered would only turn that into "unknown"."""
SILENCE_DOUBLINGS_MAX = 6
REST_JITTER = 0.5
"""A tracker that asked for rest is left alone for up to this share longer."""
_IN_SESSION = tuple(cls for cls in commands.WRITES if cls is not commands.OpenSession)


class Requester:
    """The engine of a :class:`~tracker_raft.client.TrackerClient`. Thread-safe."""

    _session: RequestSession | None
    _opening: threading.Lock
    """Held by the one thread that opens a request session."""

    def __init__(
        self,
        trackers: Sequence[Address],
        config: ClientConfig,
        random: random_module.Random,
        clock: Clock,
    ) -> None:
        self._config = config
        self._random = random
        self._clock = clock
        self._closed = threading.Event()
        self._trackers = tuple(trackers)
        self._siblings: WeakSet[Requester] = WeakSet()
        self.rotation = Rotation(trackers, config, random)
        self._start_afresh()
        self.seen = 0
        """The highest log index that a reply showed to this client."""

    def call(self, operation: Operation, deadline: Deadline, level: Level | None = None) -> Reply:
        """Carry ``operation`` out. Raises what the module's docstring says."""
        self._check_usable()
        if isinstance(operation, commands.READS):
            return self._carry(Call(operation, deadline, level or Level.LINEARIZABLE))
        if not isinstance(operation, _IN_SESSION):
            return self._carry(Call(operation, deadline))
        session = self._session_for(operation, deadline, expired=None)
        try:
            return self._write(operation, deadline, session)
        except SessionExpired:  # definite for this attempt, and no attempt before it may have run
            session = self._session_for(operation, deadline, expired=session)
            return self._write(operation, deadline, session)

    def wait(
        self, operation: Operation, deadline: Deadline, *, attempt_s: float, silence_s: float
    ) -> Reply:
        """Carry out an operation, neither read nor write, that a live tracker may take long for.

        ``attempt_s``: time for one tracker to answer. ``silence_s``: after so long without a word
        it is pinged. Raises what :meth:`call` raises.
        """
        self._check_usable()
        return self._carry(Call(operation, deadline, attempt_s=attempt_s, silence_s=silence_s))

    def ask(
        self,
        address: Address,
        operation: Operation,
        deadline: Deadline,
        *,
        attempt_s: float | None = None,
        silence_s: float | None = None,
    ) -> Reply:
        """Ask exactly this tracker, once, whatever its breaker says.

        No answer for ``attempt_s`` (None: ``attempt_timeout_s``) ends it like a lost connection:
        :class:`NoTracker`. ``silence_s`` as in :meth:`wait`.
        """
        self._check_usable()
        call = Call(operation, deadline, attempt_s=attempt_s, silence_s=silence_s)
        return self._ask_once(address, call)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until this is closed. Raises :class:`LocalError` then."""
        self._closed.wait(seconds)
        self._check_usable()

    def sibling(self) -> Requester:
        """Another one that knows the same trackers, with connections of its own; closed with this
        one, or before."""
        self._check_usable()
        trackers = self.rotation.addresses
        sibling = Requester(trackers, self._config, self._random, self._clock)
        with self._seen_lock:
            self._siblings.add(sibling)
        if self._closed.is_set():  # meanwhile, and then it may have been overlooked
            sibling.close()
        return sibling

    def close(self) -> None:
        """Close the request session as well as 0.5 s allow, then all connections. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._pid != os.getpid():  # a forked child that made no call: all is the parent's
            self._pool.abandon()
            return
        with self._seen_lock:
            siblings = list(self._siblings)
        for sibling in siblings:
            sibling.close()
        in_use, session = self.rotation.in_use, self._session
        if session is not None and in_use is not None:
            deadline = Deadline(CLOSE_SESSION_S, self._clock)
            call = Call(commands.CloseSession(session.session), deadline, session=session)
            try:
                call.seq = session.take(Deadline(0.001, self._clock))
                self._ask_once(in_use, call)
            except P2PError:
                pass  # best effort: an unused session expires by itself
        self._pool.close()

    # -- one call ---------------------------------------------------------------------------------

    def _write(self, operation: Operation, deadline: Deadline, session: RequestSession) -> Reply:
        call = Call(operation, deadline, session=session, seq=session.take(deadline))
        try:
            return self._carry(call)
        finally:
            session.answered(call.seq)

    def _carry(self, call: Call) -> Reply:
        config = self._config
        backoff = Backoff(config.backoff_min_s, config.backoff_max_s, self._random)
        while True:
            reply = self._round(call)
            if reply is not None:
                return reply
            wait_s = max(backoff.next_s(), self.rotation.wake_in_s(self._clock()))
            self._closed.wait(min(wait_s, call.deadline.left_s()))
            if call.is_over(LAST_ATTEMPT_S) or self._closed.is_set():
                raise call.failure(self.rotation.addresses, closed=self._closed.is_set())

    def _round(self, call: Call) -> Reply | None:
        """Ask each endpoint that may be asked, once. None: none of them settled the call."""
        tried: list[Address] = []
        while not call.is_over(LAST_ATTEMPT_S) and not self._closed.is_set():
            choice = self.rotation.choose(tried, self._clock())
            if choice is None:
                break
            tried.append(choice.address)
            reply = self._attempt(choice, call)
            if reply is not None:
                return reply
        if (foreign := call.foreign(tried)) and not call.may_have_run:
            raise foreign
        return None

    def _attempt(self, choice: Choice, call: Call) -> Reply | None:
        try:
            answer = self._exchange(choice.address, call)
        except ConnectionLost as lost:
            call.note_lost(choice.address, str(lost), sent=lost.sent)
            self.rotation.failed(choice, self._clock())
            self._pool.forget(choice.address)
            return None
        except BaseException:  # whatever it was, the breaker's probe must not stay taken
            self.rotation.abandoned(choice)
            raise
        return self._judge(choice, call, answer)

    def _judge(self, choice: Choice, call: Call, answer: wire.Message) -> Reply | None:
        """The reply, or None when another attempt may do better. Raises what settles the call."""
        match answer.get("trackers"):
            case (int(index), tuple(trackers)):  # the members have changed
                self._learn(trackers, index)
        if "ok" in answer:
            self.rotation.answered(choice)
            return self._reply(choice.address, call, answer)
        error = from_wire(answer)
        if isinstance(error, Unavailable | OutcomeUnknown):
            call.note_declined(choice.address, error)
            rest_s = min(error.retry_after_s or 0.0, self._config.breaker_open_max_s)
            # Many were told the same time to come back; they must not come all at once.
            rest_s *= 1 + self._random.random() * REST_JITTER
            self.rotation.declined(choice, self._clock() + rest_s)
            return None
        if isinstance(error, Unsupported) and answer.get("id") == 0:
            call.note_declined(choice.address, error)
            self.rotation.failed(choice, self._clock())
            return None
        self.rotation.answered(choice)
        self._note_position(answer)
        if call.may_have_run and isinstance(error, SessionExpired | BadRequest):
            raise OutcomeUnknown(
                f"{call.operation.op} may or may not have happened: an attempt was lost on the "
                f"way, and the next one was answered {error.code} ({error.message})"
            ) from error
        raise error

    def _exchange(self, address: Address, call: Call) -> wire.Message:
        """One attempt: over a pooled connection, else (or when that one was stale) a new one."""
        call.attempts += 1
        connection = self._pool.take(address)
        if connection is not None:
            try:
                return self._request(connection, call)
            except ConnectionLost as lost:
                if not lost.stale:
                    raise
                call.note_lost(address, str(lost), sent=lost.sent)
                self._pool.forget(address)  # they were closed together, most likely
        dialling = call.deadline.within(self._config.connect_timeout_s)
        return self._request(self._pool.connect(address, dialling), call)

    def _request(self, connection: Connection, call: Call) -> wire.Message:
        try:
            waiting = call.deadline.within(call.attempt_s or self._config.attempt_timeout_s)
            # Twice as long each time: if all trackers are slow, leaving them one after the other
            # would never end.
            silence_s = call.silence_s or self._config.silence_s
            silence_s *= 2 ** min(call.silences, SILENCE_DOUBLINGS_MAX)
            return connection.request(call.envelope(self.seen, waiting), waiting, silence_s)
        except ConnectionLost as lost:
            call.silences += lost.silent
            raise
        finally:
            self._pool.give_back(connection)

    def _ask_once(self, address: Address, call: Call) -> Reply:
        try:
            answer = self._exchange(address, call)
        except ConnectionLost as lost:
            call.note_lost(address, str(lost), sent=lost.sent)
            raise call.failure((address,)) from lost
        finally:
            if address not in self.rotation.addresses:
                self._pool.forget(address)
        if "ok" in answer:
            return self._reply(address, call, answer)
        raise from_wire(answer)

    # -- what all calls share ---------------------------------------------------------------------

    def _session_for(
        self, operation: Operation, deadline: Deadline, expired: RequestSession | None
    ) -> RequestSession:
        """The request session, opened if there is none but ``expired``; by one thread at a time."""
        session = self._session
        if session is not None and session is not expired:
            return session
        if not self._opening.acquire(timeout=deadline.left_s()):
            raise NoTracker(
                f"{operation.op} did not happen: another thread was still opening the request "
                f"session after {deadline.seconds} s"
            )
        try:
            if self._session is None or self._session is expired:
                reply = self._carry(Call(commands.OpenSession(), deadline, first_for=operation))
                number = reply.body.get("session")
                if not isinstance(number, int):
                    raise Unsupported(f"{reply.endpoint} opened a session without a number")
                self._session = RequestSession(number, MachineLimits().session_window_max)
            return self._session
        finally:
            self._opening.release()

    def _reply(self, address: Address, call: Call, answer: wire.Message) -> Reply:
        body = answer["ok"]
        index, position = self._note_position(answer)
        return Reply(
            body if isinstance(body, dict) else {}, index, position, address, call.attempts
        )

    def _note_position(self, answer: wire.Message) -> tuple[int, int]:
        match answer.get("at"):
            case (int(index), int(position)):
                with self._seen_lock:
                    self.seen = max(self.seen, index)
                return index, position
        return 0, 0

    def _met(self, hello: wire.Message) -> None:
        """A tracker introduced itself: learn where the others are."""
        told = hello.get("ok")
        if isinstance(told, dict):
            self._learn(told.get("trackers"), told.get("members", 0))

    def _learn(self, trackers: object, index: object) -> None:
        """``index``: of the entry that says that these are all, 0 if they are only some."""
        addresses = []
        for text in trackers[:ENDPOINTS_MAX] if isinstance(trackers, tuple) else ():
            with suppress(BadRequest):  # one address we cannot read is no reason to drop the rest
                addresses.append(Address.parse(str(text)))
        self.rotation.learn(addresses, index if type(index) is int else 0)

    def _check_usable(self) -> None:
        if self._closed.is_set():
            raise LocalError("this client is closed; nothing was sent")
        if self._pid != os.getpid():
            # A forked child: the connections and the request session are the parent's. Going on
            # with its (session, seq) would be answered with the replies of the parent's writes.
            self._pool.abandon()
            self.rotation = Rotation(self._trackers, self._config, self._random)
            self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._pool = ConnectionPool(self._config, self._met)
        self._session = None
        self._opening = threading.Lock()
        self._seen_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Requester {self.rotation!r} {self._pool!r} seen={self.seen}>"
