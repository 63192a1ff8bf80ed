"""Any manifest, and any bytes offered as one.

If a test here fails, hostile bytes crash a peer, a content has two encodings, or a piece lies
somewhere else than its hash says.
"""

from __future__ import annotations

import hashlib
import os.path

from hypothesis import given
from hypothesis import strategies as st

from peer.manifest import FileEntry, Kind, Link, Manifest, check_target, decode, parents_of
from peer.pieces import PieceMap
from tracker_raft.errors import BadRequest

PIECE = 16 * 1024
names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
segments = names.filter(lambda name: name not in (".", "..") and len(name.encode()) <= 255)
paths = st.lists(segments, min_size=1, max_size=4).map("/".join)
targets = st.lists(st.sampled_from(["..", ".", "", "a", "b"]), min_size=1, max_size=8)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    chosen = draw(st.sets(paths, max_size=12))
    chosen -= parents_of(chosen)
    files, directories, links = [], [], []
    for path in sorted(chosen, key=str.encode):
        kind = draw(st.sampled_from(["file", "file", "directory", "link"]))
        if kind == "file":
            size = draw(st.integers(0, 4 * PIECE))
            hashes = hashlib.sha256(path.encode()).digest() * -(-size // PIECE)
            files.append(FileEntry(path, size, draw(st.booleans()), hashes))
        elif kind == "directory":
            directories.append(path)
        else:
            links.append(Link(path, draw(segments)))
    return Manifest(Kind.TREE, PIECE, tuple(files), tuple(directories), tuple(links))


@given(manifests())
def test_what_is_encoded_is_read_back(manifest: Manifest) -> None:
    """Broken if a tree that can be shared cannot be fetched."""
    assert decode(manifest.encode()) == manifest


@given(manifests(), st.data())
def test_changed_bytes_are_refused_or_mean_something_else(
    manifest: Manifest, data: st.DataObject
) -> None:
    """Broken if two encodings are read as the same content, or garbage as anything."""
    encoded = bytearray(manifest.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(encoded) - 1))
        encoded[place] = data.draw(st.integers(0, 255))
    if encoded == manifest.encode():
        return
    try:
        other = decode(encoded)
    except BadRequest:
        return
    assert other != manifest
    assert other.encode() == encoded


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    """Broken if some bytes end in anything but a clear refusal."""
    try:
        decode(data)
    except BadRequest:
        return
    raise AssertionError("garbage was read as a manifest")


@given(st.lists(st.sampled_from("abc"), max_size=3), targets)
def test_no_accepted_link_leads_out(directories: list[str], target_segments: list[str]) -> None:
    """Broken if a link passes the check and still leaves the tree."""
    path, target = "/".join([*directories, "l"]), "/".join(target_segments)
    try:
        check_target(path, target)
    except BadRequest:
        return
    resolved = os.path.normpath("/".join(["/top", *directories, target]))
    assert resolved == "/top" or resolved.startswith("/top/")
    assert not target.startswith("/")


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 16))
def test_pieces_cover_every_byte_once(sizes: list[int], piece_bytes: int) -> None:
    """Broken if a byte of a file belongs to no piece, or to two."""
    pieces = PieceMap(sizes, piece_bytes)
    seen = [bytearray(size) for size in sizes]
    spans = list(pieces.spans(0, pieces.count)) if pieces.count else []
    for number, span in enumerate(spans):
        assert span.piece == number
        assert span.file == pieces.file_of(number)
        assert span.offset == span.piece_of_file * piece_bytes
        assert 1 <= span.length <= piece_bytes
        for place in range(span.offset, span.offset + span.length):
            seen[span.file][place] += 1
        assert list(pieces.spans(number, 1)) == [span]
        rest = [later.length for later in spans[number:]]
        for count in range(1, min(len(rest), 9) + 1):
            size = sum(rest[:count])
            assert pieces.bytes_of(number, count) == size
            assert pieces.fitting(number, len(rest), size) == count
            assert pieces.fitting(number, len(rest), size - 1) == max(count - 1, 1)
    assert all(set(file) <= {1} for file in seen)
    assert sum(pieces.pieces_of(file).count for file in range(len(sizes))) == pieces.count
