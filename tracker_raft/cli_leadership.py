"""The word ``transfer-leadership``: hand over before work on a machine."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from tracker_raft.client import TrackerClient
from tracker_raft.cluster import Cluster
from tracker_raft.errors import BadRequest, NotFound
from tracker_raft.terminal import emit_json, resolve_trackers, trackers_option


@click.command("transfer-leadership", short_help="Let another tracker lead.")
@click.option("--to", metavar="NODE", help="Who is to lead. Default: whoever is most up to date.")
@trackers_option
@click.option(
    "--data-dir",
    type=Path,
    metavar="DIR",
    help="The directory of the cluster, in place of --trackers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")
def transfer_leadership(
    to: str | None, trackers: str | None, data_dir: Path | None, as_json: bool
) -> None:
    """Let another tracker lead, without a failed call: what arrives meanwhile waits for it.

    SIGTERM does the same before a tracker stops.

    \b
    Examples:
      p2p-cluster transfer-leadership
      p2p-cluster transfer-leadership --to n2 --trackers tracker-1:7000
    """
    try:
        with TrackerClient(_endpoints(trackers, data_dir)) as client:
            leader = client.transfer_leadership(to)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        emit_json({"leader": leader})
    else:
        click.echo(f"{leader} leads")


def _endpoints(trackers: str | None, data_dir: Path | None) -> list[str]:
    if data_dir is None:
        return resolve_trackers(trackers)
    # From the environment they are a default, which --data-dir may well be to replace.
    context = click.get_current_context()
    if context.get_parameter_source("trackers") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--trackers and --data-dir both say which cluster: give one")
    try:
        return Cluster.attach(data_dir).endpoints
    except NotFound as error:
        raise click.UsageError(str(error)) from None
