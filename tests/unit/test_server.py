"""What a client asks becomes what the log is given, by the short way as by the general one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_raft import commands
from tracker_raft.commands import INTEGER_MAX, check_int
from tracker_raft.config import Address, Member, NodeConfig
from tracker_raft.entries import ROWS_SINCE, unpack_operation
from tracker_raft.errors import BadRequest, P2PError, UnknownOperation
from tracker_raft.machine.vocabulary import parse
from tracker_raft.server import Server

ANY = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just((1,))
NUMBERS = st.sampled_from([1, 2, 7, 2**63 - 1]) | st.sampled_from([0, -1, 2**63, True, 1.0, "1"])
NAMES = st.sampled_from(["a", "models/a", "ä/b", "a" * 64, "a" * 512])
LABELS = st.sampled_from(["", "team", "ö"])


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(good, good, good, good, bad)


PUBLISHES = st.fixed_dictionaries(
    {
        "name": mostly(
            NAMES, ANY | st.sampled_from(["", "a@b", "a//b", "a\n", "0" * 64, "é" * 300])
        ),
        "content": mostly(st.just(bytes(32)), ANY | st.just(b"short")),
        "size": mostly(st.sampled_from([0, 1, 2**63 - 1]), NUMBERS | ANY),
        "manifest_bytes": mostly(st.sampled_from([1, 2**63 - 1]), NUMBERS | ANY),
        "piece_bytes": mostly(st.sampled_from([1 << 14, 1 << 24]), NUMBERS | ANY | st.just(20_000)),
        "session": mostly(st.just(7), NUMBERS | ANY),
        "seq": mostly(st.just(7), NUMBERS | ANY),
        "low": mostly(st.just(7), NUMBERS | ANY),
    },
    optional={
        "owner": mostly(LABELS, ANY | st.just("\n")),
        "group": mostly(LABELS, ANY | st.just("x" * 129)),
        "replace": mostly(st.booleans(), ANY),
        "deadline_ms": mostly(st.sampled_from([0, 5, 2**62]), NUMBERS | ANY),
        "unknown": ANY,
    },
)


class Asked:
    """A server whose replica writes down what it was given, in a cluster at ``version``."""

    def __init__(self, version: int) -> None:
        self.given: list[tuple[bytes, float, str]] = []
        self.answers: list[tuple[Any, Any]] = []
        machine = SimpleNamespace(version=version, on_changes=lambda changed: None, applied=9)
        self.replica = SimpleNamespace(machine=machine, submit=self._submit)
        self.server = asyncio.run(self._make())

    async def _make(self) -> Server:
        address = Address("127.0.0.1", 1)
        config = NodeConfig("n1", Path("n1"), (Member("n1", address),), address, address, address)
        replica: Any = self.replica
        return Server(config, replica=replica, trackers=list, control=lambda *asked: None)

    def _submit(self, packed: bytes, deadline_s: float, sink: object, *, word: str) -> None:
        self.given.append((packed, deadline_s, word))

    def request(self, message: dict[str, Any]) -> None:
        connection: Any = None
        answer: Callable[..., None] = lambda reply, at: self.answers.append((reply, at))  # noqa: E731
        self.server.request(message, 100.0, answer, connection)

    def outcome(self, message: dict[str, Any]) -> object:
        """The operation that was logged, its deadline and word; or what the client is told."""
        self.given.clear()
        try:
            self.request(message)
        except P2PError as error:
            assert self.given == []
            return error.to_wire()
        ((packed, deadline_s, word),) = self.given
        *numbers, body = unpack_operation(packed)
        return numbers, parse(body, ROWS_SINCE), deadline_s, word


OLD, NEW = Asked(ROWS_SINCE - 1), Asked(ROWS_SINCE)


@given(PUBLISHES, st.lists(st.sampled_from(["name", "content", "size", "seq"]), max_size=1))
def test_a_publish_by_the_short_way_is_the_same_publish(
    fields: dict[str, Any], lacking: list[str]
) -> None:
    """Broken: what a publish is, or why it is refused, depends on the version of the cluster."""
    message = {"id": 1, "op": "publish", **fields}
    for name in lacking:
        del message[name]
    assert NEW.outcome(message) == OLD.outcome(message)


def test_a_publish_is_an_array_only_where_all_read_it() -> None:
    """Broken: a tracker that is not upgraded yet reads garbage, and all of the entry is lost."""
    publish = commands.Publish("a", bytes(32), 1, 1, 1 << 16)
    message = {"id": 1, **publish.to_wire(), "session": 3, "seq": 2, "low": 1}
    bodies = []
    for asked in (OLD, NEW):
        asked.outcome(message)
        ((packed, _, _),) = asked.given
        bodies.append(unpack_operation(packed)[3])
    assert bodies == [publish.to_wire(), ("publish", "a", bytes(32), 1, 1, 1 << 16)]


EDGES = (0, 1, 7, 8, INTEGER_MAX, INTEGER_MAX + 1, -1, True, 1.0, "1", None)


def test_the_numbers_of_a_write_are_each_in_its_range() -> None:
    """Broken: a write whose low is above its seq comes into the log, or a good one is refused."""
    publish = commands.Publish("a", bytes(32), 1, 1, 1 << 16).to_wire()
    for session, seq, low in itertools.product(EDGES, repeat=3):
        message = {"id": 1, **publish, "session": session, "seq": seq, "low": low}
        try:
            numbers = [check_int("session", session, 1, INTEGER_MAX)]
            numbers.append(check_int("seq", seq, 1, INTEGER_MAX))
            numbers.append(check_int("low", low, 1, numbers[1]))
        except BadRequest as error:
            assert NEW.outcome(message) == error.to_wire()
        else:
            outcome: Any = NEW.outcome(message)
            assert outcome[0] == numbers


@pytest.mark.parametrize("word", ["fly", None, 7, ("publish",), {"op": "publish"}], ids=str)
def test_a_word_that_is_not_known_is_refused_by_its_name(word: object) -> None:
    """Broken: a request that cannot be looked up by its word ends the connection."""
    with pytest.raises(UnknownOperation, match="is not known here"):
        NEW.request({"id": 1, "op": word})


def test_each_word_of_the_protocol_is_taken_to_its_place() -> None:
    """Broken: a word is known and answered by what another one does."""
    handlers = NEW.server._handlers
    assert handlers.keys() == commands.BY_WORD.keys()
    places = {word: handler.__name__ for word, handler in handlers.items()}
    writes = {cls.op: "_write" for cls in commands.WRITES}
    reads = {cls.op: "_read" for cls in commands.READS}
    special = {"publish": "_publish", "watch": "_watch", "renew": "_renew_lease"}
    control = dict.fromkeys(commands.BY_WORD, "_control_this")
    assert places == {**control, **writes, **reads, **special}


@pytest.mark.parametrize("level", ["fast", None, 7, ("local",), {}], ids=str)
def test_a_read_of_no_level_is_refused(level: object) -> None:
    """Broken: a read is answered by another level than was asked for."""
    message = {"id": 1, "op": "lookup", "name": "a", "level": level}
    with pytest.raises(BadRequest, match="expected one of linearizable, session, local"):
        NEW.request(message)
