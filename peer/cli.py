"""The peer words of ``p2p-cluster``, and the entry point that joins them with the cluster words."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from peer.demo import demo
from peer.display import progress, size
from peer.node import ANY_PORT, Peer, Shared
from peer.progress import Fetched, Progress
from tracker_raft import cli as cluster_cli
from tracker_raft.client import TrackerClient
from tracker_raft.commands import FileRecord, PeerRecord, parse_content_hex
from tracker_raft.errors import BadRequest
from tracker_raft.terminal import (
    Guarded,
    emit_json,
    resolve_trackers,
    sigterm_interrupts,
    trackers_option,
)

PEERS_SHOWN_MAX = 200

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")


@click.group(
    cls=Guarded,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'p2p-cluster WORD --help' shows an example of each.",
)
@click.version_option(package_name="tracker-raft")
def main() -> None:
    """A tracker that does not go down, and a swarm that moves files at line rate."""


# -- share ----------------------------------------------------------------------------------------


@click.command(short_help="Share a file or a directory.")
@click.argument("path", type=Path)
@click.option("--name", metavar="NAME", help="What it is called. Default: the last part of PATH.")
@click.option("--replace", is_flag=True, help="Make a new version if NAME is something else now.")
@click.option("--follow-links", is_flag=True, help="Share what links point to in their place.")
@click.option(
    "--listen", default=ANY_PORT, metavar="HOST:PORT", show_default=True, help="Port 0: a free one."
)
@click.option("--advertise", metavar="HOST[:PORT]", help="What peers are told. Default: --listen.")
@click.option("--insecure", is_flag=True, help="Allow to listen beyond this machine, to anybody.")
@trackers_option
@json_option
def share(
    path: Path,
    name: str | None,
    replace: bool,
    follow_links: bool,
    listen: str,
    advertise: str | None,
    insecure: bool,
    trackers: str | None,
    as_json: bool,
) -> None:
    """Publish PATH, a file or a directory, and serve it until Ctrl-C.

    \b
    Examples:
      p2p-cluster share model.bin --name models/a
      p2p-cluster share ./dataset --listen 0.0.0.0:7100 --advertise 10.0.0.5 --insecure
    """
    addresses = resolve_trackers(trackers)
    try:
        peer = Peer(addresses, bind=listen, advertise=advertise, insecure=insecure)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    with peer, sigterm_interrupts():
        with progress(f"hashing {path}", quiet=as_json) as update:
            shared = peer.share(
                path,
                name,
                replace=replace,
                follow_links=follow_links,
                progress=lambda done, total: update(done, total, ""),
            )
        try:
            _tell_shared(shared, as_json)
            threading.Event().wait()
        except KeyboardInterrupt:
            if not as_json:
                click.echo("stopping")


def _tell_shared(shared: Shared, as_json: bool) -> None:
    if as_json:
        emit_json({**_record_json(shared.record), "path": shared.path, "address": shared.address})
        return
    click.echo(f"name     {shared.record.versioned}")
    click.echo(f"content  {shared.content}")
    click.echo(f"size     {size(shared.record.size)}")
    click.echo(f"address  {shared.address}")
    click.echo("serving; Ctrl-C stops")


# -- get ------------------------------------------------------------------------------------------


@click.command(short_help="Fetch a file or a directory.")
@click.argument("name_or_id", metavar="NAME|ID")
@click.option(
    "-o",
    "--output",
    type=Path,
    metavar="PATH",
    help="Where to write it; must not exist. Default: the last part of its name, here.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Fail after this many seconds without a byte from any peer.",
)
@click.option("--durable", is_flag=True, help="Sync it to disk before it gets its name.")
@trackers_option
@json_option
def get(
    name_or_id: str,
    output: Path | None,
    timeout_s: float,
    durable: bool,
    trackers: str | None,
    as_json: bool,
) -> None:
    """Fetch a NAME, NAME@vN or content ID from all peers that have it.

    Every piece is verified. It appears under its final name only when it is complete.

    \b
    Examples:
      p2p-cluster get models/a
      p2p-cluster get models/a@v2 -o model.bin
    """
    addresses = resolve_trackers(trackers)
    with (
        Peer(addresses) as peer,
        sigterm_interrupts(),
        progress(name_or_id, quiet=as_json) as update,
    ):

        def show(moment: Progress) -> None:
            note = f"{size(moment.rate_bytes_s)}/s, {_peers(moment.peers)}"
            update(moment.bytes_done, moment.bytes_total, note)

        fetched = peer.fetch(
            name_or_id, output, progress=show, durable=durable, timeout_s=timeout_s
        )
    _tell_fetched(fetched, as_json)


def _tell_fetched(fetched: Fetched, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "path": fetched.path,
                "content": fetched.content,
                "bytes": fetched.bytes,
                "seconds": round(fetched.seconds, 3),
                "peers": fetched.peers,
                "banned": fetched.banned,
            }
        )
        return
    rate = size(fetched.bytes / fetched.seconds)
    click.echo(
        f"{fetched.path}: {size(fetched.bytes)} in {fetched.seconds:.2f} s, {rate}/s, "
        f"from {_peers(fetched.peers)}, verified"
    )
    for banned in fetched.banned:
        click.echo(f"banned: {banned}", err=True)


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"


# -- ls, peers, rm --------------------------------------------------------------------------------


@click.command(short_help="List what is published.")
@click.argument("prefix", default="")
@trackers_option
@json_option
def ls(prefix: str, trackers: str | None, as_json: bool) -> None:
    """List names that start with PREFIX, the newest version of each.

    \b
    Example:
      p2p-cluster ls models/
    """
    with TrackerClient(resolve_trackers(trackers)) as client:
        records = list(client.files(prefix))
    if as_json:
        emit_json([_record_json(record) for record in records])
        return
    rows = [
        (record.name, f"v{record.version}", size(record.size), record.content.hex()[:16])
        for record in records
    ]
    _print_table(("name", "version", "size", "content"), rows)


@click.command(short_help="Show who serves a file.")
@click.argument("name_or_id", metavar="NAME|ID")
@trackers_option
@json_option
def peers(name_or_id: str, trackers: str | None, as_json: bool) -> None:
    """Show the peers that serve NAME, complete ones first.

    \b
    Example:
      p2p-cluster peers models/a
    """
    with TrackerClient(resolve_trackers(trackers)) as client:
        content = parse_content_hex(name_or_id) or client.lookup(name_or_id).content
        swarm = client.peers(content, limit=PEERS_SHOWN_MAX)
    if as_json:
        rows = [record.to_wire() for record in swarm.peers]
        emit_json({"content": content, "total": swarm.total, "peers": rows})
        return
    _print_table(("peer", "address", "has", "zone"), [_peer_row(peer) for peer in swarm.peers])
    if swarm.total > len(swarm.peers):
        click.echo(f"and {swarm.total - len(swarm.peers)} more")


def _peer_row(peer: PeerRecord) -> tuple[str, ...]:
    return peer.peer, peer.address, "all" if peer.complete else "part", peer.zone


@click.command(short_help="Remove a name.")
@click.argument("name")
@trackers_option
@json_option
def rm(name: str, trackers: str | None, as_json: bool) -> None:
    """Remove NAME with all its versions, or one version of it (NAME@vN).

    Only the name goes: who has the content may go on serving it by its id.

    \b
    Example:
      p2p-cluster rm models/a@v1
    """
    with TrackerClient(resolve_trackers(trackers)) as client:
        removed = client.remove(name)
    if as_json:
        emit_json([_record_json(record) for record in removed])
        return
    for record in removed:
        click.echo(f"removed {record.versioned}  {record.content.hex()}")


def _record_json(record: FileRecord) -> dict[str, Any]:
    return record.to_wire()


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Aligned columns; nothing is cut off."""
    table = [columns, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(columns))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


for _command in (share, get, ls, peers, rm, demo, *cluster_cli.COMMANDS):
    main.add_command(_command)
