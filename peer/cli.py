"""The peer words of ``p2p-cluster``, and the entry point that joins them with the cluster words."""

from __future__ import annotations

from typing import Any

import click

from peer.cli_checks import check_name_or_id, checked
from peer.cli_follow import follow
from peer.cli_transfer import downloads, get, share
from peer.demo import demo
from peer.display import print_table, size
from tracker_raft import cli as cluster_cli
from tracker_raft.client import TrackerClient
from tracker_raft.commands import FileRecord, Level, PeerRecord, parse_content_hex, split_version
from tracker_raft.terminal import (
    Guarded,
    emit_json,
    json_option,
    prefix_argument,
    resolve_trackers,
    trackers_option,
)

PEERS_SHOWN_MAX = 200
level_option = click.option(
    "--level",
    type=click.Choice([Level.LINEARIZABLE.value, Level.LOCAL.value]),
    default=Level.LINEARIZABLE.value,
    show_default=True,
    callback=lambda context, option, value: Level(value),
    help="local: what one tracker has, also when no majority of them is reachable.",
)


@click.group(
    cls=Guarded,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="'p2p-cluster WORD --help' shows an example of each.",
)
@click.version_option(package_name="tracker-raft")
def main() -> None:
    """A tracker that does not go down, and a swarm that moves files at line rate."""


# -- ls, peers, rm --------------------------------------------------------------------------------


@click.command(short_help="List what is published.")
@click.argument("prefix", default="", callback=prefix_argument)
@trackers_option
@level_option
@json_option
def ls(prefix: str, trackers: str | None, level: Level, as_json: bool) -> None:
    """List names that start with PREFIX, the newest version of each, their tags, and which
    nobody has served for long, if 'retention' asks for it.

    \b
    Example:
      p2p-cluster ls models/
    """
    with TrackerClient(resolve_trackers(trackers)) as client:
        records = list(client.files(prefix, level=level))
    if as_json:
        emit_json([_record_json(record) for record in records])
        return
    rows: list[tuple[str, ...]] = [
        (record.name, f"v{record.version}", size(record.size), record.content.hex()[:16])
        for record in records
    ]
    heads: tuple[str, ...] = ("name", "version", "size", "content")
    if any(record.tags or record.unsourced_ms for record in records):
        heads = (*heads, "notes")
        rows = [(*row, _notes(record)) for row, record in zip(rows, records, strict=True)]
    print_table(heads, rows)


def _notes(record: FileRecord) -> str:
    """Tags, and for how long nobody has served it."""
    notes = [f"{tag}=v{version}" for tag, version in record.tags]
    if record.unsourced_ms:
        notes.append(f"unsourced for {record.unsourced_ms // 1000} s")
    return " ".join(notes)


@click.command(short_help="Show who serves a file.")
@click.argument("name_or_id", metavar="NAME|ID", callback=checked(check_name_or_id))
@trackers_option
@level_option
@json_option
def peers(name_or_id: str, trackers: str | None, level: Level, as_json: bool) -> None:
    """Show the peers that serve NAME, complete ones first.

    \b
    Example:
      p2p-cluster peers models/a
    """
    with TrackerClient(resolve_trackers(trackers)) as client:
        content = parse_content_hex(name_or_id)
        content = content or client.lookup(name_or_id, level=level).content
        swarm = client.peers(content, limit=PEERS_SHOWN_MAX, level=level)
    if as_json:
        rows = [record.to_wire() for record in swarm.peers]
        emit_json({"content": content, "total": swarm.total, "peers": rows})
        return
    print_table(("peer", "address", "has", "zone"), [_peer_row(peer) for peer in swarm.peers])
    if swarm.total > len(swarm.peers):
        click.echo(f"and {swarm.total - len(swarm.peers)} more")


def _peer_row(peer: PeerRecord) -> tuple[str, ...]:
    return peer.peer, peer.address, "all" if peer.complete else "part", peer.zone


@click.command(short_help="Remove a name.")
@click.argument("name", callback=checked(split_version))
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


for _command in (share, get, follow, downloads, ls, peers, rm, demo, *cluster_cli.COMMANDS):
    main.add_command(_command)
