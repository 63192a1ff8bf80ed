"""``p2p-cluster follow``: have the newest version of a name, always."""

from __future__ import annotations

from typing import Any

import click

from peer.cli_checks import checked
from peer.cli_options import (
    make_peer,
    output_option,
    peer_options,
    timeout_option,
)
from peer.cli_transfer import Shown, tell_fetched
from peer.follow import Follow, check_followed
from peer.node import Peer
from tracker_raft.client import TrackerClient
from tracker_raft.commands import FileRecord
from tracker_raft.errors import BadRequest, LocalError, P2PError
from tracker_raft.terminal import (
    emit_json,
    error_text,
    json_option,
    resolve_trackers,
    sigterm_interrupts,
    trackers_option,
)

TRACKERS_DEADLINE_S = 60.0
"""Trackers that are all away for longer than this end it."""


@click.command(short_help="Fetch a name, and each new version of it.")
@click.argument("name", metavar="NAME[@TAG]", callback=checked(check_followed))
@output_option
@click.option("--seed", is_flag=True, help="Serve what was fetched, until the next version.")
@timeout_option("Give a fetch up after this many seconds without a byte, and try again.")
@peer_options
@trackers_option
@json_option
def follow(
    name: str,
    output: str | None,
    seed: bool,
    timeout_s: float,
    trackers: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Fetch NAME, then each new version as soon as it is published, until Ctrl-C. NAME@TAG: what
    the tag means, and again whenever it moves.

    What is at PATH is replaced in one step when a version is complete: who opens it always finds
    one whole version. Waits if NAME is not published yet. A fetch that fails is told and tried
    again. When NAME is removed, what was fetched stays. Ends with an error when no tracker
    answered for 60 s, or when PATH cannot be written.

    \b
    Examples:
      p2p-cluster follow models/a
      p2p-cluster follow models/a@stable
      p2p-cluster follow models/a -o /srv/model.bin --seed
    """
    with (
        make_peer(trackers, **settings) as peer,
        TrackerClient(resolve_trackers(trackers)) as client,
        sigterm_interrupts(),
    ):

        def tell_wait(here: FileRecord | None) -> None:
            if as_json:
                return
            if here is None:
                click.echo(f"{name} is not published; waiting for it", err=True)
            else:
                click.echo(f"{here.versioned} is here; waiting for the next version", err=True)

        follower = Follow(client, name, deadline_s=TRACKERS_DEADLINE_S, on_wait=tell_wait)
        if not as_json:
            click.echo(f"following {name}; Ctrl-C stops", err=True)
        try:
            for record in follower:
                if _fetch(peer, record, output, seed, timeout_s, as_json):
                    follower.fetched(record)
        except KeyboardInterrupt:
            if not as_json:
                click.echo("stopping", err=True)


def _fetch(
    peer: Peer, record: FileRecord, output: str | None, seed: bool, timeout_s: float, as_json: bool
) -> bool:
    """Whether it worked. Raises what trying again will not mend."""
    try:
        with Shown(record.versioned, as_json) as show:
            fetched = peer.fetch(
                record.versioned,
                output,
                update=True,
                seed=seed,
                progress=show,
                timeout_s=timeout_s,
            )
    except (BadRequest, LocalError):
        raise
    except P2PError as error:
        if as_json:
            emit_json({"event": "failed", "name": record.versioned, "error": error.code})
        else:
            click.echo(f"{record.versioned}: {error_text(error, 'follow')}; tries again", err=True)
        return False
    if as_json:
        emit_json({"event": "version", **record.to_wire()})
    tell_fetched(fetched, peer.id, as_json)
    return True
