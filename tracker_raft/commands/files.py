"""Operations on names and their versions: the registry, and those who watch it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tracker_raft.commands.fields import (
    CONTENT_HEX_CHARS,
    CONTENT_ID_BYTES,
    INTEGER_MAX,
    LABEL_BYTES_MAX,
    NAME_BYTES_MAX,
    PIECE_BYTES,
    PIECE_BYTES_MAX,
    PIECE_BYTES_MIN,
    PLAIN_NAME,
    check_bool,
    check_content,
    check_int,
    check_name,
    check_text,
    split_reference,
    split_version,
)
from tracker_raft.commands.operation import Operation
from tracker_raft.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Publish(Operation):
    """Bind ``name`` to ``content``. Reply: ``{"file": FileRecord, "created": bool}``.

    The same name with the same content as its newest version is answered with that record and
    ``created`` false. With other content: ``conflict``, or the next version when ``replace``.
    """

    op: ClassVar[str] = "publish"
    name: str
    content: bytes
    size: int
    """Bytes of all files of the content together."""
    manifest_bytes: int
    piece_bytes: int
    owner: str = ""
    group: str = ""
    replace: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        check_content("content", self.content)
        check_int("size", self.size, 0, INTEGER_MAX)
        check_int("manifest_bytes", self.manifest_bytes, 1, INTEGER_MAX)
        check_int("piece_bytes", self.piece_bytes, PIECE_BYTES_MIN, PIECE_BYTES_MAX)
        if self.piece_bytes & (self.piece_bytes - 1):
            raise BadRequest(f"piece_bytes is {self.piece_bytes}, expected a power of two")
        if self.owner != "":
            check_text("owner", self.owner, LABEL_BYTES_MAX)
        if self.group != "":
            check_text("group", self.group, LABEL_BYTES_MAX)
        check_bool("replace", self.replace)


PublishRow = tuple[str, bytes, int, int, int, str, str, bool]
"""The fields of a :class:`Publish`, in order."""


def publish_row(message: Mapping[str, Any]) -> PublishRow:
    """The fields of a publish in a request map, checked. Raises :class:`BadRequest`.

    What :meth:`Publish.from_wire` would read, without making an object of it: most of all
    operations are publishes.
    """
    get = message.get
    row: Any = (
        get("name"),
        get("content"),
        get("size"),
        get("manifest_bytes"),
        get("piece_bytes"),
        get("owner", ""),
        get("group", ""),
        get("replace", False),
    )
    if not is_plain(row):
        Publish.from_wire(message)  # says what is wrong, if something is
    checked: PublishRow = row
    return checked


def is_plain(row: tuple[Any, ...]) -> bool:
    """Whether these eight fields are surely right, as most are. What is not has to be looked at as
    a :class:`Publish`, which says what is wrong."""
    name, content, size, manifest_bytes, piece_bytes, owner, group, replace = row
    return (
        type(name) is str
        and len(name) < CONTENT_HEX_CHARS
        and PLAIN_NAME.fullmatch(name) is not None
        and type(content) is bytes
        and len(content) == CONTENT_ID_BYTES
        and type(size) is type(manifest_bytes) is type(piece_bytes) is int
        and 0 <= size <= INTEGER_MAX
        and 1 <= manifest_bytes <= INTEGER_MAX
        and piece_bytes in PIECE_BYTES
        and type(owner) is type(group) is str
        and not owner
        and not group
        and type(replace) is bool
    )


_PLAIN_NAMES: Final = re.compile(f"{PLAIN_NAME.pattern}(?:@{PLAIN_NAME.pattern})*")
"""Names with what no name has between them."""


def plain_columns(
    names: Sequence[Any],
    contents: Sequence[Any],
    sizes: Sequence[Any],
    manifests: Sequence[Any],
    pieces: Sequence[Any],
) -> bool:
    """:func:`is_plain` of many, at least one: each sequence has one field of all. Python's own
    loops do it, in a third of the time."""
    return (
        {*map(type, contents)} == {bytes}
        and {*map(len, contents)} == {CONTENT_ID_BYTES}
        and plain_numbers(sizes, manifests, pieces)
        and plain_names(names)
    )


def plain_names(names: Sequence[Any]) -> bool:
    if {*map(type, names)} != {str}:
        return False
    joined = "@".join(names)
    return (
        len(max(names, key=len)) < CONTENT_HEX_CHARS
        and joined.count("@") == len(names) - 1
        and _PLAIN_NAMES.fullmatch(joined) is not None
    )


def plain_numbers(sizes: Sequence[Any], manifests: Sequence[Any], pieces: Sequence[Any]) -> bool:
    return (
        {*map(type, sizes), *map(type, manifests), *map(type, pieces)} == {int}
        and min(sizes) >= 0
        and max(sizes) <= INTEGER_MAX
        and min(manifests) >= 1
        and max(manifests) <= INTEGER_MAX
        and PIECE_BYTES.issuperset(pieces)
    )


@dataclass(frozen=True, slots=True)
class Remove(Operation):
    """Remove a name with all its versions, or one version of it (``a@v3``).

    Reply: ``{"removed": [FileRecord...]}``, oldest first. ``not_found`` when there is none.
    """

    op: ClassVar[str] = "remove"
    name: str

    def __post_init__(self) -> None:
        split_version(self.name)


@dataclass(frozen=True, slots=True)
class Lookup(Operation):
    """One file by name (``a``, ``a@v3``, or ``a@stable`` by a tag) or by content id; exactly one
    of the two is given.

    Reply: ``{"files": [FileRecord...]}``: one record by name, by content every name and version
    bound to it in name order, at most 1000 (``"more": bool``). ``not_found`` when there is none.
    """

    op: ClassVar[str] = "lookup"
    name: str = ""
    content: bytes = b""

    def __post_init__(self) -> None:
        if bool(self.name) == bool(self.content):
            raise BadRequest("lookup takes either a name or a content id")
        if self.content:
            check_content("content", self.content)
        else:
            split_reference(self.name)


@dataclass(frozen=True, slots=True)
class List(Operation):
    """Names starting with ``prefix``, in byte order, newest version of each.

    Reply: ``{"files": [FileRecord...], "more": bool}``. Page on with ``after`` = the last name;
    a page has fewer than ``limit`` when their tags are long.
    """

    op: ClassVar[str] = "list"
    prefix: str = ""
    after: str = ""
    limit: int = 100

    def __post_init__(self) -> None:
        check_text("prefix", self.prefix, NAME_BYTES_MAX)
        check_text("after", self.after, NAME_BYTES_MAX)
        check_int("limit", self.limit, 1, 1_000)


@dataclass(frozen=True, slots=True)
class Watch(Operation):
    """The changes of names starting with ``prefix``, from a place in the log on, that one included.

    Reply: ``{"changes": [Change...], "next": (index, position)}``, at once when there are some,
    else with the first ones, or with none after ``wait_ms``. ``next`` is the place to ask from
    next. ``compacted`` when not all changes from there on are kept.
    """

    op: ClassVar[str] = "watch"
    index: int
    position: int = 0
    prefix: str = ""
    limit: int = 100
    wait_ms: int = 5_000

    def __post_init__(self) -> None:
        check_int("index", self.index, 0, INTEGER_MAX)
        check_int("position", self.position, 0, INTEGER_MAX)
        check_text("prefix", self.prefix, NAME_BYTES_MAX)
        check_int("limit", self.limit, 1, 500)
        check_int("wait_ms", self.wait_ms, 0, INTEGER_MAX)
