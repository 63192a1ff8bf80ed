"""Names and their versions: the permanent half of the tracker's state. Pure.

Rules
-----
* A name has versions 1, 2, 3..., of which the newest ``versions_per_name_max`` are kept. A number
  is never used twice while the name lives; a name whose last version is removed is forgotten.
* A version that a tag means is not dropped for a newer one: the oldest without a tag is. Where it
  is set how many are kept, a new one lets all go that are older than so many and have no tag.
* Publishing the newest content again changes nothing. Other content needs ``replace``.
* The content id fixes size, manifest length and piece length: the same id with others is refused.

How it is kept
--------------
Millions of names must fit in memory and must not slow the garbage collector, which walks every
object that can refer to others. So a name's history is **one byte string**
(:mod:`tracker_raft.machine.names`); it is also what the digest hashes and what a snapshot holds.
They stand in plain dicts (:mod:`tracker_raft.machine.wide_dict`), which the collector passes over
as long as they hold nothing but text and bytes; a subclass of dict would be walked. The names in
order stand beside them (:mod:`tracker_raft.machine.name_index`). UTF-8 sorts as code points do, so
byte order and the order of Python strings are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from operator import itemgetter
from typing import Any, Final

import msgpack

from tracker_raft.changes import TAGGED, UNTAGGED, Place
from tracker_raft.commands import (
    FileRecord,
    List,
    NewFile,
    Publish,
    PublishMany,
    Tag,
    Untag,
    split_reference,
    split_version,
)
from tracker_raft.config import MachineLimits
from tracker_raft.errors import BadRequest, Conflict, LimitReached, NotFound
from tracker_raft.machine import names as naming
from tracker_raft.machine.content_index import ContentIndex
from tracker_raft.machine.digest import Digest
from tracker_raft.machine.history import ChangeHistory
from tracker_raft.machine.marks import Marks
from tracker_raft.machine.name_index import NameIndex
from tracker_raft.machine.names import History, NewName, Tags, bound, not_found, room
from tracker_raft.machine.settings import Settings
from tracker_raft.machine.snapshot_cursor import Row, Table
from tracker_raft.machine.wide_dict import WideDict, any_in, get_each, set_each

Homes = list[dict[str, bytes]]
"""Where names stand, one for each."""

LOOKUP_FILES_MAX: Final = 1_000
"""Records in the answer to a look-up by content; more are left out and told by ``more``. As many
as a page of ``list`` may have: one content may be bound to millions of names."""

TAG_BYTES_PAGE_MAX: Final = 96 * 1024
"""Of the tags in a page of ``list``: with what the records have besides, a page fits its frame."""
_TAG_BYTES: Final = 8
"""What a tag takes beside its letters, at most."""


class Registry:
    """All names. Methods that change it check first, so a refusal has changed nothing."""

    def __init__(
        self,
        limits: MachineLimits,
        digest: Digest,
        changes: ChangeHistory,
        settings: Settings,
        marks: Marks,
    ) -> None:
        self.versions = 0
        """Versions of all names together."""
        self._limits = limits
        self._digest = digest
        self._changes = changes
        self._settings = settings
        self._marks = marks
        self._files: WideDict[str, bytes] = WideDict()
        self._count = 0
        self._names = NameIndex()
        self._contents = ContentIndex()
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def __len__(self) -> int:
        return self._count

    # -- writes -----------------------------------------------------------------------------------

    def publish(self, wanted: Publish) -> dict[str, Any]:
        """Raises :class:`Conflict`, :class:`LimitReached` or :class:`BadRequest`."""
        if wanted.name not in self._files:
            return self._bind(wanted)
        history = self._check_bound(wanted)
        self._marks.forget(wanted.content)  # who publishes it is about to serve it
        newest = history.kept[-1]
        if newest.content == wanted.content:
            return {"file": newest.to_wire(), "created": False}
        rest = naming.first_fields(wanted)[1:]
        record = FileRecord(wanted.name, history.highest + 1, *rest, history.tags)
        stay = room(wanted.name, history, *self._kept_max())
        self._replace(wanted.name, history, record.version, [*stay, record])
        return {"file": record.to_wire(), "created": True}

    def _kept_max(self) -> tuple[int, int]:
        return self._limits.versions_per_name_max, self._settings.versions_kept

    def _check_bound(self, wanted: Publish) -> History:
        """The history of a name that is bound, if ``wanted`` may be published as it. Raises."""
        history = self._history(wanted.name)
        newest = history.kept[-1]
        if newest.content == wanted.content:
            naming.require_same(newest, wanted)
        elif not wanted.replace:
            raise Conflict(
                f"{wanted.name!r} is bound to content {newest.content.hex()} as version "
                f"{newest.version}, not to {wanted.content.hex()}; nothing was changed. "
                f"Publish with replace to make it the next version"
            )
        else:
            room(wanted.name, history, *self._kept_max())
        return history

    def _bind(self, wanted: Publish) -> dict[str, Any]:
        file = naming.first_fields(wanted)
        if not self.is_free(wanted.name):
            raise LimitReached(
                f"{self._count} names, limit {self._limits.files_max}; "
                f"{wanted.name!r} was not published"
            )
        self.bind_one(file, self._changes.place[1])
        return bound(file)

    def homes(self, names: Sequence[str]) -> Homes | None:
        """Where these names, all different, are to stand (:meth:`bind`); None: not all of them can
        be bound for the first time."""
        if len(names) > self._limits.files_max - self._count:
            return None
        homes = self._files.homes(names)
        return None if any_in(homes, names) else homes

    def is_free(self, name: str) -> bool:
        """Whether ``name`` can be bound for the first time (:meth:`bind_one`)."""
        return name not in self._files and self._count < self._limits.files_max

    def bind_one(self, file: NewName, position: int) -> None:
        """:meth:`bind` one name, which :meth:`is_free`."""
        name, content = file[:2]
        packed = self._files[name] = self._pack((1, ((1, *file[1:]),)))
        self._digest.add("file", name, packed)
        self._names.add(name)
        self._contents.add(content, name)
        if self._marks:
            self._marks.forget(content)
        self._changes.published((name,), (packed,), (position,))
        self._count += 1
        self.versions += 1

    def bind(self, homes: Homes, columns: Sequence[Any], positions: Iterable[int]) -> None:
        """Bind names that have :meth:`homes`: most of all that ever happens here, so each step is
        taken for all of them at once. ``columns``: the names, and the other fields of
        :data:`~tracker_raft.machine.names.NewName`, one for each name; ``positions``: of the
        changes in the entry that runs."""
        names, contents, *numbers_and_labels = columns
        rows = zip(repeat(1), contents, *numbers_and_labels)
        packed = [*map(self._pack, zip(repeat(1), zip(rows)))]
        set_each(homes, names, packed)
        self._digest.add_many([*zip(repeat("file"), names, packed)])
        self._names.update(names)
        self._contents.add_many(contents, names)
        if self._marks:  # who publishes a content is about to serve it
            for content in contents:
                self._marks.forget(content)
        self._changes.published(names, packed, positions)
        self._count += len(names)
        self.versions += len(names)

    def publish_many(self, wanted: PublishMany) -> dict[str, Any]:
        """All of them or none; the first that cannot be names itself by its place.

        Raises what :meth:`publish` does. Each change has a place of its own in the log.
        """
        count = len(wanted.names)
        index, position = self._changes.place
        homes = self.homes(wanted.names)
        if homes is not None:
            numbers = wanted.sizes, wanted.manifest_bytes, wanted.piece_bytes
            labels = wanted.owners or repeat("", count), wanted.groups or repeat("", count)
            columns = wanted.names, wanted.content_ids, *numbers, *labels
            self.bind(homes, columns, range(position, position + count))
            return {"versions": [1] * count, "unchanged": []}
        files = wanted.files()
        self._check_many(files)
        versions, unchanged = [], []
        for at, file in enumerate(files):
            self._changes.place = index, position + at
            done = self.publish(Publish(*file))
            versions.append(done["file"]["version"])
            if not done["created"]:
                unchanged.append(at)
        return {"versions": versions, "unchanged": unchanged}

    def _check_many(self, files: Sequence[NewFile]) -> None:
        """Raises when one cannot be published. Changes nothing."""
        bound = [at for at, file in enumerate(files) if file.name in self._files]
        if self._count + len(files) - len(bound) > self._limits.files_max:
            raise LimitReached(
                f"{self._count} names and {len(files) - len(bound)} more, limit "
                f"{self._limits.files_max}; none was published"
            )
        for at in bound:
            try:
                self._check_bound(Publish(*files[at]))
            except (Conflict, LimitReached, BadRequest) as error:
                raise type(error)(f"file {at} of {len(files)}: {error.message}") from None

    def remove(self, text: str) -> dict[str, Any]:
        """``text`` is a name or ``name@vN``. Raises :class:`NotFound`."""
        name, version = split_version(text)
        history = self._history(name)
        kept = history.kept
        removed = kept if version is None else [r for r in kept if r.version == version]
        if not removed:
            raise not_found(name, version, history)
        remaining = [] if version is None else [r for r in kept if r.version != version]
        self._replace(name, history, history.highest, remaining)
        return {"removed": [record.to_wire() for record in removed]}

    def take_away(self, name: str, versions: Sequence[int], place: Place) -> int:
        """Remove these versions of ``name`` but those with a tag, each a change of its own from
        ``place`` on, all together one change if no other is left; how many changes that made."""
        index, position = place
        history = self._history(name)
        tagged = dict.fromkeys(version for _, version in history.tags)
        going = [version for version in versions if version not in tagged]
        if len(going) == len(history.kept):
            self._changes.place = place
            self._replace(name, history, history.highest, [])
            return 1
        for at, version in enumerate(going):
            self._changes.place = index, position + at
            remaining = [record for record in history.kept if record.version != version]
            self._replace(name, history, history.highest, remaining)
            history = self._history(name)
        return len(going)

    def tag(self, wanted: Tag) -> dict[str, Any]:
        """Raises :class:`NotFound`, :class:`Conflict` or :class:`LimitReached`."""
        name, tag = wanted.name, wanted.tag
        history = self._history(name)
        record = history.record(name, wanted.version)
        before = history.tagged(tag)
        naming.require_expected(wanted, before)
        if before == record.version:
            return {"file": record.to_wire(), "before": before, "changed": False}
        if not before and len(history.tags) >= self._limits.tags_per_name_max:
            raise LimitReached(
                f"{name!r} has {len(history.tags)} tags, limit {self._limits.tags_per_name_max}; "
                f"{tag!r} was not added"
            )
        tags = tuple(sorted({**dict(history.tags), tag: record.version}.items()))
        self._pack_again(name, history.highest, history.kept, tags)
        self._changes.tagged(TAGGED, history.kept[-1].version, record, tag)
        return {"file": replace(record, tags=tags).to_wire(), "before": before, "changed": True}

    def untag(self, wanted: Untag) -> dict[str, Any]:
        """Raises :class:`NotFound` or :class:`Conflict`."""
        name, tag = wanted.name, wanted.tag
        history = self._history(name)
        record = history.record(name, tag)
        naming.require_expected(wanted, record.version)
        tags = tuple(pair for pair in history.tags if pair[0] != tag)
        self._pack_again(name, history.highest, history.kept, tags)
        self._changes.tagged(UNTAGGED, history.kept[-1].version, record, tag)
        return {"file": replace(record, tags=tags).to_wire()}

    def _pack_again(self, name: str, highest: int, kept: Sequence[FileRecord], tags: Tags) -> None:
        """Make this the history of ``name``, which is bound."""
        self._digest.remove("file", name, self._files[name])
        packed = self._files[name] = self._pack(naming.fields(highest, kept, tags))
        self._digest.add("file", name, packed)

    def _replace(self, name: str, history: History, highest: int, after: list[FileRecord]) -> None:
        """Make ``after`` the versions of ``name``, which is bound, and of its tags those stay that
        mean one of them; with :meth:`_pack_again`, the one place where the registry changes."""
        before = history.kept
        if after:
            numbers = {record.version: None for record in after}
            tags = tuple(pair for pair in history.tags if pair[1] in numbers)
            self._pack_again(name, highest, after, tags)
        else:
            self._digest.remove("file", name, self._files[name])
            del self._files[name]
            self._count -= 1
            self._names.remove(name)
        self._changes.note(before, after)
        self.versions += len(after) - len(before)
        # A name may hold one content in several versions; the index has the pair once. Kept as
        # dicts, whose order is that of the versions: a set has none.
        contents_before = dict.fromkeys(record.content for record in before)
        contents_after = dict.fromkeys(record.content for record in after)
        for content in contents_before:
            if content not in contents_after and self._contents.remove(content, name):
                self._marks.forget(content)
        for content in contents_after:
            if content not in contents_before:
                self._contents.add(content, name)

    # -- reads ------------------------------------------------------------------------------------

    def by_name(self, text: str) -> FileRecord:
        """The record of ``name`` (its newest version), ``name@vN`` or ``name@tag``; else
        :class:`NotFound`."""
        name, wanted = split_reference(text)
        return self._history(name).record(name, wanted)

    def by_content(self, content: bytes) -> dict[str, Any]:
        """The names and versions bound to ``content``, in name order, or :class:`NotFound`.

        At most :data:`LOOKUP_FILES_MAX`; ``more`` says whether there are others. Without tags.
        """
        files: list[dict[str, Any]] = []
        for name in self._contents.names_of(content):
            kept = [record for record in self._history(name).kept if record.content == content]
            files += [replace(r, tags=()).to_wire() if r.tags else r.to_wire() for r in kept]
            if len(files) > LOOKUP_FILES_MAX:
                break
        if not files:
            raise NotFound(f"no name is bound to content {content.hex()}")
        return {"files": files[:LOOKUP_FILES_MAX], "more": len(files) > LOOKUP_FILES_MAX}

    def page(self, wanted: List) -> dict[str, Any]:
        """The next ``limit`` names after ``after``: a binary search, then one step for each."""
        start = max(wanted.prefix, wanted.after)
        files: list[dict[str, Any]] = []
        tag_bytes = 0
        for name in self._names.after(start, inclusive=start != wanted.after):
            if not name.startswith(wanted.prefix):
                break
            if len(files) == wanted.limit or tag_bytes > TAG_BYTES_PAGE_MAX:
                return {"files": files, "more": True}
            newest = self._history(name).kept[-1]
            tag_bytes += sum(len(tag) + _TAG_BYTES for tag, _ in newest.tags)
            files.append(newest.to_wire())
        return {"files": files, "more": False}

    def names_after(self, name: str, limit: int) -> list[str]:
        """The next names in order, from the first for an empty ``name``."""
        return list(islice(self._names.after(name or None), limit))

    def versions_of(self, name: str) -> Sequence[FileRecord]:
        """Oldest first."""
        return self._history(name).kept

    def _history(self, name: str) -> History:
        """Empty for a name that is not bound."""
        packed = self._files.get(name)
        return History() if packed is None else naming.unpack(name, packed)

    # -- snapshot ---------------------------------------------------------------------------------

    def tables(self) -> tuple[Table, ...]:
        """``files``: (name, history) in name order."""
        return (Table("files", "file", itemgetter(1), self._rows_after, self._many_after),)

    def _rows_after(self, name: str | None) -> Iterator[tuple[str, Row]]:
        for found in self._names.after(name):
            yield found, (found, self._files[found])

    def _many_after(self, name: str | None, most: int) -> tuple[list[str], list[Row]]:
        names = [*islice(self._names.after(name), most)]
        return names, [*zip(names, get_each(self._files.homes(names), names), strict=True)]

    def load(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Add rows of a snapshot, in order, to a registry that has none of them."""
        for name, packed in rows:
            self._names.add(name)
            self._files[name] = packed
            self._count += 1
            self._digest.add("file", name, packed)
            versions = msgpack.unpackb(packed)[1]
            self.versions += len(versions)
            for content in dict.fromkeys(row[1] for row in versions):
                self._contents.add(content, name)
