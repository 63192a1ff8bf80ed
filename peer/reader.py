"""A content as a file object: what is read first is fetched first.

The download goes on in the background, so that reading on finds its bytes here. What is fetched
lies in a directory of its own until the file is closed.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from peer.store import Store
from tracker_raft.errors import LocalError, NotFound, P2PError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from peer.downloader import Download

BUFFER_BYTES = 64 * 1024
AHEAD_PIECES = 8
"""Asked for before all others when a read has to wait."""
LOOK_S = 0.01
"""How often a waiting read looks, where a new piece does not wake it."""

StartDownload = Callable[[Path], "Download"]


class ContentReader(io.RawIOBase):
    """One file of a content that is being fetched. Readable and seekable; one thread at a time.

    A read waits until the pieces it touches are here and verified, and raises what ended the
    download if they will not come. :meth:`close` stops the download and removes what it fetched.
    """

    def __init__(self, start: StartDownload, path: str, directory: Path) -> None:
        """``start`` makes the download to the destination it is given. ``path``: which file of a
        tree, ``""`` for a content that is a file. Raises what ends the download before its
        manifest is here, and :class:`NotFound` for a ``path`` that is none."""
        super().__init__()
        self._directory = directory
        self._ends = ExitStack()
        self._ends.callback(shutil.rmtree, directory, ignore_errors=True)
        self._error: BaseException | None = None
        self._ended = False
        self._position = 0
        with self._ends.pop_all() as ends:
            self._download = start(directory / "content")
            self._thread = threading.Thread(target=self._run, name="peer-open", daemon=True)
            self._thread.start()
            ends.callback(self._stop)
            store = self._wait_for_store()
            self._file, entry = next(
                (
                    (file, entry)
                    for file, entry in enumerate(store.manifest.files)
                    if entry.path == path
                ),
                (-1, None),
            )
            if entry is None:
                raise NotFound(f"no file {path!r} in it: {store.manifest}")
            self._store = store
            self.size = entry.size
            self._first = store.manifest.pieces.pieces_of(self._file).first
            self._ends = ends.pop_all()

    def on_close(self, end: Callable[[], object]) -> None:
        """Call ``end`` when the file is closed, after everything else."""
        after, self._ends = self._ends, ExitStack()
        self._ends.callback(end)
        self._ends.push(after)

    # -- the file ---------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check_open()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}.get(whence)
        if start is None:
            raise ValueError(f"whence is {whence}, expected 0, 1 or 2")
        if start + offset < 0:
            raise ValueError(f"position {start + offset} is before the start")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")
        piece_bytes = self._store.manifest.piece_bytes
        piece = self._position // piece_bytes
        # To the end of its piece: the next one may not be here yet.
        end = min((piece + 1) * piece_bytes, self.size)
        view = view[: max(end - self._position, 0)]
        if not view:
            return 0
        self._wait_for(self._first + piece)
        with self._store.open(self._file) as fd:
            count = os.preadv(fd, [view], self._position)
        if count == 0:
            raise LocalError(f"what was fetched into {self._directory} is gone")
        self._position += count
        return count

    def close(self) -> None:
        """Stop the download and remove what it fetched. Idempotent."""
        if not self.closed:
            super().close()
            self._ends.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("read of a closed file")

    # -- the download -----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._download.run()
        except P2PError as error:
            self._error = error
        except BaseException as error:
            # A defect: it goes to who reads, and to the log of the thread.
            self._error = error
            raise
        finally:
            with self._download.changed:
                self._ended = True
                self._download.changed.notify_all()

    def _stop(self) -> None:
        self._download.cancel()
        self._thread.join()

    def _wait_for_store(self) -> Store:
        changed = self._download.changed
        with changed:
            while (store := self._download.store) is None and not self._ended:
                changed.wait(LOOK_S)
        if store is None:
            raise self._error or LocalError("the download ended before it began")
        return store

    def _wait_for(self, piece: int) -> None:
        store, download = self._store, self._download
        if store.has(piece, 1):
            return
        left = self._first + -(-self.size // store.manifest.piece_bytes) - piece
        download.prefer(piece, min(AHEAD_PIECES, left))
        with download.changed:
            while not store.has(piece, 1):
                if self._ended:
                    raise self._error or LocalError("the download has ended")
                download.changed.wait(LOOK_S)

    def __repr__(self) -> str:
        return f"<ContentReader {self.size} bytes at {self._position}>"
