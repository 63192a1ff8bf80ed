"""What all words of the command line share: exit status, JSON, which trackers are meant.

Exit status: 0 done, 1 failed (one line ``error: ...`` on stderr), 2 used wrongly, 130 stopped by
Ctrl-C before it was done. A word that runs until Ctrl-C (``up``, ``node``, ``watch``, ``logs -f``,
``share``, ``follow``, ``get --seed`` once it serves) is done then: 0, as by SIGTERM, so that who
stops a service does not find it failed. A tracker that was removed from its cluster ends with 3.
A traceback is shown for a defect of the program only,
never for a user's mistake; ``P2P_TRACEBACK=1`` shows it always.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, TypeVar

import click
import platformdirs
from click.core import ParameterSource

from tracker_raft.cluster.state import Layout, read_json, write_whole
from tracker_raft.commands import BY_WORD, NAME_BYTES_MAX, check_text
from tracker_raft.config import NODE_ID, Address
from tracker_raft.errors import BadRequest, Damaged, LocalError, P2PError, Removed

APP = "p2p-cluster"
TRACKERS_ENV = "P2P_TRACKERS"
STATE_DIR_ENV = "P2P_STATE_DIR"
TRACEBACK_ENV = "P2P_TRACEBACK"
EXIT_FAILED = 1
EXIT_REMOVED = 3
"""Of a node that is no member any more: there is nothing to start again."""
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Guarded(click.Group):
    """A group of commands whose failures are one clear line, as the module promises."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; :class:`P2PError` and :class:`OSError` end it with status 1."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError as error:
            # A socket raises it too; only a reader of our output that has gone is no news.
            if not _output_gone():
                _report(error, ctx.invoked_subcommand)
            ctx.exit(EXIT_FAILED)
        except (P2PError, OSError) as error:
            _report(error, ctx.invoked_subcommand)
            ctx.exit(exit_status(error))
        return result


def exit_status(error: Exception) -> int:
    """What a failed command ends with."""
    return EXIT_REMOVED if isinstance(error, Removed) else EXIT_FAILED


def _output_gone() -> bool:
    """Whether the reader of stdout has gone; if so stdout is put out of harm's way."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):
        return False  # no file at all, as under a test runner
    watch = select.poll()
    watch.register(output, 0)  # errors and hang-ups are told always
    if not watch.poll(0):
        return False
    # What is still buffered would fail again when the interpreter ends, with a traceback.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True


def _report(error: Exception, word: str | None) -> None:
    if os.environ.get(TRACEBACK_ENV, "") not in ("", "0"):
        traceback.print_exception(error)
    click.echo(f"error: {error_text(error, word)}", err=True)


def error_text(error: BaseException, word: str | None = None) -> str:
    """What an error says, fit for one line: an :class:`OSError` as ``file: reason``.

    ``word``: what the user typed, said in the place of the operation that it asked trackers for.
    """
    if isinstance(error, OSError) and error.strerror:
        named = [os.fsdecode(name) for name in (error.filename, error.filename2) if name]
        return f"{' -> '.join(named)}: {error.strerror}" if named else error.strerror
    text = " ".join(str(error).splitlines()) or type(error).__name__
    operation, colon, rest = text.partition(": ")
    return f"{word}: {rest}" if word and colon and operation in BY_WORD else text


def emit_json(value: Any) -> None:
    """Print ``value`` as one line of JSON on stdout, at once; bytes as hex, paths as text."""
    click.echo(json.dumps(value, default=_json_default))


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, PurePath | Address):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for a script.")


def prefix_argument(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The check of an argument PREFIX. Raises :class:`click.UsageError` if no name begins so."""
    try:
        check_text("PREFIX", value, NAME_BYTES_MAX)
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
    if "@" in value:
        raise click.UsageError(f"PREFIX {value!r} has an '@': names have none, only versions have")
    return value


def node_id(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The check of a NODE: what cannot be the id of any is wrong use, whoever answers."""
    if value is not None and not NODE_ID.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no node id, expected {NODE_ID.pattern}")
    return value


def given_path(value: str | Path) -> Path:
    """The type of an option that is a path. An empty one is wrong use: an unset variable makes it,
    and taken as it is it would mean the current directory."""
    if value == "":
        raise click.BadParameter("it is empty; the current directory is '.'")
    return Path(value)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that both stop cleanly. For the main thread."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -- which trackers -------------------------------------------------------------------------------


def trackers_option(function: _Function) -> _Function:
    """Add ``--trackers``; its value goes, as it is, to :func:`resolve_trackers`."""

    def given(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        if value is None or value.strip():
            return value
        if ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
            # An unset variable makes it, and a word that removes would go to another cluster.
            raise click.BadParameter("it is empty; leave it out for the cluster last brought up")
        return None

    return click.option(
        "--trackers",
        envvar=TRACKERS_ENV,
        metavar="HOST:PORT,...",
        callback=given,
        help="Tracker addresses, divided by commas; the first that lives is used. "
        f"Default: ${TRACKERS_ENV}, else the cluster last brought up on this machine.",
    )(function)


def resolve_trackers(option: str | None) -> list[str]:
    """The tracker addresses meant: ``option``, else P2P_TRACKERS, else the last cluster's.

    Each once, in the order given. Raises :class:`click.UsageError` if there are none or one is
    not an address.
    """
    for source, text in (("--trackers", option), (TRACKERS_ENV, os.environ.get(TRACKERS_ENV))):
        if text is not None and text.strip():
            return _addresses(source, text)
    data_dir = last_cluster()
    hint = (
        f"name them with --trackers HOST:PORT,... or in {TRACKERS_ENV}, "
        f"or bring a cluster up on this machine: {APP} up 3"
    )
    if data_dir is None:
        raise click.UsageError(f"no trackers are known; {hint}")
    layout = Layout.load(data_dir)
    if layout is None:
        raise click.UsageError(
            f"no trackers are known: the cluster last brought up, in {data_dir}, is gone; {hint}"
        )
    return layout.endpoints


def _addresses(source: str, text: str) -> list[str]:
    words = text.replace(",", " ").split()
    try:
        addresses = [str(Address.parse(word)) for word in words]
    except BadRequest as error:
        raise click.UsageError(f"{source}: {error}") from None
    if not addresses:
        raise click.UsageError(f"{source}: no address in {text!r}, expected HOST:PORT,...")
    return list(dict.fromkeys(addresses))


def state_dir() -> Path:
    """Where this user's commands remember what they did; it may not exist yet."""
    named = os.environ.get(STATE_DIR_ENV)
    return Path(named) if named else platformdirs.user_state_path(APP)


def _last_file() -> Path:
    return state_dir() / "last.json"


def remember_cluster(data_dir: Path) -> None:
    """Make ``data_dir`` the cluster last brought up. Raises :class:`LocalError`."""
    path = _last_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"data_dir": str(data_dir.absolute())}) + "\n")
    except OSError as error:
        raise LocalError(f"cannot remember the cluster in {path}: {error_text(error)}") from error


def last_cluster() -> Path | None:
    """The data directory of the cluster last brought up on this machine; None if unknown."""
    try:
        value = read_json(_last_file())
    except Damaged:
        return None
    data_dir = value.get("data_dir") if value else None
    return Path(data_dir) if isinstance(data_dir, str) else None


def tracker_options(function: _Function) -> _Function:
    """Add ``--trackers`` and ``--data-dir``; their values go to :func:`endpoints_meant`."""
    function = click.option(
        "--data-dir",
        type=given_path,
        metavar="DIR",
        help="The directory of the cluster, in place of --trackers.",
    )(function)
    return trackers_option(function)


def require_one_cluster(data_dir: Path | None) -> None:
    """Raises :class:`click.UsageError` when ``--trackers`` was given beside ``--data-dir``."""
    # From the environment they are a default, which --data-dir may well be to replace.
    source = click.get_current_context().get_parameter_source("trackers")
    if data_dir is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("--trackers and --data-dir both say which cluster: give one")


def endpoints_meant(trackers: str | None, data_dir: Path | None) -> list[str]:
    """The trackers of the cluster in ``data_dir``, else what :func:`resolve_trackers` says.

    Raises :class:`click.UsageError` when there are none or one is not an address.
    """
    if data_dir is None:
        return resolve_trackers(trackers)
    require_one_cluster(data_dir)
    layout = Layout.load(data_dir.expanduser().absolute())
    if layout is None:
        raise click.UsageError(f"no cluster in {data_dir}: it holds no cluster.json")
    return layout.endpoints
