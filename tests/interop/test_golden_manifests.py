"""The manifest format is final. If a test here fails, every content id ever published is void.

Do not mend a failure by changing an expected value.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from peer.manifest import content_id, decode
from peer.scan import scan

PIECE_BYTES = 512 * 1024


def check(path: Path, expected_hex: str, expected_id: str) -> None:
    encoded = scan(path).manifest.encode()
    assert encoded.hex() == expected_hex
    assert content_id(encoded).hex() == expected_id
    assert decode(encoded).encode() == encoded


HEAD = "86a6666f726d617401a46b696e64"
FILE = HEAD + "a466696c65ab70696563655f6279746573ce00080000a566696c6573"
TREE = HEAD + "a474726565ab70696563655f6279746573ce00080000a566696c6573"
EMPTY_TAIL = "ab6469726563746f7269657390a56c696e6b7390"


def test_an_empty_file(tmp_path: Path) -> None:
    """Broken if the id of the empty file changed."""
    path = tmp_path / "any name"
    path.touch()
    check(
        path,
        FILE + "9194a000c2c400" + EMPTY_TAIL,
        "cd484fd410a067c78b5de688f0b4410180eead8f745fc581a7d702880ae9aa01",
    )


def test_a_small_executable(tmp_path: Path) -> None:
    """Broken if the id of a file changed, or depends on its name."""
    for name in ("a", "b"):
        path = tmp_path / name
        path.write_bytes(b"hello\n")
        path.chmod(0o755)
        check(
            path,
            FILE + "9194a006c3c420" + hashlib.sha256(b"hello\n").hexdigest() + EMPTY_TAIL,
            "c36fe58d3efd118277ac62190cbdd3ab917af27911ee1ae994be47a33d4ce7ba",
        )


def test_a_file_of_several_pieces(tmp_path: Path) -> None:
    """Broken if files are cut into other pieces."""
    data = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"!"
    path = tmp_path / "f"
    path.write_bytes(data)
    hashes = "".join(
        hashlib.sha256(data[start : start + PIECE_BYTES]).hexdigest()
        for start in range(0, len(data), PIECE_BYTES)
    )
    check(
        path,
        FILE + "9194a0ce00100001c2c460" + hashes + EMPTY_TAIL,
        "3f8787fcda32e3588bb0ba2376e6ef84284f32b8e446163ddcfc3125d56ab1e1",
    )


def test_a_tree(tmp_path: Path) -> None:
    """Broken if order, empty directories, links or names are written in another way."""
    (tmp_path / "sub/empty").mkdir(parents=True)
    (tmp_path / "sub.txt").write_bytes(b"1")  # "." sorts before "/"
    (tmp_path / "sub/größe").write_bytes(b"")
    (tmp_path / "sub/link").symlink_to("../sub.txt")
    check(
        tmp_path,
        TREE
        + "92"
        + "94a77375622e74787401c2c420"
        + hashlib.sha256(b"1").hexdigest()
        + "94ab7375622f6772c3b6c39f65"
        + "00c2c400"
        + "ab6469726563746f7269657391a97375622f656d707479"
        + "a56c696e6b739192a87375622f6c696e6baa2e2e2f7375622e747874",
        "6a582b0fa8d40251fcf4d8ad86313ca02efc063be38f17566067c6f971c4f933",
    )


def test_an_empty_tree(tmp_path: Path) -> None:
    """Broken if the id of the empty directory changed."""
    check(
        tmp_path,
        TREE + "90" + EMPTY_TAIL,
        "12e73ab8b00d0b2d75155de629c0dddb9413c72306b6c725118172a744afacaa",
    )
