"""Operations on what is kept of names: moving tags, and how many versions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from tracker_raft.commands.fields import VERSION_MAX, check_int, check_name, check_tag
from tracker_raft.commands.operation import Operation
from tracker_raft.config import MachineLimits

VERSIONS_KEPT_MAX: Final = MachineLimits().versions_per_name_max


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


@dataclass(frozen=True, slots=True)
class SetRetention(Operation):
    """Set for the whole cluster what is kept of names. Reply: that of :class:`Retention`."""

    op: ClassVar[str] = "set_retention"
    versions_kept: int | None = None
    """Of each name the newest so many, applied when the next one is published; those with a tag
    stay besides. 0: as many as fit. None: as it is."""

    def __post_init__(self) -> None:
        if self.versions_kept is not None:
            check_int("versions_kept", self.versions_kept, 0, VERSIONS_KEPT_MAX)


@dataclass(frozen=True, slots=True)
class Retention(Operation):
    """What is set by :class:`SetRetention`. Reply: ``{"versions_kept": int}``, 0 for not set."""

    op: ClassVar[str] = "retention"
