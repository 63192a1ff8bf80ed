"""What trackers ask of each other beside Raft: to log operations, to grant a read, to confirm a
term. Messages in, messages out; the bookkeeping is in :mod:`intake` and :mod:`reads`.

::

    forward    {"batch": n, "left_ms": ms, "ops": [bytes...]}      follower to leader
    answered   {"batch": n, "runs": [[index, [position...], [reply...]]...]}
    forwarded  {"batch": n, "replies": [[reply, [index, position]]...]}   the same, to release 0.1.0
    read       {"number": n}                                       follower to leader
    read_at    {"number": n, "index": i or nil: I do not lead}
    probe      {"term": t, "round": n}                             leader to all
    probed     {"term": t, "round": n}                             my term is t, too

A reply that is ``answered`` is the packed value of its ``ok``, or the map of its error. The leader
takes in what was forwarded together as one (:class:`~intake.Bundle`) where it can.

The deadline of a forwarded operation travels as the time left, so no clock is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from tracker_raft.commands import INTEGER_MAX, check_int
from tracker_raft.config import WireLimits
from tracker_raft.entries import unpack_operations, word_of
from tracker_raft.errors import BadRequest, P2PError, TooLarge, UnknownOperation
from tracker_raft.machine import LOG_WORDS, ROW_WORDS
from tracker_raft.raft.engine import Engine, Role
from tracker_raft.raft.intake import Intake, Position, Reply, opened
from tracker_raft.raft.reads import ReadBarrier, Waiter
from tracker_raft.raft.seams import Lines, Message
from tracker_raft.versions import NEWEST, OLDEST, RAISE_VERSION

PACKED_SINCE: Final = 2
"""Software that supports this cluster version is told replies packed (``answered``)."""
PACE_S = 0.01
"""Before a tracker that was told "I do not lead" asks the same leader again."""

Run = tuple[int, Sequence[int], Sequence[Reply]]
"""Answers from one entry: its index, the position of each there, the replies."""


def _number(message: Message, name: str) -> int:
    return check_int(name, message[name], 0, INTEGER_MAX)


def check_forwarded(*packed: Any) -> str:
    """Let only well-formed operations of this version's words into the log, so many of them; the
    word of the last.

    Bytes that do not decode would make the whole entry unreadable, the operations of others with
    it; a committed word that is not known here would stop every tracker of this version. They are
    looked at as they will stand in the log, one behind the other.
    Raises :class:`BadRequest` or :class:`UnknownOperation`, if only for one of them.
    """
    word: Any = ""
    if not {*map(type, packed)} <= {bytes}:
        raise BadRequest("a forwarded operation that is not bytes")
    for _, _, _, body in unpack_operations(b"".join(packed), len(packed)):
        word = word_of(body)
        known = ROW_WORDS if type(body) is tuple else LOG_WORDS
        if type(word) is not str or word not in known or word == RAISE_VERSION:
            raise UnknownOperation(f"operation {word!a} is not known to the leader; not run")
    return str(word)


def check_run(index: object, positions: Any, replies: Any) -> None:
    """Raises :class:`BadRequest` or :class:`TypeError` unless this is a :data:`Run`. What was
    packed is not looked into: it is the word of the leader."""
    check_int("index", index, 0, INTEGER_MAX)
    if len(positions) != len(replies) or not {*map(type, positions)} <= {int}:
        raise BadRequest("positions")
    if positions and (min(positions) < 0 or max(positions) > INTEGER_MAX):
        raise BadRequest(f"positions {min(positions)} to {max(positions)}")
    if not {*map(type, replies)} <= ({bytes, dict} if index else {dict}):
        raise BadRequest("a reply that is neither packed, by the log, nor a map")


def pieces(operations: Sequence[object], bytes_max: int) -> Iterator[tuple[int, int]]:
    """Places from and up to which operations are taken in together: ``bytes_max`` at most, or
    one."""
    start = size = 0
    for place, packed in enumerate(operations):
        more = len(packed) if isinstance(packed, bytes) else 0
        if size + more > bytes_max and place > start:
            yield start, place
            start, size = place, 0
        size += more
    if start < len(operations):
        yield start, len(operations)


class Forwarded:
    """The answers of the leader to one message of operations: told once all are there."""

    def __init__(self, count: int, done: Callable[[list[Run]], None]) -> None:
        self._left = count
        self._done = done
        self._runs: dict[int, Run] = {}

    def answer(
        self, place: int, replies: Sequence[Reply], index: int, positions: Sequence[int]
    ) -> None:
        """Those of the operations from ``place`` on."""
        self._runs[place] = index, positions, replies
        self._left -= len(replies)
        if self._left == 0:
            self._done([self._runs[first] for first in sorted(self._runs)])


class Colleagues:
    """This tracker's side of those conversations. ``flush`` lets what was sent leave soon.

    ``version`` gives that of the cluster, as far as it is known here.
    ``leaderless_s``: what waits for a leader is given back when there was none for so long.
    """

    def __init__(
        self,
        engine: Engine,
        intake: Intake,
        barrier: ReadBarrier,
        lines: Lines,
        limits: WireLimits,
        *,
        version: Callable[[], int],
        leaderless_s: float,
        now: Callable[[], float],
        flush: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._barrier = barrier
        self._lines = lines
        self._limits = limits
        self._version = version
        self._now = now
        self._flush = flush
        self._ask_from_s = 0.0
        self._leaderless_max_s = leaderless_s
        self._leaderless_from_s: float | None = None
        self._led_term = -1
        self._handlers: dict[str, Callable[[str, Message], None]] = {
            "forward": self._on_forward,
            "answered": self._on_answered,
            "forwarded": self._on_forwarded,
            "read": self._on_read,
            "read_at": self._on_read_at,
            "probe": self._on_probe,
            "probed": self._on_probed,
        }

    def received(self, node: str, message: Message) -> None:
        """One message of a member; one that makes no sense costs it the link."""
        kind = message.get("type")
        handler = self._handlers.get(kind) if isinstance(kind, str) else None
        if handler is None:
            self._lines.drop(node, f"message type {kind!r}")
            return
        try:
            handler(node, message)
        except (BadRequest, LookupError, TypeError, ValueError) as error:
            self._lines.drop(node, f"malformed {kind}: {error!r}")

    # -- asking ----------------------------------------------------------------------------------

    def ask_leader(self, leader: str | None, batch_bytes_max: int) -> None:
        """Forward the operations and reads that wait here, unless told to wait a moment.

        None: no leader is reachable, so what was asked of one will have to be asked again.
        """
        self._intake.leader_is(leader)
        self._barrier.leader_is(leader)
        now_s = self._now()
        if leader is None:
            self._without_leader(now_s)
            return
        self._leaderless_from_s = None
        if now_s < self._ask_from_s:
            return
        # It knows what the cluster version is. What its software does not know is kept from it.
        version = max(OLDEST, self._lines.newest_version(leader))
        while batch := self._intake.take(batch_bytes_max, version):
            left_s = max(pending.deadline_s for pending in batch) - now_s
            message = {
                "type": "forward",
                "batch": self._intake.forwarded(batch, leader),
                "left_ms": max(1, round(left_s * 1000)),
                "ops": [pending.packed for pending in batch],
            }
            self._lines.send(leader, message)
        if self._barrier.waiting:
            number = self._barrier.ask_leader(leader)
            self._lines.send(leader, {"type": "read", "number": number})

    def _without_leader(self, now_s: float) -> None:
        """An election takes less than ``leaderless_s``. Beyond that this tracker is cut off, or
        there is no majority: its clients are to try their luck elsewhere. A node that led the term
        which still is has been without its followers for a time-out already, and they elect
        another."""
        if self._leaderless_from_s is None:
            led = self._engine.raftCurrentTerm == self._led_term
            self._leaderless_from_s = now_s - self._leaderless_max_s if led else now_s
        if now_s >= self._leaderless_from_s + self._leaderless_max_s:
            self._intake.give_back()
            self._barrier.give_back()

    def ask_term(self, members: tuple[str, ...], round_after_s: float) -> None:
        """As the leader: have the term confirmed for the reads that wait here.

        Rounds asked longer than ``round_after_s`` ago are asked anew.
        """
        self._leaderless_from_s, self._led_term = None, self._engine.raftCurrentTerm
        self._intake.leader_is(None)  # what an earlier leader was asked is this node's to do now
        self._barrier.leader_is(None)
        now_s = self._now()
        self._barrier.retry_rounds(now_s - round_after_s)
        if not self._barrier.waiting:
            return
        number = self._barrier.begin_round(self._engine.raftCommitIndex, now_s)
        if number is not None:
            probe = {"type": "probe", "term": self._engine.raftCurrentTerm, "round": number}
            for node in members:
                self._lines.send(node, probe)
            self._engine.send_now()  # whoever asked is to have applied what it will be told

    # -- answering -------------------------------------------------------------------------------

    def _on_forward(self, node: str, message: Message) -> None:
        number, operations = _number(message, "batch"), message["ops"]
        left_s = min(_number(message, "left_ms") / 1000, self._limits.request_deadline_max_s)
        deadline_s = self._now() + left_s
        batch = Forwarded(len(operations), partial(self._answer_forward, node, number))
        # Where no word can be refused by the version of the cluster any more, they go together.
        bytes_max = self._intake.operation_bytes_max if self._version() >= NEWEST else 0
        for start, end in pieces(operations, bytes_max):
            self._take_in(operations, start, end, deadline_s, batch)

    def _take_in(
        self,
        operations: Sequence[Any],
        start: int,
        end: int,
        deadline_s: float,
        batch: Forwarded,
    ) -> None:
        """Those from ``start`` up to ``end`` together, or each by itself if that cannot be."""
        some = operations[start:end]
        try:
            word = check_forwarded(*some)
            answer = partial(batch.answer, start)
            self._intake.add_bundle(b"".join(some), len(some), deadline_s, answer, word=word)
        except P2PError as error:
            if len(some) == 1:
                batch.answer(start, [error.to_wire()], 0, [0])
                return
            for place in range(start, end):
                self._take_in(operations, place, place + 1, deadline_s, batch)

    def _answer_forward(self, node: str, number: int, runs: list[Run]) -> None:
        answer: Message
        if self._lines.newest_version(node) >= PACKED_SINCE:
            answer = {"type": "answered", "batch": number, "runs": runs}
        else:
            replies = [
                (opened(reply), (index, position))
                for index, positions, some in runs
                for position, reply in zip(positions, some, strict=True)
            ]
            answer = {"type": "forwarded", "batch": number, "replies": replies}
            self._engine.send_now()  # its client may read there what it was just told
        try:
            self._lines.send(node, answer)
        except TooLarge as error:
            self._lines.drop(node, str(error))
        self._flush()

    def _on_forwarded(self, node: str, message: Message) -> None:
        replies = [
            (
                dict(reply),
                (
                    check_int("index", index, 0, INTEGER_MAX),
                    check_int("position", position, 0, INTEGER_MAX),
                ),
            )
            for reply, (index, position) in message["replies"]
        ]
        self._returned(node, message, replies)

    def _on_answered(self, node: str, message: Message) -> None:
        replies: list[tuple[Reply, Position]] = []
        for index, positions, some in message["runs"]:
            check_run(index, positions, some)
            if self._lines.sits(node):
                self._engine.told_committed(node, index)  # clients read here what they are told
            replies += [
                (reply, (index, place)) for place, reply in zip(positions, some, strict=True)
            ]
        self._returned(node, message, replies)

    def _returned(
        self, node: str, message: Message, replies: Sequence[tuple[Reply, Position]]
    ) -> None:
        if not self._intake.returned(_number(message, "batch"), replies, node):
            self._ask_from_s = self._now() + PACE_S

    def _on_read(self, node: str, message: Message) -> None:
        number = _number(message, "number")

        def granted(index: int | None, error: P2PError | None) -> None:
            self._lines.send(node, {"type": "read_at", "number": number, "index": index})
            self._flush()

        if self._engine.role is Role.LEADER:
            deadline_s = self._now() + self._limits.request_deadline_max_s
            self._barrier.add(Waiter(deadline_s, granted, remote=True))
        else:
            granted(None, None)

    def _on_read_at(self, node: str, message: Message) -> None:
        index = None if message["index"] is None else _number(message, "index")
        if not self._barrier.told(_number(message, "number"), index, node):
            self._ask_from_s = self._now() + PACE_S

    def _on_probe(self, node: str, message: Message) -> None:
        term, number = _number(message, "term"), _number(message, "round")
        if term == self._engine.raftCurrentTerm:
            self._lines.send(node, {"type": "probed", "term": term, "round": number})

    def _on_probed(self, node: str, message: Message) -> None:
        term, number = _number(message, "term"), _number(message, "round")
        if self._engine.leads and term == self._engine.raftCurrentTerm:
            self._barrier.confirmed(number, node)
