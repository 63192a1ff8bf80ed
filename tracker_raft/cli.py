"""The cluster words of ``p2p-cluster``: bring trackers up on this machine, look at them, hurt them.

Those that hurt a node are here, the others in modules of their own (``cli_*.py``). Each word is a
thin shell on :class:`tracker_raft.cluster.Cluster` or :class:`tracker_raft.TrackerClient`;
:data:`COMMANDS` is what the entry point joins with the words of the peer.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import click

from tracker_raft.cli_backup import backup, restore
from tracker_raft.cli_cluster import attach, data_dir_option, pick, running
from tracker_raft.cli_leadership import transfer_leadership
from tracker_raft.cli_members import add_node, remove_node, replace_node
from tracker_raft.cli_node import node
from tracker_raft.cli_recover import recover
from tracker_raft.cli_retention import retention
from tracker_raft.cli_sight import log_word, snapshot
from tracker_raft.cli_status import status
from tracker_raft.cli_tags import tag, untag
from tracker_raft.cli_up import up
from tracker_raft.cli_verify import verify_word
from tracker_raft.cli_watch import watch
from tracker_raft.cluster.process import log_tail
from tracker_raft.terminal import sigterm_interrupts

FOLLOW_POLL_S = 0.1

node_argument = click.argument("node", metavar="NODE|leader")


@click.command(short_help="Stop all nodes.")
@data_dir_option
def down(data_dir: Path | None) -> None:
    """Stop all nodes of the cluster, paused ones too. Their data stays.

    \b
    Example:
      p2p-cluster down
    """
    ran = attach(data_dir).down()
    click.echo(f"stopped {', '.join(ran)}" if ran else "no node was running")


@click.command(short_help="Kill a node with SIGKILL.")
@node_argument
@data_dir_option
def kill(node: str, data_dir: Path | None) -> None:
    """Kill a node, or whoever leads, with SIGKILL, as a crash would.

    It stays dead until 'restart', or until 'up --supervise' starts it again a moment later.

    \b
    Example:
      p2p-cluster kill leader
    """
    cluster, node, pid = running(data_dir, node)
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
    cluster, node, pid = running(data_dir, node)
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
    cluster, node, pid = running(data_dir, node)
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
    cluster = attach(data_dir)
    node = pick(cluster, node)
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
    cluster = attach(data_dir)
    path = cluster.log_path(pick(cluster, node))
    shown = path.stat().st_size if path.exists() else 0
    for line in log_tail(path, lines):
        click.echo(line)
    with sigterm_interrupts(), suppress(KeyboardInterrupt):
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
    add_node,
    remove_node,
    replace_node,
    node,
    log_word,
    snapshot,
    backup,
    restore,
    recover,
    verify_word,
    watch,
    tag,
    untag,
    retention,
]
