"""The words ``tag`` and ``untag``: names for versions that move."""

from __future__ import annotations

import click

from tracker_raft.client import TrackerClient
from tracker_raft.commands import VERSION_MAX, Untag, check_tag, split_reference
from tracker_raft.errors import BadRequest
from tracker_raft.terminal import emit_json, json_option, resolve_trackers, trackers_option


@click.command(short_help="Let a tag mean a version of a name.")
@click.argument("reference", metavar="NAME[@vN|@TAG]")
@click.argument("tag")
@click.option(
    "--expect",
    "expected",
    type=click.IntRange(0, VERSION_MAX),
    metavar="N",
    help="Only if the tag is at version N now; 0: only if there is no such tag.",
)
@trackers_option
@json_option
def tag(
    reference: str, tag: str, expected: int | None, trackers: str | None, as_json: bool
) -> None:
    """Let NAME@TAG mean a version of NAME: the one given, or the newest. A tag moves as often as
    you like, who follows NAME@TAG follows it, and no newer version pushes out the one it means.

    \b
    Examples:
      p2p-cluster tag models/a@v3 stable
      p2p-cluster tag models/a@candidate stable
      p2p-cluster tag models/a@v3 stable --expect 2
    """
    try:
        name, wanted = split_reference(reference)
        check_tag(tag)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    with TrackerClient(resolve_trackers(trackers)) as client:
        version = wanted if isinstance(wanted, int) else client.lookup(reference).version
        done = client.tag(name, tag, version, expected=expected)
    if as_json:
        emit_json({**done.file.to_wire(), "tag": tag, "before": done.before})
        return
    before = f", before v{done.before}" if done.before and done.changed else ""
    click.echo(f"{name}@{tag} is v{done.file.version}{before}")


@click.command(short_help="Take a tag away.")
@click.argument("reference", metavar="NAME@TAG")
@trackers_option
@json_option
def untag(reference: str, trackers: str | None, as_json: bool) -> None:
    """Take a tag away. The version that it means stays.

    \b
    Example:
      p2p-cluster untag models/a@candidate
    """
    try:
        name, divided, word = reference.rpartition("@")
        if not divided:
            raise BadRequest(f"{reference!r} names no tag, expected NAME@TAG")
        Untag(name, word)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    with TrackerClient(resolve_trackers(trackers)) as client:
        record = client.untag(name, word)
    if as_json:
        emit_json({**record.to_wire(), "tag": word})
        return
    click.echo(f"{name}@{word} is gone; it was v{record.version}")
