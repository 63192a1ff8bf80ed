"""What is known of one name: its versions, its tags, and the bytes that hold them. Pure.

Rules
-----
* The bytes are the msgpack of ``(highest number given, (version, ...))``, and of a name with tags
  ``(highest, versions, (tag, ...))``, each tag a pair of word and version in the order of words.
  So a name without tags has the bytes that it had before there were tags.
* A tag means a version that is kept: what takes the version away takes its tags along, and what
  drops versions by itself passes over those that have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack

from tracker_raft.commands import FileRecord, Publish, Tag, Untag
from tracker_raft.errors import BadRequest, Conflict, LimitReached, NotFound

Tags = tuple[tuple[str, int], ...]
"""Words and the versions they mean, in the order of words."""


NewName = tuple[str, bytes, int, int, int, str, str]
"""A name that is not bound, and the first seven fields of its publish."""


def first_fields(wanted: Publish) -> NewName:
    numbers = wanted.size, wanted.manifest_bytes, wanted.piece_bytes
    return (wanted.name, wanted.content, *numbers, wanted.owner, wanted.group)


def bound(file: NewName) -> dict[str, Any]:
    """The answer to a publish that bound ``file``."""
    name, content, size, manifest_bytes, piece_bytes, owner, group = file
    record = {
        "name": name,
        "version": 1,
        "content": content,
        "size": size,
        "manifest_bytes": manifest_bytes,
        "piece_bytes": piece_bytes,
        "owner": owner,
        "group": group,
    }
    return {"file": record, "created": True}


class History(NamedTuple):
    """All there is to know of a name; of one that is not bound: nothing."""

    highest: int = 0
    """The highest version number given so far."""
    kept: Sequence[FileRecord] = ()
    """The versions kept, oldest first."""
    tags: Tags = ()

    def tagged(self, tag: str) -> int:
        """The version that ``tag`` means; 0: there is no such tag."""
        return next((version for word, version in self.tags if word == tag), 0)

    def record(self, name: str, wanted: int | str | None) -> FileRecord:
        """The version with this number or tag; None: the newest. Raises :class:`NotFound`."""
        version = self.tagged(wanted) if isinstance(wanted, str) else wanted
        for record in reversed(self.kept):
            if version is None or record.version == version:
                return record
        raise not_found(name, wanted, self)


def unpack(name: str, packed: bytes) -> History:
    highest, rows, *more = msgpack.unpackb(packed)
    tags: Tags = tuple((tag, version) for tag, version in more[0]) if more else ()
    rest = (tags,) if tags else ()
    return History(highest, [FileRecord(name, *row, *rest) for row in rows], tags)


def fields(highest: int, kept: Sequence[FileRecord], tags: Tags) -> tuple[object, ...]:
    """What is packed of a history."""
    rows = [_to_row(record) for record in kept]
    return (highest, rows, tags) if tags else (highest, rows)


def _to_row(record: FileRecord) -> tuple[int, bytes, int, int, int, str, str]:
    return (
        record.version,
        record.content,
        record.size,
        record.manifest_bytes,
        record.piece_bytes,
        record.owner,
        record.group,
    )


def room(name: str, history: History, kept_max: int, wanted: int) -> Sequence[FileRecord]:
    """The versions that stay when one more comes. ``wanted``: how many the operator wants of those
    without a tag, the new one included; 0: all. With ``kept_max`` already, the oldest without a tag
    has to go. Raises :class:`LimitReached`."""
    kept = history.kept
    if len(kept) < (wanted or kept_max):
        return kept
    tagged = dict.fromkeys(version for _, version in history.tags)
    if wanted:
        newest = len(kept) + 1 - wanted
        kept = [one for at, one in enumerate(kept) if at >= newest or one.version in tagged]
        if len(kept) < kept_max:
            return kept
    for at, record in enumerate(kept):
        if record.version not in tagged:
            return [*kept[:at], *kept[at + 1 :]]
    raise LimitReached(
        f"{name!r} has {len(kept)} versions, limit {kept_max}, and all of them have tags; "
        f"nothing was changed. Take a tag or a version away first"
    )


def not_found(name: str, wanted: int | str | None, history: History) -> NotFound:
    if wanted is None or not history.kept:
        return NotFound(f"no file is named {name!r}")
    if isinstance(wanted, str):
        words = ", ".join(tag for tag, _ in history.tags) or "none"
        return NotFound(f"{name!r} has no tag {wanted!r}; its tags: {words}")
    numbers = ", ".join(str(record.version) for record in history.kept)
    return NotFound(f"{name!r} has no version {wanted}; kept are {numbers}")


def require_expected(wanted: Tag | Untag, found: int) -> None:
    """Raises :class:`Conflict` unless the tag means what its client thinks; 0: nothing."""
    if wanted.expected is not None and wanted.expected != found:
        raise Conflict(
            f"{wanted.name}@{wanted.tag} is {f'version {found}' if found else 'no tag'}, expected "
            f"{f'version {wanted.expected}' if wanted.expected else 'no tag'}; nothing was changed"
        )


def require_same(known: FileRecord, wanted: Publish) -> None:
    """Raises :class:`BadRequest` unless all that the content id fixes is the same."""
    for what in ("size", "manifest_bytes", "piece_bytes"):
        if getattr(known, what) != getattr(wanted, what):
            raise BadRequest(
                f"{what} is {getattr(wanted, what)}, but {known.versioned!r} has the same content "
                f"id with {getattr(known, what)}; the content id fixes it. Nothing was changed"
            )
