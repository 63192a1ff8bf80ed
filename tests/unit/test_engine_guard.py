"""The installed PySyncObj is the one the adapter was written against, and it cannot unpickle.

When the first test fails the library is another one. Nothing is known to be broken then, but
every mend was made against the source as it was. Re-check, in this order, and then record the
new hashes here:

* the private names that ``tracker_raft/raft/engine.py`` uses, and the order inside a tick;
* the messages and their fields in ``tracker_raft/raft/filters.py``: run ``test_filters.py``, whose
  raw halves say which defects are still there;
* the journal's interface in ``tracker_raft/raft/journal.py``;
* the places that pickle: all of them must still be reached through the two stubs.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import pickle
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pysyncobj
import pysyncobj.journal
import pysyncobj.serializer
import pysyncobj.syncobj
import pytest
from engine_driver import Member, append

from tracker_raft.raft.engine import Role
from tracker_raft.raft.filters import Message

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.3.17"
SHA256 = {
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "journal.py": "9cf1eaf6acc704581a4cf7d3de330a404403913107adc91c929778b7e3f35edf",
    "serializer.py": "4d39fde2f15000ad8f507ec229ebd4f6a86371b6f84d4dc1439a9cccd52857ee",
    "transport.py": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
}


@pytest.mark.parametrize("name", SHA256)
def test_the_library_is_the_one_the_adapter_was_written_against(name: str) -> None:
    """Broken: nothing yet; but the safety mends were made against another source."""
    source = Path(pysyncobj.__file__).with_name(name).read_bytes()
    assert hashlib.sha256(source).hexdigest() == SHA256[name], (
        f"the installed pysyncobj/{name} is not that of version {VERSION}, which "
        f"tracker_raft/raft was written against. Install pysyncobj=={VERSION}, or re-check what "
        f"the docstring of {Path(__file__).name} lists and record the new hash"
    )


def test_the_version_is_pinned() -> None:
    """Broken: an installation may choose a library that nobody checked."""
    assert importlib.metadata.version("pysyncobj") == VERSION
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"pysyncobj=={VERSION}" in project["dependencies"]


# -- no pickle -------------------------------------------------------------------------------------


class Planted:
    """Runs code of its sender's choice when it is unpickled."""

    ran: list[str]

    def __init__(self) -> None:
        Planted.ran = []

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return plant, ("it ran",)


def plant(text: str) -> int:
    Planted.ran.append(text)
    return 0


@pytest.fixture
def bomb() -> bytes:
    packed = pickle.dumps(Planted())
    assert pickle.loads(packed) == 0  # noqa: S301 the test of the test: it does run code
    assert Planted.ran.pop() == "it ran"
    return packed


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    member = Member(tmp_path)
    yield member
    member.close()


@pytest.mark.parametrize("module", [pysyncobj.syncobj, pysyncobj.serializer])
@pytest.mark.parametrize("name", ["load", "loads", "dump", "dumps"])
def test_pickle_is_out_of_reach(module: object, name: str) -> None:
    """Broken: whoever reaches the Raft port runs code in the tracker."""
    with pytest.raises(RuntimeError, match="pickle is not used"):
        getattr(module.pickle, name)(b"")  # type: ignore[attr-defined]  # the stub


@pytest.mark.parametrize("kind", [2, 3], ids=["membership", "version"])
def test_a_command_of_the_librarys_own_is_inert(member: Member, bomb: bytes, kind: int) -> None:
    """Broken: an entry in the log runs its writer's code on every node."""
    hostile = bytes([kind]) + bomb
    member.filtered("n2", append(1, (1, 0), [(hostile, 2, 1)], commit=2))
    member.engine.doTick(0)
    assert member.applied == [(2, None)]
    assert Planted.ran == []
    assert sorted(node.id for node in member.engine.otherNodes) == ["n2", "n3"]


def test_a_regular_command_is_handed_on_as_bytes(member: Member, bomb: bytes) -> None:
    """Broken: the library unpickles what a client wrote."""
    member.filtered("n2", append(1, (1, 0), [(b"\x00" + bomb, 2, 1)], commit=2))
    member.engine.doTick(0)
    assert member.applied == [(2, bomb)]
    assert Planted.ran == []


def test_messages_that_carry_pickles_do_not_arrive(member: Member, bomb: bytes) -> None:
    """Broken: a snapshot, a chunk or a forwarded command of a member is unpickled."""
    chunk = {**append(1, (1, 0), []), "transmission": "finish", "data": bomb}
    snapshot = {"type": "append_entries", "term": 1, "commit_index": 1}
    messages: list[Message] = [
        {**chunk, "transmission": "start"},
        chunk,
        {**snapshot, "serialized": (bomb, True, False)},
        {**snapshot, "serialized": (b"", False, True)},
        {"type": "apply_command", "command": b"\x03" + bomb},
        {"type": "apply_command", "command": b"\x02" + bomb, "request_id": 1},
    ]
    for message in messages:
        assert member.filtered("n2", message).malformed
    member.engine.doTick(0)
    assert (member.applied, member.line.sent, Planted.ran) == ([], [], [])


def test_past_the_filters_there_is_still_no_pickle(member: Member, bomb: bytes) -> None:
    """Broken: one hole in the filters would be enough to run code."""
    member.raw(
        "n2", {**append(1, (1, 0), []), "transmission": "start", "data": bomb, "entries": ()}
    )
    with pytest.raises(RuntimeError, match="pickle is not used"):
        member.raw("n2", {**append(1, (1, 0), []), "transmission": "finish", "data": b""})
    assert Planted.ran == []


def test_the_engine_keeps_to_its_seams(member: Member) -> None:
    """Broken: the library opens a socket, starts a thread or compacts behind the adapter's back."""
    conf = member.engine.conf
    assert not conf.autoTick
    assert not conf.dynamicMembershipChange
    assert conf.journalFile is None
    assert conf.fullDumpFile is None
    assert conf.appendEntriesUseBatch
    member.engine.forceLogCompaction()
    member.engine.doTick(0)
    assert member.engine.role is Role.FOLLOWER
    assert len(member.journal) == 1
