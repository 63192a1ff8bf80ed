"""The word ``retention``: how much the trackers keep of names."""

from __future__ import annotations

import click

from tracker_raft.client import TrackerClient
from tracker_raft.commands import VERSIONS_KEPT_MAX
from tracker_raft.terminal import emit_json, json_option, resolve_trackers, trackers_option


@click.command(short_help="Show or set how many versions are kept.")
@click.option(
    "--versions",
    type=click.IntRange(1, VERSIONS_KEPT_MAX),
    metavar="N",
    help="Keep the newest N versions of each name, and all that have a tag.",
)
@click.option(
    "--no-versions", is_flag=True, help=f"Keep {VERSIONS_KEPT_MAX}, as many as a name can have."
)
@trackers_option
@json_option
def retention(versions: int | None, no_versions: bool, trackers: str | None, as_json: bool) -> None:
    """Show what the cluster keeps; with options, set it first, on all trackers at once.

    Older versions of a name go when the next one of it is published, never those with a tag.

    \b
    Examples:
      p2p-cluster retention
      p2p-cluster retention --versions 3
      p2p-cluster retention --no-versions
    """
    if versions is not None and no_versions:
        raise click.UsageError("--versions and --no-versions exclude each other")
    wanted = 0 if no_versions else versions
    with TrackerClient(resolve_trackers(trackers)) as client:
        kept = client.retention() if wanted is None else client.set_retention(versions_kept=wanted)
    if as_json:
        emit_json({"versions_kept": kept.versions_kept})
    elif kept.versions_kept:
        click.echo(f"versions  the newest {kept.versions_kept} of a name, and those with a tag")
    else:
        click.echo(f"versions  up to {VERSIONS_KEPT_MAX} of a name")
