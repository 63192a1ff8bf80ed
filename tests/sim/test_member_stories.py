"""Changes of the members as stories: one thing goes wrong at the moment it hurts most (S14)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.sim.cluster import SimNode
from tests.sim.members import Operator
from tests.sim.mutants import LEARNERS_VOTE, mutated
from tests.sim.run import library_globals
from tests.sim.test_elections import Scene, steady
from tracker_raft.errors import BadRequest, Busy, NoLeader, P2PError, Unavailable
from tracker_raft.raft.configuration import Configuration
from tracker_raft.raft.membership import Membership
from tracker_raft.versions import NEWEST

SEEDS = range(4)
HERE = "127.0.0.1:1"


class Told:
    """What the leader said to one change."""

    def __init__(self) -> None:
        self.reply: dict[str, Any] | None = None
        self.error: P2PError | None = None

    def __call__(self, reply: dict[str, Any] | None, error: P2PError | None) -> None:
        self.reply, self.error = reply, error


class Members(Scene):
    """A cluster with clients at work, an operator, and what each node takes for the members."""

    def __init__(self, seed: int, nodes: int = 3) -> None:
        super().__init__(seed, nodes)
        self.cluster.network.version = NEWEST  # an entry of members needs it
        self.operator = Operator(self.cluster, self.watch.changes)

    def of(self, node: SimNode) -> Membership:
        assert node.replica is not None, node
        return node.replica.roll.membership

    def voters(self) -> tuple[str, ...]:
        return self.of(self.led()).in_force.voters

    def votes(self, name: str) -> None:
        """Wait until ``name`` is a voter, for good."""
        assert self.until(lambda: name in self.voters() and self.of(self.led()).is_settled)

    def join(self, name: str) -> SimNode:
        node = self.cluster.spare(name)
        node.join_anew()
        return node

    def add(self, leader: SimNode, node: SimNode) -> Told:
        told = Told()
        replica, process = leader.replica, leader.process
        assert replica is not None and process is not None
        until_s = process.time() + 2.0
        process.run(replica.members.add, node.node, node.birth, HERE, HERE, until_s, told)
        replica.kick()
        return told

    def remove(self, leader: SimNode, name: str) -> Told:
        told = Told()
        replica, process = leader.replica, leader.process
        assert replica is not None and process is not None
        process.run(replica.members.remove, name, process.time() + 2.0, told)
        replica.kick()
        return told

    def isolate(self, node: SimNode) -> None:
        for other in self.cluster.nodes.values():
            if other is not node:
                self.cut(node, other)

    def goes_on(self) -> None:
        before = self.acknowledged()
        assert self.until(lambda: self.acknowledged() > before + 5), "no write goes through"
        assert not self.operator.problem, self.operator.problem


@contextmanager
def scene(seed: int, nodes: int = 3) -> Iterator[Members]:
    with library_globals():
        it = Members(seed, nodes)
        yield it
        it.cluster.heal()
        it.goes_on()
        for client in it.clients:
            client.stop_s = 0.0
        it.wait(1.0)
        it.watch.check_history()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_that_was_not_committed_is_taken_back(seed: int) -> None:
    """Broken: a leader that was cut off keeps a change that nobody else has, and counts by it."""
    with scene(seed) as it:
        old = it.begin()
        new_node = it.join("m1")
        it.wait(0.2)
        it.isolate(old)
        told = it.add(old, new_node)
        assert it.of(old).in_force.learners == ("m1",) and not it.of(old).is_settled
        assert it.until(lambda: it.leader() not in (None, old))
        new, elections = it.led(), it.watch.elections
        it.cluster.heal()
        assert it.until(lambda: it.of(old).is_settled and it.of(old).index == 0)
        steady(it, new, elections)
        assert told.reply is None and told.error is not None
        again = it.add(it.led(), new_node)
        assert it.until(lambda: again.reply is not None)
        it.votes("m1")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_second_change_waits_until_the_first_is_committed(seed: int) -> None:
    """Broken: S14, four uncommitted additions at once, and two majorities that do not meet."""
    with scene(seed) as it:
        leader = it.begin()
        first, second = it.join("m1"), it.join("m2")
        told = it.add(leader, first)
        with pytest.raises(Busy, match="is not committed yet"):
            it.add(leader, second)
        with pytest.raises(Busy, match="is not committed yet"):
            it.remove(leader, it.followers()[0].node)
        assert it.until(lambda: told.reply is not None)
        it.add(leader, second)
        assert it.until(lambda: {"m1", "m2"} <= set(it.voters()))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_learns_is_in_nobodys_way(seed: int) -> None:
    """Broken: a new node that is slow or dead costs the majority, or votes before it knows."""
    a_learner_dies_and_a_voter_too(seed)


def test_a_learner_that_counts_is_noticed() -> None:
    """Broken: the story above does not get to the point."""
    with mutated(LEARNERS_VOTE), pytest.raises(AssertionError, match="no write goes through"):
        a_learner_dies_and_a_voter_too(0)


def a_learner_dies_and_a_voter_too(seed: int) -> None:
    with scene(seed) as it:
        leader = it.begin()
        learner = it.join("m1")
        told = it.add(leader, learner)
        assert it.until(lambda: told.reply is not None)
        learner.kill()
        dead = it.followers()[0] if it.followers()[0] is not learner else it.followers()[1]
        dead.kill()  # two of three voters are left: enough, whatever the learner does
        it.wait(1.0)
        it.goes_on()
        assert it.voters() == ("n1", "n2", "n3")
        learner.start()
        it.votes("m1")


@pytest.mark.parametrize("seed", SEEDS)
def test_who_was_removed_while_cut_off_disturbs_nobody_and_stops(seed: int) -> None:
    """Broken: a node that does not know that it was removed raises terms for ever."""
    with scene(seed) as it:
        leader = it.begin()
        gone = it.followers()[0]
        it.isolate(gone)
        it.wait(1.0)
        elections = it.watch.elections
        told = it.remove(leader, gone.node)
        assert it.until(lambda: told.reply is not None)
        it.wait(3.0)
        assert gone.up, "nobody can have told it"
        it.cluster.heal()
        assert it.until(lambda: gone.removed)
        it.wait(1.0)
        assert it.watch.elections == elections and it.led() is leader


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_is_removed_hands_over_first(seed: int) -> None:
    """Broken: a leader counts a quorum that it is no part of, or leaves a gap behind."""
    with scene(seed) as it:
        old = it.begin()
        it.cluster.handed_over_s = it.world.now_s
        told = it.remove(old, old.node)
        assert it.until(lambda: told.error is not None)
        assert isinstance(told.error, NoLeader) and "handed over" in told.error.message
        assert it.until(lambda: it.leader() not in (None, old))
        again = it.remove(it.led(), old.node)
        assert it.until(lambda: again.reply is not None and old.removed)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_becomes_three_and_one_again(seed: int) -> None:
    """Broken: a node that is alone commits by itself what it takes two for, or the reverse."""
    with scene(seed, nodes=1) as it:
        it.begin()
        for name in ("m1", "m2"):
            it.add(it.led(), it.join(name))
            it.votes(name)
        for name in ("m1", "m2"):
            told = it.remove(it.led(), name)
            if isinstance(told.error, NoLeader):
                told = it.remove(it.led(), name)
            gone = it.cluster.nodes[name]
            assert it.until(lambda gone=gone: gone.removed)  # type: ignore[misc]
        assert it.voters() == ("n1",)
        with pytest.raises(BadRequest, match="is the only voter"):
            it.remove(it.led(), "n1")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_would_leave_no_majority_is_refused(seed: int) -> None:
    """Broken: a healthy node is removed while another is dead, and the cluster stands still."""
    with scene(seed) as it:
        leader = it.begin()
        dead, healthy = it.followers()
        dead.kill()
        it.wait(1.0)
        with pytest.raises(Unavailable, match=f"{dead.node} is not heard"):
            it.remove(leader, healthy.node)
        assert it.of(leader).index == 0, "nothing was logged"
        told = it.remove(leader, dead.node)
        assert it.until(lambda: told.reply is not None)
        assert len(it.voters()) == 2
        dead.start()
        assert it.until(lambda: dead.removed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_node_that_lags_far_behind_follows_a_leader_it_never_heard_of(seed: int) -> None:
    """Broken: whoever was away while all others were replaced can never come back."""
    with scene(seed) as it:
        it.begin()
        away = it.followers()[0]
        away.kill()
        it.wait(0.5)
        for name in ("m1", "m2", "m3"):
            it.add(it.led(), it.join(name))
            it.votes(name)
        for name in sorted({"n1", "n2", "n3"} - {away.node}):
            it.operator.apply("remove", name)  # asks again until it is done
        it.cluster.handed_over_s = it.world.now_s + 3.0
        left = {"m1", "m2", "m3", away.node}
        assert it.until(lambda: it.leader() is not None and set(it.voters()) == left)
        assert it.until(lambda: it.of(it.led()).is_settled)
        away.start()
        newest = it.of(it.led()).index
        assert it.until(lambda: it.of(away).index == newest)
        assert it.of(away).in_force == it.watch.changes.newest


def test_members_are_equal_on_all_who_are_there() -> None:
    """Broken: two nodes that applied the same take others for their members."""
    with scene(0) as it:
        it.begin()
        it.add(it.led(), it.join("m1"))
        it.votes("m1")
        it.wait(1.0)
        seen: set[Configuration] = {it.of(node).in_force for node in it.up()}
        assert len(seen) == 1
