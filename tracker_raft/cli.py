"""The cluster words of ``p2p-cluster``: bring trackers up on this machine, look at them, hurt them.

Each word is a thin shell on :class:`tracker_raft.cluster.Cluster`; :data:`COMMANDS` is what the
entry point joins with the words of the peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from tracker_raft.cli_backup import backup, restore, restore_here
from tracker_raft.cli_leadership import transfer_leadership
from tracker_raft.cli_node import node
from tracker_raft.cli_recover import recover
from tracker_raft.cli_sight import log_word, snapshot
from tracker_raft.cli_verify import verify_word
from tracker_raft.cli_watch import watch
from tracker_raft.cluster import Cluster
from tracker_raft.cluster import status as cluster_status
from tracker_raft.cluster.process import log_tail
from tracker_raft.cluster.state import Layout
from tracker_raft.cluster.status import NodeReport, leader_of
from tracker_raft.errors import BadRequest, LocalError, NotFound
from tracker_raft.terminal import APP, emit_json, last_cluster, remember_cluster, sigterm_interrupts

WATCH_POLL_S = 0.25
FOLLOW_POLL_S = 0.1
PLAIN_WIDTH = 200
"""Columns of a table that goes into a file or a pipe: nothing is cut off there."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def data_dir_option(function: _Function) -> _Function:
    return click.option(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="The directory of the cluster. Default: the cluster last brought up.",
    )(function)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
node_argument = click.argument("node", metavar="NODE|leader")


@click.command(short_help="Start N trackers on this machine.")
@click.argument("n", type=int, metavar="N")
@click.option(
    "--data-dir",
    type=Path,
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
@json_option
def up(
    n: int,
    data_dir: Path | None,
    detach: bool,
    base_port: int | None,
    backup_file: Path | None,
    as_json: bool,
) -> None:
    """Start N trackers (odd, 1 to 9) on this machine, and show what happens to them.

    Ctrl-C stops them all. Their data survives: the same command brings it back.

    \b
    Examples:
      p2p-cluster up 3
      p2p-cluster up 3 --detach --data-dir ./trackers --base-port 7000
      p2p-cluster up 3 --data-dir ./restored --restore trackers.backup
    """
    directory = data_dir or platformdirs.user_data_path(APP)
    with sigterm_interrupts():
        try:
            if backup_file is not None:
                restore_here(backup_file, directory, n, base_port)
            cluster = Cluster.up(n, data_dir=directory, base_port=base_port, detach=detach)
        except BadRequest as error:
            raise click.UsageError(str(error)) from None
        with cluster:
            try:
                _announce(cluster, as_json, detach)
                if not detach:
                    _watch(cluster, as_json)
            except KeyboardInterrupt:
                _tell(as_json, "stopping", None, "stopping all nodes")
        if not detach:
            _tell(as_json, "stopped", None, "all nodes have stopped; their data stays")


def _announce(cluster: Cluster, as_json: bool, detach: bool) -> None:
    try:
        remember_cluster(cluster.data_dir)
    except LocalError as error:
        click.echo(f"warning: {error}; name it with --data-dir", err=True)
    reports = cluster.reports()
    if as_json:
        emit_json({"data_dir": cluster.data_dir, **cluster_status.to_json(reports)})
        return
    _print_table(reports, ("node", "address", "role", "pid"))
    click.echo(f"data in {cluster.data_dir}")
    if detach:
        click.echo(f"running in the background; '{APP} status' looks, '{APP} down' stops")
    else:
        click.echo("Ctrl-C stops all")


def _watch(cluster: Cluster, as_json: bool) -> None:
    """Tell events until Ctrl-C, or until somebody else brought the cluster down."""
    before = cluster.reports()
    while not cluster.stopped:
        time.sleep(WATCH_POLL_S)
        after = cluster.reports()
        for event in cluster_status.events(before, after):
            _tell(as_json, event.kind, event.node, event.text)
        before = after


def _tell(as_json: bool, kind: str, node: str | None, text: str) -> None:
    now = datetime.now().astimezone()
    if as_json:
        emit_json({"event": kind, "node": node, "time": now.isoformat(), "text": text})
    else:
        click.echo(f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}  {text}")


@click.command(short_help="Show the nodes of the cluster.")
@data_dir_option
@json_option
def status(data_dir: Path | None, as_json: bool) -> None:
    """Show who leads and what each node says of itself.

    \b
    Examples:
      p2p-cluster status
      p2p-cluster status --json | jq -r .leader
    """
    reports = _attach(data_dir).reports()
    if as_json:
        emit_json(cluster_status.to_json(reports))
        return
    columns = ("node", "role", "pid", "address", "raft", "term", "commit", "applied", "state")
    _print_table(reports, columns)
    click.echo(f"leader: {leader_of(reports) or 'none'}")


@click.command(short_help="Stop all nodes.")
@data_dir_option
def down(data_dir: Path | None) -> None:
    """Stop all nodes of the cluster, paused ones too. Their data stays.

    \b
    Example:
      p2p-cluster down
    """
    ran = _attach(data_dir).down()
    click.echo(f"stopped {', '.join(ran)}" if ran else "no node was running")


@click.command(short_help="Kill a node with SIGKILL.")
@node_argument
@data_dir_option
def kill(node: str, data_dir: Path | None) -> None:
    """Kill a node, or whoever leads, with SIGKILL, as a crash would.

    \b
    Example:
      p2p-cluster kill leader
    """
    cluster, node, pid = _running(data_dir, node)
    cluster.kill(node)
    click.echo(f"killed {node} (pid {pid})")


@click.command(short_help="Freeze a node with SIGSTOP.")
@node_argument
@data_dir_option
def pause(node: str, data_dir: Path | None) -> None:
    """Freeze a node: it keeps its connections and answers nobody until it is resumed.

    \b
    Example:
      p2p-cluster pause n2
    """
    cluster, node, pid = _running(data_dir, node)
    cluster.pause(node)
    click.echo(f"paused {node} (pid {pid})")


@click.command(short_help="Let a paused node go on.")
@click.argument("node")
@data_dir_option
def resume(node: str, data_dir: Path | None) -> None:
    """Let a paused node go on.

    \b
    Example:
      p2p-cluster resume n2
    """
    cluster, node, pid = _running(data_dir, node)
    cluster.resume(node)
    click.echo(f"resumed {node} (pid {pid})")


@click.command(short_help="Start a node again.")
@node_argument
@data_dir_option
def restart(node: str, data_dir: Path | None) -> None:
    """Start a node again with its data, stopped cleanly first if it runs; returns when it serves.

    \b
    Example:
      p2p-cluster restart n2
    """
    cluster = _attach(data_dir)
    node = _pick(cluster, node)
    cluster.terminate(node)
    with cluster:
        cluster.restart(node)
        click.echo(f"restarted {node} (pid {cluster.pid(node)})")


@click.command(short_help="Show what a node said.")
@node_argument
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0),
    default=50,
    show_default=True,
    help="How many lines from the end.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on showing what it says, until Ctrl-C.")
@data_dir_option
def logs(node: str, lines: int, follow: bool, data_dir: Path | None) -> None:
    """Show the end of what a node said.

    \b
    Examples:
      p2p-cluster logs n1 -n 100
      p2p-cluster logs leader -f
    """
    cluster = _attach(data_dir)
    path = cluster.log_path(_pick(cluster, node))
    shown = path.stat().st_size if path.exists() else 0
    for line in log_tail(path, lines):
        click.echo(line)
    while follow:
        time.sleep(FOLLOW_POLL_S)
        shown = _echo_from(path, shown)


def _echo_from(path: Path, shown: int) -> int:
    """Print a log from byte ``shown`` on, or from its start if it was set aside; where it ends."""
    if not path.exists():
        return 0
    with path.open("rb") as log:
        start = shown if log.seek(0, 2) >= shown else 0
        log.seek(start)
        fresh = log.read()
    if fresh:
        click.echo(fresh.decode(errors="replace"), nl=False)
    return start + len(fresh)


# -- shared ---------------------------------------------------------------------------------------


def _attach(data_dir: Path | None) -> Cluster:
    """The cluster meant. Raises :class:`click.UsageError` when there is none."""
    directory = data_dir or last_cluster()
    hint = f"bring one up with '{APP} up 3'"
    if directory is None:
        directory = platformdirs.user_data_path(APP)
        if Layout.load(directory) is None:
            raise click.UsageError(
                f"no cluster was brought up on this machine yet: {hint}, or name its directory "
                f"with --data-dir"
            )
    try:
        return Cluster.attach(directory)
    except NotFound as error:
        raise click.UsageError(f"{error}; {hint}") from None


def _pick(cluster: Cluster, word: str) -> str:
    """The node meant by an id or by ``leader``.

    :class:`click.UsageError` for an unknown one, :class:`LocalError` when nobody leads.
    """
    if word == "leader":
        reports = cluster.reports()
        if sum(report.alive and not report.paused for report in reports) <= len(reports) // 2:
            # Nobody can be elected: waiting for it would be for nothing.
            raise LocalError(f"no leader: {'; '.join(map(str, reports))}")
        return cluster.leader()
    if word not in cluster.nodes:
        raise click.UsageError(f"no node {word!r}; the nodes are {', '.join(cluster.nodes)}")
    return word


def _running(data_dir: Path | None, word: str) -> tuple[Cluster, str, int]:
    """The cluster, the node meant and its process. :class:`LocalError` if it does not run."""
    cluster = _attach(data_dir)
    node = _pick(cluster, word)
    pid = cluster.pid(node)
    if pid is None:
        raise LocalError(f"{node} is not running; nothing was done")
    return cluster, node, pid


def _print_table(reports: list[NodeReport], columns: tuple[str, ...]) -> None:
    # Imported here: it takes a tenth of a second, which every tracker process would pay too.
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for report in reports:
        table.add_row(*(_cell(report, column) for column in columns))
    console.print(table)


def _cell(report: NodeReport, column: str) -> str:
    if column == "role":
        return str(report.get("role")) if report.reachable else report.condition
    key = {"node": "id", "address": "endpoint", "state": "state_hash"}.get(column, column)
    value = report.to_json()[key]
    if value is None:
        return "-"
    return str(value)[:12] if column == "state" else str(value)


COMMANDS: list[click.Command] = [
    up,
    status,
    down,
    kill,
    pause,
    resume,
    restart,
    logs,
    transfer_leadership,
    node,
    log_word,
    snapshot,
    backup,
    restore,
    recover,
    verify_word,
    watch,
]
