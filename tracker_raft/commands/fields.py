"""What the fields of operations may be: limits, and a check for each kind of value. Pure.

Every check returns the value it was given, or raises :class:`~tracker_raft.errors.BadRequest` that
says what was found and what was expected.
"""

from __future__ import annotations

import re

from tracker_raft.errors import BadRequest

NAME_BYTES_MAX = 512
LABEL_BYTES_MAX = 128
CONTENT_ID_BYTES = 32
INTEGER_MAX = 2**63 - 1
PIECE_BYTES_MIN = 16 * 1024
PIECE_BYTES_MAX = 16 * 1024 * 1024
PIECE_BYTES = frozenset(
    1 << bits for bits in range(PIECE_BYTES_MIN.bit_length() - 1, PIECE_BYTES_MAX.bit_length())
)
"""All that a piece may have: the powers of two."""

VERSION_MAX = 999_999_999
"""Of a name, as it can be asked for."""

_VERSIONED = re.compile(r"(?P<name>[^@]+)@v(?P<version>[1-9][0-9]{0,8})")
_TAG = re.compile(r"(?!v[0-9]+\Z)[a-z][a-z0-9._-]{0,62}")
_CONTENT_HEX = re.compile(r"[0-9a-f]{64}")
CONTENT_HEX_CHARS = 64
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
"""Most names: such a one, if it is shorter than a content id, needs no closer look."""
# Written out, not str.isprintable(): that asks the Unicode tables of the running Python, and two
# trackers on different versions would decide one operation differently. Control characters, line
# and paragraph separators, and the marks that turn the direction of text on a terminal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def check_text(what: str, value: object, bytes_max: int, *, empty: bool = True) -> str:
    """A string without control characters, at most ``bytes_max`` bytes of UTF-8."""
    if type(value) is str and value.isascii() and value.isprintable():  # of ASCII all agree on it
        if len(value) <= bytes_max and (empty or value):
            return value
    elif type(value) is not str:
        raise BadRequest(f"{what} is {type(value).__name__}, expected text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"{what} {value!a} is not valid Unicode") from None
    if size > bytes_max or (not empty and not size):
        least = 0 if empty else 1
        raise BadRequest(f"{what} has {size} bytes, expected {least} to {bytes_max}")
    if _CONTROL.search(value):
        raise BadRequest(f"{what} {value!a} has control characters")
    return value


def check_int(what: str, value: object, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        shown = value if type(value) is int else type(value).__name__
        raise BadRequest(f"{what} is {shown}, expected a whole number from {least} to {most}")
    return value


def check_bool(what: str, value: object) -> bool:
    if type(value) is not bool:
        raise BadRequest(f"{what} is {type(value).__name__}, expected true or false")
    return value


def check_content(what: str, value: object) -> bytes:
    if type(value) is not bytes or len(value) != CONTENT_ID_BYTES:
        shown = f"{len(value)} bytes" if type(value) is bytes else type(value).__name__
        raise BadRequest(f"{what} is {shown}, expected the {CONTENT_ID_BYTES} bytes of a SHA-256")
    return value


def check_name(value: object) -> str:
    """A name: 1 to 512 bytes, segments divided by ``/``, none empty, ``.`` or ``..``; no ``@``.

    ``@`` divides a name from its version, and 64 hexadecimal digits would be taken for a content
    id, so neither can be a name.
    """
    if type(value) is str and len(value) < CONTENT_HEX_CHARS and PLAIN_NAME.fullmatch(value):
        return value
    name = check_text("name", value, NAME_BYTES_MAX, empty=False)
    if "@" in name:
        raise BadRequest(f"name {name!r} has an '@', which divides a name from its version")
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        raise BadRequest(f"name {name!r} has an empty, '.' or '..' segment")
    if _CONTENT_HEX.fullmatch(name):
        raise BadRequest(f"name {name!r} looks like a content id")
    return name


def split_version(text: object) -> tuple[str, int | None]:
    """``a@v3`` is ("a", 3), ``a`` is ("a", None): the newest. Raises :class:`BadRequest`."""
    if type(text) is str and (match := _VERSIONED.fullmatch(text)):
        return check_name(match["name"]), int(match["version"])
    return check_name(text), None


def check_tag(value: object) -> str:
    """A tag: a lower-case word of 1 to 63 characters, no version such as ``v3``."""
    if type(value) is str and _TAG.fullmatch(value):
        return value
    shown = repr(value) if type(value) is str else type(value).__name__
    raise BadRequest(
        f"tag is {shown}, expected 1 to 63 of a-z, 0-9, '.', '_' and '-' that begin with a letter "
        f"and are no version such as v3"
    )


def split_reference(text: object) -> tuple[str, int | str | None]:
    """``a@stable`` is ("a", "stable"), else as :func:`split_version`. Raises
    :class:`BadRequest`."""
    if type(text) is str and "@" in text and not _VERSIONED.fullmatch(text):
        name, _, tag = text.partition("@")
        return check_name(name), check_tag(tag)
    return split_version(text)


def parse_content_hex(text: str) -> bytes | None:
    """The content id written as 64 hexadecimal digits, or None if ``text`` is not one."""
    return bytes.fromhex(text) if _CONTENT_HEX.fullmatch(text) else None


def check_peer(value: object) -> str:
    return check_text("peer", value, LABEL_BYTES_MAX, empty=False)
