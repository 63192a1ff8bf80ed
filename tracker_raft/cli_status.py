"""The word ``status``: who leads, since when and why, and how far each node is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tracker_raft.cli_cluster import attach
from tracker_raft.client import TrackerClient
from tracker_raft.cluster import status as cluster_status
from tracker_raft.cluster.status import NodeReport, leader_of
from tracker_raft.errors import NoLeader
from tracker_raft.terminal import (
    emit_json,
    json_option,
    require_one_cluster,
    resolve_trackers,
    tracker_options,
)
from tracker_raft.versions import NEWEST, OLDEST, SOFTWARE_SINCE

LOOK_S = 5.0
"""For the first answer of any tracker."""
PLAIN_WIDTH = 200
"""Columns of a table that goes into a file or a pipe: nothing is cut off there."""


@click.command(short_help="Show the nodes of the cluster.")
@tracker_options
@json_option
def status(trackers: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Show who leads, since when and why, and what each node says of itself.

    lag: entries a node is behind the leader. heard: since when it has not heard the leader. log:
    space on its disk. state: equal on two nodes that have applied the same.

    Of the cluster last brought up here processes are shown as well; with --trackers what answers
    is asked, on any machine. The exit status is 1 when no leader is known.

    \b
    Examples:
      p2p-cluster status
      p2p-cluster status --json | jq -r .leader
      p2p-cluster status --trackers 10.0.0.1:7000
    """
    require_one_cluster(data_dir)
    if data_dir is None and trackers is not None:
        with TrackerClient(resolve_trackers(trackers)) as client:
            client.status(deadline_s=LOOK_S)  # learns of all of them
            reports, silent = cluster_status.ask_trackers(client.endpoints)
        silences = {"silent": {str(address): why for address, why in silent.items()}}
    else:
        reports, silences = attach(data_dir).reports(), {}
    if as_json:
        emit_json({**cluster_status.to_json(reports), **silences})
    else:
        _show(reports, silences.get("silent", {}))
    if leader_of(reports) is None:
        raise NoLeader(f"no leader is known; {'; '.join(map(str, reports))}")


def _show(reports: list[NodeReport], silent: Mapping[str, str]) -> None:
    columns = ("node", "role", "pid", "address", "raft", "term", "commit", "applied", "lag")
    print_table(reports, (*columns, "heard", "log", "release", "state"))
    click.echo(
        f"leader: {leader_of(reports) or 'none'}{_since(cluster_status.election_of(reports))}"
    )
    if (version := cluster_status.version_of(reports)) is not None:
        click.echo(f"cluster version: {version}{_rises(reports, version)}")
    for report in reports:
        for other, reason in (report.get("refused") or {}).items():
            click.echo(f"{report.node} has no link with {other}: {reason}")
    for address, reason in silent.items():
        click.echo(f"{address} does not answer: {reason}")


def _since(election: dict[str, Any] | None) -> str:
    if election is None:
        return ""
    reason = f": {election['reason']}" if election.get("reason") else ""
    return f", elected {election['ago_ms'] / 1000:.1f} s ago in term {election['term']}{reason}"


def _rises(reports: list[NodeReport], version: int) -> str:
    """When the cluster version will rise; empty when it is as high as this software knows."""
    if version >= NEWEST:
        return ""
    behind = {
        report.node: report.get("software") or f"before {SOFTWARE_SINCE[NEWEST]}"
        for report in reports
        if report.reachable and (report.get("supports") or (OLDEST, OLDEST))[1] < NEWEST
    }
    behind |= {report.node: report.condition for report in reports if not report.reachable}
    waits = f"; waits for {', '.join(f'{k} ({v})' for k, v in behind.items())}" if behind else ""
    return f", {NEWEST} when all run {SOFTWARE_SINCE[NEWEST]} or later{waits}"


def print_table(reports: list[NodeReport], columns: tuple[str, ...]) -> None:
    # Imported here: it takes a tenth of a second, which every tracker process would pay too.
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    behind = cluster_status.lags(reports)
    for report in reports:
        table.add_row(*(_cell(report, column, behind[report.node]) for column in columns))
    console.print(table)


def _cell(report: NodeReport, column: str, lag: int | None) -> str:
    if column == "role":
        return str(report.role) if report.reachable else report.condition
    if column == "lag":
        return "-" if lag is None else str(lag)
    if column == "heard" and report.get("leader_silent_ms") is not None:
        return f"{report.get('leader_silent_ms')} ms"
    if column == "log" and report.get("log_bytes") is not None:
        return f"{report.get('log_bytes') >> 20} MiB"
    key = {"node": "id", "address": "endpoint", "state": "state_hash", "release": "software"}.get(
        column, column
    )
    value = report.to_json().get(key)
    if value is None:
        return "-"
    return str(value)[:12] if column == "state" else str(value)
