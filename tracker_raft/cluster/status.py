"""What the nodes of a cluster say of themselves, and what follows from it.

:func:`ask` and :func:`fetch_status` do the asking; the rest is pure: who leads
(:func:`leader_of`) and what happened between two rounds of questions (:func:`events`).

A supervisor asks each node by itself, with a short time-out and no failover: it wants to know
about this node, and a node that does not answer is an answer.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tracker_raft.cluster.state import NodePlace
from tracker_raft.config import PROTOCOL_VERSION, Address, WireLimits
from tracker_raft.errors import P2PError, from_wire
from tracker_raft.versions import OLDEST
from tracker_raft.wire import FrameDecoder, Message, encode

ASK_TIMEOUT_S = 1.0
"""For one node's answer. A live one on this machine needs milliseconds, also when it is busy."""
FRAME_BYTES_MAX = WireLimits().client_frame_bytes_max


def fetch_status(address: Address, timeout_s: float = ASK_TIMEOUT_S) -> dict[str, Any]:
    """What the tracker at ``address`` says of itself (``docs/protocol.md``: ``status``).

    Raises :class:`OSError` when it cannot be reached (:class:`TimeoutError` after ``timeout_s``
    seconds in all), :class:`P2PError` when it refuses or what answers is no tracker.
    """
    until = time.monotonic() + timeout_s
    hello = {"id": 0, "op": "hello", "protocol": PROTOCOL_VERSION, "features": []}
    request = {"id": 1, "op": "status", "deadline_ms": max(1, round(timeout_s * 1000))}
    with socket.create_connection((address.host, address.port), timeout=timeout_s) as link:
        link.sendall(encode(hello, FRAME_BYTES_MAX) + encode(request, FRAME_BYTES_MAX))
        decoder = FrameDecoder(FRAME_BYTES_MAX)
        while True:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"no answer within {timeout_s} s")
            link.settimeout(left_s)
            data = link.recv(65536)
            if not data:
                raise ConnectionResetError("it closed the connection before it answered")
            for message in decoder.feed(data):
                answer = _answer(message)
                if answer is not None:
                    return answer


def _answer(message: Message) -> dict[str, Any] | None:
    """The status in a reply; None if it is the reply to the hello. Raises :class:`P2PError`."""
    if "error" in message:
        raise from_wire(message)
    value = message.get("ok")
    return value if message.get("id") == 1 and isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node at one moment: its process, and what it said if it said something."""

    place: NodePlace
    pid: int | None
    """None when it does not run."""
    paused: bool = False
    said: Mapping[str, Any] | None = None
    """Its ``status``; None when it did not answer."""
    problem: str | None = None
    """Why it did not answer."""

    @property
    def node(self) -> str:
        return self.place.node

    @property
    def alive(self) -> bool:
        return self.pid is not None

    @property
    def reachable(self) -> bool:
        return self.said is not None

    @property
    def role(self) -> str | None:
        """What it says it is; a follower that does not vote is a ``learner``, or ``joining``."""
        role = self.get("role")
        if role == "follower" and self.get("votes") is False:
            return "joining" if self.get("joining") else "learner"
        return None if role is None else str(role)

    @property
    def condition(self) -> str:
        """``serving``, ``paused``, ``silent`` (runs, does not answer) or ``down``."""
        if not self.alive:
            return "down"
        if self.paused:
            return "paused"
        return "serving" if self.reachable else "silent"

    def get(self, key: str) -> Any:
        """A field of what it said; None when it said nothing or not that."""
        return None if self.said is None else self.said.get(key)

    def to_json(self) -> dict[str, Any]:
        """A row of ``status --json``; what only the node knows is None when it is silent."""
        state_hash = self.get("state_hash")
        return {
            "id": self.node,
            "role": self.role,
            "pid": self.pid,
            "endpoint": str(self.place.endpoint),
            "raft": str(self.place.raft),
            "term": self.get("term"),
            "commit": self.get("commit"),
            "applied": self.get("applied"),
            "state_hash": state_hash.hex() if isinstance(state_hash, bytes) else state_hash,
            "snapshot": self.get("snapshot"),
            "log_entries": self.get("log_entries"),
            "log_bytes": self.get("log_bytes"),
            "leader_silent_ms": self.get("leader_silent_ms"),
            "disk_full": self.get("disk_full"),
            "refused": self.get("refused"),
            "cluster_version": self.get("cluster_version"),
            "software": self.get("software"),
            "alive": self.alive,
            "paused": self.paused,
            "reachable": self.reachable,
        }

    def __str__(self) -> str:
        if self.said is None:
            return f"{self.node}: {self.condition}" + (f" ({self.problem})" if self.problem else "")
        follows = self.get("leader") or "nobody"
        return f"{self.node}: {self.role} in term {self.get('term')}, follows {follows}"


def ask(bare: Sequence[NodeReport], timeout_s: float = ASK_TIMEOUT_S) -> list[NodeReport]:
    """The same reports with what each node says, asked all at once; takes ``timeout_s`` at most.

    Dead and paused nodes are not asked.
    """
    with ThreadPoolExecutor(max(1, len(bare))) as pool:
        return list(pool.map(lambda report: _ask_one(report, timeout_s), bare))


def _ask_one(report: NodeReport, timeout_s: float) -> NodeReport:
    place, pid, paused = report.place, report.pid, report.paused
    if pid is None or paused:
        return report
    try:
        said = fetch_status(place.endpoint, timeout_s)
    except (OSError, P2PError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        return NodeReport(place, pid, paused, problem=problem)
    if said.get("node") != place.node:
        problem = f"{place.endpoint} is answered by node {said.get('node')!r}"
        return NodeReport(place, pid, paused, problem=problem)
    return NodeReport(place, pid, paused, said)


def ask_trackers(
    addresses: Sequence[Address], timeout_s: float = ASK_TIMEOUT_S
) -> tuple[list[NodeReport], dict[Address, str]]:
    """Reports of the trackers that answer at ``addresses``, each node once and in the order of
    their ids, with the address it was asked at; and why the others did not answer."""

    def ask_at(address: Address) -> NodeReport | str:
        try:
            said = fetch_status(address, timeout_s)
            place = NodePlace(str(said["node"]), address, Address.parse(str(said["raft"])))
            return NodeReport(place, int(said["pid"]), said=said)
        except (KeyError, TypeError, ValueError):
            return "it answered status in a way this version cannot read"
        except (OSError, P2PError) as error:
            return getattr(error, "strerror", None) or str(error)

    with ThreadPoolExecutor(max(1, len(addresses))) as pool:
        answers = list(zip(addresses, pool.map(ask_at, addresses), strict=True))
    found = {answer.node: answer for _, answer in answers if isinstance(answer, NodeReport)}
    silent = {address: answer for address, answer in answers if isinstance(answer, str)}
    return [found[node] for node in sorted(found)], silent


def leader_of(reports: Sequence[NodeReport]) -> str | None:
    """The node that calls itself leader and that a majority of all nodes follows in its term.

    All nodes: those of ``reports``, or as many more as the leader knows of.

    One that was paused and wakes up still calls itself leader for a moment; the majority is what
    tells it from the real one.
    """
    follows = Counter((report.get("term"), report.get("leader")) for report in reports)
    for report in reports:
        bond = (report.get("term"), report.node)
        members = max(len(reports), 1 + len(report.get("behind") or ()))
        majority = members // 2 + 1
        if report.get("role") == "leader" and follows[bond] >= majority:
            return report.node
    return None


def lags(reports: Sequence[NodeReport]) -> dict[str, int | None]:
    """Entries that each node is behind the leader: not applied by one that answers, not known to
    be in the log of one that does not. None where nobody can say, or nobody leads."""
    leader = leader_of(reports)
    leading = next((report for report in reports if report.node == leader), None)
    if leading is None:
        return {report.node: None for report in reports}
    commit, behind = leading.get("commit"), leading.get("behind") or {}
    found: dict[str, int | None] = {}
    for report in reports:
        applied = report.get("applied")
        if isinstance(commit, int) and isinstance(applied, int):
            found[report.node] = max(0, commit - applied)
        else:
            found[report.node] = behind.get(report.node)
    return found


def election_of(reports: Sequence[NodeReport]) -> dict[str, Any] | None:
    """The last election, as its winner tells it: ``term``, ``leader``, ``reason``, ``ago_ms``.
    None when nobody leads."""
    leader = leader_of(reports)
    for report in reports:
        if report.node == leader:
            election = report.get("election")
            return dict(election) if isinstance(election, Mapping) else None
    return None


def version_of(reports: Sequence[NodeReport]) -> int | None:
    """The cluster version, as far as anybody has applied a rise of it; a node of a release before
    0.2.0 says none, and then it is 1. None when nobody answers."""
    return max(
        (report.get("cluster_version") or OLDEST for report in reports if report.reachable),
        default=None,
    )


def to_json(reports: Sequence[NodeReport]) -> dict[str, Any]:
    """The answer of ``status --json``."""
    behind = lags(reports)
    return {
        "leader": leader_of(reports),
        "election": election_of(reports),
        "cluster_version": version_of(reports),
        "nodes": [{**report.to_json(), "lag": behind[report.node]} for report in reports],
    }


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a cluster."""

    kind: str
    """``leader_elected``, ``leader_lost``, ``node_lost``, ``node_back``, ``node_paused`` or
    ``node_silent``, ``node_added``, ``node_removed``."""
    node: str
    text: str


def changed_nodes(before: Sequence[NodeReport], after: Sequence[NodeReport]) -> list[Event]:
    """Which nodes were added to the cluster's description, and which were taken out of it."""
    was, now = {report.node for report in before}, {report.node for report in after}
    added = [Event("node_added", node, f"{node} was added") for node in sorted(now - was)]
    gone = [Event("node_removed", node, f"{node} was removed") for node in sorted(was - now)]
    return added + gone


def same_nodes(before: Sequence[NodeReport], after: Sequence[NodeReport]) -> list[NodeReport]:
    """What was seen before of the nodes that are there now; of a new one, what is seen now."""
    known = {report.node: report for report in before}
    return [known.get(report.node, report) for report in after]


def events(before: Sequence[NodeReport], after: Sequence[NodeReport]) -> list[Event]:
    """What happened between two rounds over the same nodes, in the order to tell it."""
    told: list[Event] = []
    for old, new in zip(before, after, strict=True):
        told += _node_events(old, new)
    was, now = leader_of(before), leader_of(after)
    if now is not None and now != was:
        term = next(report.get("term") for report in after if report.node == now)
        told.append(Event("leader_elected", now, f"{now} leads (term {term})"))
    elif was is not None and now is None:
        told.append(Event("leader_lost", was, f"nobody leads: a majority follows {was} no more"))
    return told


def _node_events(old: NodeReport, new: NodeReport) -> list[Event]:
    node, was, now = new.node, old.condition, new.condition
    replaced = old.alive and new.alive and old.pid != new.pid
    told: list[Event] = []
    if replaced or (was != "down" and now == "down"):
        told.append(Event("node_lost", node, f"{node} is gone (pid {old.pid})"))
    if now == "serving" and (replaced or was != "serving"):
        told.append(Event("node_back", node, f"{node} is back (pid {new.pid})"))
    elif now == "paused" and was != "paused":
        told.append(Event("node_paused", node, f"{node} is paused (pid {new.pid})"))
    elif now == "silent" and was == "serving" and not replaced:
        told.append(Event("node_silent", node, f"{node} does not answer: {new.problem}"))
    return told
