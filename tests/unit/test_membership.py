"""Who the members are: what each entry of the log makes of it, and who is let in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracker_raft.config import Address, Member, NodeConfig
from tracker_raft.errors import BadRequest, LimitReached, NotFound, Unsupported
from tracker_raft.raft.configuration import (
    SEATS_MAX,
    Configuration,
    Facts,
    founding,
    is_majority,
    is_members,
    read_command,
)
from tracker_raft.raft.hello import Hello
from tracker_raft.raft.membership import Membership, Placed, Roster

RAFT, HERE = "127.0.0.1:1", "127.0.0.1:2"
FOUNDING = founding([("n1", RAFT), ("n2", RAFT), ("n3", RAFT)])


def known(members: Configuration) -> Configuration:
    """With the birth of every node: ``of n1`` and so on."""
    return members.completed(lambda node: Facts(f"of {node}", RAFT, HERE))


WITH_N4 = known(FOUNDING).with_learner("n4", "of n4", RAFT, HERE)
WITHOUT_N3 = known(FOUNDING).without("n3")


def config(node: str = "n1", *, joining: bool = False) -> NodeConfig:
    here = Address("127.0.0.1", 1)
    names = [node] if joining else ["n1", "n2", "n3"]
    members = tuple(Member(name, here) for name in names)
    return NodeConfig(node, Path(), members, here, here, here, joining=joining)


def membership(node: str = "n1", birth: str | None = None, **settings: bool) -> Membership:
    return Membership(config(node, **settings), birth or f"of {node}")


def entry(index: int, members: Configuration) -> tuple[bytes, int, int]:
    return members.command(), index, 1


def hello(node: str, birth: str | None = None, *, index: int = 0, joining: bool = False) -> Hello:
    members = ("n1", "n2", "n3")
    birth = birth or f"of {node}"
    return Hello(node, "boot", HERE, birth, members, index=index, joining=joining, raft=RAFT)


def roster(members: Configuration, *, node: str = "n1", index: int = 5) -> Roster:
    return Roster(node, Placed(index, members), members, None, joining=False)


# -- one configuration ----------------------------------------------------------------------------


def test_a_change_gives_or_takes_one_vote_at_most() -> None:
    """Broken: two majorities with nobody in common, hence two leaders."""
    assert WITH_N4.voters == FOUNDING.voters == ("n1", "n2", "n3")
    assert WITH_N4.learners == ("n4",)
    assert WITH_N4.with_voter("n4").voters == ("n1", "n2", "n3", "n4")
    assert WITHOUT_N3.voters == ("n1", "n2")


def test_a_node_added_again_sits_in_another_seat() -> None:
    """Broken: a directory that was removed is taken for the new one of that id."""
    again = WITHOUT_N3.with_learner("n3", "second of n3", RAFT, HERE)
    seat = again.seat("n3")
    assert seat is not None and seat.incarnation == 2 and not seat.votes
    assert again.is_retired("n3", "of n3") and not again.is_retired("n3", "second of n3")


def test_what_cannot_be_is_refused_and_says_why() -> None:
    """Broken: an id is taken twice, or there are more members than clients remember."""
    with pytest.raises(BadRequest, match="'n2' is a member already"):
        WITH_N4.with_learner("n2", "another", RAFT, HERE)
    with pytest.raises(NotFound, match="'n9' is no member; the members are n1, n2"):
        WITHOUT_N3.without("n9")
    full = FOUNDING
    for number in range(4, SEATS_MAX + 1):
        full = full.with_learner(f"n{number}", "x", RAFT, HERE)
    with pytest.raises(LimitReached, match=f"limit {SEATS_MAX}"):
        full.with_learner("n99", "x", RAFT, HERE)


def test_an_entry_says_all_and_a_newer_one_stops_the_node() -> None:
    """Broken: members are lost on the way through the log, or guessed."""
    members = WITHOUT_N3.with_learner("n4", "of n4", RAFT, HERE)
    assert is_members(members.command()) and read_command(members.command()) == members
    with pytest.raises(Unsupported, match="members of format 2"):
        Configuration.from_wire({**members.to_wire(), "v": 2})
    for bad in (b"\x10", b"\x10\xc0", b"\x10\x80", members.command()[:-3]):
        with pytest.raises(BadRequest):
            read_command(bad)


def test_a_birth_stays_and_an_address_is_a_setting() -> None:
    """Broken: an emptied directory is written down as the member, or a moved one is not found."""
    moved = known(FOUNDING).completed(lambda node: Facts("other", "10.0.0.1:1", ""))
    seat = moved.seat("n1")
    assert seat is not None
    assert (seat.birth, seat.raft, seat.endpoint) == ("of n1", "10.0.0.1:1", HERE)


def test_an_address_that_is_written_down_is_replaced_by_a_present_node_only() -> None:
    """Broken: a leader that heard of a member long ago writes that over what it said since."""
    away = Facts("of n1", "10.0.0.1:1", "10.0.0.1:2", present=False)
    seat = FOUNDING.completed(lambda node: away).seat("n1")
    assert seat is not None and (seat.birth, seat.raft) == ("of n1", RAFT)
    assert seat.endpoint == "10.0.0.1:2", "better than none"
    seat = known(FOUNDING).completed(lambda node: away).seat("n1")
    assert seat is not None and seat.endpoint == HERE


def test_a_hint_says_first_where_a_member_is() -> None:
    """Broken: who lags behind looks for a leader that has moved where it was."""
    newer = FOUNDING.completed(lambda node: Facts("", "10.0.0.1:1"))
    found = Roster("n1", Placed(5, FOUNDING), FOUNDING, newer, joining=False).places("n2")
    assert found == ["10.0.0.1:1", RAFT, RAFT]
    assert roster(FOUNDING).places("n9") == []


def test_a_majority_is_of_the_voters() -> None:
    """Broken: learners, or nodes that were removed, help to decide."""
    assert is_majority({"n1", "n2", "n4"}, ("n1", "n2", "n3"))
    assert not is_majority({"n1", "n4", "n5"}, ("n1", "n2", "n3"))
    assert not is_majority({"n1", "n2"}, ("n1", "n2", "n3", "n4"))


# -- the log ---------------------------------------------------------------------------------------


def test_an_entry_is_in_force_from_its_append_until_it_is_cut() -> None:
    """Broken: S14, a change counts from its commit on, or one that was taken back goes on."""
    one = membership()
    assert one.is_settled and one.index == 0
    assert one.added(entry(5, WITHOUT_N3))
    assert one.in_force == WITHOUT_N3 and not one.is_settled
    assert one.other_voters == {"n2"}
    assert not one.cut(6)
    assert one.cut(5)
    assert one.index == 0 and one.other_voters == {"n2", "n3"}


def test_applying_changes_nothing_further_and_settles() -> None:
    """Broken: members change a second time, when their entry is applied."""
    one = membership()
    one.added(entry(5, WITHOUT_N3))
    assert not one.committed(4, 4)
    assert one.committed(5, 4)
    assert one.is_settled and one.in_force == WITHOUT_N3
    assert not one.committed(6, 6)


def test_a_snapshot_has_the_members_of_its_own_index() -> None:
    """Broken: a node that begins with it counts members that were never committed, or forgets."""
    one = membership()
    one.added(entry(5, WITH_N4))
    one.added(entry(9, WITH_N4.with_voter("n4")))
    assert one.for_snapshot(4) is None
    assert one.committed(9, 6)
    assert one.for_snapshot(8) == Placed(5, WITH_N4)
    assert one.for_snapshot(9) == Placed(9, WITH_N4.with_voter("n4"))


def test_at_the_start_a_log_goes_on_from_its_snapshot() -> None:
    """Broken: the settings overrule the log, and a restarted node is of another cluster."""
    one = Membership(config(), "of n1", Placed(5, WITH_N4))
    assert not one.added(entry(5, WITHOUT_N3)), "it is in the snapshot"
    assert one.added(entry(7, WITH_N4.with_voter("n4")))
    assert one.other_voters == {"n2", "n3", "n4"}
    one.restarted(None)
    assert one.other_voters == {"n2", "n3"}


# -- who votes, who is removed ---------------------------------------------------------------------


def test_only_the_very_directory_of_a_seat_votes() -> None:
    """Broken: an emptied directory stands for election under its old name."""
    for birth, votes in (("of n1", True), ("made anew", False)):
        one = membership(birth=birth)
        one.added(entry(5, known(FOUNDING)))
        assert one.votes is votes
    joiner = membership("n4", joining=True)
    assert not joiner.votes and joiner.roster().joining
    joiner.added(entry(5, WITH_N4))
    assert not joiner.votes and not joiner.roster().joining
    joiner.added(entry(6, WITH_N4.with_voter("n4")))
    assert joiner.votes


def test_a_removed_node_knows_it_when_that_is_committed() -> None:
    """Broken: it stops for a change that is taken back, or does not stop at all."""
    one = membership("n3")
    one.added(entry(5, WITHOUT_N3))
    assert one.removed is None and not one.votes
    one.committed(5, 5)
    assert one.removed is not None and "'n3' was removed" in one.removed
    again = membership("n3", "second of n3", joining=True)
    again.added(entry(5, WITHOUT_N3))
    again.committed(5, 5)
    assert again.removed is None, "it replays what happened to another"


# -- who is let in ---------------------------------------------------------------------------------


def test_who_sits_in_its_seat_is_let_in_and_counts() -> None:
    """Broken: members refuse each other."""
    here = roster(WITH_N4)
    assert here.judge(hello("n2")) is None and here.sits("n2", "of n2", None)
    assert here.judge(hello("n4", joining=True)) is None


def test_an_emptied_directory_is_refused_and_told_what_to_do() -> None:
    """Broken: Amnesia, a member that lost its vote votes again."""
    refusal = roster(WITH_N4).judge(hello("n2", "made anew"))
    assert refusal is not None and not refusal.removed
    assert "has lost its memory" in refusal.reason and "remove it" in refusal.reason


def test_who_was_removed_is_told_and_a_stranger_is_not_a_member() -> None:
    """Broken: a removed node waits for ever, or a new one is told that it was removed."""
    here = roster(WITHOUT_N3)
    refusal = here.judge(hello("n3"))
    assert refusal is not None and refusal.removed
    assert refusal.to_wire("of n3")["removed"] == "of n3"
    new = here.judge(hello("n3", "second", joining=True))
    assert new is not None and not new.removed and "add-node" in new.reason
    assert here.judge(hello("n9")) is not None


def test_who_knows_newer_members_is_heard_and_does_not_count() -> None:
    """Broken: a node that lags refuses the leader it would catch up with; or counts the vote of a
    directory that its own members do not mean."""
    here = roster(known(FOUNDING))
    newer = hello("n2", "second of n2", index=9)
    assert here.judge(newer) is None
    assert not here.sits("n2", "second of n2", None)
    assert here.judge(hello("n4", index=9)) is None and not here.sits("n4", "of n4", None)
    assert here.judge(hello("n2", "second of n2", index=5)) is not None


def test_two_that_never_changed_must_have_been_started_alike() -> None:
    """Broken: a mistyped list of members makes two clusters of one."""
    fresh = Roster("n1", Placed(0, FOUNDING), FOUNDING, None, joining=False)
    assert fresh.judge(hello("n2")) is None
    other = Hello("n2", "boot", HERE, "of n2", ("n1", "n2"))
    refusal = fresh.judge(other)
    assert refusal is not None and "was started with members n1, n2" in refusal.reason


def test_hints_let_a_candidate_stand_and_decide_nothing() -> None:
    """Broken: a majority waits for a node that nobody can wake, or a rumour makes a quorum."""
    one = membership()
    assert not one.may_stand("n4")
    assert one.hint(9, WITH_N4.with_voter("n4")) and not one.hint(8, FOUNDING)
    assert one.may_stand("n4") and one.other_voters == {"n2", "n3"}
    assert [seat.node for seat in one.roster().others] == ["n2", "n3", "n4"]
    one.added(entry(9, WITHOUT_N3))
    assert not one.may_stand("n4"), "the log knows better"
