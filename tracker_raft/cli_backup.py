"""The words ``backup`` and ``restore``: the state of a cluster in one file, and a cluster of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from tracker_raft.cli_cluster import new_cluster_option
from tracker_raft.client import TrackerClient
from tracker_raft.client.backup import DEADLINE_S, take_backup
from tracker_raft.errors import BadRequest, Unsupported
from tracker_raft.terminal import (
    APP,
    emit_json,
    endpoints_meant,
    given_path,
    json_option,
    tracker_options,
)

NODES_DEFAULT = 3


@click.command(short_help="Write the state of the running cluster into a file.")
@click.argument("file", type=click.Path(path_type=Path))
@tracker_options
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--deadline",
    "deadline_s",
    type=click.FloatRange(min=0, min_open=True),
    default=DEADLINE_S,
    show_default=True,
    metavar="SECONDS",
    help="Give up after so long.",
)
@json_option
def backup(
    file: Path,
    trackers: str | None,
    data_dir: Path | None,
    force: bool,
    deadline_s: float,
    as_json: bool,
) -> None:
    """Write the state of a running cluster, as of one entry of its log, into FILE.

    FILE holds everything that was acknowledged before this was called, and its own hash. It
    appears when it is whole; until then there is FILE.part. A majority of the trackers must run.

    \b
    Examples:
      p2p-cluster backup trackers.backup
      p2p-cluster backup /mnt/nightly.backup --force --trackers tracker-1:7000
    """
    with TrackerClient(endpoints_meant(trackers, data_dir)) as client:
        done = take_backup(client, file, overwrite=force, deadline_s=deadline_s)
    head = done.head
    if as_json:
        emit_json({"file": done.path, **asdict(head), "sha256": done.sha256})
        return
    click.echo(
        f"{file}: cluster {head.cluster} up to entry {head.index}, from {head.node}, "
        f"{done.path.stat().st_size} bytes"
    )


@click.command(short_help="Make a new cluster from a backup.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data-dir",
    type=given_path,
    metavar="DIR",
    required=True,
    help="Where the new cluster is to keep its data; an empty directory, or none yet.",
)
@click.option(
    "--nodes",
    type=int,
    default=None,
    metavar="N",
    help=f"How many trackers on this machine, odd, 1 to 9.  [default: {NODES_DEFAULT}]",
)
@click.option("--base-port", type=int, metavar="P", help="As for 'up'. Default: free ports.")
@click.option(
    "--one-node",
    is_flag=True,
    help="Make DIR the directory of one tracker, for 'node --data-dir DIR --cluster NAME'. "
    "To be done for each member, with the same FILE and NAME.",
)
@new_cluster_option
@json_option
def restore(
    file: Path,
    data_dir: Path,
    nodes: int | None,
    base_port: int | None,
    one_node: bool,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Make a new cluster that begins with the files of a backup. Nothing is started.

    FILE is verified as a whole first. The new cluster has another name than the old one, whose
    trackers it refuses. Files and versions are restored; peers join again by themselves, clients
    open new sessions, and who watches is told to list anew.

    \b
    Examples:
      p2p-cluster restore trackers.backup --data-dir ./restored
      p2p-cluster up 3 --data-dir ./restored
    \b
    One of three machines:
      p2p-cluster restore trackers.backup --data-dir /var/lib/p2p/n1 --one-node --cluster p2p-b
      p2p-cluster node --data-dir /var/lib/p2p/n1 --id n1 --cluster p2p-b --member n1=...
    """
    if one_node and cluster is None:
        raise click.UsageError("--one-node needs --cluster NAME, the same on all machines")
    if one_node and (nodes is not None or base_port is not None):
        raise click.UsageError("--one-node makes one directory: no --nodes and no --base-port")
    # Imported here: it brings the whole consensus side, which most words of the line do not need.
    from tracker_raft.restore import restore_cluster, restore_node

    try:
        if one_node:
            made = restore_node(file, data_dir, str(cluster))
        else:
            made = restore_cluster(
                file, data_dir, nodes or NODES_DEFAULT, base_port=base_port, cluster=cluster
            )
    except Unsupported:
        raise
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        emit_json(asdict(made))
        return
    head = made.head
    click.echo(
        f"{made.files} files of cluster {head.cluster}, backed up {head.made} at entry "
        f"{head.index}, are in {data_dir}: cluster {made.cluster}, from entry {made.index} on"
    )
    if one_node:
        click.echo(f"start it with '{APP} node --data-dir {data_dir} --cluster {cluster} ...'")
    else:
        click.echo(f"start it with '{APP} up {len(made.nodes)} --data-dir {data_dir}'")


def restore_here(file: Path, directory: Path, nodes: int, base_port: int | None) -> None:
    """Make the cluster that ``up --restore`` then starts. Raises what ``restore_cluster`` does."""
    from tracker_raft.restore import restore_cluster

    restore_cluster(file, directory, nodes, base_port=base_port)
