"""The word ``status``: who leads, since when and why, and how far each node is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tracker_raft.cli_cluster import attach, data_dir_option, json_option
from tracker_raft.cluster import status as cluster_status
from tracker_raft.cluster.status import NodeReport, leader_of
from tracker_raft.terminal import emit_json

PLAIN_WIDTH = 200
"""Columns of a table that goes into a file or a pipe: nothing is cut off there."""


@click.command(short_help="Show the nodes of the cluster.")
@data_dir_option
@json_option
def status(data_dir: Path | None, as_json: bool) -> None:
    """Show who leads, since when and why, and what each node says of itself.

    lag: entries a node is behind the leader. heard: since when it has not heard the leader. log:
    space on its disk. state: equal on two nodes that have applied the same.

    \b
    Examples:
      p2p-cluster status
      p2p-cluster status --json | jq -r .leader
    """
    reports = attach(data_dir).reports()
    if as_json:
        emit_json(cluster_status.to_json(reports))
        return
    columns = ("node", "role", "pid", "address", "raft", "term", "commit", "applied", "lag")
    print_table(reports, (*columns, "heard", "log", "state"))
    click.echo(
        f"leader: {leader_of(reports) or 'none'}{_since(cluster_status.election_of(reports))}"
    )
    for report in reports:
        for other, reason in (report.get("refused") or {}).items():
            click.echo(f"{report.node} has no link with {other}: {reason}")


def _since(election: dict[str, Any] | None) -> str:
    if election is None:
        return ""
    reason = f": {election['reason']}" if election.get("reason") else ""
    return f", elected {election['ago_ms'] / 1000:.1f} s ago in term {election['term']}{reason}"


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
    key = {"node": "id", "address": "endpoint", "state": "state_hash"}.get(column, column)
    value = report.to_json().get(key)
    if value is None:
        return "-"
    return str(value)[:12] if column == "state" else str(value)
