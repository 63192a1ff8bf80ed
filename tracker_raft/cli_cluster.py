"""Which cluster on this machine and which of its nodes are meant: what the cluster words share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import platformdirs

from tracker_raft.cluster import Cluster
from tracker_raft.cluster.state import Layout
from tracker_raft.errors import LocalError, NotFound
from tracker_raft.terminal import APP, given_path, last_cluster

_Function = TypeVar("_Function", bound=Callable[..., Any])


def data_dir_option(function: _Function) -> _Function:
    return click.option(
        "--data-dir",
        type=given_path,
        metavar="DIR",
        help="The directory of the cluster. Default: the cluster last brought up.",
    )(function)


new_cluster_option = click.option(
    "--cluster",
    metavar="NAME",
    help="Name of the new cluster; not that of the old one. Default: a fresh one.",
)


def attach(data_dir: Path | None) -> Cluster:
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


def pick(cluster: Cluster, word: str) -> str:
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


def running(data_dir: Path | None, word: str) -> tuple[Cluster, str, int]:
    """The cluster, the node meant and its process. :class:`LocalError` if it does not run."""
    cluster = attach(data_dir)
    node = pick(cluster, word)
    pid = cluster.pid(node)
    if pid is None:
        raise LocalError(f"{node} is not running; nothing was done")
    return cluster, node, pid
