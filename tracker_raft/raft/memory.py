"""Which members this node has met, so that one that lost its memory is recognised (amnesia).

A node's directory is given a random *birth* when it is made. Members tell it in their hello, and
each remembers what the others said, on disk, from the first time on. A member that comes back
with another birth has lost its log and its vote: it could vote twice in a term, or help elect a
leader that lacks what it once acknowledged. It is not linked, and told why; its place must be
taken by a new member. A directory restored to an older state keeps its birth and is not
recognised by this.
"""

from __future__ import annotations

from contextlib import suppress

import msgpack

from tracker_raft.errors import BadRequest, Damaged
from tracker_raft.raft.storage import Storage

NAME = "members"
NAME_NEW = "members.new"


class KnownMembers:
    """The births of the other members, as far as they were ever met."""

    def __init__(self, storage: Storage) -> None:
        """Raises :class:`Damaged` when the file is not what was written there."""
        self._storage = storage
        self._births: dict[str, str] = {}
        if NAME in storage.names():
            try:
                found = msgpack.unpackb(storage.read(NAME))
                self._births = {str(node): str(birth) for node, birth in found.items()}
            except (ValueError, AttributeError, msgpack.UnpackException) as error:
                raise Damaged(f"{NAME}: cannot be read: {error}; nothing was changed") from error

    def check(self, node: str, birth: str) -> None:
        """Remember ``birth`` of ``node``, durably, if it was not met before.

        Raises :class:`BadRequest` when it was, with another one; ``OSError`` when it cannot be
        remembered.
        """
        known = self._births.get(node)
        if known is None:
            self._keep({**self._births, node: birth})
        elif known != birth:
            raise BadRequest(
                f"node {node!r} has lost its memory: its directory was made anew (birth {birth}, "
                f"known here with {known}). It must not vote; remove it and add a new member"
            )

    def _keep(self, births: dict[str, str]) -> None:
        with suppress(FileNotFoundError, KeyError):
            self._storage.delete(NAME_NEW)
        self._storage.write(NAME_NEW, 0, msgpack.packb(dict(sorted(births.items()))))
        self._storage.sync(NAME_NEW)
        self._storage.rename(NAME_NEW, NAME)
        self._storage.sync_names()
        self._births = births
