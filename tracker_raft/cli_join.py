"""What ``node --join`` asks before it starts: which cluster it is, and where its members are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tracker_raft.cluster.status import fetch_status
from tracker_raft.config import Address, Member
from tracker_raft.errors import BadRequest, LocalError, P2PError
from tracker_raft.terminal import error_text

PATIENCE_S = 10.0
"""Trackers that are started together with this one answer within that time."""
PAUSE_S = 0.1


def addresses_of(option: str) -> list[Address]:
    """Read ``HOST:PORT,...``. Raises :class:`BadRequest`, also when there is none."""
    addresses = [Address.parse(word) for word in option.replace(",", " ").split()]
    if not addresses:
        raise BadRequest(f"--join: no address in {option!r}, expected HOST:PORT,...")
    return addresses


def ask_cluster(trackers: Sequence[Address], data_dir: Path) -> tuple[str, tuple[Member, ...]]:
    """The name of the cluster and its members, from the first tracker that answers.

    When none does, from the directory if the node ran in it before; then the log knows the
    members. Raises :class:`LocalError` when neither helps.
    """
    until = time.monotonic() + PATIENCE_S
    known = None
    while True:
        said = []
        for address in trackers:
            try:
                return _ask(address)
            except (OSError, P2PError, KeyError, TypeError) as error:
                said.append(f"{address}: {error_text(error)}")
        if (known := known or _known(data_dir)) is not None:
            return known, ()
        if time.monotonic() >= until:
            raise LocalError(
                f"no tracker of the cluster to join answers ({'; '.join(said)}); nothing was "
                f"started"
            )
        time.sleep(PAUSE_S)


def _ask(address: Address) -> tuple[str, tuple[Member, ...]]:
    status = fetch_status(address)
    members = tuple(
        Member(str(row["node"]), Address.parse(str(row["raft"]))) for row in status["members"]
    )
    return str(status["cluster"]), members


def _known(data_dir: Path) -> str | None:
    """The cluster of a directory that was used before."""
    # Imported here: it brings the whole consensus side, which a join mostly does not need yet.
    from tracker_raft.raft.storage import Directory
    from tracker_raft.raft.verify import identity_of

    if data_dir.is_dir():
        storage = Directory(data_dir)
        try:
            identity = identity_of(storage)
        finally:
            storage.close()
        if identity is not None and identity.cluster:
            return identity.cluster
    return None
