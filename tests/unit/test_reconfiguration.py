"""When the leader changes the members: its guard, who must live, and when a learner votes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_driver import Member as Driver
from engine_driver import acknowledgement

from tracker_raft.config import Address, Member, NodeConfig
from tracker_raft.errors import (
    BadRequest,
    Busy,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Unavailable,
    Unsupported,
)
from tracker_raft.raft.configuration import Facts
from tracker_raft.raft.engine import Role
from tracker_raft.raft.handover import HandOver
from tracker_raft.raft.membership import Roster, begun
from tracker_raft.raft.reconfiguration import LOOK_S, MOVED_S, CatchUp, Reconfiguration
from tracker_raft.raft.roll import Roll
from tracker_raft.versions import NEWEST, OLDEST

HERE = "127.0.0.1:1"
TIMEOUT_S = 5.0


class Lines:
    """Links that are there or not."""

    def __init__(self) -> None:
        self.connected: tuple[str, ...] = ("n2", "n3")
        self.roster: Roster | None = None
        self.at: dict[str, str] = {}
        """Who is elsewhere than here."""

    def linked(self, node: str) -> bool:
        return node in self.connected

    def admit(self, roster: Roster) -> None:
        self.roster = roster

    def identity(self, node: str) -> Facts:
        at = self.at.get(node, HERE)
        return Facts(f"of {node}", at, at, present=node == "n1" or node in self.connected)

    def send(self, node: str, message: dict[str, Any]) -> bool:
        return True

    def flush(self) -> None:
        return None


class Case:
    """``n1`` leads three; the no-op of its term is committed."""

    def __init__(self, directory: Path) -> None:
        self.driver = Driver(directory)
        self.engine = self.driver.engine
        self.lines: Any = Lines()
        here = Address("127.0.0.1", 1)
        members = tuple(Member(node, here) for node in ("n1", "n2", "n3"))
        config = NodeConfig("n1", directory, members, here, here, here)
        self.membership = begun(config, self.driver.journal, None)
        self.hand_over = HandOver(
            self.engine, self.engine.voters, self.lines, self.driver.line.send, 1.0
        )
        self.roll = Roll(
            self.membership,
            self.engine,
            self.driver.journal,
            self.lines,
            elections=lambda voters, votes: None,
            voting=(),
            everybody=lambda voters: None,
        )
        self.changes = Reconfiguration(
            self.engine,
            self.membership,
            self.lines,
            self.hand_over,
            node="n1",
            version=lambda: self.version,
            timeout_s=lambda: TIMEOUT_S,
            now=time.monotonic,
        )
        self.told: list[tuple[Any, Any]] = []
        self.version = NEWEST
        self.now_s = time.monotonic()
        self.term = self.driver.lead()

    def done(self, reply: Any, error: Any) -> None:
        self.told.append((reply, error))

    def add(self, node: str = "n4", birth: str | None = None) -> None:
        until_s = time.monotonic() + 60
        self.changes.add(node, birth or f"of {node}", HERE, HERE, until_s, self.done)

    def remove(self, node: str) -> None:
        self.changes.remove(node, time.monotonic() + 60, self.done)

    def acknowledged(self, *nodes: str) -> None:
        """All that is in the log is in theirs; what that commits is applied and settled."""
        for node in nodes:
            member = self.engine.nodes[node]
            message = acknowledgement(self.term, self.driver.journal.last_index + 1)
            self.engine.deliver(member, message)
        self.engine.doTick(0)
        self.roll.step()

    def step(self) -> None:
        self.changes.step(time.monotonic())

    def watch(self, seconds: float = MOVED_S + 2 * LOOK_S) -> None:
        """So many seconds of turns go by, from where the last ones ended."""
        for _ in range(round(seconds / LOOK_S)):
            self.now_s += LOOK_S
            self.changes.step(self.now_s)

    def place(self, node: str) -> str:
        seat = self.membership.in_force.seat(node)
        assert seat is not None
        return seat.raft


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path)
    yield case
    case.driver.close()


def test_nothing_changes_before_the_first_entry_of_the_term(case: Case) -> None:
    """Broken: S14, a new leader changes the members while a change of the old one may be
    committed behind its back."""
    with pytest.raises(Busy, match="has not begun yet"):
        case.add()
    case.acknowledged("n2")
    case.add()
    assert case.membership.in_force.learners == ("n4",)
    assert case.told == [], "it is not committed"
    case.acknowledged("n2")
    assert case.told == [({"node": "n4", "incarnation": 1, "index": 3}, None)]


def test_the_next_change_waits_for_the_one_before(case: Case) -> None:
    """Broken: S14, changes overlap."""
    case.acknowledged("n2")
    case.add()
    for change in (lambda: case.add("n5"), lambda: case.remove("n3")):
        with pytest.raises(Busy, match="entry 3 is not committed yet"):
            change()
    case.acknowledged("n3")
    case.add("n5")
    assert case.membership.in_force.learners == ("n4", "n5")


def test_what_is_done_already_is_answered_at_once(case: Case) -> None:
    """Broken: a change that is asked for again, its answer lost, fails or is made twice."""
    case.acknowledged("n2")
    case.add()
    case.acknowledged("n2")
    case.add()
    assert case.told[1] == case.told[0] and case.driver.journal.last_index == 3
    case.remove("n4")
    case.acknowledged("n2")
    case.remove("n4")
    assert [reply["incarnation"] for reply, _ in case.told] == [1, 1, 1, 1]
    with pytest.raises(NotFound, match="'n9' is no member"):
        case.remove("n9")
    with pytest.raises(BadRequest, match="was removed from the cluster"):
        case.add()
    with pytest.raises(BadRequest, match="is a member already"):
        case.add("n3", "another")


def test_a_learner_votes_when_it_has_caught_up_and_not_before(case: Case) -> None:
    """Broken: a new node that has nothing is counted on."""
    case.acknowledged("n2", "n3")
    case.add()
    case.acknowledged("n2", "n3")
    case.lines.connected = ("n2", "n3", "n4")
    case.step()
    assert case.membership.in_force.learners == ("n4",)
    assert case.engine.raftCommitIndex == 3, "committed without it"
    case.acknowledged("n4")
    case.step()
    assert case.membership.in_force.voters == ("n1", "n2", "n3", "n4")
    case.acknowledged("n4")
    assert not case.membership.is_settled, "two of four are no majority"
    case.acknowledged("n2")
    assert case.membership.is_settled


def test_a_round_that_took_too_long_is_followed_by_another() -> None:
    """Broken: a node that cannot keep up votes, and every write waits for it."""
    rounds = CatchUp(until=100, since_s=0.0)
    assert not rounds.look(matched=50, last=150, now_s=1.0, timeout_s=0.2)
    assert not rounds.look(matched=100, last=200, now_s=2.0, timeout_s=0.2)
    assert not rounds.look(matched=150, last=210, now_s=2.1, timeout_s=0.2)
    assert rounds.look(matched=200, last=220, now_s=2.15, timeout_s=0.2)


def test_no_change_leaves_a_majority_that_is_not_heard(case: Case) -> None:
    """Broken: a healthy node is removed while another is dead."""
    case.acknowledged("n2", "n3")
    case.lines.connected = ("n2",)
    with pytest.raises(Unavailable, match="the voters n1, n3, and n3 is not heard"):
        case.remove("n2")
    assert case.membership.index == 0
    case.remove("n3")
    assert case.membership.in_force.voters == ("n1", "n2")


def test_who_leads_hands_over_and_says_so(case: Case) -> None:
    """Broken: a leader removes itself and commits without being counted."""
    case.acknowledged("n2", "n3")
    case.remove("n1")
    assert case.hand_over.waits and case.membership.index == 0
    with pytest.raises(Busy, match="being handed over"):
        case.remove("n2")


def test_whoever_does_not_lead_says_so_and_what_was_open_is_unknown(case: Case) -> None:
    """Broken: a change is reported as done or as not done by one who cannot know."""
    case.acknowledged("n2", "n3")
    case.add()
    case.engine.step_down()
    assert case.engine.role is Role.FOLLOWER
    case.changes.lost_leadership()
    assert isinstance(case.told[0][1], OutcomeUnknown)
    with pytest.raises(NoLeader):
        case.add("n5")


def test_the_version_of_the_cluster_can_forbid_it(case: Case) -> None:
    """Broken: a tracker of an older version passes over the entry and counts other members."""
    case.acknowledged("n2", "n3")
    case.version = OLDEST
    with pytest.raises(Unsupported, match="'members' needs 2"):
        case.add()
    assert case.membership.index == 0 and case.driver.journal.last_index == 2


# -- a node is an id, not an address ---------------------------------------------------------------

THERE = "10.0.0.2:1"


def test_who_moved_for_good_is_written_down_once(case: Case) -> None:
    """Broken: a new address is known to those only who were there, or fills the log."""
    case.acknowledged("n2", "n3")
    case.watch()
    assert case.membership.index == 0, "nobody moved"
    case.lines.at = {"n2": THERE}
    case.watch(MOVED_S - LOOK_S)
    assert case.membership.index == 0, "it may move on"
    case.watch()
    assert (case.membership.index, case.place("n2"), case.place("n3")) == (3, THERE, HERE)
    assert case.membership.in_force.voters == ("n1", "n2", "n3")
    assert case.told == [], "nobody asked"
    case.watch()
    case.acknowledged("n3")
    case.watch()
    assert case.membership.index == 3 and case.membership.is_settled


def test_who_moves_to_and_fro_is_not_written_down(case: Case) -> None:
    """Broken: two directories of one name, or an address that comes and goes, fill the log."""
    case.acknowledged("n2", "n3")
    for number in range(20):
        case.lines.at = {"n2": f"10.0.0.{number % 2}:1"}
        case.watch(MOVED_S)
    assert case.membership.index == 0


def test_who_is_not_linked_says_nothing_about_its_place(case: Case) -> None:
    """Broken: what was heard long ago is written over what another leader wrote down since."""
    case.acknowledged("n2", "n3")
    case.lines.at, case.lines.connected = {"n3": THERE}, ("n2",)
    case.watch()
    assert case.membership.index == 0
    case.add()
    case.acknowledged("n2")
    assert case.place("n3") == HERE, "nor with another change"


def test_a_move_waits_for_its_turn(case: Case) -> None:
    """Broken: S14, it overlaps with another change, or is logged for those who do not know it."""
    case.lines.at = {"n2": THERE}
    case.watch()
    assert case.membership.index == 0, "the leader has not begun yet"
    case.acknowledged("n2", "n3")
    case.version = OLDEST
    case.watch()
    assert case.membership.index == 0, "the release before cannot read it"
    case.version = NEWEST
    case.lines.connected = ()
    case.watch()
    assert case.membership.index == 0, "nobody is heard"
    case.lines.connected = ("n2", "n3")
    case.remove("n1")
    case.watch()
    assert case.membership.index == 0, "it hands over"


def test_no_change_begins_while_a_move_is_not_committed(case: Case) -> None:
    """Broken: S14 again, the other way round; and a move is put off while a node learns."""
    case.acknowledged("n2", "n3")
    case.add()
    case.acknowledged("n2", "n3")
    case.lines.at = {"n2": THERE}
    case.watch()
    assert case.membership.index == 3, "n4 learns"
    case.remove("n4")
    assert case.place("n2") == THERE, "a change says it as well"
    case.acknowledged("n2", "n3")
    case.lines.at = {"n3": THERE}
    case.watch()
    with pytest.raises(Busy, match="entry 5 is not committed yet"):
        case.remove("n3")


def test_a_new_leader_looks_anew(case: Case) -> None:
    """Broken: where a node was before another one led counts as if it had stayed there."""
    case.acknowledged("n2", "n3")
    case.lines.at = {"n2": THERE}
    case.watch(MOVED_S)
    case.changes.lost_leadership()
    case.watch(MOVED_S)
    assert case.membership.index == 0
    case.watch()
    assert case.place("n2") == THERE


def test_a_client_address_is_written_down_beside_others_only(case: Case) -> None:
    """Broken: each cluster begins its log with a list of members, or clients are sent to an
    address of the past."""
    case.acknowledged("n2", "n3")
    case.lines.identity = lambda node: Facts(f"of {node}", HERE, THERE)
    case.watch()
    assert case.membership.index == 0
    case.add()
    case.acknowledged("n2", "n3")
    case.remove("n4")
    case.acknowledged("n2", "n3")
    case.lines.identity = lambda node: Facts(f"of {node}", HERE, "10.0.0.3:1")
    case.watch()
    seat = case.membership.in_force.seat("n3")
    assert seat is not None and seat.endpoint == "10.0.0.3:1"
