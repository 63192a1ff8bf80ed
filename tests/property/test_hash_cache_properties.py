"""If a test here fails, there is an order of changes after which stale hashes are published."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peer import scan
from peer.hash_cache import YOUNG_NS, HashCache

NAMES = ("a", "b", "c")
SIZES = (0, 1, 16384, 20_000)

_name = st.sampled_from(NAMES)
_step = st.one_of(
    st.tuples(st.just("write"), _name, st.sampled_from(SIZES), st.integers(0, 3)),
    st.tuples(st.just("overwrite"), _name, st.integers(0, 3)),
    st.tuples(st.just("overwrite and put the time back"), _name, st.integers(0, 3)),
    st.tuples(st.just("replace"), _name, _name),
    st.tuples(st.just("link"), _name, _name),
    st.tuples(st.just("remove"), _name),
    st.tuples(st.just("chmod"), _name, st.sampled_from((0o644, 0o755))),
    st.tuples(st.just("share"), st.sampled_from((16384, 32768)), st.booleans()),
)


def change(top: Path, step: tuple[object, ...]) -> None:
    """Do what a user or a tool does to one file; nothing when it is not there."""
    path = top / str(step[1])
    match step:
        case ("write", _, int(size), int(byte)):
            path.write_bytes(bytes([byte]) * size)
        case (str(what), _, int(byte)) if what.startswith("overwrite") and path.exists():
            before = path.stat()
            with path.open("r+b") as file:
                file.write(bytes([byte]) * (before.st_size // 2))
            if what != "overwrite":
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        case ("replace", _, str(other)) if (top / other).exists():
            copy = top / "copy"
            shutil.copy2(top / other, copy)
            copy.replace(path)
        case ("link", _, str(other)) if (top / other).exists() and other != path.name:
            path.unlink(missing_ok=True)
            path.hardlink_to(top / other)
        case ("remove", _):
            path.unlink(missing_ok=True)
        case ("chmod", _, int(mode)) if path.exists():
            path.chmod(mode)


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_step, max_size=25))
def test_what_is_remembered_is_what_would_be_hashed(steps: list[tuple[object, ...]]) -> None:
    """Broken: a manifest from the cache differs from one that was made by reading everything.

    The wall clock of the cache is the file system's own and ``YOUNG_NS`` ahead of it, the worst
    it may be: a file counts as old as soon as its tick is over, and never before.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(scan, "CONTENT_BYTES_MIN", 0)
        top, tick = Path(folder) / "top", Path(folder) / "tick"
        top.mkdir()

        def now_ns() -> int:
            tick.touch()
            return tick.stat().st_ctime_ns + YOUNG_NS

        cache = HashCache(Path(folder) / "cache", now_ns=now_ns)
        for step in (*steps, ("share", 16384, False), ("share", 16384, False)):
            if step[0] != "share":
                change(top, step)
                continue
            _, piece_bytes, rehash = step
            assert isinstance(piece_bytes, int)
            found = scan.scan(top, piece_bytes=piece_bytes, cache=cache, rehash=bool(rehash))
            assert found == scan.scan(top, piece_bytes=piece_bytes)
