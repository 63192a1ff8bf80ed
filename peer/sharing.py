"""From what was hashed to what is served and published: one content, or each file of a directory.

Served first, so that whoever reads the name finds somebody; what cannot be published is not served.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from peer.manifest import Kind, Manifest, piece_bytes_for
from peer.scan import Scanned, scan
from peer.serving import Serving, Withdrawn
from peer.shared import SharedFiles
from peer.trackers import Registry
from tracker_raft.commands import BATCH_FILES_MAX, FileRecord, NewFile, check_name
from tracker_raft.config import Address
from tracker_raft.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Shared:
    """A content that is served and published."""

    record: FileRecord
    path: Path
    address: Address
    """Where other peers are told to fetch it."""

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def content(self) -> str:
        """The content id as 64 hexadecimal digits."""
        return self.record.content.hex()


def publish_one(
    trackers: Registry,
    serving: Serving,
    name: str,
    scanned: Scanned,
    *,
    replace: bool,
    on_withdrawn: Withdrawn | None,
) -> FileRecord:
    """Serve and publish one content. After an error neither is so, but for an unknown outcome."""
    content = serving.offer(scanned, on_withdrawn)
    try:
        published = trackers.publish(
            name,
            content=content.id,
            size=content.manifest.size,
            manifest_bytes=len(content.encoded),
            piece_bytes=content.manifest.piece_bytes,
            replace=replace,
        )
    except BaseException:
        serving.withdraw(content.id)
        raise
    return published.file


def publish_each(
    trackers: Registry,
    serving: Serving,
    prefix: str,
    tree: Scanned,
    *,
    replace: bool,
    on_withdrawn: Withdrawn | None,
) -> list[FileRecord]:
    """The same with each file of a directory, by one operation: all are published, or none."""
    named, offered = _named(prefix, tree), list[SharedFiles]()
    try:
        for _, scanned in named:
            offered.append(serving.offer(scanned, on_withdrawn))
        files = [
            NewFile(
                name,
                content.id,
                content.manifest.size,
                len(content.encoded),
                content.manifest.piece_bytes,
                replace=replace,
            )
            for (name, _), content in zip(named, offered, strict=True)
        ]
        return [published.file for published in trackers.publish_many(files)]
    except BaseException:
        for content in offered:
            serving.withdraw(content.id)
        raise


def _named(prefix: str, tree: Scanned) -> list[tuple[str, Scanned]]:
    """Each file of a directory under ``prefix`` and its path inside.

    Raises :class:`BadRequest` when what is there has no content of its own, cannot be a name, or
    is more than one operation publishes.
    """
    manifest = tree.manifest
    if manifest.kind is not Kind.TREE:
        raise BadRequest("one file has no files in it; nothing was shared")
    if manifest.links:
        raise BadRequest(
            f"{manifest.links[0].path} is a link, which has no content of its own; nothing was "
            f"shared. Use --follow-links to share what links point to"
        )
    if not 1 <= len(manifest.files) <= BATCH_FILES_MAX:
        raise BadRequest(
            f"{len(manifest.files)} files, expected 1 to {BATCH_FILES_MAX}; nothing was shared"
        )
    return [(check_name(prefix + path), alone) for path, alone in _alone(tree)]


def _alone(tree: Scanned) -> Iterator[tuple[str, Scanned]]:
    """Each file as the content that it makes when it is shared by itself."""
    piece_bytes = tree.manifest.piece_bytes
    for entry, source in zip(tree.manifest.files, tree.sources, strict=True):
        if piece_bytes_for(entry.size) != piece_bytes:  # a larger one beside it chose for both
            yield entry.path, scan(source.path)
        else:
            files = (replace(entry, path=""),)
            yield entry.path, Scanned(Manifest(Kind.FILE, piece_bytes, files, (), ()), (source,))
