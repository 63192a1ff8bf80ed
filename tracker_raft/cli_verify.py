"""The word ``verify``: is what lies in a data directory what was written there?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from tracker_raft.raft.storage import Directory
from tracker_raft.raft.verify import Findings, verify
from tracker_raft.terminal import emit_json


@click.command("verify", short_help="Check the data on disk.")
@click.argument("data_dir", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def verify_word(data_dir: Path, as_json: bool) -> None:
    """Check the data of a node, of all nodes of a cluster, or a backup; and change nothing.

    Names the first bad record of each node. Exit status 1 if a node would not start with what is
    there. Meant for nodes that do not run; of one that does, the newest record may seem torn.

    \b
    Examples:
      p2p-cluster verify ./trackers
      p2p-cluster verify ./trackers/n1 --json
      p2p-cluster verify trackers.backup
    """
    if data_dir.is_file():
        _check_backup(data_dir, as_json)
        return
    found = {place.name: _findings(place) for place in _node_directories(data_dir)}
    if as_json:
        emit_json({"nodes": {name: asdict(findings) for name, findings in found.items()}})
    else:
        for name, findings in found.items():
            click.echo(f"{name}: {_sentence(findings)}")
    if any(findings.problem for findings in found.values()):
        raise SystemExit(1)


def _check_backup(path: Path, as_json: bool) -> None:
    """Raises :class:`~tracker_raft.errors.Damaged` and its like."""
    from tracker_raft.restore import read_backup

    head, machine = read_backup(path)
    files = machine.counts()["files"]
    if as_json:
        emit_json({"backup": {**asdict(head), "files": files}})
    else:
        click.echo(
            f"good: backup of cluster {head.cluster} up to entry {head.index}, made {head.made} "
            f"by {head.node}, {files} files"
        )


def _node_directories(data_dir: Path) -> list[Path]:
    """``data_dir`` itself, or the directories of the nodes of the cluster in it."""
    if not (data_dir / "cluster.json").exists():
        return [data_dir]
    places = sorted(place for place in data_dir.iterdir() if place.is_dir())
    if not places:
        raise click.UsageError(f"{data_dir} is a cluster none of whose nodes ever ran")
    return places


def _findings(place: Path) -> Findings:
    storage = Directory(place)
    try:
        return verify(storage)
    except OSError as error:
        return Findings(problem=f"cannot be read: {error}")
    finally:
        storage.close()


def _sentence(findings: Findings) -> str:
    if findings.problem is not None:
        return f"BAD: {findings.problem}"
    snapshot = f", snapshot up to {findings.snapshot}" if findings.snapshot else ""
    torn = (
        f", {findings.bytes_torn} bytes of a write that was never acknowledged"
        if findings.bytes_torn
        else ""
    )
    if not findings.node:
        made = f"good: made for cluster {findings.cluster}, not started yet{snapshot}"
        return made if snapshot else f"good: nothing was ever written whole{torn}"
    return (
        f"good: node {findings.node} of cluster {findings.cluster}, entries "
        f"{findings.first_index} to {findings.last_index} in {findings.segments} segments, "
        f"term {findings.term}{snapshot}{torn}"
    )
