"""Do all replicas have the same state? Compared all the time by state hash. Pure.

Every replica notes its hash at every :data:`CHECK_EVERY`-th entry and tells the others. A replica
whose hash differs from one that a majority of the members agrees on is the odd one: it must stop
before it answers anybody else. Where no majority agrees nobody can tell who is right, and nobody
stops by itself; it is reported.
"""

from __future__ import annotations

from collections import Counter

CHECK_EVERY = 64
CHECKS_KEPT = 32


class Agreement:
    """What the members said of the same entries, the newest :data:`CHECKS_KEPT` of them."""

    def __init__(self, node: str, members: int) -> None:
        self._node = node
        self._members = members
        self._voters: frozenset[str] | None = None
        """Whose word counts; None: everybody's."""
        self._checks: dict[int, dict[str, str]] = {}
        self._told = 0

    def members_are(self, voters: frozenset[str]) -> None:
        """These decide from now on, this node among them or not."""
        self._members, self._voters = max(1, len(voters)), voters

    def applied(self, index: int, state_hash: str) -> str | None:
        """This replica has that hash at ``index``. Returns why it must stop, or None."""
        return self.heard(self._node, index, state_hash)

    def heard(self, node: str, index: int, state_hash: str) -> str | None:
        """``node`` has that hash at ``index``. Returns why this replica must stop, or None."""
        said = self._checks.setdefault(index, {})
        said[node] = state_hash
        while len(self._checks) > CHECKS_KEPT:
            del self._checks[min(self._checks)]
        own = said.get(self._node)
        if own is None:
            return None
        counted = [h for n, h in said.items() if self._voters is None or n in self._voters]
        if not counted:
            return None
        common, votes = Counter(counted).most_common(1)[0]
        if votes > self._members / 2 and common != own:
            return (
                f"state hash {own[:16]} at entry {index}, but {votes} of {self._members} members "
                f"have {common[:16]}: this replica has diverged and must be rebuilt from a snapshot"
            )
        return None

    def dispute(self, index: int) -> str | None:
        """Who says what of ``index``, told once, when they differ; None otherwise."""
        said = self._checks.get(index, {})
        if index <= self._told or len(set(said.values())) < 2:
            return None
        self._told = index
        words = ", ".join(f"{node} {found[:16]}" for node, found in sorted(said.items()))
        return f"members differ in their state hash at entry {index}: {words}"
