"""What trackers ask of each other beside Raft: to log operations, to grant a read, to confirm a
term. Messages in, messages out; the bookkeeping is in :mod:`intake` and :mod:`reads`.

::

    forward    {"batch": n, "left_ms": ms, "ops": [bytes...]}      follower to leader
    forwarded  {"batch": n, "replies": [[reply, [index, position]]...]}
    read       {"number": n}                                       follower to leader
    read_at    {"number": n, "index": i or nil: I do not lead}
    probe      {"term": t, "round": n}                             leader to all
    probed     {"term": t, "round": n}                             my term is t, too

The deadline of a forwarded operation travels as the time left, so no clock is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tracker_raft.commands import INTEGER_MAX, check_int
from tracker_raft.config import WireLimits
from tracker_raft.entries import unpack_operation, word_of
from tracker_raft.errors import BadRequest, P2PError, TooLarge, UnknownOperation
from tracker_raft.machine import LOG_WORDS, ROW_WORDS
from tracker_raft.raft.engine import Engine, Role
from tracker_raft.raft.intake import NOWHERE, Intake, Position, Reply
from tracker_raft.raft.reads import ReadBarrier, Waiter
from tracker_raft.raft.seams import Lines, Message
from tracker_raft.versions import OLDEST, RAISE_VERSION

PACE_S = 0.01
"""Before a tracker that was told "I do not lead" asks the same leader again."""


def _number(message: Message, name: str) -> int:
    return check_int(name, message[name], 0, INTEGER_MAX)


def check_forwarded(packed: object) -> str:
    """Let only one well-formed operation of this version's words into the log; its word.

    Bytes that do not decode would make the whole entry unreadable, the operations of others with
    it; a committed word that is not known here would stop every tracker of this version.
    Raises :class:`BadRequest` or :class:`UnknownOperation`.
    """
    if type(packed) is not bytes:
        raise BadRequest("a forwarded operation that is not bytes")
    _, _, _, body = unpack_operation(packed)
    word = word_of(body)
    known = ROW_WORDS if isinstance(body, tuple) else LOG_WORDS
    if not isinstance(word, str) or word not in known or word == RAISE_VERSION:
        raise UnknownOperation(f"operation {word!a} is not known to the leader; not run")
    return word


class Colleagues:
    """This tracker's side of those conversations. ``flush`` lets what was sent leave soon.

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
        leaderless_s: float,
        now: Callable[[], float],
        flush: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._intake = intake
        self._barrier = barrier
        self._lines = lines
        self._limits = limits
        self._now = now
        self._flush = flush
        self._ask_from_s = 0.0
        self._leaderless_max_s = leaderless_s
        self._leaderless_from_s: float | None = None
        self._led_term = -1
        self._handlers: dict[str, Callable[[str, Message], None]] = {
            "forward": self._on_forward,
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
        if len(self._barrier):
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
        if not len(self._barrier):
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
        replies: list[tuple[Reply, Position]] = [({}, NOWHERE)] * len(operations)
        left = len(operations)

        def sink(place: int, reply: Reply, at: Position) -> None:
            nonlocal left
            replies[place] = (reply, at)
            left -= 1
            if left == 0:
                self._answer_forward(node, number, replies)

        for place, packed in enumerate(operations):
            answer = partial(sink, place)
            try:
                word = check_forwarded(packed)
                self._intake.add(packed, deadline_s, answer, remote=True, word=word)
            except P2PError as error:
                answer(error.to_wire(), NOWHERE)

    def _answer_forward(
        self, node: str, number: int, replies: list[tuple[Reply, Position]]
    ) -> None:
        try:
            self._lines.send(node, {"type": "forwarded", "batch": number, "replies": replies})
        except TooLarge as error:
            self._lines.drop(node, str(error))
        self._engine.send_now()  # its client may read there what it was just told
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
