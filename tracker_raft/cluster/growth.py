"""Adding and removing nodes of a cluster on this machine: processes, description and members.

Order: a new node is written into the description before its process starts, an old one is taken
out of it after the members have let it go. Interrupted in between, the same call goes on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace

from tracker_raft.client import TrackerClient
from tracker_raft.cluster import ports, status
from tracker_raft.cluster.launch import POLL_S, Crew, locked
from tracker_raft.cluster.process import log_tail
from tracker_raft.cluster.state import Layout, NodePlace
from tracker_raft.config import NODE_ID
from tracker_raft.errors import BadRequest, LocalError, NotFound, P2PError

LOCK_S = 10.0
STOPS_S = 15.0
"""A node that was removed hears of it and stops within this time, mostly at once."""
Progress = Callable[[str], None]


def reload(crew: Crew) -> None:
    """Read the description again: another process may have added or removed nodes."""
    layout = Layout.load(crew.data_dir)
    if layout is not None:
        crew.layout = layout


def add(crew: Crew, node: str | None, timeout_s: float, tell: Progress) -> str:
    """Start one more node and make it a member; its id. ``node``: None for the next free one, or
    the id of one that was begun before."""
    until = time.monotonic() + timeout_s
    with locked(crew.data_dir, LOCK_S):
        reload(crew)
        if not crew.running():
            raise LocalError(f"no node of {crew.data_dir} runs; nothing was done. Start it first")
        endpoints = [str(place.endpoint) for place in crew.layout.nodes if place.node != node]
        place = next((place for place in crew.layout.nodes if place.node == node), None)
        if place is None:
            place = _new_place(crew, node)
            crew.layout = replace(crew.layout, nodes=(*crew.layout.nodes, place))
            crew.layout.save(crew.data_dir)
        elif not place.joined:
            raise BadRequest(f"{node} is a founding member of this cluster; nothing was done")
        if crew.processes.find(place.node) is None:
            ports.require_free((place,))
            crew.start(place)
    tell(f"{place.node} is started at {place.endpoint}")
    try:
        _wait_answers(crew, place, until)
        with TrackerClient(endpoints) as client:
            left_s = max(1.0, until - time.monotonic())
            client.add_node(place.endpoint, deadline_s=left_s, progress=tell)
    except P2PError as error:
        text = f"{place.node} was started and is not known to vote: {error.message}"
        raise type(error)(f"{text}. 'add-node {place.node}' goes on") from error
    return place.node


def _new_place(crew: Crew, node: str | None) -> NodePlace:
    if node is None:
        there = [path.name for path in crew.data_dir.iterdir()] + list(crew.layout.ids)
        found = [re.fullmatch(r"n(\d{1,9})", name) for name in there]
        node = f"n{max((int(one[1]) for one in found if one), default=0) + 1}"
    elif not NODE_ID.fullmatch(node):
        raise BadRequest(f"node id {node!r}: expected {NODE_ID.pattern}; nothing was done")
    elif (crew.data_dir / node).exists():
        raise BadRequest(
            f"{crew.data_dir / node} is there already: a new node needs a directory of its own; "
            f"nothing was done. Take another id, or remove that directory"
        )
    (free,) = ports.places(1)
    return NodePlace(node, free.endpoint, free.raft, joined=True)


def _wait_answers(crew: Crew, place: NodePlace, until: float) -> None:
    while True:
        if crew.processes.find(place.node) is None:
            said = " | ".join(log_tail(crew.processes.log_path(place.node), 5))
            raise LocalError(f"{place.node} ended while it was started: {said or 'nothing said'}")
        (report,) = status.ask([crew.processes.report(place)])
        if report.reachable:
            return
        if time.monotonic() >= until:
            raise LocalError(f"{place.node} did not answer in time: {report}")
        time.sleep(POLL_S)


def remove(crew: Crew, node: str, timeout_s: float, tell: Progress) -> None:
    """Make ``node`` no member any more, see it stop, and take it out of the description. Its
    directory stays."""
    reload(crew)
    place = next((place for place in crew.layout.nodes if place.node == node), None)
    if place is None:
        raise NotFound(f"no node {node!r}; the nodes are {', '.join(crew.layout.ids)}")
    others = [str(one.endpoint) for one in crew.layout.nodes if one.node != node]
    if not others:
        raise BadRequest(f"{node} is the only node; nothing was done. 'down' stops it")
    with TrackerClient(others) as client:
        client.remove_node(node, deadline_s=timeout_s, progress=tell)
    until = time.monotonic() + STOPS_S
    while crew.processes.find(node) is not None and time.monotonic() < until:
        time.sleep(POLL_S)
    crew.processes.terminate([node], grace_s=1.0)
    with locked(crew.data_dir, LOCK_S):
        reload(crew)
        left = tuple(one for one in crew.layout.nodes if one.node != node)
        crew.layout = replace(crew.layout, nodes=left)
        crew.layout.save(crew.data_dir)
        crew.processes.mark_path(node).unlink(missing_ok=True)
    tell(f"{node} has stopped; its data stays in {crew.data_dir / node}")
