"""What an operator has set for the whole cluster: whole numbers by name. Pure; replicated state.

What is not set is not there: a cluster in which nothing was set has the state, the hash and the
snapshot of one that knows no settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from tracker_raft.commands import SetRetention
from tracker_raft.machine.digest import Digest
from tracker_raft.machine.snapshot_cursor import Row, Table

KEYS: Final = ("versions_kept", "unsourced_after_ms", "remove_unsourced_after_ms")


class Settings:
    """Changed by one operation, read by whoever keeps to them."""

    def __init__(self, digest: Digest) -> None:
        self._digest = digest
        self._values: dict[str, int] = {}

    @property
    def versions_kept(self) -> int:
        """Of a name, versions without a tag; 0: as many as fit."""
        return self._values.get("versions_kept", 0)

    @property
    def unsourced_after_ms(self) -> int:
        """Of logical time without a source, until that is shown; 0: never."""
        return self._values.get("unsourced_after_ms", 0)

    @property
    def remove_unsourced_after_ms(self) -> int:
        """Until a version is removed; 0: never."""
        return self._values.get("remove_unsourced_after_ms", 0)

    def change(self, wanted: SetRetention) -> dict[str, Any]:
        """What is set then, as :meth:`shown` tells it."""
        for key in KEYS:
            value = getattr(wanted, key)
            if value is not None:
                self._set(key, value)
        return self.shown()

    def _set(self, key: str, value: int) -> None:
        before = self._values.get(key, 0)
        if before == value:
            return
        if before:
            self._digest.remove("setting", key, before)
            del self._values[key]
        if value:
            self._values[key] = value
            self._digest.add("setting", key, value)

    def shown(self) -> dict[str, Any]:
        """All of them, 0 for what is not set."""
        return {key: self._values.get(key, 0) for key in KEYS}

    # -- snapshot ---------------------------------------------------------------------------------

    def tables(self) -> tuple[Table, ...]:
        """``settings``: (name, number) in the order of names."""
        return (Table("settings", "setting", lambda item: item[1], self._rows_after),)

    def _rows_after(self, key: str | None) -> Iterator[tuple[str, Row]]:
        for name in sorted(self._values):
            if key is None or name > key:
                yield name, (name, self._values[name])

    def load(self, rows: Iterable[tuple[str, int]]) -> None:
        """Set what rows of a snapshot say."""
        for key, value in rows:
            self._set(key, value)
