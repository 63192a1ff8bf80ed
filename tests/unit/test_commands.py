"""The tracker's vocabulary: what may be said, what is refused, and that it survives the wire."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_raft import commands, wire
from tracker_raft.commands import (
    AddNode,
    CloseSession,
    Complete,
    FileRecord,
    Join,
    Leave,
    List,
    Lookup,
    NewFile,
    OpenSession,
    Operation,
    PeerRecord,
    Peers,
    Ping,
    Publish,
    PublishMany,
    ReadLog,
    Remove,
    RemoveNode,
    Renew,
    Retention,
    SetRetention,
    SnapshotPart,
    Status,
    Tag,
    TakeSnapshot,
    TransferLeadership,
    Untag,
    Watch,
    fields,
)
from tracker_raft.commands.files import plain_names
from tracker_raft.errors import BY_CODE, BadRequest, P2PError, UnknownOperation, from_wire

CONTENT = bytes(range(32))
EXAMPLES: list[Operation] = [
    OpenSession(),
    CloseSession(7),
    Publish("models/a", CONTENT, 10, 100, 512 * 1024),
    Publish("models/ä b", CONTENT, 0, 1, 16 * 1024, "owner", "group", replace=True),
    PublishMany.of([NewFile("a", CONTENT, 1, 2, 16384), NewFile("ä", CONTENT, 1, 2, 16384, "me")]),
    Remove("models/a"),
    Remove("models/a@v3"),
    Tag("models/a", "stable", 3),
    Tag("models/a", "r1.0_x-y", 3, expected=0),
    Untag("models/a", "stable"),
    Untag("models/a", "stable", 3),
    SetRetention(),
    SetRetention(0),
    SetRetention(16),
    Retention(),
    Join("p1", "127.0.0.1:9000", CONTENT),
    Join("p1", "[::1]:9000", CONTENT, complete=True, zone="rack 4", lease_ms=1_000),
    Complete("p1", CONTENT),
    Leave("p1"),
    Leave("p1", CONTENT),
    Renew("p1"),
    Lookup(name="models/a@v999999999"),
    Lookup(name="models/a@stable"),
    Lookup(content=CONTENT),
    List(),
    List("models/", "models/a", 1_000),
    Peers(CONTENT),
    Peers(CONTENT, 200, 5),
    Status(),
    TakeSnapshot(),
    TakeSnapshot(7, hold=True),
    SnapshotPart(CONTENT, 262_144),
    ReadLog(),
    ReadLog(7),
    Ping(),
    Watch(7),
    Watch(7, 1, "models/", 500, 0),
    TransferLeadership(),
    TransferLeadership("n2"),
    AddNode("n4", "9f0c41d2a7e35b68", "127.0.0.1:7031", "127.0.0.1:7030"),
    RemoveNode("n4"),
]


def good_publish(**changes: object) -> Publish:
    fields: dict[str, object] = {
        "name": "a",
        "content": CONTENT,
        "size": 1,
        "manifest_bytes": 1,
        "piece_bytes": 16 * 1024,
    }
    return Publish(**{**fields, **changes})  # type: ignore[arg-type]  # wrong types are the point


@pytest.mark.parametrize("operation", EXAMPLES, ids=repr)
def test_an_operation_survives_the_wire(operation: Operation) -> None:
    """Broken: a tracker runs something else than its client asked for."""
    frame = wire.encode({"id": 1, **operation.to_wire()}, 1024 * 1024)
    (message,) = wire.FrameDecoder(1024 * 1024).feed(frame)
    assert commands.parse(message) == operation


def test_every_word_has_an_example_and_its_class() -> None:
    """Broken: a new operation is not tested, or two operations share a word."""
    assert {type(example) for example in EXAMPLES} == set(commands.BY_WORD.values())
    assert all(cls.op == word for word, cls in commands.BY_WORD.items())


def test_defaults_are_left_out_and_unknown_keys_ignored() -> None:
    """Broken: an older tracker refuses a newer client's request for what it does not use."""
    assert List().to_wire() == {"op": "list"}
    assert commands.parse({"op": "list", "colour": "red", "id": 4, "level": "local"}) == List()


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"op": "fly"}, "operation 'fly' is not known"),
        ({"op": None}, "operation None is not known"),
        ({"op": ["list"]}, "is not known"),
        ({}, "operation None is not known"),
    ],
)
def test_an_unknown_word_is_refused_as_such(message: wire.Message, text: str) -> None:
    """Broken: a client cannot tell an old tracker from a mistake of its own."""
    with pytest.raises(UnknownOperation, match=text):
        commands.parse(message)


@pytest.mark.parametrize("word", sorted(commands.BY_WORD))
def test_a_missing_field_is_named(word: str) -> None:
    """Broken: a request without a field is run with a guess, or refused without a reason."""
    required = [
        spec.name
        for spec in dataclasses.fields(commands.BY_WORD[word])
        if spec.default is dataclasses.MISSING
    ]
    if required:
        with pytest.raises(BadRequest, match=f"{word} lacks '{required[0]}'"):
            commands.parse({"op": word})
    elif word == "lookup":
        with pytest.raises(BadRequest, match="either a name or a content id"):
            commands.parse({"op": word})
    else:
        assert commands.parse({"op": word}).op == word


@pytest.mark.parametrize(
    "name",
    ["a", "a b", "ä/ö", "模型/权重", "a.b..c", "-x", "~", "a" * 512, "é" * 256, "f" * 63, "F" * 64],
)
def test_a_name_may_be_anything_a_file_is_called(name: str) -> None:
    """Broken: real file names with spaces or other scripts cannot be published."""
    assert commands.check_name(name) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "has 0 bytes, expected 1 to 512"),
        ("a" * 513, "has 513 bytes"),
        ("é" * 257, "has 514 bytes"),
        ("a@b", "has an '@'"),
        ("a//b", "segment"),
        ("/a", "segment"),
        ("a/", "segment"),
        ("a/../b", "segment"),
        ("./a", "segment"),
        ("a\nb", "control characters"),
        ("a\x00", "control characters"),
        ("a\u202eb", "control characters"),
        ("\ud800", "not valid Unicode"),
        ("0" * 64, "looks like a content id"),
        (b"a", "is bytes, expected text"),
        (7, "is int, expected text"),
    ],
)
def test_a_name_that_would_mislead_or_escape_is_refused(name: object, text: str) -> None:
    """Broken: a name climbs out of a directory, rewrites a terminal or shadows a content id."""
    with pytest.raises(BadRequest, match=text):
        commands.check_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", ("a", None)), ("a@v1", ("a", 1)), ("a/b@v999999999", ("a/b", 999_999_999))],
)
def test_a_version_is_split_from_its_name(text: str, expected: tuple[str, int | None]) -> None:
    """Broken: an earlier version cannot be reached, or another one answers."""
    assert commands.split_version(text) == expected


@pytest.mark.parametrize("text", ["a@", "a@v", "a@v0", "a@v01", "a@3", "a@v1@v2", "@v1", "a@v1 "])
def test_a_malformed_version_is_refused(text: str) -> None:
    """Broken: a mistyped version quietly means another one."""
    with pytest.raises(BadRequest):
        commands.split_version(text)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: good_publish(content=bytes(31)), "content is 31 bytes, expected the 32 bytes"),
        (lambda: good_publish(content="x" * 32), "content is str"),
        (lambda: good_publish(size=-1), "size is -1"),
        (lambda: good_publish(size=2**63), f"size is {2**63}"),
        (lambda: good_publish(size=True), "size is bool"),
        (lambda: good_publish(size=1.0), "size is float"),
        (lambda: good_publish(manifest_bytes=0), "manifest_bytes is 0"),
        (lambda: good_publish(piece_bytes=16 * 1024 - 1), "expected a whole number from 16384"),
        (lambda: good_publish(piece_bytes=16 * 1024 + 1), "expected a power of two"),
        (lambda: good_publish(piece_bytes=32 * 1024 * 1024), "piece_bytes is 33554432"),
        (lambda: good_publish(owner="x" * 129), "owner has 129 bytes"),
        (lambda: good_publish(replace=1), "replace is int, expected true or false"),
        (lambda: CloseSession(0), "target is 0"),
        (lambda: Join("", "h:1", CONTENT), "peer has 0 bytes"),
        (lambda: Join("p", "h", CONTENT), "expected host:port"),
        (lambda: Join("p", "h:0", CONTENT), "a port from 1 to 65535"),
        (lambda: Join("p", "h:1", CONTENT, lease_ms=999), "lease_ms is 999"),
        (lambda: Join("p", "h:1", CONTENT, lease_ms=3_600_001), "lease_ms is 3600001"),
        (lambda: Leave("p", b"x"), "content is 1 bytes"),
        (lambda: Lookup(), "either a name or a content id"),
        (lambda: Lookup("a", CONTENT), "either a name or a content id"),
        (lambda: List(limit=1_001), "limit is 1001"),
        (lambda: List("x" * 513), "prefix has 513 bytes"),
        (lambda: Peers(CONTENT, limit=201), "limit is 201"),
        (lambda: Peers(CONTENT, skip=-1), "skip is -1"),
        (lambda: Renew("p\x1b[2J"), "control characters"),
        (lambda: Watch(-1), "index is -1"),
        (lambda: Watch(1, -1), "position is -1"),
        (lambda: Watch(1, prefix="\n"), "control characters"),
        (lambda: Watch(1, limit=501), "limit is 501, expected a whole number from 1 to 500"),
        (lambda: Watch(1, wait_ms=True), "wait_ms is bool"),
    ],
)
def test_a_field_out_of_range_is_refused_with_what_was_found(
    make: Callable[[], Operation], text: str
) -> None:
    """Broken: what no replica can hold gets into the log, or the refusal does not say why."""
    with pytest.raises(BadRequest, match=text):
        make()


plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40)
    | st.lists(st.integers(), max_size=2).map(tuple)
)


@given(st.data())
def test_arbitrary_requests_are_operations_or_bad_requests(data: st.DataObject) -> None:
    """Broken: a malformed request raises what a tracker does not expect, in the apply path too."""
    cls = commands.BY_WORD[data.draw(st.sampled_from(sorted(commands.BY_WORD)))]
    message: wire.Message = {"op": cls.op}
    for spec in dataclasses.fields(cls):
        if data.draw(st.booleans()):
            message[spec.name] = data.draw(plain)
    try:
        operation = commands.parse(message)
    except BadRequest:
        return
    assert commands.parse(operation.to_wire()) == operation


def test_records_survive_the_wire_and_say_what_they_lack() -> None:
    """Broken: what a client is shown is not what the tracker holds."""
    file = FileRecord("a", 3, CONTENT, 10, 100, 512 * 1024, "o", "g")
    assert FileRecord.from_wire(file.to_wire()) == file and file.versioned == "a@v3"
    peer = PeerRecord("p", "h:1", True, "z")
    assert PeerRecord.from_wire(peer.to_wire()) == peer
    with pytest.raises(BadRequest, match="file record lacks 'version'"):
        FileRecord.from_wire({"name": "a"})
    with pytest.raises(BadRequest, match="peer record lacks 'address'"):
        PeerRecord.from_wire({"peer": "p"})


def test_writes_reads_and_the_rest_are_told_apart() -> None:
    """Broken: a write is answered without the log, or a read is written to it."""
    assert not set(commands.WRITES) & set(commands.READS)
    others = set(commands.BY_WORD.values()) - set(commands.WRITES) - set(commands.READS)
    operators = {Status, Ping, TransferLeadership, TakeSnapshot, SnapshotPart, ReadLog}
    assert others == {Renew, Watch, AddNode, RemoveNode} | operators


def test_a_content_id_is_64_small_hexadecimal_digits() -> None:
    """Broken: a name is taken for a content id, or a content id for a name."""
    assert commands.parse_content_hex(CONTENT.hex()) == CONTENT
    for text in (CONTENT.hex().upper(), CONTENT.hex()[:-1], "a", ""):
        assert commands.parse_content_hex(text) is None


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_an_error_survives_the_wire(code: str) -> None:
    """Broken: definite and unknown change places between a tracker and its client."""
    error = from_wire({"error": code, "message": "why", "retry_after_ms": 250})
    assert (error.code, str(error), error.retry_after_s) == (code, "why", 0.25)
    assert error.to_wire() == {"error": code, "message": "why", "retry_after_ms": 250}


def test_an_unknown_error_word_is_never_taken_for_did_not_happen() -> None:
    """Broken: a newer tracker's "maybe" is read as "no", and the thing is done twice."""
    error: P2PError = from_wire({"error": "half_done", "message": "?"})
    assert error.code == "outcome_unknown" and "half_done" in str(error)
    assert from_wire({}).code == "outcome_unknown"


ALMOST_NAMES = st.text(alphabet="aZ0._-/@ \nä\u0660", max_size=5) | st.just("x" * 63 + "y")
NAMES = st.from_regex(fields.PLAIN_NAME, fullmatch=True)


@given(st.lists(NAMES | NAMES | NAMES | ALMOST_NAMES, min_size=1, max_size=6))
def test_names_are_plain_together_if_each_of_them_is(names: list[str]) -> None:
    """Broken: a name that none may have is bound by the one that publishes many; or each of many is
    looked at by itself."""
    each = [len(name) < 64 and bool(fields.PLAIN_NAME.fullmatch(name)) for name in names]
    assert plain_names(names) == all(each)
    assert not plain_names([*names, b"a"])
