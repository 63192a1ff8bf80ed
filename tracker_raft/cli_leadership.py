"""The word ``transfer-leadership``: hand over before work on a machine."""

from __future__ import annotations

from pathlib import Path

import click

from tracker_raft.client import TrackerClient
from tracker_raft.errors import BadRequest
from tracker_raft.terminal import (
    emit_json,
    endpoints_meant,
    json_option,
    node_id,
    tracker_options,
)


@click.command("transfer-leadership", short_help="Let another tracker lead.")
@click.option(
    "--to",
    metavar="NODE",
    callback=node_id,
    help="Who is to lead. Default: whoever is most up to date.",
)
@tracker_options
@json_option
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
        with TrackerClient(endpoints_meant(trackers, data_dir)) as client:
            leader = client.transfer_leadership(to)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        emit_json({"leader": leader})
    else:
        click.echo(f"{leader} leads")
