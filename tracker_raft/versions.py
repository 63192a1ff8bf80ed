"""The cluster version: which operations a leader may put into the log, and who understands them.

Rules
-----
* The cluster version is a number in the replicated state; 1 is where every log begins. It only
  rises, by an operation in the log, and the leader proposes that one only while it is linked to
  every member and the software of each supports the new number.
* A leader proposes only what :data:`SINCE` allows at the version there is. So while a cluster is
  upgraded tracker by tracker, nothing is logged that an older tracker could not apply, and each
  may be taken back to the release before as long as the version has not risen.
* What is above :data:`NEWEST` stops a node: to pass over it would be to diverge. A snapshot says
  so in its head, the log by the operation that raised the version.

**A new operation, entry or field of the state is gated here**: give its word the next number in
:data:`SINCE`, raise :data:`NEWEST` and :data:`SOFTWARE_SINCE` once a release, and ask
:func:`refusal` where it would be proposed.
"""

from __future__ import annotations

from typing import Final

from tracker_raft.errors import Unsupported

SOFTWARE: Final = "0.2.0"
"""The release this is."""
OLDEST: Final = 1
NEWEST: Final = 2
"""This software understands logs and snapshots of these cluster versions, both included."""
SOFTWARE_SINCE: Final = {1: "0.1.0", 2: "0.2.0"}
"""The first release that supports each version."""

RAISE_VERSION: Final = "raise_version"
"""Internal log operation ``{"op": "raise_version", "version": n}``: from here on the cluster is at
version n. Older software stops there."""

MEMBERS: Final = "members"
"""An entry of members (:mod:`tracker_raft.raft.configuration`), which is no operation."""

SINCE: Final[dict[str, int]] = {
    MEMBERS: 2,
    "publish_many": 2,
    "tag": 2,
    "untag": 2,
    "set_retention": 2,
}
"""By word of the log, the cluster version from which on it may be proposed; 1 if not named."""


def needed(word: str) -> int:
    """The cluster version at which ``word`` may be proposed."""
    return SINCE.get(word, OLDEST)


def refusal(word: str, version: int) -> Unsupported | None:
    """Why ``word`` must not be proposed in a cluster at ``version``; None: it may be."""
    least = needed(word)
    if version >= least:
        return None
    return Unsupported(
        f"the cluster is at version {version}, {word!r} needs {least}; it rises when all trackers "
        f"run release {SOFTWARE_SINCE[least]} or later. Nothing was done"
    )


def beyond(version: int) -> str:
    """What a node says that stops because it is too old for a cluster at ``version``."""
    return (
        f"the cluster is at version {version}, this software ({SOFTWARE}) supports {OLDEST} to "
        f"{NEWEST}; start a newer release on this node"
    )
