"""What an operator sees of a cluster: why there was an election, who lags, what the log says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from replica_driver import cluster, leader_of, story, until

from tracker_raft import log_view
from tracker_raft.cluster.state import NodePlace
from tracker_raft.cluster.status import NodeReport, election_of, lags
from tracker_raft.config import Address
from tracker_raft.entries import pack_entry, pack_operation

# -- elections -------------------------------------------------------------------------------------


@story
async def test_a_node_alone_says_so(tmp_path: Path) -> None:
    """Broken: the status of a cluster of one explains its leader by nothing."""
    async with cluster(tmp_path, 1) as (node,):
        await leader_of([node])
        sight = node.replica.status().sight
        assert sight.election is not None
        assert (sight.election.leader, sight.election.reason) == ("n1", "alone")
        assert (sight.leader_silent_s, sight.behind) == (0.0, {})


@story
async def test_an_election_says_why_it_was(tmp_path: Path) -> None:
    """Broken: after an incident nobody can tell why the leader changed, or when."""
    async with cluster(tmp_path, 3) as nodes:
        first = await leader_of(nodes)
        election = first.replica.status().sight.election
        assert election is not None
        assert (election.leader, election.reason) == (first.name, "no leader was heard")
        await until(lambda: all(node.replica.leader == first.name for node in nodes))
        seen = [node.replica.status().sight.election for node in nodes]
        assert {(e.leader, e.term) for e in seen if e} == {(first.name, election.term)}

        await first.close()
        others = [node for node in nodes if node is not first]
        second = await leader_of(others)
        won = second.replica.status().sight
        assert won.election is not None
        assert won.election.leader == second.name
        gone = f"leader {first.name} "
        assert won.election.reason.startswith((f"{gone}is gone (", f"{gone}silent for 0."))
        assert won.election_ago_s is not None and 0 <= won.election_ago_s < 60
        assert won.behind is not None and set(won.behind) == {n.name for n in nodes} - {second.name}

        third = next(node for node in others if node is not second)
        third.replica.kick()
        second.replica.hand_over(third.name, 5.0, lambda leader, error: None)
        await leader_of([third])
        election = third.replica.status().sight.election
        assert election is not None
        assert election.reason == f"told to stand by {second.name}"
        await until(
            lambda: (e := second.replica.status().sight.election) and e.leader == third.name
        )


# -- who lags --------------------------------------------------------------------------------------


def report(node: str, **said: Any) -> NodeReport:
    place = NodePlace(node, Address("127.0.0.1", 1), Address("127.0.0.1", 2))
    return NodeReport(place, 7, said=said or None)


def test_lag_is_counted_from_the_leader() -> None:
    """Broken: a node that falls behind is not seen before it is needed."""
    following = {"leader": "n1", "term": 3}
    leader = report(
        "n1",
        **following,
        role="leader",
        commit=100,
        applied=100,
        behind={"n2": 0, "n3": 60},
        election={"term": 3, "leader": "n1", "reason": "alone", "ago_ms": 5},
    )
    behind = report("n2", **following, role="follower", applied=93)
    silent = report("n3")
    assert lags([leader, behind, silent]) == {"n1": 0, "n2": 7, "n3": 60}
    election = election_of([leader, behind, silent])
    assert election is not None and election["reason"] == "alone"
    assert lags([behind, silent]) == {"n2": None, "n3": None}
    assert election_of([behind, silent]) is None


# -- the log ---------------------------------------------------------------------------------------


def entry(index: int, *bodies: dict[str, Any]) -> log_view.LogEntry:
    packed = [pack_operation(4, n, n, body) for n, body in enumerate(bodies, start=1)]
    return b"\x00" + pack_entry(1500, packed), index, 2


def test_the_end_of_a_log_in_words() -> None:
    """Broken: the log shows other operations than it holds, or calls committed what is not."""
    log = [(b"\x01", 1, 1), entry(2, {"op": "leave", "peer": "p"}), entry(3), (b"\x00?", 4, 3)]
    told = log_view.tail(log, 100, commit=2)
    assert told["first"] == 1
    assert told["entries"][:3] == [
        {"index": 1, "term": 1, "committed": True, "note": "a leader's first entry"},
        {
            "index": 2,
            "term": 2,
            "committed": True,
            "time_ms": 1500,
            "operations": [{"session": 4, "seq": 1, "op": "leave", "peer": "p"}],
        },
        {"index": 3, "term": 2, "committed": False, "time_ms": 1500, "operations": []},
    ]
    assert "note" in told["entries"][3]
    assert log_view.tail([], 5, commit=0) == {"entries": [], "first": 0}


def test_only_so_much_of_a_log_is_told() -> None:
    """Broken: looking at a log does not fit a frame, or leaves out the newest entry."""
    log = [entry(n, *({"op": "leave", "peer": f"{n}"},) * 10) for n in range(1, 50)]
    assert [row["index"] for row in log_view.tail(log, 25, 49)["entries"]] == [47, 48, 49]
    large = [entry(n, {"op": "renew", "peers": ["p" * 100] * 3000}) for n in range(1, 9)]
    told = [row["index"] for row in log_view.tail(large, 25, 49)["entries"]]
    assert told == [8]
