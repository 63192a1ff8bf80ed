"""What is kept of names: the words about tags and retention of a client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracker_raft import commands
from tracker_raft.client.call import Reply
from tracker_raft.client.reading import milliseconds, read_reply
from tracker_raft.client.results import Kept, Tagged
from tracker_raft.commands import FileRecord, Level


class KeepingCalls:
    """The words about tags and retention of a :class:`~tracker_raft.client.TrackerClient`.

    They raise :class:`~tracker_raft.errors.Unsupported` while a tracker of the cluster runs a
    release before 0.2.0.
    """

    call: Callable[..., Reply]

    def tag(
        self,
        name: str,
        tag: str,
        version: int,
        *,
        expected: int | None = None,
        deadline_s: float | None = None,
    ) -> Tagged:
        """Let ``name@tag`` mean ``version`` of ``name`` from now on; doing it again is no error.

        ``expected``: the version that it must mean now, 0: there must be no such tag; None:
        whatever. Raises :class:`Conflict` when it is another one, :class:`NotFound` when the
        version is not kept, :class:`LimitReached` for more than eight tags of one name.
        """
        operation = commands.Tag(name, tag, version, expected)
        reply = self.call(operation, deadline_s=deadline_s)

        def read(body: dict[str, Any]) -> Tagged:
            record = FileRecord.from_wire(body["file"])
            return Tagged(record, int(body["before"]), bool(body["changed"]))

        return read_reply(operation, reply, read)

    def untag(
        self, name: str, tag: str, *, expected: int | None = None, deadline_s: float | None = None
    ) -> FileRecord:
        """Take a tag away; the version that it meant, which stays.

        Raises :class:`NotFound` when there is no such tag, :class:`Conflict` when it is not at
        ``expected``.
        """
        operation = commands.Untag(name, tag, expected)
        reply = self.call(operation, deadline_s=deadline_s)
        return read_reply(operation, reply, lambda body: FileRecord.from_wire(body["file"]))

    def retention(
        self, *, level: Level = Level.LINEARIZABLE, deadline_s: float | None = None
    ) -> Kept:
        """What the cluster is set to keep."""
        operation = commands.Retention()
        reply = self.call(operation, level=level, deadline_s=deadline_s)
        return read_reply(operation, reply, _kept_of)

    def set_retention(
        self,
        *,
        versions_kept: int | None = None,
        unsourced_after_s: float | None = None,
        remove_unsourced_after_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Kept:
        """Set it for the whole cluster; what is set then.

        ``versions_kept``: of each name the newest so many stay when the next one is published, and
        those with a tag; 0: as many as fit. ``unsourced_after_s``: a version that no peer has
        served for so long says so in its record; 0: never. ``remove_unsourced_after_s``: if it has
        no tag, it is removed after so long; 0: never. None: as it is.
        """
        mark_ms, remove_ms = (
            None if seconds is None else milliseconds(what, seconds)
            for what, seconds in (
                ("unsourced_after_s", unsourced_after_s),
                ("remove_unsourced_after_s", remove_unsourced_after_s),
            )
        )
        operation = commands.SetRetention(versions_kept, mark_ms, remove_ms)
        reply = self.call(operation, deadline_s=deadline_s)
        return read_reply(operation, reply, _kept_of)


def _kept_of(body: dict[str, Any]) -> Kept:
    return Kept(
        int(body["versions_kept"]),
        int(body["unsourced_after_ms"]) / 1000,
        int(body["remove_unsourced_after_ms"]) / 1000,
    )
