"""Which version of a name to have now: told anew whenever it is another one.

A change that the trackers tell is only a reason to look again. What a name means is looked up when
it is wanted, so versions that came and went during a long fetch are left out, and nothing depends
on having seen every change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tracker_raft.client import TrackerClient, Watch
from tracker_raft.commands import FileRecord, split_reference
from tracker_raft.errors import BadRequest, Compacted, NotFound

RETRY_S = 5.0
"""A version that was not fetched is told again after this, or at the next change."""


def check_followed(text: object) -> str:
    """A name, or ``name@tag``: what may come to mean another version. Raises
    :class:`BadRequest`."""
    name, wanted = split_reference(text)
    if isinstance(wanted, int):
        raise BadRequest(f"{name}@v{wanted} never means another version; fetch it instead")
    return name if wanted is None else f"{name}@{wanted}"


class Follow:
    """Iterate over it: the record of ``name``, or of ``name@tag``, as it is now, then each one that
    takes its place.

    Waits while the name is not there, or is what was :meth:`fetched` last. Raises
    :class:`~tracker_raft.errors.Unavailable` when no tracker answered for ``deadline_s`` seconds,
    and :class:`BadRequest` for what is no name.
    """

    def __init__(
        self,
        client: TrackerClient,
        name: str,
        *,
        deadline_s: float | None = None,
        retry_s: float = RETRY_S,
        on_wait: Callable[[FileRecord | None], object] | None = None,
    ) -> None:
        """``on_wait`` is called when the wait for another version begins, with the one that is
        here, and with None while the name is not there; not again and again for the same one."""
        self.name = check_followed(name)
        self._bare, _ = split_reference(name)
        if not retry_s > 0:
            raise BadRequest(f"retry_s is {retry_s}, expected a time above 0")
        self._client = client
        self._deadline_s = deadline_s
        self._retry_s = retry_s
        self._content: bytes | None = None
        self._missed = False
        """What the name meant at the last look is not here."""
        self._on_wait = on_wait
        self._seen: FileRecord | None = None
        self._told: tuple[FileRecord | None] | None = None
        """Of what ``on_wait`` was told last."""

    def fetched(self, record: FileRecord) -> None:
        """The version just told is here. Without this it is told again."""
        self._content = record.content

    def __iter__(self) -> Iterator[FileRecord]:
        while True:
            try:
                # The watch begins before the first look, so nothing falls between the two.
                with self._client.watch(
                    self._bare, idle_s=self._retry_s, deadline_s=self._deadline_s
                ) as watch:
                    while True:
                        yield from self._wanted()
                        self._tell_wait()
                        self._wait(watch)
            except Compacted:
                continue  # so much changed during a fetch: look again

    def _wanted(self) -> Iterator[FileRecord]:
        try:
            record = self._client.lookup(self.name, deadline_s=self._deadline_s)
        except NotFound:
            self._seen, self._missed = None, False
            return
        # Other tags that move, or time, make it no other version.
        self._seen = replace(record, tags=(), unsourced_ms=0)
        if record.content != self._content:
            yield record
        self._missed = record.content != self._content

    def _tell_wait(self) -> None:
        if self._on_wait is not None and not self._missed and self._told != (self._seen,):
            self._told = (self._seen,)
            self._on_wait(self._seen)

    def _wait(self, watch: Watch) -> None:
        """Until the name changes; no longer than a while if what it means was not fetched."""
        while True:
            for change in watch:
                if change.file.name == self._bare:
                    return
            if self._missed:
                return
