"""Which asks of a follower a leader obeys: those that answer what it is sending now.

The asks go through :class:`Flights` and :class:`Outbox` to a real engine, as in the replica.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_driver import Line, Member, acknowledgement, append

from tracker_raft.config import Address, NodeConfig, WireLimits
from tracker_raft.config import Member as Voter
from tracker_raft.raft import filters
from tracker_raft.raft.engine import Member as Node
from tracker_raft.raft.filters import Message
from tracker_raft.raft.flights import Flights
from tracker_raft.raft.gate import Gate
from tracker_raft.raft.outbox import Outbox
from tracker_raft.versions import NEWEST

BACKLOG_BYTES_MAX = 1000
HERE = Address("127.0.0.1", 1)
CONFIG = NodeConfig(
    "n1",
    Path(),
    tuple(Voter(node, HERE) for node in ("n1", "n2", "n3")),
    HERE,
    HERE,
    HERE,
    limits=WireLimits(link_buffer_bytes_soft=BACKLOG_BYTES_MAX),
)


class Lines:
    """Links that are up or down and as full as a test says, and what was sent over them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.lost = False
        self.connected: tuple[str, ...] = ("n1", "n2", "n3")
        self.backlog_bytes = 0

    def linked(self, node: str) -> bool:
        return node in self.connected

    def newest_version(self, node: str) -> int:
        return NEWEST if node in self.connected else 0

    def backlog(self, node: str) -> int:
        return self.backlog_bytes

    def send(self, node: str, message: Message) -> bool:
        if not self.lost:
            self.sent.append((node, message))
        return not self.lost

    def flush(self) -> None: ...
    def drop(self, node: str, reason: str) -> None: ...
    def reconnect(self, node: str, done: object) -> None: ...


class Post(Line):
    """The engine's line: through an outbox that stamps."""

    def __init__(self) -> None:
        super().__init__()
        self.forced = False
        self.now_s = 0.0
        self.lines = Lines()
        self.flights = Flights()
        self.outbox = Outbox(
            CONFIG,
            self.lines,
            self.flights,
            Gate(),
            lambda: SimpleNamespace(raftCurrentTerm=self.term, forced=self.forced),
            lambda: self.now_s,
        )

    def send(self, node: Node, message: Message) -> bool:
        return bool(self.outbox.send(node, message))

    def take(self) -> list[tuple[str, Message]]:
        """What left, in order; with a disk that has everything at once."""
        self.outbox.hand_out(0)
        self.outbox.release(0)
        sent, self.lines.sent = self.lines.sent, []
        return sent


class Speaker:
    """A member that sends and answers with flights."""

    def __init__(self, directory: Path, node: str = "n1", *, obeys_all: bool = False) -> None:
        directory.mkdir(exist_ok=True)
        self.post = Post()
        others = tuple(other for other in ("n1", "n2", "n3") if other != node)
        self.member = Member(directory, node=node, others=others, line=self.post)
        self.engine = self.member.engine
        self._obeys_all = obeys_all

    def lead(self) -> int:
        self.post.term = term = self.member.lead()
        self.post.take()
        return term

    def tick(self) -> None:
        self.engine.send_now()
        self.engine.doTick(0)

    def receive(self, sender: str, message: Message) -> None:
        """What the replica does with a message of the engine's, but for waiting for the disk."""
        verdict = self.member.judge(message)
        assert verdict.malformed is verdict.fatal is None
        deliver, node = verdict.deliver, self.member.nodes[sender]
        if message["type"] == "append_entries":
            self.post.flights.answering(message)
        elif deliver is not None and not self._obeys_all:
            deliver = self.post.flights.current(sender, deliver)
        if deliver is not None:
            self.engine.deliver(node, deliver)
        self.post.term = self.engine.raftCurrentTerm
        if verdict.answer is not None:
            self.post.outbox.send(node, verdict.answer)

    def sent(self, to: str) -> list[Message]:
        """Take out what was sent; give what is for ``to``."""
        return [message for node, message in self.post.take() if node == to]


def ask(term: int, next_index: int, flight: Any) -> Message:
    return acknowledgement(term, next_index, success=False, reset=True, flight=flight)


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Speaker]:
    leader = Speaker(tmp_path / "n1")
    yield leader
    leader.member.close()


# -- the bookkeeping -------------------------------------------------------------------------------


def test_an_append_carries_its_flight_and_the_answer_gives_it_back() -> None:
    """Broken: no answer belongs to what is being sent, so none is ever obeyed."""
    leader, follower = Flights(), Flights()
    bare = append(3, (1, 0), [])
    for flight in range(3):
        sent = leader.outgoing("n2", bare)
        assert sent == {**bare, "flight": flight}
        follower.answering(sent)
        answer = follower.outgoing("n1", acknowledgement(3, 2, success=False, reset=True))
        assert answer["flight"] == flight
        assert leader.current("n2", answer) is answer
    assert leader.outgoing("n3", bare)["flight"] == 0, "each follower has flights of its own"


def test_an_ask_of_an_older_flight_is_a_sign_of_life_and_no_more() -> None:
    """Broken: a follower is sent its log again for every append that was under way."""
    flights = Flights()
    assert flights.current("n2", ask(3, 5, 0))["reset"]
    stale = flights.current("n2", ask(3, 9, 0))
    assert stale == {**ask(3, 9, 0), "reset": False}
    assert not flights.current("n2", ask(3, 9, 7))["reset"], "nor one nobody ever sent"
    assert flights.current("n2", ask(3, 5, 1))["reset"]


def test_a_success_counts_whatever_flight_it_answers() -> None:
    """Broken: entries that are on a majority are not committed after a follower asked."""
    flights = Flights()
    flights.current("n2", ask(3, 5, 0))
    success = acknowledgement(3, 5, flight=0)
    assert flights.current("n2", success) is success
    assert flights.outgoing("n2", append(3, (1, 0), []))["flight"] == 1


def test_votes_carry_no_flight() -> None:
    """Broken: what has nothing to do with flights changes on the wire."""
    vote = {"type": "response_vote", "term": 3}
    assert Flights().outgoing("n2", vote) is vote


@pytest.mark.parametrize("flight", [None, -1, "0", [], {}, 2**70, 1.5])
def test_a_flight_that_makes_no_sense_is_not_the_current_one(flight: Any) -> None:
    """Broken: a member with a defect stops the leader, or has it send for ever."""
    flights = Flights()
    assert not flights.current("n2", ask(3, 5, flight))["reset"]
    follower = Flights()
    follower.answering({**append(3, (1, 0), []), "flight": flight})
    assert follower.outgoing("n1", ask(3, 5, 0))["flight"] == flight


# -- with the engine -------------------------------------------------------------------------------


def test_many_asks_for_the_same_place_are_answered_once(leader: Speaker) -> None:
    """Broken: a follower that comes back under load is sent the whole log again and again.

    Each append under way when it came back is answered with the same ask; the answer to the
    first one is behind them on the link.
    """
    term = leader.lead()
    leader.member.propose(20)
    leader.tick()
    assert [message["flight"] for message in leader.sent("n2")] == [0]
    entries = 0
    for _ in range(50):
        leader.receive("n2", ask(term, 3, 0))
        leader.tick()
        entries += sum(len(message["entries"]) for message in leader.sent("n2"))
    assert entries == 20


def test_an_ask_that_got_lost_is_answered_again(leader: Speaker) -> None:
    """Broken: when the answer to an ask is lost with a link, the follower waits for ever."""
    term = leader.lead()
    leader.member.propose(4)
    leader.tick()
    flight = leader.sent("n2")[-1]["flight"]
    for _ in range(3):
        leader.receive("n2", ask(term, 3, flight))
        leader.tick()
        answers = leader.sent("n2")
        assert [len(message["entries"]) for message in answers] == [4]
        for change in leader.post._onNodeDisconnected, leader.post._onNodeConnected:
            change(leader.member.nodes["n2"])
        leader.tick()
        (heartbeat,) = leader.sent("n2")  # it does not fit either, so it is answered with an ask
        flight = heartbeat["flight"]


def test_an_append_that_was_dropped_on_a_slow_link_is_asked_for(leader: Speaker) -> None:
    """Broken: what a slow link made the leader drop is never sent again."""
    term = leader.lead()
    leader.member.propose(4)
    leader.tick()
    leader.sent("n2")
    leader.receive("n2", ask(term, 3, 0))
    leader.post.lines.backlog_bytes = BACKLOG_BYTES_MAX + 1
    leader.tick()
    assert leader.sent("n2") == [], "dropped"
    leader.tick()
    (heartbeat,) = leader.sent("n2")
    leader.post.lines.backlog_bytes = BACKLOG_BYTES_MAX
    leader.receive("n2", ask(term, 3, heartbeat["flight"]))
    leader.tick()
    assert [len(message["entries"]) for message in leader.sent("n2")] == [4]


def test_an_ask_that_leads_back_is_not_undone_by_those_behind_it(leader: Speaker) -> None:
    """Broken: a follower with a conflict in its log is led back and forth and never catches up."""
    term = leader.lead()
    leader.member.propose(10)
    leader.tick()
    leader.sent("n2")
    for next_index in (4, 9, 12, 7):
        leader.receive("n2", ask(term, next_index, 0))
    leader.tick()
    (again,) = leader.sent("n2")
    assert (again["prevLogIdx"], again["flight"]) == (3, 1)


ROUNDS_MAX = 40


def rounds_to_agree(directory: Path, *, obeys_all: bool) -> int | None:
    """Rounds until a follower with a conflict ten entries long has the leader's log; None: more
    than :data:`ROUNDS_MAX`. In each round two appends are under way to it at once."""
    leader = Speaker(directory / "n1", obeys_all=obeys_all)
    follower = Speaker(directory / "n2", "n2")
    try:
        leader.member.follow([1] * 9 + [3] * 15)
        follower.member.follow([1] * 9 + [2] * 10, leader="n3")
        leader.lead()
        for number in range(ROUNDS_MAX):
            if follower.member.journal[:] == leader.member.journal[:]:
                return number
            leader.tick()
            leader.tick()
            for message in leader.sent("n2"):
                follower.receive("n1", message)
            for message in follower.sent("n1"):
                leader.receive("n2", message)
        return None
    finally:
        leader.member.close()
        follower.member.close()


def test_a_follower_with_a_conflict_catches_up_though_appends_are_sent_ahead(
    tmp_path: Path,
) -> None:
    """Broken: a member that came back with entries of its own never catches up under load.

    The second half is the test of the test: without flights it does not.
    """
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    rounds = rounds_to_agree(tmp_path / "with", obeys_all=False)
    assert rounds is not None
    assert rounds <= 14
    assert rounds_to_agree(tmp_path / "without", obeys_all=True) is None


# -- the outbox ------------------------------------------------------------------------------------


def test_what_is_sent_waits_in_order_and_stamped() -> None:
    """Broken: appends overtake each other, or an acknowledgement carries no term (S2)."""
    post = Post()
    post.term = 7
    messages = [append(7, (1, 0), []), acknowledgement(0, 5), {"type": "timeout_now", "term": 7}]
    del messages[1]["term"]
    for message in messages:
        assert post.send(Node("n2"), message)
    assert post.take() == [
        ("n2", {**messages[0], "flight": 0}),
        ("n2", messages[2]),
        ("n2", {**filters.acknowledge(4), "term": 7, "flight": 0}),  # a promise: last
    ]
    assert post.take() == []


def test_only_what_is_forced_leaves_as_forced() -> None:
    """Broken: a hand-over is held by who still hears the old leader, or every candidate is let."""
    post = Post()
    ask = {"type": "request_vote", "term": 7, "last_log_index": 1, "last_log_term": 0}
    for post.forced in (False, True):
        assert post.send(Node("n2"), ask)
    assert post.take() == [("n2", ask), ("n2", {**ask, "forced": True})]


def test_what_promises_waits_for_the_disk_and_nothing_else_does() -> None:
    """Broken: an acknowledgement leaves before what it is about is durable; or appends wait."""
    post = Post()
    post.term = 7
    post.send(Node("n2"), acknowledgement(7, 5))
    post.send(Node("n3"), append(7, (1, 0), []))
    post.outbox.hand_out(3)
    post.outbox.release(2)
    assert [node for node, _ in post.lines.sent] == ["n3"]
    post.outbox.release(3)
    assert [node for node, _ in post.lines.sent] == ["n3", "n2"]


def test_nothing_is_kept_for_who_is_not_linked() -> None:
    """Broken: what was meant for an older link leaves over the next one."""
    post = Post()
    post.lines.connected = ("n3",)
    assert not post.send(Node("n2"), append(7, (1, 0), []))
    assert post.take() == []


def test_only_raft_leaves_this_way() -> None:
    """Broken: the library forwards a command its own way, and costs this node the link."""
    post = Post()
    assert not post.send(Node("n2"), {"type": "apply_command", "command": b"\x00x"})
    assert post.take() == []


def test_a_link_that_is_behind_gets_no_entries_but_still_heartbeats() -> None:
    """Broken: a slow follower fills the leader's memory, or is lost to an election."""
    post = Post()
    post.lines.backlog_bytes = BACKLOG_BYTES_MAX + 1
    full = append(7, (1, 0), [(b"\x00x", 2, 7)])
    assert post.send(Node("n2"), full), "the library is not told: it would drop the member"
    assert post.send(Node("n2"), append(7, (1, 0), []))
    assert [len(message["entries"]) for _, message in post.take()] == [0]
    post.lines.backlog_bytes = BACKLOG_BYTES_MAX
    assert post.send(Node("n2"), full)
    assert [len(message["entries"]) for _, message in post.take()] == [1]


def test_an_acknowledgement_is_not_said_twice_within_a_moment() -> None:
    """Broken: each new commit index costs every follower an answer that says nothing; or a leader
    that nobody writes to hears of nobody, and stops leading."""
    post = Post()
    said = filters.acknowledge(4)

    def says(message: Message) -> bool:
        post.send(Node("n2"), message)
        return len(post.take()) == 1

    assert says(said)
    assert not says(said)
    assert says(filters.acknowledge(5)), "it has one entry more"
    assert says(said), "it has one less again"
    refusal = {**said, "success": False, "reset": True}
    assert says(refusal) and says(refusal), "a leader is to hear each ask"
    post.now_s = 1.0
    assert says(said), "a sign of life"
    post.term = 1
    assert says(said), "another leader's term"


def test_an_acknowledgement_is_said_again_over_a_new_link() -> None:
    """Broken: what a broken link lost is taken for said, and the leader waits for it."""
    post = Post()
    n2 = Node("n2")
    post.send(n2, filters.acknowledge(4))
    assert post.take()
    post.outbox._onNodeDisconnected(n2)
    post.send(n2, filters.acknowledge(4))
    assert post.take(), "the link broke"
    post.outbox._onNodeDisconnected(n2)
    post.send(n2, filters.acknowledge(4))
    post.lines.lost = True
    assert not post.take()
    post.lines.lost = False
    post.send(n2, filters.acknowledge(4))
    assert post.take(), "it never left"
