"""Progress for people, on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LINE_INTERVAL_S = 2.0

Update = Callable[[int, int, str], None]
"""Called with bytes done, bytes in all (0: not known yet) and a note."""


@contextmanager
def progress(what: str, *, quiet: bool = False) -> Iterator[Update]:
    """Show how far ``what`` is, for as long as the block runs. ``quiet`` shows nothing."""
    if quiet:
        yield lambda done, total, note: None
    elif sys.stderr.isatty():
        with _bar(what) as update:
            yield update
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Update]:
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bars:
        task = bars.add_task(what, total=None, note="")

        def update(done: int, total: int, note: str) -> None:
            bars.update(task, completed=done, total=total or None, note=note)

        yield update


def _lines(what: str) -> Update:
    shown_s = time.monotonic()

    def update(done: int, total: int, note: str) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if now_s - shown_s < LINE_INTERVAL_S:
            return
        shown_s = now_s
        of = f" of {size(total)}" if total else ""
        click.echo(f"{what}: {size(done)}{of}{', ' if note else ''}{note}", err=True)

    return update


def size(count: float) -> str:
    """Bytes for people, by powers of 1000: ``1.5 GB``."""
    if count == 1:
        return "1 byte"
    for unit in ("bytes", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Aligned columns; nothing is cut off."""
    table = [columns, *rows]
    widths = [max(len(row[place]) for row in table) for place in range(len(columns))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
