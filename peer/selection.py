"""Which part of a tree is wanted: ``--include`` patterns against the paths of a manifest. Pure.

Rules
-----
* ``*``, ``?`` and ``[...]`` stand for characters of one name and never for a ``/``; ``**`` as a
  whole segment stands for any number of directories, also none.
* A pattern without a ``/`` inside is compared with the names at every depth (``*.bin``); one with
  it is compared from the top of the tree (``train/*.bin``).
* What matches a directory means all that lies in it.
* Nothing that matches is an error: a typing error must not pass for an empty download.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from peer.manifest import Kind, Link, Manifest
from peer.ranges import Ranges
from tracker_raft.errors import BadRequest

PATTERNS_MAX = 100
SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a content that is to appear."""

    files: Sequence[int]
    """Indexes in ``manifest.files``, in order."""
    directories: Sequence[str]
    links: Sequence[Link]
    pieces: Ranges
    size: int
    whole: bool


def select(manifest: Manifest, patterns: Sequence[str] = ()) -> Selection:
    """What ``patterns`` want of a content; no pattern wants all of it. Raises :class:`BadRequest`
    for a pattern that cannot be, for one on a single file, and when nothing matches."""
    if not patterns:
        everything = Ranges((0, manifest.pieces.count))
        count = len(manifest.files)
        return Selection(
            range(count), manifest.directories, manifest.links, everything, manifest.size, True
        )
    if manifest.kind is not Kind.TREE:
        raise BadRequest("it is a single file: a pattern can choose from a directory only")
    wanted = compile_patterns(patterns)
    files = [i for i, entry in enumerate(manifest.files) if wanted.fullmatch(entry.path)]
    directories = [path for path in manifest.directories if wanted.fullmatch(path)]
    links = [link for link in manifest.links if wanted.fullmatch(link.path)]
    if not (files or directories or links):
        raise BadRequest(f"nothing in it matches {_listed(patterns)}: it has {_contents(manifest)}")
    pieces = Ranges()
    for file in files:
        run = manifest.pieces.pieces_of(file)
        pieces.add(run.first, run.end)
    size = sum(manifest.files[file].size for file in files)
    return Selection(files, directories, links, pieces, size, False)


def compile_patterns(patterns: Sequence[str]) -> re.Pattern[str]:
    """One expression for all; use ``fullmatch`` with a path. Raises :class:`BadRequest`."""
    if len(patterns) > PATTERNS_MAX:
        raise BadRequest(f"{len(patterns)} patterns, limit {PATTERNS_MAX}")
    return re.compile("|".join(f"(?:{_translate(pattern)})" for pattern in patterns), re.DOTALL)


def _translate(pattern: str) -> str:
    segments = [segment for segment in pattern.split("/") if segment not in ("", ".")]
    if not segments or ".." in segments:
        raise BadRequest(f"pattern {pattern!r} names nothing inside the directory")
    anywhere = "/" not in pattern.rstrip("/")
    text = "(?:.*/)?" if anywhere else ""
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if segment == "**":
            text += ".+" if last else "(?:[^/]+/)*"
        else:
            text += _translate_segment(segment) + ("" if last else "/")
    return text + "(?:/.*)?"


def _translate_segment(segment: str) -> str:
    text, place = "", 0
    while place < len(segment):
        sign = segment[place]
        place += 1
        end = segment.find("]", place + 1)  # "[]a]" holds a "]"
        if sign == "*":
            text += "[^/]*"
        elif sign == "?":
            text += "[^/]"
        elif sign == "[" and end > 0:
            inner = segment[place:end]
            negated = inner[0] == "!"
            signs = re.sub(r"([\\\[\]^&~|])", r"\\\1", inner[1:] if negated else inner)
            text += f"[{'^/' if negated else ''}{signs}]"
            place = end + 1
        else:
            text += re.escape(sign)
    try:
        re.compile(text)
    except re.error as error:
        raise BadRequest(f"pattern {segment!r}: {error}") from None
    return text


def _listed(patterns: Sequence[str]) -> str:
    return ", ".join(map(repr, patterns[:SHOWN_MAX]))


def _contents(manifest: Manifest) -> str:
    paths = [entry.path for entry in manifest.files]
    paths += [*manifest.directories, *(link.path for link in manifest.links)]
    shown = ", ".join(map(repr, paths[:SHOWN_MAX]))
    more = len(paths) - SHOWN_MAX
    return (shown or "nothing") + (f" and {more} more" if more > 0 else "")
