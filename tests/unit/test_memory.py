"""Births of the members: met once, known for good; another one is a member without its memory."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from pathlib import Path

import pytest
from journal_driver import Memory
from replica_driver import Node, cluster, leader_of, story, until

from tracker_raft.errors import BadRequest, Damaged, LocalError, Unsupported
from tracker_raft.raft.hello import Hello
from tracker_raft.raft.memory import KnownMembers


def knows(storage: Memory) -> KnownMembers:
    """As a process that starts."""
    return KnownMembers(storage)


def test_a_birth_met_once_is_known_in_the_next_run() -> None:
    """Broken: a member that lost its log is let in again after any restart, and votes twice."""
    storage = Memory()
    knows(storage).check("n2", "first")
    knows(storage).check("n3", "third")
    again = knows(storage)
    again.check("n2", "first")
    again.check("n3", "third")
    with pytest.raises(BadRequest, match="'n2' has lost its memory") as refused:
        again.check("n2", "second")
    assert "birth second, known here with first" in str(refused.value)
    with pytest.raises(BadRequest):
        knows(storage).check("n2", "second")
    assert storage.names() == ["members"]


def test_a_birth_is_durable_before_its_member_is_let_in() -> None:
    """Broken: a power loss forgets whom this node has met, and an emptied member is let in."""
    storage = Memory()
    knows(storage).check("n2", "first")
    assert storage.calls == ["write", "sync", "sync_names"]


@pytest.mark.parametrize("call", ["write", "sync", "sync_names"])
def test_who_cannot_be_remembered_is_not_let_in(call: str) -> None:
    """Broken: a full disk makes a node forget whom it has met."""
    storage = Memory()
    known = knows(storage)
    storage.fails[call] = errno.ENOSPC
    with pytest.raises(OSError, match="fails"):
        known.check("n2", "first")
    storage.fails.clear()
    known.check("n2", "first")
    with pytest.raises(BadRequest):
        knows(storage).check("n2", "second")


def test_nothing_is_written_for_members_that_are_known() -> None:
    """Broken: every reconnect costs a sync of the loop."""
    storage = Memory()
    known = knows(storage)
    known.check("n2", "first")
    storage.calls.clear()
    known.check("n2", "first")
    with pytest.raises(BadRequest):
        known.check("n2", "second")
    assert storage.calls == []


def test_a_list_that_is_damaged_anywhere_refuses_to_start() -> None:
    """Broken: one flipped bit shuts out a healthy member for good, as one without its memory."""
    storage = Memory()
    known = knows(storage)
    known.check("n2", "9f0c41d2a7e35b68")
    known.check("n3", "3a5e0c7d11f2b694")
    good = storage.copy()["members"]
    for place in range(len(good)):
        for bit in range(8):
            spoilt = bytearray(good)
            spoilt[place] ^= 1 << bit
            with pytest.raises(Damaged):
                knows(Memory({"members": bytes(spoilt)}))
        with pytest.raises(Damaged):
            knows(Memory({"members": good[:place]}))
    with pytest.raises(Damaged):
        knows(Memory({"members": good + b"\0"}))
    knows(Memory({"members": good})).check("n3", "3a5e0c7d11f2b694")


def test_a_list_of_a_newer_version_or_one_that_cannot_be_read_is_said_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: a node that was put back to an older version reads what it does not understand."""
    storage = Memory()
    monkeypatch.setattr("tracker_raft.raft.memory.FORMAT", 2)
    knows(storage).check("n2", "first")
    monkeypatch.undo()
    with pytest.raises(Unsupported, match="format 2, this version reads 1"):
        knows(storage)
    storage.fails["read"] = errno.EIO
    with pytest.raises(LocalError, match="members cannot be read"):
        knows(storage)


# -- the hello -------------------------------------------------------------------------------------

HELLO = Hello("n2", "boot", "127.0.0.1:9", "birth", ("n1", "n2", "n3"))


def test_a_hello_arrives_as_it_was_said() -> None:
    """Broken: two nodes of this version do not link."""
    assert Hello.from_wire(HELLO.to_wire("c"), "c") == HELLO
    probe = replace(HELLO, probe=True)
    assert Hello.from_wire(probe.to_wire("c"), "c") == probe


@pytest.mark.parametrize(
    "change",
    [
        {"birth": None},
        {"birth": ""},
        {"birth": "x" * 301},
        {"members": None},
        {"members": "n1"},
        {"members": ("n1", 2)},
        {"cluster": "other"},
        {"protocol": 2},
        {"type": "ping"},
    ],
    ids=str,
)
def test_a_hello_without_birth_or_members_is_refused(change: dict[str, object]) -> None:
    """Broken: whoever leaves out its birth gets past the check of it."""
    with pytest.raises(BadRequest):
        Hello.from_wire({**HELLO.to_wire("c"), **change}, "c")


# -- nodes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 2], ids=["is dialled", "dials"])
def test_an_emptied_member_is_refused_and_never_leads(tmp_path: Path, which: int) -> None:
    """Broken: a member without its vote and its log elects a leader without acknowledged writes."""

    async def run(path: Path) -> None:
        async with cluster(path, 3) as nodes:
            await leader_of(nodes)
            await asyncio.gather(*(node.write() for node in nodes))
            victim = nodes[which]
            others = [node for node in nodes if node is not victim]
            await victim.close()
            await leader_of(others)
            for file in victim.config.data_dir.iterdir():
                file.unlink()
            again = Node(victim.config, birth="another")
            try:
                await again.links.start()
                await _refused(again, others)
            finally:
                await again.close()

    story(run)(tmp_path)


async def _refused(again: Node, others: list[Node]) -> None:
    """Ten attempts to link are refused; writes go on, and nothing of it reaches ``again``."""
    attempts: list[str] = []
    note = again.links.note_refusal

    def count(node: str, reason: str) -> None:
        attempts.append(node)
        note(node, reason)

    again.links.note_refusal = count  # type: ignore[method-assign]  # a spy for this test
    await until(lambda: all(again.name in node.links.refused for node in others))
    await until(lambda: len(again.links.refused) == 2 and len(attempts) >= 10)
    for node in others:
        assert "has lost its memory" in node.links.refused[again.name]
        assert again.name not in node.links.connected
        assert f"{node.name} refuses this node" in again.links.refused[node.name]
    reply, _ = await others[0].write()
    assert "ok" in reply
    assert not again.leads
    assert again.machine.applied == 0
    assert again.journal.last_index == 1


@story
async def test_why_there_is_no_link_is_told_until_there_is_one(tmp_path: Path) -> None:
    """Broken: status shows a refusal that is over."""
    async with cluster(tmp_path, 3) as nodes:
        one = nodes[0]
        await leader_of(nodes)
        one.links.note_refusal("n2", "it was refused once")
        await until(lambda: not one.links.refused)
        assert "n2" in one.links.connected
