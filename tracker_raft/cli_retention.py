"""The word ``retention``: how much the trackers keep of names."""

from __future__ import annotations

from dataclasses import asdict

import click

from tracker_raft.client import TrackerClient
from tracker_raft.commands import UNSOURCED_MAX_MS, VERSIONS_KEPT_MAX
from tracker_raft.terminal import emit_json, json_option, resolve_trackers, trackers_option

SECONDS = click.IntRange(0, UNSOURCED_MAX_MS // 1000)


@click.command(short_help="Show or set what is kept, and for how long.")
@click.option(
    "--versions",
    type=click.IntRange(1, VERSIONS_KEPT_MAX),
    metavar="N",
    help="Keep the newest N versions of each name, and all that have a tag.",
)
@click.option(
    "--no-versions", is_flag=True, help=f"Keep {VERSIONS_KEPT_MAX}, as many as a name can have."
)
@click.option(
    "--unsourced-after",
    "unsourced_after_s",
    type=SECONDS,
    metavar="S",
    help="Show what nobody has served for S seconds; 0: never.",
)
@click.option(
    "--remove-unsourced-after",
    "remove_unsourced_after_s",
    type=SECONDS,
    metavar="S",
    help="Remove what nobody has served for S seconds and has no tag; 0: never.",
)
@trackers_option
@json_option
def retention(
    versions: int | None,
    no_versions: bool,
    unsourced_after_s: int | None,
    remove_unsourced_after_s: int | None,
    trackers: str | None,
    as_json: bool,
) -> None:
    """Show what the cluster keeps; with options, set it first, on all trackers at once.

    Older versions of a name go when the next one of it is published, never those with a tag.
    What nobody serves is removed only if so set, and never what has a tag.

    \b
    Examples:
      p2p-cluster retention
      p2p-cluster retention --versions 3
      p2p-cluster retention --unsourced-after 86400 --remove-unsourced-after 2592000
    """
    if versions is not None and no_versions:
        raise click.UsageError("--versions and --no-versions exclude each other")
    wanted = {
        "versions_kept": 0 if no_versions else versions,
        "unsourced_after_s": unsourced_after_s,
        "remove_unsourced_after_s": remove_unsourced_after_s,
    }
    with TrackerClient(resolve_trackers(trackers)) as client:
        if all(value is None for value in wanted.values()):
            kept = client.retention()
        else:
            kept = client.set_retention(**wanted)
    if as_json:
        emit_json(asdict(kept))
        return
    most = f"the newest {kept.versions_kept} of a name, and those with a tag"
    click.echo(
        f"versions  {most if kept.versions_kept else f'up to {VERSIONS_KEPT_MAX} of a name'}"
    )
    click.echo(f"unsourced  shown {_after(kept.unsourced_after_s)}")
    click.echo(f"unsourced  removed {_after(kept.remove_unsourced_after_s)}")


def _after(seconds: float) -> str:
    return f"after {seconds:g} s" if seconds else "never"
