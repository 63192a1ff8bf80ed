"""The words that move files: ``share``, ``get``, and ``downloads``, which shows what runs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from peer import downloads as status_files
from peer.cli_checks import check_name_or_id, check_path_names_it, checked
from peer.cli_options import (
    make_peer,
    output_option,
    peer_options,
    timeout_option,
)
from peer.destination import place_in
from peer.display import print_table, progress, size
from peer.downloader import Download
from peer.downloads import StatusFile
from peer.progress import Fetched, Progress
from peer.selection import PATTERNS_MAX, compile_patterns
from peer.sharing import Shared
from tracker_raft.commands import check_name
from tracker_raft.errors import BadRequest, Conflict, LocalError
from tracker_raft.terminal import (
    emit_json,
    given_path,
    json_option,
    prefix_argument,
    sigterm_interrupts,
    state_dir,
    trackers_option,
)

JSON_INTERVAL_S = 0.5
"""Between two lines of progress for a script."""


class _Served:
    """Waits while a content is served, and learns when it cannot be any more."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._reason = ""

    def withdrawn(self, reason: str) -> None:
        self._reason = reason
        self._ended.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Raises :class:`LocalError` when it was withdrawn; False after ``seconds``."""
        if self._ended.wait(seconds):
            raise LocalError(f"it is not served any more: {self._reason}")
        return False


# -- share ----------------------------------------------------------------------------------------


@click.command(short_help="Share a file or a directory.")
@click.argument("path", type=given_path)
@click.option(
    "--name",
    metavar="NAME",
    callback=checked(check_name),
    help="What it is called. Default: the last part of PATH.",
)
@click.option("--replace", is_flag=True, help="Make a new version if NAME is something else now.")
@click.option("--follow-links", is_flag=True, help="Share what links point to in their place.")
@click.option("--rehash", is_flag=True, help="Read it all, also what is known from before.")
@click.option(
    "--copies",
    type=click.IntRange(1, 200),
    metavar="K",
    help="End when K other peers were seen to have all of it.",
)
@click.option(
    "--each",
    is_flag=True,
    help="Each file of the directory under a name of its own, all of them or none.",
)
@click.option(
    "--prefix",
    default="",
    callback=prefix_argument,
    metavar="PREFIX",
    help="With --each: what the names begin with, before the paths inside.",
)
@peer_options
@trackers_option
@json_option
def share(
    path: Path,
    name: str | None,
    each: bool,
    prefix: str,
    replace: bool,
    follow_links: bool,
    rehash: bool,
    copies: int | None,
    trackers: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Publish PATH, a file or a directory, and serve it until Ctrl-C.

    A file that changes meanwhile is not served any more: it leaves the swarm, and this ends with
    an error.

    \b
    Examples:
      p2p-cluster share model.bin --name models/a
      p2p-cluster share ./dataset --listen 0.0.0.0:7100 --advertise 10.0.0.5 --insecure
      p2p-cluster share release.tar --copies 3
      p2p-cluster share ./checkpoints --each --prefix models/a/
    """
    _check_each(path, name, each, prefix, copies)
    served = _Served()
    with make_peer(trackers, **settings) as peer, sigterm_interrupts():
        with progress(f"hashing {path}", quiet=as_json) as update:
            options: dict[str, Any] = {
                "replace": replace,
                "follow_links": follow_links,
                "rehash": rehash,
                "progress": lambda done, total: update(done, total, ""),
                "on_withdrawn": served.withdrawn,
            }
            try:
                if each:
                    shared = peer.share_each(path, prefix, **options)
                else:
                    shared = [peer.share(path, name, **options)]
            except Conflict as error:
                # The tracker's words are for every client; what to type here is known here.
                raise Conflict(f"{error} (share --replace)") from error
        try:
            _tell_shared(shared, peer.id, as_json, each=each)
            if copies is None:
                served.wait()
            else:
                peer.wait_for_copies(shared[0].record.content, copies, stop=served.wait)
                _tell_copies(copies, as_json)
        except KeyboardInterrupt:
            if not as_json:
                click.echo("stopping")


def _check_each(path: Path, name: str | None, each: bool, prefix: str, copies: int | None) -> None:
    """Raises :class:`click.UsageError` for what does not go together."""
    if not each:
        if prefix:
            raise click.UsageError("--prefix is for --each; --name says what PATH is called")
        check_path_names_it(path, name)
    elif name is not None or copies is not None:
        other = "--copies" if name is None else "--name"
        raise click.UsageError(f"--each shares many files; {other} is for one content")
    elif path.exists() and not path.is_dir():
        raise click.UsageError(f"{path} is no directory; --each is for the files of one")


def _tell_shared(all_shared: list[Shared], peer: str, as_json: bool, *, each: bool) -> None:
    for shared in all_shared:
        if as_json:
            place = {"path": shared.path, "address": shared.address, "peer": peer}
            emit_json({**shared.record.to_wire(), **place})
        elif each:
            click.echo(f"{shared.record.versioned}  {size(shared.record.size)}")
        else:
            click.echo(f"name     {shared.record.versioned}")
            click.echo(f"content  {shared.content}")
            click.echo(f"size     {size(shared.record.size)}")
    if as_json:
        return
    click.echo(f"address  {all_shared[0].address}")
    click.echo("serving; Ctrl-C stops")


def _tell_copies(copies: int, as_json: bool) -> None:
    if as_json:
        emit_json({"event": "copied", "copies": copies})
    else:
        click.echo(f"{copies} other {'peer has' if copies == 1 else 'peers have'} all of it")


# -- get ------------------------------------------------------------------------------------------


@click.command(short_help="Fetch a file or a directory.")
@click.argument("name_or_id", metavar="NAME|ID", callback=checked(check_name_or_id))
@output_option
@click.option("--update", is_flag=True, help="Replace what is there, in one step at the end.")
@click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Of a directory take what matches: '*.bin', 'train/**'. May be given again.",
)
@click.option("--sequential", is_flag=True, help="From the first piece to the last.")
@click.option("--seed", is_flag=True, help="Then serve it until Ctrl-C.")
@timeout_option("Fail after this many seconds without a byte from any peer.")
@click.option("--durable", is_flag=True, help="Sync it to disk before it gets its name.")
@peer_options
@trackers_option
@json_option
def get(
    name_or_id: str,
    output: str | None,
    update: bool,
    include: tuple[str, ...],
    sequential: bool,
    seed: bool,
    timeout_s: float,
    durable: bool,
    trackers: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Fetch a NAME, NAME@vN, NAME@TAG or content ID from all peers that have it.

    Every piece is verified. It appears under its final name only when it is complete. What an
    interrupted fetch has left is used by the next one to the same place. If the content is there
    already, nothing is done.

    \b
    Examples:
      p2p-cluster get models/a
      p2p-cluster get models/a@v2 -o model.bin --update
      p2p-cluster get data/set --include 'train/*.csv' --seed
    """
    _check_include(include, seed)
    served, started = _Served(), list[Download]()
    last = name_or_id.rpartition("/")[2]
    place = os.path.abspath(last if output is None else place_in(output, last))  # noqa: PTH100
    with (
        make_peer(trackers, **settings) as peer,
        sigterm_interrupts(),
        StatusFile(state_dir() / "downloads", name_or_id, place) as status,
    ):
        try:
            with Shown(name_or_id, as_json) as show:

                def told(moment: Progress) -> None:
                    status.update(moment)
                    show(moment)

                fetched = peer.fetch(
                    name_or_id,
                    output,
                    include=include,
                    update=update,
                    sequential=sequential,
                    seed=seed,
                    progress=told,
                    durable=durable,
                    timeout_s=timeout_s,
                    on_start=started.append,
                    on_withdrawn=served.withdrawn,
                )
        except KeyboardInterrupt:
            _tell_kept(started)
            raise
        tell_fetched(fetched, peer.id, as_json)
        if seed:
            _seed(served, status, as_json)


def _check_include(include: tuple[str, ...], seed: bool) -> None:
    if include and seed:
        raise click.UsageError("--seed serves the whole content; --include takes a part of it")
    try:
        compile_patterns(include[: PATTERNS_MAX + 1])
    except BadRequest as error:
        raise click.UsageError(f"--include: {error}") from None


def _seed(served: _Served, status: StatusFile, as_json: bool) -> None:
    status.seeding()
    if not as_json:
        click.echo("serving; Ctrl-C stops")
    try:
        served.wait()
    except KeyboardInterrupt:
        if not as_json:
            click.echo("stopping")


class Shown:
    """Shows progress to people, or as lines of JSON to a script, while the block runs."""

    def __init__(self, name: str, as_json: bool) -> None:
        self._as_json = as_json
        self._bar = progress(name, quiet=as_json)
        self._shown_s = time.monotonic()

    def __enter__(self) -> Callable[[Progress], None]:
        self._update = self._bar.__enter__()
        return self._json if self._as_json else self._text

    def __exit__(self, *exc_info: Any) -> None:
        self._bar.__exit__(*exc_info)

    def _text(self, moment: Progress) -> None:
        note = f"{size(moment.rate_bytes_s)}/s, {_peers(moment.peers)}"
        self._update(moment.bytes_done, moment.bytes_total, note)

    def _json(self, moment: Progress) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s >= JSON_INTERVAL_S:
            self._shown_s = now_s
            emit_json({"event": "progress", **asdict(moment)})


def _tell_kept(started: list[Download]) -> None:
    for download in started:
        if download.store is not None and (kept := download.store.what_is_kept()):
            click.echo(f"stopped{kept} by the next 'get' to the same place", err=True)


def tell_fetched(fetched: Fetched, peer: str, as_json: bool) -> None:
    if as_json:
        value = asdict(fetched)
        value.update(seconds=round(fetched.seconds, 3), taken=dict(fetched.taken), peer=peer)
        emit_json({"event": "done", **value})
        return
    if fetched.already_there:
        click.echo(f"{fetched.path}: already there, {size(fetched.bytes)}, verified")
        return
    kept = f", {size(fetched.kept)} of it was here" if fetched.kept else ""
    rate = size((fetched.bytes - fetched.kept) / fetched.seconds)
    click.echo(
        f"{fetched.path}: {size(fetched.bytes)} in {fetched.seconds:.2f} s, {rate}/s, "
        f"from {_peers(fetched.peers)}, verified{kept}"
    )
    for banned in fetched.banned:
        click.echo(f"banned: {banned}", err=True)


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"


# -- downloads ------------------------------------------------------------------------------------


@click.command(short_help="Show the downloads that run on this machine.")
@json_option
def downloads(as_json: bool) -> None:
    """Show what 'get' is doing on this machine, in all processes of this user.

    \b
    Examples:
      p2p-cluster downloads
      p2p-cluster downloads --json
    """
    found = status_files.running(state_dir() / "downloads")
    if as_json:
        emit_json([asdict(status) for status in found])
        return
    rows = [
        (
            status.name,
            status.state,
            f"{size(status.bytes_done)} of {size(status.bytes_total)}"
            if status.bytes_total
            else "-",
            f"{size(status.rate_bytes_s)}/s",
            str(status.peers),
            str(status.pid),
            status.path,
        )
        for status in found
    ]
    print_table(("name", "state", "done", "rate", "peers", "pid", "path"), rows)
