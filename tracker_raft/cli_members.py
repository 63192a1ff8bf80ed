"""The words ``add-node``, ``remove-node`` and ``replace-node``: another set of members."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from click.core import ParameterSource

from tracker_raft.cli_cluster import attach
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest, NotFound
from tracker_raft.terminal import (
    TRACKERS_ENV,
    emit_json,
    endpoints_meant,
    json_option,
    node_id,
    tracker_options,
)

TIMEOUT_S = 120.0
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until it is done. What was begun goes on afterwards.",
)


def _elsewhere(trackers: str | None, data_dir: Path | None) -> bool:
    """Whether the cluster is named by its trackers, and not the one on this machine."""
    if trackers is None:
        return False
    source = click.get_current_context().get_parameter_source("trackers")
    return source is ParameterSource.COMMANDLINE or data_dir is None


def _is_address(word: str | None) -> bool:
    return word is not None and ":" in word


def _progress(as_json: bool) -> Callable[[str], None]:
    def tell(text: str) -> None:
        click.echo(text, err=as_json)

    return tell


def _guard(work: Callable[[], str | None]) -> str | None:
    """Wrong use: what cannot be the id of a node, and the id of none that there is."""
    try:
        return work()
    except (BadRequest, NotFound) as error:
        raise click.UsageError(str(error)) from None


@click.command("add-node", short_help="Add a tracker to the cluster.")
@click.argument("node", metavar="[ID|HOST:PORT]", required=False)
@timeout_option
@tracker_options
@json_option
def add_node(
    node: str | None, timeout_s: float, trackers: str | None, data_dir: Path | None, as_json: bool
) -> None:
    """Add a tracker to a running cluster. It is sent the log, and votes once it has caught up.

    Of a cluster of 'up' on this machine: starts one more node, of this ID or the next free one,
    and adds it. Of another: HOST:PORT is the client address of a node that was started there with
    'node --join'.

    Interrupted, the same command goes on.

    \b
    Examples:
      p2p-cluster add-node
      p2p-cluster add-node tracker-4:7000 --trackers tracker-1:7000
    """
    tell = _progress(as_json)

    def work() -> str:
        if _elsewhere(trackers, data_dir) or _is_address(node):
            if node is None or not _is_address(node):
                raise BadRequest(
                    f"HOST:PORT of the new node is missing: start it with 'node --join', or leave "
                    f"out --trackers (and {TRACKERS_ENV}) for the cluster on this machine"
                )
            with TrackerClient(endpoints_meant(trackers, data_dir)) as client:
                return client.add_node(node, deadline_s=timeout_s, progress=tell)
        return attach(data_dir).add_node(node, timeout_s=timeout_s, progress=tell)

    new = _guard(work)
    if as_json:
        emit_json({"added": new})


@click.command("remove-node", short_help="Remove a tracker from the cluster.")
@click.argument("node", callback=node_id)
@timeout_option
@tracker_options
@json_option
def remove_node(
    node: str, timeout_s: float, trackers: str | None, data_dir: Path | None, as_json: bool
) -> None:
    """Remove a tracker from a running cluster, dead or alive. It stops by itself.

    Refused when those that are left would have no majority that lives. Who leads hands over first.

    \b
    Examples:
      p2p-cluster remove-node n2
      p2p-cluster remove-node n2 --trackers tracker-1:7000
    """
    tell = _progress(as_json)

    def work() -> None:
        if _elsewhere(trackers, data_dir):
            with TrackerClient(endpoints_meant(trackers, data_dir)) as client:
                client.remove_node(node, deadline_s=timeout_s, progress=tell)
        else:
            attach(data_dir).remove_node(node, timeout_s=timeout_s, progress=tell)

    _guard(work)
    if as_json:
        emit_json({"removed": node})


@click.command("replace-node", short_help="Put a new tracker in the place of another.")
@click.argument("node", callback=node_id)
@click.argument("new", metavar="[ID|HOST:PORT]", required=False)
@timeout_option
@tracker_options
@json_option
def replace_node(
    node: str,
    new: str | None,
    timeout_s: float,
    trackers: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Add a new tracker, wait until it votes, and then remove NODE, dead or alive.

    So there are never fewer that may fail than before. The new one is named as for 'add-node'.
    Interrupted, the same command goes on, with the ID of the new node if that was begun.

    \b
    Examples:
      p2p-cluster replace-node n2
      p2p-cluster replace-node n2 tracker-4:7000 --trackers tracker-1:7000
    """
    tell = _progress(as_json)

    def work() -> str:
        if _elsewhere(trackers, data_dir) or _is_address(new):
            if new is None or not _is_address(new):
                raise BadRequest("HOST:PORT of the new node is missing; see 'add-node --help'")
            Address.parse(new)
            with TrackerClient(endpoints_meant(trackers, data_dir)) as client:
                return client.replace_node(node, new, deadline_s=timeout_s, progress=tell)
        cluster: Cluster = attach(data_dir)
        return cluster.replace_node(node, new, timeout_s=timeout_s, progress=tell)

    added = _guard(work)
    if as_json:
        emit_json({"removed": node, "added": added})
