"""TrackerClient: the tracker's operations as methods, carried out by whichever tracker is live.

::

    with TrackerClient(["10.0.0.1:7001", "10.0.0.2:7001", "10.0.0.3:7001"]) as tracker:
        tracker.publish("models/a", content=content_id, size=..., manifest_bytes=..., ...)
        record = tracker.lookup("models/a")

Plain threads on blocking sockets; any number of threads may share one client. An asynchronous
caller uses ``asyncio.to_thread``.

Every method takes ``deadline_s``, seconds for the whole call with all its retries (None: the
configured one), and raises, besides what it names itself:

* :class:`~tracker_raft.errors.BadRequest`: an argument is out of range; nothing was sent.
* :class:`~tracker_raft.errors.Unavailable`: it did not happen. ``NoTracker`` when no tracker
  answered, ``NoLeader``, ``Busy`` or ``ShuttingDown`` when that was the last answer. The text
  names each tracker and what happened to it.
* :class:`~tracker_raft.errors.OutcomeUnknown` (writes only): an attempt may have been run, and its
  reply was lost for good. Only a read can tell.
* :class:`~tracker_raft.errors.LocalError`: the client is closed.

How a call fails over and runs once: ``requester.py``. This file knows names and records only.
"""

from __future__ import annotations

import random as random_module
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

from tracker_raft import commands
from tracker_raft.client import leadership
from tracker_raft.client.call import Reply
from tracker_raft.client.deadline import Clock, Deadline
from tracker_raft.client.keeping import KeepingCalls
from tracker_raft.client.membership import MemberCalls
from tracker_raft.client.reading import (
    address_of,
    files_of,
    lease_of,
    lookup_of,
    milliseconds,
    newest_first,
    read_reply,
    swarm_of,
)
from tracker_raft.client.requester import Requester
from tracker_raft.client.results import Page, Published, Swarm
from tracker_raft.client.watch import Watch
from tracker_raft.commands import (
    FileRecord,
    Level,
    NewFile,
    Operation,
)
from tracker_raft.config import Address, ClientConfig
from tracker_raft.errors import BadRequest, NotFound

FILES_PAGE = 500
"""Names per page of :meth:`TrackerClient.files`; at most 1 KiB each, so half a frame's limit."""

FileList = list[FileRecord]  # inside the class, ``list`` is a method


class TrackerClient(MemberCalls, KeepingCalls):
    """A client of a tracker cluster. Use it as a context manager, or call :meth:`close`.

    ``trackers``: one or more addresses, as ``"host:port"`` or :class:`Address`; one live one is
    enough, the others are learned from it. Nothing is connected before the first call.
    Any thread may use it. ``deadline_s``: seconds for one call with all its retries, None for the
    configured ones. What every method may raise besides what it names stands at the head of its
    module, :mod:`tracker_raft.client.tracker_client`.
    """

    def __init__(
        self,
        trackers: Sequence[str | Address],
        *,
        config: ClientConfig | None = None,
        random: random_module.Random | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if isinstance(trackers, str):
            raise BadRequest(f"trackers is the text {trackers!r}, expected a list of host:port")
        self.config = config or ClientConfig()
        self._clock = clock
        self._requester = Requester(
            [address_of(tracker) for tracker in trackers],
            self.config,
            random or random_module.Random(),
            clock,
        )

    # -- files ------------------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        *,
        content: bytes,
        size: int,
        manifest_bytes: int,
        piece_bytes: int,
        owner: str = "",
        group: str = "",
        replace: bool = False,
        deadline_s: float | None = None,
    ) -> Published:
        """Bind ``name`` to ``content``; doing it again is no error.

        ``size`` is the bytes of all files together. Raises :class:`Conflict` when the name is
        bound to other content and ``replace`` is not set, :class:`LimitReached` when the tracker
        is full.
        """
        operation = commands.Publish(
            name, content, size, manifest_bytes, piece_bytes, owner, group, replace
        )
        reply = self.call(operation, deadline_s=deadline_s)

        def read(body: dict[str, Any]) -> Published:
            record = FileRecord.from_wire(body["file"])
            return Published(record, bool(body["created"]), (reply.index, reply.position))

        return read_reply(operation, reply, read)

    def publish_many(
        self, files: Sequence[NewFile], *, deadline_s: float | None = None
    ) -> tuple[Published, ...]:
        """Publish up to 1,000 files as one operation: all of them, or none.

        Each name may stand there once. Raises what :meth:`publish` does, for the first file that
        cannot be published, with its place in ``files``; and
        :class:`~tracker_raft.errors.Unsupported` while a tracker of the cluster runs a release
        before 0.2.0. Of a file that was bound to its content already ``created`` is False, and
        owner and group are shown as asked for.
        """
        operation = commands.PublishMany.of(files)
        reply = self.call(operation, deadline_s=deadline_s)

        def read(body: dict[str, Any]) -> tuple[Published, ...]:
            unchanged = frozenset(body["unchanged"])
            made = zip(operation.files(), body["versions"], strict=True)
            return tuple(
                Published(
                    FileRecord(file.name, int(version), *file[1:7]),
                    at not in unchanged,
                    (reply.index, reply.position + at),
                )
                for at, (file, version) in enumerate(made)
            )

        return read_reply(operation, reply, read)

    def lookup(
        self,
        name_or_content: str | bytes,
        *,
        level: Level = Level.LINEARIZABLE,
        deadline_s: float | None = None,
    ) -> FileRecord:
        """One file by name (``a``, or ``a@v3`` for a version, ``a@stable`` for a tag), or by
        content id: 32 bytes or 64 hexadecimal digits.

        Of several names with that content the first in name order, of several versions the
        newest. Raises :class:`NotFound`.
        """
        operation = lookup_of(name_or_content)
        reply = self.call(operation, level=level, deadline_s=deadline_s)
        files = read_reply(operation, reply, files_of)
        if not files:
            raise NotFound(f"no file {name_or_content!r}")
        return newest_first(files)[0]

    def lookup_all(
        self,
        content: bytes,
        *,
        level: Level = Level.LINEARIZABLE,
        deadline_s: float | None = None,
    ) -> FileList:
        """Every name and version bound to ``content``, in name order, newest version first.

        Raises :class:`NotFound` when there is none.
        """
        operation = commands.Lookup(content=content)
        reply = self.call(operation, level=level, deadline_s=deadline_s)
        return newest_first(read_reply(operation, reply, files_of))

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        limit: int = 100,
        level: Level = Level.LINEARIZABLE,
        deadline_s: float | None = None,
    ) -> Page:
        """Names starting with ``prefix``, in byte order, the newest version of each.

        ``limit``: 1 to 1000. Page on with ``after`` = the last name; :meth:`files` does that.
        """
        operation = commands.List(prefix, after, limit)
        reply = self.call(operation, level=level, deadline_s=deadline_s)
        return read_reply(
            operation, reply, lambda body: Page(files_of(body), bool(body["more"]), reply.index)
        )

    def files(self, prefix: str = "", *, level: Level = Level.LINEARIZABLE) -> Iterator[FileRecord]:
        """All files whose names start with ``prefix``, page by page, one call per page.

        Each page is of its own moment: a file published meanwhile may or may not be among them;
        one that stands all the while is there exactly once.
        """
        after = ""
        while True:
            page = self.list(prefix, after=after, limit=FILES_PAGE, level=level)
            yield from page.files
            if not page.more or not page.files:
                return
            after = page.files[-1].name

    def remove(self, name: str, *, deadline_s: float | None = None) -> tuple[FileRecord, ...]:
        """Remove a name with all its versions, or one version (``a@v3``); what was removed,
        oldest first. Raises :class:`NotFound`."""
        operation = commands.Remove(name)
        reply = self.call(operation, deadline_s=deadline_s)
        return read_reply(operation, reply, lambda body: files_of(body, "removed"))

    def watch(
        self,
        prefix: str = "",
        *,
        from_index: int | None = None,
        from_position: int = 0,
        idle_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Watch:
        """The changes of names that start with ``prefix``, in the order of the log, as they come.

        ``from_index``, ``from_position``: the place of the first change wanted. None: what changes
        from now on. After a listing: its ``index`` + 1; to go on with a watch: its ``place``.
        ``idle_s``: end after so long without a change; None: never. ``deadline_s``: how long it
        may go without an answer from any tracker. More: :class:`~tracker_raft.client.watch.Watch`,
        which is to be closed, or used as a context manager; closing this client closes it too.
        """
        if from_index is None:
            if from_position:
                raise BadRequest(f"from_position is {from_position} without a from_index")
            from_index = self.list(prefix, limit=1, deadline_s=deadline_s).index + 1
        return Watch(
            self._requester.sibling(),
            prefix,
            (from_index, from_position),
            config=self.config,
            idle_s=idle_s,
            deadline_s=self.config.deadline_s if deadline_s is None else deadline_s,
            clock=self._clock,
        )

    # -- swarm ------------------------------------------------------------------------------------

    def join(
        self,
        peer: str,
        address: str | Address,
        content: bytes,
        *,
        complete: bool = False,
        zone: str = "",
        lease_s: float = 60.0,
        deadline_s: float | None = None,
    ) -> float:
        """Say that ``peer`` serves ``content`` at ``address``; the seconds its lease now has.

        One lease holds all contents of a peer: :meth:`renew` it well within that time. Raises
        :class:`LimitReached` when the swarm or the lease is full.
        """
        operation = commands.Join(
            peer, str(address), content, complete, zone, milliseconds("lease_s", lease_s)
        )
        return read_reply(operation, self.call(operation, deadline_s=deadline_s), lease_of)

    def complete(self, peer: str, content: bytes, *, deadline_s: float | None = None) -> None:
        """Say that ``peer`` now has all of ``content``. Raises :class:`NotFound`: join first."""
        self.call(commands.Complete(peer, content), deadline_s=deadline_s)

    def leave(self, peer: str, content: bytes = b"", *, deadline_s: float | None = None) -> int:
        """Take ``peer`` out of the swarm of ``content``, or out of all; how many it left."""
        operation = commands.Leave(peer, content)
        reply = self.call(operation, deadline_s=deadline_s)
        return read_reply(operation, reply, lambda body: int(body["left"]))

    def renew(self, peer: str, *, deadline_s: float | None = None) -> float:
        """Keep the lease of ``peer``; the seconds it now has.

        Raises :class:`NotFound`: there is no lease (any more), join again.
        """
        operation = commands.Renew(peer)
        return read_reply(operation, self.call(operation, deadline_s=deadline_s), lease_of)

    def peers(
        self,
        content: bytes,
        *,
        limit: int = 50,
        skip: int = 0,
        level: Level = Level.LOCAL,
        deadline_s: float | None = None,
    ) -> Swarm:
        """Who serves ``content``: complete peers first. An unknown content has none.

        ``limit``: 1 to 200. ``skip`` rotates the window: callers with different numbers meet
        different peers.
        """
        operation = commands.Peers(content, limit, skip)
        reply = self.call(operation, level=level, deadline_s=deadline_s)
        return read_reply(operation, reply, swarm_of)

    # -- the cluster ------------------------------------------------------------------------------

    def status(
        self, tracker: str | Address | None = None, *, deadline_s: float | None = None
    ) -> dict[str, Any]:
        """What a tracker is doing (fields: ``docs/protocol.md``).

        ``tracker`` given: exactly that one is asked, once, and :class:`NoTracker` says why it did
        not answer. Else the one in use, or the next live one.
        """
        operation = commands.Status()
        if tracker is None:
            return self.call(operation, deadline_s=deadline_s).body
        return self._requester.ask(address_of(tracker), operation, self._deadline(deadline_s)).body

    def transfer_leadership(self, to: str | None = None, *, deadline_s: float | None = None) -> str:
        """Let tracker ``to`` lead, None: whoever is most up to date; the id of the new leader.

        Raises :class:`BadRequest` for a node that is no other member, :class:`NoLeader` when
        nobody leads, :class:`Unavailable` when it did not work: then the old one leads on.
        """
        return leadership.transfer(self._requester, to, self._deadline(deadline_s))

    def call(
        self,
        operation: Operation,
        *,
        level: Level | None = None,
        deadline_s: float | None = None,
    ) -> Reply:
        """Carry any operation out. ``level`` is for reads (None: linearizable)."""
        return self._requester.call(operation, self._deadline(deadline_s), level)

    @property
    def endpoint(self) -> Address | None:
        """The tracker in use; None before the first answer and while looking for another."""
        return self._requester.rotation.in_use

    @property
    def endpoints(self) -> tuple[Address, ...]:
        """All trackers known: those given and those learned."""
        return self._requester.rotation.addresses

    @property
    def seen(self) -> int:
        """The highest log index a reply showed; reads at level ``session`` are not older."""
        return self._requester.seen

    def close(self) -> None:
        """Close the request session as well as half a second allows, and all connections.

        Calls of other threads end: OutcomeUnknown for a write that was sent, else LocalError.
        Idempotent.
        """
        self._requester.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TrackerClient endpoint={self.endpoint} of {len(self.endpoints)} seen={self.seen}>"

    def _deadline(self, deadline_s: float | None) -> Deadline:
        seconds = self.config.deadline_s if deadline_s is None else deadline_s
        return Deadline(seconds, self._clock)
