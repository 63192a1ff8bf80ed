"""What makes a new, renamed or deleted name outlast a power loss."""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Have the names in ``directory`` on disk before it returns; what is in the files is theirs to
    sync. Raises :class:`OSError`."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
