"""The options that several of the words that move files take, and the peer that is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from peer.cli_checks import check_seconds, checked, rate
from peer.node import ANY_PORT, Peer
from tracker_raft.errors import BadRequest
from tracker_raft.terminal import resolve_trackers

_Function = TypeVar("_Function", bound=Callable[..., Any])


def peer_options(function: _Function) -> _Function:
    """What every word takes that makes a :class:`Peer`; their values go to :func:`make_peer`."""
    options = (
        click.option(
            "--listen",
            default=ANY_PORT,
            metavar="HOST:PORT",
            show_default=True,
            help="Port 0: a free one.",
        ),
        click.option(
            "--advertise", metavar="HOST[:PORT]", help="What peers are told. Default: --listen."
        ),
        click.option(
            "--insecure", is_flag=True, help="Allow to listen beyond this machine, to anybody."
        ),
        click.option("--zone", default="", metavar="Z", help="Where this is: near peers first."),
        click.option("--up", callback=rate, metavar="RATE", help="Send this at most: 500k, 12M."),
        click.option("--down", callback=rate, metavar="RATE", help="Receive this at most."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def output_option(function: _Function) -> _Function:
    """Add ``--output``: text, for a slash at its end counts (:meth:`Peer.fetch`)."""

    def given(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
        if value == "":
            raise click.BadParameter("it is empty; the current directory is './'")
        return value

    return click.option(
        "-o",
        "--output",
        metavar="PATH",
        callback=given,
        help="Where to write it; in PATH under the last part of its name if PATH ends with '/'. "
        "Default: the last part of its name, here.",
    )(function)


def timeout_option(text: str) -> Callable[[_Function], _Function]:
    """``--timeout``, seconds without a byte from any peer; ``text`` says what happens then."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        callback=checked(check_seconds),
        default=30.0,
        show_default=True,
        metavar="S",
        help=text,
    )


def make_peer(
    trackers: str | None,
    *,
    listen: str,
    advertise: str | None,
    insecure: bool,
    zone: str,
    up: int | None,
    down: int | None,
) -> Peer:
    """Raises :class:`click.UsageError` for settings that cannot be."""
    addresses = resolve_trackers(trackers)
    try:
        return Peer(
            addresses,
            bind=listen,
            advertise=advertise,
            insecure=insecure,
            zone=zone,
            up_bytes_s=up,
            down_bytes_s=down,
        )
    except BadRequest as error:
        raise click.UsageError(str(error)) from None
