"""The words ``log`` and ``snapshot``: looking into the replicated log, and having it cut short."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tracker_raft import commands
from tracker_raft.client import TrackerClient
from tracker_raft.client.backup import take_snapshot
from tracker_raft.cluster.status import ask_trackers
from tracker_raft.config import Address
from tracker_raft.errors import NoTracker
from tracker_raft.terminal import emit_json, endpoints_meant, node_id, tracker_options

HEX_SHOWN = 12
TEXT_SHOWN = 60
PEERS_SHOWN = 3


@click.command("log", short_help="Show the last operations of the replicated log.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="How many operations from the end.",
)
@tracker_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each operation.")
def log_word(lines: int, trackers: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Show the last operations in the log of one tracker, oldest first.

    Each line: index and position in the log, term, logical time, then the operation, with the
    request session and number it was sent with. A '?' marks what is not known to be committed.
    With one address in --trackers, or where only one lives, it is that one's log.

    \b
    Examples:
      p2p-cluster log -n 50
      p2p-cluster log --trackers 127.0.0.1:7000 --json
    """
    with TrackerClient(endpoints_meant(trackers, data_dir)) as client:
        entries = client.call(commands.ReadLog(lines)).body.get("entries", ())
    for row in list(_rows(entries))[-lines:]:
        if as_json:
            emit_json(row)
        else:
            click.echo(_line(row))


def _rows(entries: Any) -> Iterator[dict[str, Any]]:
    """One for each operation, or for an entry that has none."""
    for entry in entries:
        operations = entry.get("operations", ())
        head = {key: value for key, value in entry.items() if key != "operations"}
        for position, operation in enumerate(operations):
            yield {**head, "position": position, "operation": dict(operation)}
        if not operations:
            yield {**head, "position": 0, "operation": None}


def _line(row: Mapping[str, Any]) -> str:
    mark = " " if row["committed"] else "?"
    time_ms = row.get("time_ms")
    clock = "-" if time_ms is None else f"{time_ms / 1000:.3f}s"
    place = f"{row['index']}.{row['position']}"
    return f"{place:>12}{mark} term {row['term']}  {clock:>10}  {_words(row)}"


def _words(row: Mapping[str, Any]) -> str:
    operation = row["operation"]
    if operation is None:
        return str(row.get("note", "time passes"))
    fields = dict(operation)
    session, seq, word = fields.pop("session"), fields.pop("seq"), fields.pop("op", "?")
    request = f"  [{session}/{seq}]" if session else ""
    told = " ".join(f"{key}={_short(value)}" for key, value in fields.items())
    return f"{word} {told}".rstrip() + request


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()[:HEX_SHOWN] + ("..." if len(value) * 2 > HEX_SHOWN else "")
    if isinstance(value, list | tuple):
        shown = ",".join(_short(one) for one in value[:PEERS_SHOWN])
        return f"[{shown}{',...' if len(value) > PEERS_SHOWN else ''}] ({len(value)})"
    text = str(value)
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}..."


@click.command(short_help="Let trackers take a snapshot now.")
@click.argument("node", required=False, metavar="[NODE]", callback=node_id)
@tracker_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each tracker.")
def snapshot(node: str | None, trackers: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Let NODE, or every tracker that answers, write its state and cut its log.

    Trackers do that by themselves as their logs grow; before an upgrade or a copy of a directory
    it makes the next start shorter.

    \b
    Examples:
      p2p-cluster snapshot
      p2p-cluster snapshot n2 --json
    """
    with TrackerClient(endpoints_meant(trackers, data_dir)) as client:
        members, asked, silent = _who_answers(client)
        if node is not None and node not in asked:
            if node not in members:
                known = ", ".join(sorted(members))
                raise click.UsageError(f"no node {node!r}; the nodes are {known}")
            known = ", ".join(sorted(asked)) or "none"
            raise NoTracker(f"node {node!r} does not answer; those that do: {known}")
        for name in sorted(asked) if node is None else [node]:
            taken = take_snapshot(client, asked[name])
            if as_json:
                emit_json({"node": name, **taken})
            else:
                click.echo(f"{name}: {taken['bytes']} bytes up to entry {taken['index']}")
    if node is None and silent:
        raise NoTracker(f"not all trackers have one: {'; '.join(silent)}")


def _who_answers(client: TrackerClient) -> tuple[set[str], dict[str, Address], list[str]]:
    """(ids of all nodes, address of each that answers, what happened at the others)."""
    members = client.status().get("members", ())  # and learns of all of them
    reports, silent = ask_trackers(client.endpoints)
    asked = {report.node: report.place.endpoint for report in reports}
    known = {str(row["node"]) for row in members} | asked.keys()
    return known, asked, [f"{address}: {reason}" for address, reason in silent.items()]
