"""Operations on what is kept of names: moving tags, how many versions, and for how long. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from tracker_raft.commands.fields import VERSION_MAX, check_int, check_name, check_tag
from tracker_raft.commands.operation import Operation
from tracker_raft.config import MachineLimits

VERSIONS_KEPT_MAX: Final = MachineLimits().versions_per_name_max
UNSOURCED_MIN_MS: Final = 1_000
UNSOURCED_MAX_MS: Final = 10 * 366 * 86_400_000


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
    unsourced_after_ms: int | None = None
    """Versions that nobody has served for so long are shown as such. 0: never. None: as it is."""
    remove_unsourced_after_ms: int | None = None
    """And those without a tag removed after so long. 0: never. None: as it is."""

    def __post_init__(self) -> None:
        if self.versions_kept is not None:
            check_int("versions_kept", self.versions_kept, 0, VERSIONS_KEPT_MAX)
        for what in ("unsourced_after_ms", "remove_unsourced_after_ms"):
            value = getattr(self, what)
            if value is not None and check_int(what, value, 0, UNSOURCED_MAX_MS):
                check_int(what, value, UNSOURCED_MIN_MS, UNSOURCED_MAX_MS)


@dataclass(frozen=True, slots=True)
class Retention(Operation):
    """What is set by :class:`SetRetention`. Reply: all of its fields, 0 for not set."""

    op: ClassVar[str] = "retention"
