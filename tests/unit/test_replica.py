"""Replicas on one loop with real links and journals: the order of a turn, and what it is for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from replica_driver import OPEN, WAIT_S, Node, cluster, leader_of, story, until

from tracker_raft.commands import Level
from tracker_raft.entries import pack_entry, pack_operation
from tracker_raft.errors import P2PError
from tracker_raft.raft import filters
from tracker_raft.raft.engine import REGULAR, Role
from tracker_raft.raft.intake import Reply
from tracker_raft.versions import NEWEST

# -- one node --------------------------------------------------------------------------------------


@story
async def test_a_single_node_answers_only_what_is_synced(tmp_path: Path) -> None:
    """Broken: a cluster of one acknowledges a write that a power loss takes back."""
    async with cluster(tmp_path, 1) as (node,):
        await leader_of([node])
        unsynced: list[bool] = []
        node.replica.submit(
            OPEN,
            asyncio.get_running_loop().time() + WAIT_S,
            lambda reply, at: unsynced.append(node.behind),
        )
        await until(lambda: unsynced)
        assert unsynced == [False]


@story
async def test_what_a_node_answered_is_there_after_a_restart(tmp_path: Path) -> None:
    """Broken: a restarted cluster forgets acknowledged writes."""
    async with cluster(tmp_path, 1) as (node,):
        for _ in range(3):
            reply, _ = await node.write()
            assert "ok" in reply
        state = node.machine.state_hash
    async with cluster(tmp_path, 1) as (node,):
        await leader_of([node])
        await node.read()
        assert node.machine.state_hash == state


@story
async def test_all_that_arrives_in_one_turn_is_one_entry_and_one_sync(tmp_path: Path) -> None:
    """Broken: group commit is gone: a sync for every operation."""
    async with cluster(tmp_path, 1) as (node,):
        await leader_of([node])
        await until(lambda: node.machine.version == NEWEST and not node.behind)
        syncs = node.journal.syncs
        replies = await asyncio.gather(*(node.write() for _ in range(100)))
        assert {at[0] for _, at in replies} == {replies[0][1][0]}
        assert [at[1] for _, at in replies] == list(range(100))
        assert node.journal.syncs == syncs + 1


@story
async def test_an_operation_nobody_knows_stops_the_node(tmp_path: Path) -> None:
    """Broken: a node passes over what newer ones apply, and its state differs silently."""
    async with cluster(tmp_path, 1) as (node,):
        await leader_of([node])
        strange = pack_operation(0, 0, 0, {"op": "from_the_future"})
        node.replica.engine.propose(pack_entry(0, [strange]), lambda result, reason: None)
        node.replica.kick()
        await until(lambda: node.fatal)
        assert "from_the_future" in node.fatal[0]
        assert len(node.fatal) == 1


@story
async def test_a_disk_that_fails_stops_the_node(tmp_path: Path) -> None:
    """Broken: a node goes on promising durability that its disk does not give."""
    async with cluster(tmp_path, 1) as (node,):
        await leader_of([node])
        with pytest.MonkeyPatch.context() as patched:

            def fails(_: int) -> None:
                raise OSError(5, "Input/output error")

            patched.setattr("os.fdatasync", fails)
            answered: list[Reply] = []
            node.replica.submit(
                OPEN,
                asyncio.get_running_loop().time() + WAIT_S,
                lambda reply, at: answered.append(reply),
            )
            await until(lambda: node.fatal)
        assert "the journal failed: [Errno 5] Input/output error" in node.fatal[0]
        assert answered == []
        node.replica.close()
        assert [reply["error"] for reply in answered] == ["outcome_unknown"]


# -- three nodes -----------------------------------------------------------------------------------


@story
async def test_three_nodes_agree_whoever_is_asked(tmp_path: Path) -> None:
    """Broken: a follower does not forward, or the replicas differ."""
    async with cluster(tmp_path, 3) as nodes:
        await leader_of(nodes)
        replies = await asyncio.gather(*(node.write() for node in nodes for _ in range(10)))
        assert all("ok" in reply for reply, _ in replies)
        assert len({at for _, at in replies}) == 30
        for node in nodes:
            await node.read()
        newest = max(at for _, at in replies)[0]
        await until(lambda: all(node.machine.applied >= newest for node in nodes))
        assert len({node.machine.state_hash for node in nodes}) == 1
        assert len({node.replica.engine.raftCurrentTerm for node in nodes}) == 1


@story
async def test_a_follower_that_answers_has_heard_of_the_commit(tmp_path: Path) -> None:
    """Broken: the next read of that client waits until the leader says what it said already."""
    async with cluster(tmp_path, 3) as nodes:
        leader = await leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)
        await until(lambda: follower.machine.version == NEWEST)
        for _ in range(20):
            reply, (index, _) = await follower.write()
            assert "ok" in reply
            assert follower.replica.engine.raftCommitIndex >= index


@story
async def test_a_cut_off_leader_answers_no_linearizable_read(tmp_path: Path) -> None:
    """Broken: a leader that was replaced without noticing answers from a state that is over."""
    async with cluster(tmp_path, 3) as nodes:
        old = await leader_of(nodes)
        await old.write()
        await old.read()
        await old.links.close()
        with pytest.raises(P2PError, match="lead"):
            await old.read(seconds=0.2)
        await old.read(Level.LOCAL)
        new = await leader_of([node for node in nodes if node is not old])
        reply, _ = await new.write()
        assert "ok" in reply


@story
async def test_a_leader_cut_off_in_the_middle_of_a_write_does_not_say_it_failed(
    tmp_path: Path,
) -> None:
    """Broken: a write that may have happened is reported as one that did not."""
    async with cluster(tmp_path, 3) as nodes:
        old = await leader_of(nodes)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(old.links, "send", lambda node, message: True)
            reply, at = await old.write(seconds=0.3)
        assert (reply["error"], at) == ("outcome_unknown", (0, 0))


def holds(node: Node, to: str, message: dict[str, Any]) -> bool:
    """Whether what ``message`` promises to ``to`` is durable on ``node``."""
    term, voted_for = node.journal._files.vote
    if message["term"] != term:
        return bool(message["term"] < term)
    match message["type"]:
        case "request_vote":
            return voted_for == node.name
        case "response_vote":
            return voted_for == to
    promised: int = message["next_node_idx"] - 1
    return not message["success"] or promised <= node.journal.durable_index


@story
async def test_no_promise_leaves_before_the_sync(tmp_path: Path) -> None:
    """Broken: a vote, a vote request or an acknowledgement rests on what a crash takes away."""
    async with cluster(tmp_path, 3) as nodes:
        said: dict[str, int] = {}
        early: list[str] = []
        for node in nodes:
            send = node.links.send

            def spy(to: str, message: dict[str, Any], node: Node = node, send: Any = send) -> bool:
                kind = message["type"]
                said[kind] = said.get(kind, 0) + 1
                if kind in filters.NEEDS_DURABLE and not holds(node, to, message):
                    early.append(f"{node.name}: {message}")
                sent: bool = send(to, message)
                return sent

            node.links.send = spy  # type: ignore[method-assign]  # a spy for this test
        await leader_of(nodes)
        await asyncio.gather(*(node.write() for node in nodes for _ in range(20)))
        assert early == []
        assert set(said) >= filters.NEEDS_DURABLE | {"append_entries", "forward", "answered"}


@story
async def test_a_leader_counts_itself_only_with_what_is_synced(tmp_path: Path) -> None:
    """Broken: an entry is committed that is durable on a minority."""
    async with cluster(tmp_path, 3) as nodes:
        leader = await leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)
        deliver = leader.replica.engine.deliver
        counted: list[tuple[int, int]] = []

        def spy(node: Any, message: dict[str, Any]) -> None:
            if message["type"] == "next_node_idx":
                counted.append((message["next_node_idx"] - 1, leader.journal.durable_index))
            deliver(node, message)

        leader.replica.engine.deliver = spy  # type: ignore[method-assign]  # a spy for this test
        leader.replica.engine.propose(pack_entry(0, [OPEN]), lambda result, reason: None)
        assert leader.behind
        newest, term = leader.journal.last_index, leader.replica.engine.raftCurrentTerm
        for index in 1, newest:
            ack = filters.outgoing(filters.acknowledge(index), term)
            leader.replica.link_message(follower.name, ack)
        assert [index for index, _ in counted] == [1]
        await until(lambda: newest in [index for index, _ in counted])
        await asyncio.gather(*(leader.write() for _ in range(20)))
        assert [early for early in counted if early[0] > early[1]] == []


@story
async def test_a_lost_leader_is_replaced_and_the_write_goes_on(tmp_path: Path) -> None:
    """Broken: after a failover an operation forwarded to the dead leader waits for its deadline."""
    async with cluster(tmp_path, 3) as nodes:
        leader = await leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)
        writing = asyncio.ensure_future(follower.write())
        await asyncio.sleep(0)
        await leader.close()
        reply, _ = await writing
        assert "ok" in reply
        assert (await leader_of([node for node in nodes if node is not leader])).leads


@story
async def test_a_command_left_in_the_librarys_queue_stays_here(tmp_path: Path) -> None:
    """Broken: a deposed leader's library forwards an entry its own way and loses the link by it."""
    async with cluster(tmp_path, 3) as nodes:
        leader = await leader_of(nodes)
        follower = next(node for node in nodes if node is not leader)
        await until(lambda: follower.replica.leader == leader.name)
        said: list[str] = []
        send = follower.links.send
        follower.links.send = (  # type: ignore[method-assign]  # a spy for this test
            lambda to, message: said.append(message["type"]) is None and send(to, message)
        )
        engine = follower.replica.engine
        engine._applyCommand(pack_entry(0, [OPEN]), lambda result, reason: None, REGULAR)
        follower.replica.kick()
        reply, _ = await follower.write()
        assert "ok" in reply
        assert "apply_command" not in said
        assert "forward" in said
        with pytest.raises(RuntimeError, match="does not lead"):
            engine.propose(pack_entry(0, [OPEN]), lambda result, reason: None)


# -- the end ---------------------------------------------------------------------------------------


@story
async def test_closing_answers_all_that_waits(tmp_path: Path) -> None:
    """Broken: a client of a stopping tracker waits for its whole deadline."""
    async with cluster(tmp_path, 3) as nodes:
        alone = nodes[0]
        for node in nodes:
            await node.links.close()
        await until(lambda: alone.replica.leader is None)
        writing = asyncio.ensure_future(alone.write())
        reading = asyncio.ensure_future(alone.read())
        seeing = asyncio.ensure_future(_seen(alone))
        await asyncio.sleep(0)
        alone.replica.close()
        reply, _ = await writing
        assert reply["error"] in ("shutting_down", "outcome_unknown")
        for waiting in reading, seeing:
            with pytest.raises(P2PError, match="stopping"):
                await waiting
        assert alone.replica.engine.role is not Role.LEADER
        with pytest.raises(P2PError, match="stopping"):
            await alone.write()
        with pytest.raises(P2PError, match="stopping"):
            await alone.read()


async def _seen(node: Node) -> None:
    done: asyncio.Future[P2PError | None] = asyncio.get_running_loop().create_future()
    deadline_s = asyncio.get_running_loop().time() + WAIT_S
    node.replica.reads.read(Level.SESSION, 10_000, deadline_s, done.set_result)
    if error := await done:
        raise error


@story
async def test_a_hand_over_goes_on_with_the_commit_that_it_waits_for(tmp_path: Path) -> None:
    """Broken: who stops while a write is under way hands over a sign of life later than it could,
    when nothing else happens to come."""
    async with cluster(tmp_path, 2) as nodes:
        leader = await leader_of(nodes)
        (other,) = (node for node in nodes if node is not leader)
        await until(lambda: leader.machine.version == NEWEST and not leader.behind)
        turns, engine = leader.replica._turns, leader.replica.engine
        turns.turn_due = turns.work_due = lambda due_s, now_s: None  # type: ignore[method-assign]
        if turns._timer is not None:
            turns._timer.cancel()
        written = asyncio.ensure_future(leader.write())
        before = engine.last_log[1]
        while engine.last_log[1] == before:  # noqa: ASYNC110 the next round of the loop proposes it
            await asyncio.sleep(0)
        assert engine.raftCommitIndex == before, "it is under way"
        leader.replica.hand_over(other.name, WAIT_S, lambda node, error: None)
        reply, _ = await written
        assert "ok" in reply
        await until(lambda: other.leads)
        election = other.replica.status().sight.election
        assert election is not None and election.reason == f"told to stand by {leader.name}"
