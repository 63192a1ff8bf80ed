"""``p2p-cluster watch``: the changes of the files as they happen."""

from __future__ import annotations

import re
import shlex
from typing import Any

import click

from tracker_raft.changes import (
    PUBLISHED,
    REMOVED,
    REPLACED,
    TAGGED,
    UNTAGGED,
    VERSION_REMOVED,
    Change,
    Place,
)
from tracker_raft.client import TrackerClient, Watch
from tracker_raft.commands import INTEGER_MAX
from tracker_raft.errors import BadRequest, Unavailable
from tracker_raft.terminal import (
    APP,
    emit_json,
    prefix_argument,
    resolve_trackers,
    sigterm_interrupts,
    trackers_option,
)

LOOK_S = 2.0
"""For the end of the log, to compare a place with."""
_PLACE = re.compile(r"(?P<index>[0-9]{1,19})(\.(?P<position>[0-9]{1,19}))?")
_WORDS = {
    PUBLISHED: "published",
    REPLACED: "new version",
    VERSION_REMOVED: "version removed",
    REMOVED: "removed",
    TAGGED: "tagged",
    UNTAGGED: "untagged",
}


def _place(ctx: click.Context, param: click.Parameter, value: str | None) -> Place | None:
    if value is None:
        return None
    match = _PLACE.fullmatch(value)
    place = (int(match["index"]), int(match["position"] or 0)) if match else (INTEGER_MAX + 1, 0)
    if max(place) > INTEGER_MAX:
        raise click.UsageError(
            f"--from {value!r}: expected an entry of the log, as in 104, or a place in one: 104.2"
        )
    return place


@click.command(short_help="Show changes of files as they happen.")
@click.argument("prefix", default="", callback=prefix_argument)
@click.option(
    "--from",
    "place",
    metavar="INDEX[.POSITION]",
    callback=_place,
    help="Begin with the changes of this entry of the log; behind a change that was shown: with "
    "its POSITION + 1. Default: with what changes from now on.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1, max=86_400),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Fail after this many seconds without an answer from any tracker.",
)
@trackers_option
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each change.")
def watch(
    prefix: str, place: Place | None, timeout_s: float, trackers: str | None, as_json: bool
) -> None:
    """Show what is published, replaced, tagged and removed among names that start with PREFIX, in
    the order of the log and each change once, until Ctrl-C. A tracker that is lost is no reason to
    stop. When it stops it says from where to go on.

    \b
    Examples:
      p2p-cluster watch
      p2p-cluster watch models/ --json
      p2p-cluster watch models/ --from 104.3
    """
    index, position = place or (None, 0)
    with (
        sigterm_interrupts(),
        TrackerClient(resolve_trackers(trackers)) as client,
        client.watch(
            prefix, from_index=index, from_position=position, deadline_s=timeout_s
        ) as changes,
    ):
        try:
            if place is not None:
                _require_reached(client, place, timeout_s)
            _tell_begin(changes, as_json)
            for change in changes:
                _tell(change, as_json)
        except KeyboardInterrupt:
            _tell_end(changes, as_json)
        except Unavailable:
            _tell_end(changes, as_json)
            raise


def _require_reached(client: TrackerClient, place: Place, timeout_s: float) -> None:
    """Raises :class:`BadRequest` for a place that the log has not come to. It would be waited for,
    and what changes until then would never be told."""
    try:
        end = client.list(limit=1, deadline_s=min(timeout_s, LOOK_S)).index
    except Unavailable:
        return  # nobody can say; the watch asks on
    if place > (end + 1, 0):
        raise BadRequest(
            f"--from {_text(place)}: the log ends with entry {end}, so this is a place in another "
            f"cluster's; leave --from out for what changes from now on"
        )


def _tell_begin(changes: Watch, as_json: bool) -> None:
    if as_json:
        index, position = changes.place
        emit_json({"event": "watching", "index": index, "position": position})
    else:
        what = f"names that start with {changes.prefix!r}" if changes.prefix else "all names"
        click.echo(f"watching {what} from {_text(changes.place)}; Ctrl-C stops", err=True)


def _tell_end(changes: Watch, as_json: bool) -> None:
    if as_json:
        index, position = changes.place
        emit_json({"event": "stopped", "index": index, "position": position})
    else:
        click.echo(f"stopped; to go on: {_going_on(changes.prefix, changes.place)}", err=True)


def _tell(change: Change, as_json: bool) -> None:
    if as_json:
        emit_json(_as_json(change))
        return
    file = change.file
    name = file.name if change.kind == REMOVED else file.versioned
    if change.kind == VERSION_REMOVED:
        rest = f"newest is v{change.newest}"
    elif change.tag:
        rest = change.tag
    else:
        rest = "" if change.kind == REMOVED else f"{file.size} bytes  {file.content.hex()}"
    if change.dropped:
        numbers = (*change.also_dropped, change.dropped)
        rest += f"  {', '.join(f'v{number}' for number in numbers)} dropped"
    word = _WORDS.get(change.kind, change.kind)
    click.echo(f"{_text(change.place):<12}  {word:<15}  {name}  {rest}".rstrip())


def _as_json(change: Change) -> dict[str, Any]:
    return {
        "event": change.kind,
        "index": change.index,
        "position": change.position,
        **change.file.to_wire(),
        "newest": change.newest,
        "dropped": change.dropped,
        **({"tag": change.tag} if change.tag else {}),
        **({"also_dropped": change.also_dropped} if change.also_dropped else {}),
    }


def _going_on(prefix: str, place: Place) -> str:
    """The command that a shell goes on with. What ``--trackers`` was is known to who typed it."""
    return shlex.join([APP, "watch", *filter(None, [prefix]), "--from", _text(place)])


def _text(place: Place) -> str:
    return f"{place[0]}.{place[1]}"
