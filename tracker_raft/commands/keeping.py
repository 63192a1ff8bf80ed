"""Operations on what is kept of names: moving tags. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tracker_raft.commands.fields import VERSION_MAX, check_int, check_name, check_tag
from tracker_raft.commands.operation import Operation


@dataclass(frozen=True, slots=True)
class Tag(Operation):
    """Let ``name@tag`` mean ``version`` of ``name`` from here on, whatever it meant before.

    Reply: ``{"file": FileRecord, "before": int, "changed": bool}``: the version that it meant
    before, 0 if there was no such tag. ``not_found`` when the version is not kept, ``conflict``
    when the tag is not at ``expected``.
    """

    op: ClassVar[str] = "tag"
    name: str
    tag: str
    version: int
    expected: int | None = None
    """The version that the tag must mean now, 0: there must be no such tag. None: whatever."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_tag(self.tag)
        check_int("version", self.version, 1, VERSION_MAX)
        if self.expected is not None:
            check_int("expected", self.expected, 0, VERSION_MAX)


@dataclass(frozen=True, slots=True)
class Untag(Operation):
    """Take a tag away; the version that it meant stays.

    Reply: ``{"file": FileRecord}``, the version that it meant. ``not_found`` when there is no such
    tag, ``conflict`` when it is not at ``expected``.
    """

    op: ClassVar[str] = "untag"
    name: str
    tag: str
    expected: int | None = None
    """The version that the tag must mean now. None: whatever."""

    def __post_init__(self) -> None:
        check_name(self.name)
        check_tag(self.tag)
        if self.expected is not None:
            check_int("expected", self.expected, 1, VERSION_MAX)
