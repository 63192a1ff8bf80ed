"""Many files published by one operation. Pure.

The fields of all files stand in columns, one array for each field: so Python's own loops read and
check them, and a file costs every tracker a third less than with an array for each. What fails the
quick look is looked at again file by file as a :class:`Publish`, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, ClassVar, Final, NamedTuple, Self

from tracker_raft.commands.fields import CONTENT_ID_BYTES, check_content
from tracker_raft.commands.files import Publish, plain_names, plain_numbers
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


@dataclass(frozen=True, slots=True)
class PublishMany(Operation):
    """Publish up to 1,000 files, all of them or none, each name once. :meth:`of` makes one.

    Reply: ``{"versions": [int...], "unchanged": [int...]}``: the version of each file, and the
    places of those whose name was bound to that content already. A refusal is that of the first
    file that cannot be published, with its place.
    """

    op: ClassVar[str] = "publish_many"
    names: tuple[str, ...]
    contents: bytes
    """The content ids, one behind the other."""
    sizes: tuple[int, ...]
    manifest_bytes: tuple[int, ...]
    piece_bytes: tuple[int, ...]
    owners: tuple[str, ...] = ()
    """None, where all have none; so the next two."""
    groups: tuple[str, ...] = ()
    replaces: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        count = _count(self.names)
        if type(self.contents) is not bytes or len(self.contents) != count * CONTENT_ID_BYTES:
            found = self.contents
            shown = f"{len(found)} bytes" if type(found) is bytes else type(found).__name__
            raise BadRequest(
                f"contents is {shown}, expected {CONTENT_ID_BYTES} bytes for each of {count}"
            )
        for what in ("sizes", "manifest_bytes", "piece_bytes"):
            _check_column(what, getattr(self, what), count)
        for what in ("owners", "groups", "replaces"):
            if getattr(self, what) != ():
                _check_column(what, getattr(self, what), count)
        numbers = self.sizes, self.manifest_bytes, self.piece_bytes
        more = (self.owners, self.groups, self.replaces) != ((), (), ())
        if more or not (plain_names(self.names) and plain_numbers(*numbers)):
            _check_each(self.files())
        if len({*self.names}) != count:
            raise BadRequest(f"{count} files with {_twice(self.names)!r} twice; not run")

    @classmethod
    def of(cls, files: Sequence[NewFile]) -> Self:
        """Raises :class:`BadRequest` or :class:`TooLarge`."""
        if not files:
            _count(())
        columns: Any = tuple(zip(*files, strict=True))
        names, contents, sizes, manifests, pieces, owners, groups, replaces = columns
        for at, content in enumerate(contents):
            try:
                check_content("content", content)
            except BadRequest as error:
                raise _of_file(at, len(files), error) from None
        return cls(
            names,
            b"".join(contents),
            sizes,
            manifests,
            pieces,
            owners if any(owner != "" for owner in owners) else (),
            groups if any(group != "" for group in groups) else (),
            replaces if any(replace is not False for replace in replaces) else (),
        )

    @property
    def content_ids(self) -> list[bytes]:
        size = CONTENT_ID_BYTES
        return [self.contents[at : at + size] for at in range(0, len(self.contents), size)]

    def files(self) -> list[NewFile]:
        """File by file."""
        count = len(self.names)
        more: tuple[Iterable[Any], ...] = (
            self.owners or repeat("", count),
            self.groups or repeat("", count),
            self.replaces or repeat(False, count),
        )
        numbers = self.sizes, self.manifest_bytes, self.piece_bytes
        columns = self.names, self.content_ids, *numbers, *more
        return [NewFile(*row) for row in zip(*columns, strict=True)]


def _count(names: Any) -> int:
    if type(names) is not tuple:
        raise BadRequest(f"names is {type(names).__name__}, expected an array")
    if not 1 <= len(names) <= BATCH_FILES_MAX:
        refusal = TooLarge if names else BadRequest
        raise refusal(f"{len(names)} files, expected 1 to {BATCH_FILES_MAX}; not run")
    return len(names)


def _check_column(what: str, column: Any, count: int) -> None:
    if type(column) is not tuple or len(column) != count:
        shown = f"{len(column)} values" if type(column) is tuple else type(column).__name__
        raise BadRequest(f"{what} is {shown}, expected an array of {count}")


def _check_each(files: Sequence[NewFile]) -> None:
    """Raises :class:`BadRequest` with the place, unless all are right."""
    for at, file in enumerate(files):
        try:
            Publish(*file)
        except BadRequest as error:
            raise _of_file(at, len(files), error) from None


def _of_file(at: int, count: int, error: BadRequest) -> BadRequest:
    return type(error)(f"file {at} of {count}: {error.message}; none was published")


def _twice(names: Iterable[str]) -> str:
    seen: dict[str, None] = {}
    for name in names:
        if name in seen:
            break
        seen[name] = None
    return name
