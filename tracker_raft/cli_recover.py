"""The word ``recover``: a majority is lost for good, and one directory is what there is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tracker_raft.cli_cluster import new_cluster_option
from tracker_raft.errors import BadRequest, LocalError, Unsupported
from tracker_raft.terminal import APP, emit_json, json_option

if TYPE_CHECKING:
    from tracker_raft.rescue import Evidence, Recovered


@click.command(short_help="Make a new cluster when a majority is lost for good.")
@click.argument("data_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Do it. Without it only what would be lost is said.")
@click.option("--node", metavar="NODE", help="Recover from this node. Default: the newest log.")
@new_cluster_option
@json_option
def recover(
    data_dir: Path, force: bool, node: str | None, cluster: str | None, as_json: bool
) -> None:
    """Make a new cluster from what one node has. Acknowledged writes may be lost.

    Only for when a majority of the trackers will never come back: as long as it may, start it
    instead, and nothing is lost. DATA_DIR is that of one node, or of a cluster of 'up'; none of
    its nodes may run. What was there is kept beside the new data.

    The new cluster has another name. Trackers of the old one that come back after all are refused
    by it and refuse it.

    \b
    Examples:
      p2p-cluster recover ./trackers               what is there, and what may be lost
      p2p-cluster recover --force ./trackers       all nodes of 'up', from the newest of them
      p2p-cluster recover --force /var/lib/p2p/n3  the directory of one node
    """
    # Imported here: it brings the whole consensus side, which most words of the line do not need.
    from tracker_raft.rescue import Rescue

    try:
        with Rescue(data_dir, node) as rescue:
            if not as_json:
                click.echo("\n".join(_told(rescue.evidence)), err=True)
            if not force:
                if as_json:
                    emit_json({"evidence": asdict(rescue.evidence), "recovered": None})
                raise LocalError("nothing was done; --force makes the new cluster")
            done = rescue.recover(cluster)
    except Unsupported:
        raise
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        result = {"cluster": done.cluster, "nodes": done.nodes, "index": done.index}
        emit_json({"evidence": asdict(done.evidence), "recovered": {**result, "kept": done.kept}})
    else:
        click.echo("\n".join(_next_steps(data_dir, done)))


def _told(evidence: Evidence) -> list[str]:
    lines = [
        f"node {evidence.node} of cluster {evidence.cluster}, in {evidence.directory}:",
        f"  its log ends at entry {evidence.index}, term {evidence.term}; it has seen term "
        f"{evidence.current_term}",
        f"  {evidence.files} files in {evidence.versions} versions",
        f"  written last {evidence.written}, {_ago(evidence.age_s)} ago",
        "WARNING: everything that the lost trackers acknowledged and that never came to this node "
        "is lost.",
    ]
    if evidence.uncertain:
        first = evidence.index - evidence.uncertain + 1
        lines.append(
            f"WARNING: entries {first} to {evidence.index} are not known to be committed. They "
            f"are taken over: writes that were never acknowledged may be among them."
        )
    return lines


def _next_steps(data_dir: Path, done: Recovered) -> list[str]:
    lines = [
        f"cluster {done.cluster} begins at entry {done.index} with what node "
        f"{done.evidence.node} had",
        *(f"what was there before is kept in {kept}" for kept in done.kept),
    ]
    if len(done.nodes) > 1:
        lines.append(f"start it with '{APP} up {len(done.nodes)} --data-dir {data_dir}'")
    else:
        lines.append(
            f"start it alone with '{APP} node --id {done.evidence.node} --data-dir {data_dir} "
            f"--cluster {done.cluster}' and back it up; 'restore --one-node' makes others of that"
        )
    return lines


def _ago(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
