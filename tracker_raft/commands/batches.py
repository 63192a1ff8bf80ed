"""Many files published by one operation. Pure.

A file is an array, not a map, and its fields are checked in one expression: with hundreds of them
in an operation, that is most of what a tracker does with it. What fails the quick look is looked
at again as a :class:`Publish`, which says what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

from tracker_raft.commands.files import Publish, plain_columns
from tracker_raft.commands.operation import Operation
from tracker_raft.errors import BadRequest, TooLarge

BATCH_FILES_MAX: Final = 1_000
"""Files in one operation. Its bytes are bounded as those of any: half of an entry."""


class NewFile(NamedTuple):
    """One file to publish; the fields are those of :class:`Publish`."""

    name: str
    content: bytes
    size: int
    """Bytes of all files of the content together."""
    manifest_bytes: int
    piece_bytes: int
    owner: str = ""
    group: str = ""
    replace: bool = False


_FIELDS: Final = len(NewFile._fields)


@dataclass(frozen=True, slots=True)
class PublishMany(Operation):
    """Publish up to 1,000 files, all of them or none, each name once.

    Reply: ``{"versions": [int...], "unchanged": [int...]}``: the version of each file, and the
    places in ``files`` of those whose name was bound to that content already. A refusal is that of
    the first file that cannot be published, with its place.
    """

    op: ClassVar[str] = "publish_many"
    files: tuple[NewFile, ...]
    """On the wire arrays of all eight fields."""

    def __post_init__(self) -> None:
        files: Any = self.files
        if type(files) is not tuple:
            raise BadRequest(f"files is {type(files).__name__}, expected an array")
        if not 1 <= len(files) <= BATCH_FILES_MAX:
            refusal = TooLarge if files else BadRequest
            raise refusal(f"{len(files)} files, expected 1 to {BATCH_FILES_MAX}; not run")
        if not _all_plain(files):
            for at, file in enumerate(files):
                _check(at, len(files), file)
        if len({file[0] for file in files}) != len(files):
            raise BadRequest(f"{len(files)} files with {_twice(files)!r} twice; not run")


def _all_plain(files: tuple[Any, ...]) -> bool:
    """Whether all are surely right: looked at column by column, so that Python's own loops do it.
    Most are; what is not has to be looked at one by one."""
    if not {*map(type, files)} <= {tuple, NewFile} or {*map(len, files)} != {_FIELDS}:
        return False
    *columns, owners, groups, replaces = zip(*files, strict=True)
    if {*map(type, owners), *map(type, groups)} != {str}:  # what is looked at below can be hashed
        return False
    plain = {*map(type, replaces)} == {bool} and {*owners, *groups} == {""}
    return plain and plain_columns(*columns)


def _check(at: int, count: int, file: Any) -> None:
    """Raises :class:`BadRequest` with the place, unless it is right."""
    try:
        if not isinstance(file, tuple) or len(file) != _FIELDS:
            raise BadRequest(f"{type(file).__name__}, expected an array of {_FIELDS} fields")
        Publish(*file)
    except BadRequest as error:
        raise type(error)(f"file {at} of {count}: {error.message}; none was published") from None


def _twice(files: tuple[NewFile, ...]) -> str:
    seen: dict[str, None] = {}
    for file in files:
        if file[0] in seen:
            break
        seen[file[0]] = None
    return file[0]
