"""What all operations are: a word, fields that are checked when it is made, and a map. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Self

from tracker_raft.errors import BadRequest


class Level(StrEnum):
    """How fresh a read is (D6)."""

    LINEARIZABLE = "linearizable"
    """Reflects every operation acknowledged before the read was asked; probes a majority."""
    SESSION = "session"
    """At least as new as ``seen``, the newest position this client was shown."""
    LOCAL = "local"
    """What this tracker has applied, at once."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Base of all requests. ``op`` is its word on the wire."""

    op: ClassVar[str] = ""

    def to_wire(self) -> dict[str, Any]:
        """``{"op": word, field: value...}``; fields at their default are left out."""
        message: dict[str, Any] = {"op": self.op}
        for name, default in _fields(type(self)):
            value = getattr(self, name)
            if value != default:
                message[name] = value
        return message

    @classmethod
    def from_wire(cls, message: Mapping[str, Any]) -> Self:
        """Read the fields of this operation. Raises :class:`BadRequest`."""
        values = []
        for name, default in _fields(cls):
            value = message.get(name, default)
            if value is dataclasses.MISSING:
                raise BadRequest(f"{cls.op} lacks {name!r}")
            values.append(value)
        return cls(*values)


_FIELDS: dict[type[Any], tuple[tuple[str, Any], ...]] = {}


def _fields(cls: type[Any]) -> tuple[tuple[str, Any], ...]:
    """(name, default) of each: asked for every operation, and the library works it out anew."""
    found = _FIELDS.get(cls)
    if found is None:
        found = tuple((spec.name, spec.default) for spec in dataclasses.fields(cls))
        _FIELDS[cls] = found
    return found
