"""Between the names of the seam, which are Linux's, and those of SMB, which are UTF-16 and may not hold all of them.

What Windows refuses travels in Unicode's private use area, as Services for Macintosh began it and as Linux's cifs
(`mapposix`) and Macs do: such files are the same for all of them. cifs has no answer for two kinds of names; ours:

- A byte that is not UTF-8 travels as U+F0<byte>, that is U+F080 to U+F0FF.
- A character that would be taken for one of those above travels as its UTF-8 bytes, each as U+F0<byte>.

So every name that Linux can have comes back as it was. A name on Windows may hold half of a surrogate pair: here that
half is the three bytes that it would have in UTF-8, and goes back as it came. The characters between those above, and
U+F028 and U+F029 before the end of a name, stand for themselves.
"""

from __future__ import annotations

import errno
import re

from netoverlay.backend_api import LayerPath, os_error
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS

MAX_NAME_BYTES = 255
"""In UTF-8, as Linux and Samba count. In UTF-16 a name never has more units than this, which is what Windows counts."""

_FORBIDDEN_PARTS = frozenset(("", ".", ".."))
_WIRE_ENCODING = "utf-16-le"
_WIRE_ERRORS = "surrogatepass"

_PRIVATE = 0xF000


def _in_private_bytes(character: str) -> str:
    return "".join(chr(_PRIVATE + byte) for byte in character.encode(NAME_ENCODING))


_ANYWHERE = {
    **dict(zip('"*:<>?\\|', map(chr, range(0xF020, 0xF028)), strict=True)),
    **{chr(code): chr(_PRIVATE + code) for code in range(0x01, 0x20)},
    **{chr(0xDC00 + byte): chr(_PRIVATE + byte) for byte in range(0x80, 0x100)},
}
_AT_THE_END = {" ": "\uf028", ".": "\uf029"}
"""What Windows drops at the end of a name, and only there."""

_TO_SERVER = str.maketrans(_ANYWHERE | {taken: _in_private_bytes(taken) for taken in _ANYWHERE.values()})
_FROM_SERVER = str.maketrans({there: here for here, there in _ANYWHERE.items()})
_END_TO_SERVER = _AT_THE_END | {taken: _in_private_bytes(taken) for taken in _AT_THE_END.values()}
_END_FROM_SERVER = {there: here for here, there in _AT_THE_END.items()}

_SPECIAL_HERE = re.compile(r'["*:<>?\\|\x01-\x1f\udc80-\udcff\uf001-\uf01f\uf020-\uf027\uf080-\uf0ff]')
_SPECIAL_THERE = re.compile(r"[\uf001-\uf01f\uf020-\uf027\uf080-\uf0ff\ud800-\udfff]")
_NEVER_IN_A_PATH = re.compile(r"[\0\ud800-\udc7f]")
_SAMBA_SHORT_NAME = re.compile(r"[0-9A-Z_-]{6}~[0-9A-Z](\.[0-9A-Z_-]{1,3})?")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SURROGATE_BYTES = re.compile(
    r"\uf0ed[\uf0a0-\uf0af][\uf080-\uf0bf](?P<second_half>\uf0ed[\uf0b0-\uf0bf][\uf080-\uf0bf])?"
    r"|\uf0ed[\uf0b0-\uf0bf][\uf080-\uf0bf]"
)


def to_server(name: str) -> str:
    """One name, as SMB can carry it."""
    end = _END_TO_SERVER.get(name[-1:], "")
    if end:
        name = name[:-1]
    if not _SPECIAL_HERE.search(name):
        return name + end
    return _SURROGATE_BYTES.sub(_join_surrogate, name.translate(_TO_SERVER)) + end


def from_server(name: str) -> str:
    """The inverse. Whatever the server sends gives a name, which is_usable() may still refuse."""
    end = _END_FROM_SERVER.get(name[-1:], "")
    if end:
        name = name[:-1]
    if not _SPECIAL_THERE.search(name):
        return name + end
    escaped = _SURROGATE.sub(_split_surrogate, name).translate(_FROM_SERVER)
    # Bytes that stood for a character are one again.
    return escaped.encode(NAME_ENCODING, NAME_ERRORS).decode(NAME_ENCODING, NAME_ERRORS) + end


def is_usable(name: str) -> bool:
    """Whether a name that from_server() gave can be an entry of a directory on Linux."""
    return name not in _FORBIDDEN_PARTS and "/" not in name and "\0" not in name


def may_be_short(listed: str) -> bool:
    """Whether a name in a listing may be the 8.3 name that Samba makes up for one that Windows could not use.

    Those are "con", "aux.c" and the like, and what was made on the server itself with a colon or a trailing space.
    The true name is to be had by opening this one and asking for it (FileNormalizedNameInformation).
    """
    return "~" in listed and _SAMBA_SHORT_NAME.fullmatch(listed) is not None


def server_path(root: str, path: LayerPath) -> str:
    """The path on the share; `root` is one that this function gave, "" for the share itself.

    EINVAL for a path that would lead out of the root or that no server can know; ENAMETOOLONG.
    """
    if not path:
        return root
    parts = path.split("/")
    if _NEVER_IN_A_PATH.search(path) or not _FORBIDDEN_PARTS.isdisjoint(parts):
        raise os_error(errno.EINVAL, path)
    if len(path) > MAX_NAME_BYTES // 4:  # no character has more than four bytes
        _check_lengths(path, parts)
    below = "\\".join(map(to_server, parts))
    return f"{root}\\{below}" if root else below


def encode_utf16(text: str) -> bytes:
    """For the wire."""
    return text.encode(_WIRE_ENCODING, _WIRE_ERRORS)


def decode_utf16(text: bytes) -> str:
    """From the wire. ValueError (UnicodeDecodeError) for an odd number of bytes."""
    return text.decode(_WIRE_ENCODING, _WIRE_ERRORS)


def _check_lengths(path: LayerPath, parts: list[str]) -> None:
    for part in parts:
        if len(part.encode(NAME_ENCODING, NAME_ERRORS)) > MAX_NAME_BYTES:
            raise os_error(errno.ENAMETOOLONG, path)


def _join_surrogate(match: re.Match[str]) -> str:
    if match["second_half"]:  # two halves would become the character that the server takes them for
        return match[0]
    return bytes(ord(character) - _PRIVATE for character in match[0]).decode(NAME_ENCODING, _WIRE_ERRORS)


def _split_surrogate(match: re.Match[str]) -> str:
    return match[0].encode(NAME_ENCODING, _WIRE_ERRORS).decode(NAME_ENCODING, NAME_ERRORS)
