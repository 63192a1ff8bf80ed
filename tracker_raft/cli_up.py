"""The word ``up``: bring a cluster up on this machine, and tell what happens to it."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

import click
import platformdirs

from tracker_raft.cli_backup import restore_here
from tracker_raft.cli_status import print_table
from tracker_raft.cluster import Cluster
from tracker_raft.cluster import status as cluster_status
from tracker_raft.cluster.launch import LOG_LINES_SHOWN
from tracker_raft.cluster.process import log_tail
from tracker_raft.cluster.status import NodeReport
from tracker_raft.cluster.supervise import ATTEMPTS_MAX, Supervisor
from tracker_raft.errors import BadRequest, LocalError
from tracker_raft.log_format import FORMATS
from tracker_raft.terminal import (
    APP,
    emit_json,
    given_path,
    json_option,
    remember_cluster,
    sigterm_interrupts,
)

WATCH_POLL_S = 0.25


@click.command(short_help="Start N trackers on this machine.")
@click.argument("n", type=int, metavar="N")
@click.option(
    "--data-dir",
    type=given_path,
    metavar="DIR",
    help="Where they keep their data; a cluster found there comes back. "
    "Default: a directory of the user's.",
)
@click.option("--detach", is_flag=True, help="Return when they serve; they run on.")
@click.option(
    "--base-port",
    type=int,
    metavar="P",
    help="Node i takes P+2(i-1) for clients and the next port for the other nodes. "
    "Default: free ports.",
)
@click.option(
    "--restore",
    "backup_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Begin with the files of this backup; --data-dir must be empty or not there yet.",
)
@click.option(
    "--supervise",
    is_flag=True,
    help="Start a tracker again that has ended, whatever ended it; with a growing pause, and not "
    "for ever. Not with --detach.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="What the trackers write into their logs: lines for people, or JSON.",
)
@json_option
def up(
    n: int,
    data_dir: Path | None,
    detach: bool,
    base_port: int | None,
    backup_file: Path | None,
    supervise: bool,
    log_format: str,
    as_json: bool,
) -> None:
    """Start N trackers (odd, 1 to 9) on this machine, and show what happens to them.

    Ctrl-C stops them all. Their data survives: the same command brings it back.

    \b
    Examples:
      p2p-cluster up 3
      p2p-cluster up 3 --detach --data-dir ./trackers --base-port 7000
      p2p-cluster up 3 --data-dir ./restored --restore trackers.backup
      p2p-cluster up 3 --supervise --log-format json --json
    """
    if supervise and detach:
        raise click.UsageError("--supervise needs this process to stay: not with --detach")
    directory = data_dir or platformdirs.user_data_path(APP)
    with sigterm_interrupts():
        try:
            if backup_file is not None:
                restore_here(backup_file, directory, n, base_port)
            cluster = Cluster.up(
                n, data_dir=directory, base_port=base_port, detach=detach, log_format=log_format
            )
        except BadRequest as error:
            raise click.UsageError(str(error)) from None
        with cluster:
            try:
                told = _announce(cluster, as_json, detach)
                if not detach:
                    _watch(cluster, told, supervise, as_json)
            except KeyboardInterrupt:
                _tell(as_json, "stopping", None, "stopping all nodes")
        if not detach:
            _tell(as_json, "stopped", None, "all nodes have stopped; their data stays")


def _announce(cluster: Cluster, as_json: bool, detach: bool) -> list[NodeReport]:
    """Tell that it serves; what was told of each node."""
    try:
        remember_cluster(cluster.data_dir)
    except LocalError as error:
        click.echo(f"warning: {error}; name it with --data-dir", err=True)
    reports = cluster.reports()
    if as_json:
        emit_json({"data_dir": cluster.data_dir, **cluster_status.to_json(reports)})
        return reports
    print_table(reports, ("node", "address", "role", "pid"))
    click.echo(f"data in {cluster.data_dir}")
    if detach:
        click.echo(f"running in the background; '{APP} status' looks, '{APP} down' stops")
    else:
        click.echo("Ctrl-C stops all")
    return reports


def _watch(cluster: Cluster, before: list[NodeReport], supervise: bool, as_json: bool) -> None:
    """Tell what happens from ``before`` on until Ctrl-C, or until somebody else brought the
    cluster down."""
    supervisor = Supervisor(cluster.nodes, time.monotonic()) if supervise else None
    while not cluster.stopped:
        time.sleep(WATCH_POLL_S)
        cluster.refresh()
        after = cluster.reports()
        if changed := cluster_status.changed_nodes(before, after):
            for event in changed:
                _tell(as_json, event.kind, event.node, event.text)
            before = cluster_status.same_nodes(before, after)
            if supervisor is not None:
                supervisor.watch(cluster.nodes, time.monotonic())
        for event in cluster_status.events(before, after):
            _tell(as_json, event.kind, event.node, event.text)
        before = after
        if supervisor is not None:
            alive = [report.node for report in after if report.alive]
            _mend(cluster, supervisor, alive, as_json)


def _mend(cluster: Cluster, supervisor: Supervisor, alive: Collection[str], as_json: bool) -> None:
    """Start again who is to be started again, and say so."""
    start, given_up = supervisor.look(alive, time.monotonic())
    for node in start:
        attempt = f"attempt {supervisor.attempts(node)} of {ATTEMPTS_MAX}"
        try:
            if cluster.start_if_down(node):
                text = f"{node} is started again ({attempt})"
                _tell(as_json, "node_restarted", node, text)
        except LocalError as error:
            text = f"{node} cannot be started again ({attempt}): {error}"
            _tell(as_json, "restart_failed", node, text)
    for node in given_up:
        said = " | ".join(log_tail(cluster.log_path(node), LOG_LINES_SHOWN))
        text = f"{node} ended {ATTEMPTS_MAX} times and is left down; it said: {said or 'nothing'}"
        _tell(as_json, "node_given_up", node, text)


def _tell(as_json: bool, kind: str, node: str | None, text: str) -> None:
    now = datetime.now().astimezone()
    if as_json:
        emit_json({"event": kind, "node": node, "time": now.isoformat(), "text": text})
    else:
        click.echo(f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}  {text}")
