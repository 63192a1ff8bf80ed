"""Log entries: what one tracker packs, every tracker reads the same, or refuses the same."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tracker_raft.entries import (
    Entry,
    as_map,
    pack_entry,
    pack_operation,
    pack_publish,
    unpack_entry,
    unpack_operation,
)
from tracker_raft.errors import BadRequest, Unsupported


def test_what_is_packed_operation_by_operation_reads_back_as_one_entry() -> None:
    """If this fails, an acknowledged operation is lost or altered on its way through the log."""
    first = pack_operation(3, 12, 11, {"op": "leave", "peer": "p", "content": b"\x01\x02"})
    second = pack_operation(0, 0, 0, {"op": "renew", "peers": ["p", "q"]})

    assert unpack_entry(pack_entry(777, [first, second])) == Entry(
        777,
        (
            (3, 12, 11, {"op": "leave", "peer": "p", "content": b"\x01\x02"}),
            (0, 0, 0, {"op": "renew", "peers": ("p", "q")}),
        ),
    )


def test_an_entry_without_operations_carries_time_alone() -> None:
    """If this fails, nothing expires in a cluster where nobody writes."""
    assert unpack_entry(pack_entry(2**63 - 1, [])) == Entry(2**63 - 1, ())


def test_an_entry_reads_the_same_whatever_the_number_of_operations() -> None:
    """If this fails, a batch of an unlucky size (a msgpack header boundary) is unreadable."""
    one = pack_operation(1, 1, 1, {"op": "open_session"})
    for count in (15, 16, 17, 65_535, 65_536):
        assert len(unpack_entry(pack_entry(1, [one] * count)).operations) == count


def test_a_newer_entry_format_is_told_apart_from_garbage() -> None:
    """If this fails, an old tracker passes over entries of a newer one and diverges in silence."""
    newer = msgpack.packb({"v": 2, "anything": "else"})

    with pytest.raises(Unsupported, match="format 2, this version reads 1"):
        unpack_entry(newer)


ROW: list[Any] = [1, 1, 1, {"op": "x"}]


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({}, id="empty"),
        pytest.param({"v": 0, "t": 1, "ops": []}, id="version 0"),
        pytest.param({"v": True, "t": 1, "ops": []}, id="version is a bool"),
        pytest.param({"v": 1.0, "t": 1, "ops": []}, id="version is a float"),
        pytest.param({"v": "2", "t": 1, "ops": []}, id="version is text"),
        pytest.param({"v": 1, "ops": []}, id="no time"),
        pytest.param({"v": 1, "t": -1, "ops": []}, id="negative time"),
        pytest.param({"v": 1, "t": 2**63, "ops": []}, id="time out of range"),
        pytest.param({"v": 1, "t": True, "ops": []}, id="time is a bool"),
        pytest.param({"v": 1, "t": 1}, id="no operations"),
        pytest.param({"v": 1, "t": 1, "ops": {}}, id="operations are a map"),
        pytest.param({"v": 1, "t": 1, "ops": [1]}, id="an operation is a number"),
        pytest.param({"v": 1, "t": 1, "ops": [ROW[:3]]}, id="an operation is short"),
        pytest.param({"v": 1, "t": 1, "ops": [[*ROW, 1]]}, id="an operation is long"),
        pytest.param({"v": 1, "t": 1, "ops": [[-1, *ROW[1:]]]}, id="negative session"),
        pytest.param({"v": 1, "t": 1, "ops": [[1, 2**63, *ROW[2:]]]}, id="seq out of range"),
        pytest.param({"v": 1, "t": 1, "ops": [[1, 1, "1", {}]]}, id="low is text"),
        pytest.param({"v": 1, "t": 1, "ops": [[1, 1, 1, "leave"]]}, id="body is text"),
        pytest.param({"v": 1, "t": 1, "ops": [ROW, ROW[:3]]}, id="the second is malformed"),
    ],
)
def test_an_entry_of_another_shape_is_refused_as_a_whole(message: dict[str, Any]) -> None:
    """If this fails, half of a malformed entry is run, or it crashes whoever applies it."""
    with pytest.raises(BadRequest) as refused:
        unpack_entry(msgpack.packb(message))
    assert not isinstance(refused.value, Unsupported)


def test_bytes_that_are_no_map_are_refused() -> None:
    """If this fails, a damaged entry raises something its reader does not expect."""
    for data in (
        b"",
        b"\xc1",
        msgpack.packb([1]),
        pack_entry(1, [])[:-1],
        pack_entry(1, []) + b"x",
    ):
        with pytest.raises(BadRequest):
            unpack_entry(data)


ARRAY = ("publish", "models/a", bytes(32), 1, 9, 16384)


def test_a_publish_is_read_back_as_the_array_that_was_packed() -> None:
    """Broken: a file is bound to something else than what was published."""
    plain = pack_publish(3, 12, 11, ("models/a", bytes(32), 1, 9, 16384, "", "", False))
    owned = pack_publish(3, 13, 11, ("models/a", bytes(32), 1, 9, 16384, "me", "", True))

    entry = unpack_entry(pack_entry(5, [plain, owned]))

    assert entry.operations == (
        (3, 12, 11, ARRAY),
        (3, 13, 11, (*ARRAY, "me", "", True)),
    )
    assert as_map(ARRAY) == {
        "op": "publish",
        "name": "models/a",
        "content": bytes(32),
        "size": 1,
        "manifest_bytes": 9,
        "piece_bytes": 16384,
    }
    assert unpack_operation(plain) == entry.operations[0]


def test_where_older_software_reads_the_log_an_array_is_garbage_to_all() -> None:
    """Broken: a tracker of this release and one of the release before read one entry differently,
    and their states part."""
    entry = pack_entry(5, [pack_publish(1, 1, 1, (*ARRAY[1:], "", "", False))])  # type: ignore[arg-type]

    with pytest.raises(BadRequest):
        unpack_entry(entry, rows=False)
