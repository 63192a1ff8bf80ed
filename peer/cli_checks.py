"""What an argument must be, said before anybody is asked: wrong use, exit status 2."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from peer.scan import share_name
from tracker_raft.commands import check_name, parse_content_hex, split_reference
from tracker_raft.errors import BadRequest

Callback = Callable[[click.Context, click.Parameter, Any], Any]

_RATE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def checked(check: Callable[[Any], object]) -> Callback:
    """What ``check`` refuses with :class:`BadRequest` is wrong use."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if value is not None:
                check(value)
        except BadRequest as error:
            raise click.BadParameter(str(error)) from None
        return value

    return callback


def check_name_or_id(text: str) -> None:
    if parse_content_hex(text) is None:
        split_reference(text)


def check_seconds(value: float) -> None:
    if math.isnan(value):  # no comparison refuses it
        raise BadRequest(f"{value} is not a number of seconds")


def check_path_names_it(path: Path, name: str | None) -> None:
    """Without a ``name`` the last part of ``path`` must be one. :class:`click.UsageError`."""
    if name is None:
        try:
            check_name(share_name(path))
        except BadRequest as error:
            raise click.UsageError(f"{error}; give one with --name") from None


def rate(context: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Bytes a second, by powers of 1000: ``500k``, ``12M``, ``1.5GB/s``."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?)b?(?:/s)?", value.strip(), re.IGNORECASE)
    found = round(float(match[1]) * _RATE_UNITS[match[2].lower()]) if match else 0
    if found < 1:
        raise click.BadParameter(f"{value!r}: expected bytes a second, such as 500k or 12M")
    return found
