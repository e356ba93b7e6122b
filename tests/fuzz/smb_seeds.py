"""Replies that a Samba of our own does not give: links of Windows, short names, large files, others' locks."""

from __future__ import annotations

import struct
from typing import Final

from netoverlay_smb import symlinks
from netoverlay_smb.names import encode_utf16
from netoverlay_smb.protocol import HEADER_BYTES, FileAttributes
from netoverlay_smb.status import Status
from tests.fuzz.smb_server import STATUSES, How

_TIME: Final = 133_000_000_000_000_000
_PLAIN, _DIRECTORY = int(FileAttributes.NORMAL), int(FileAttributes.DIRECTORY)
_REPARSE: Final = int(FileAttributes.REPARSE_POINT)
_SYMLINK_TAG, _LX_TAG = symlinks.REPARSE_TAG_SYMLINK, symlinks.REPARSE_TAG_LX_SYMLINK


def reply(body: bytes, status: Status = Status.SUCCESS, how: int = 0) -> bytes:
    """A record."""
    return bytes([how, STATUSES.index(status)]) + body


def refusal(status: Status) -> bytes:
    """The reply to any request, with the status of an error."""
    return reply(struct.pack("<HBBIB", 9, 0, 0, 0, 0), status)


def _found(data: bytes) -> bytes:
    return reply(struct.pack("<HHI", 9, HEADER_BYTES + 8, len(data)) + data)


def _created(attributes: int = _PLAIN) -> bytes:
    times = (_TIME,) * 4
    handle = bytes(range(16))
    return reply(struct.pack("<HBBIQQQQQQII16sII", 89, 0, 0, 1, *times, 4096, 10, attributes, 0, handle, 0, 0))


def _all(size: int = 10, attributes: int = _PLAIN, name: str = "\\root\\d\\a") -> bytes:
    told = encode_utf16(name)
    facts = struct.pack("<QQQQIIQQIBBHQ", *(_TIME,) * 4, attributes, 0, 4096, size, 1, 0, 0, 0, 77)
    return _found(facts.ljust(96, b"\0") + struct.pack("<I", len(told)) + told)


def _controlled(data: bytes) -> bytes:
    return reply(struct.pack("<HHI16sIIIIII", 49, 0, 0x900A8, bytes(16), 0, 0, 112, len(data), 0, 0) + data)


def _windows_link(target: str, flags: int) -> bytes:
    name = encode_utf16(target)
    fields = struct.pack("<HHHHI", 0, len(name), len(name), len(name), flags)
    return struct.pack("<IHH", _SYMLINK_TAG, len(fields) + 2 * len(name), 0) + fields + name + name


def _data(data: bytes) -> bytes:
    return reply(struct.pack("<HBBIII", 17, HEADER_BYTES + 16, 0, len(data), 0, 0) + data)


def _listing(*entries: tuple[str, int, int]) -> bytes:
    """FileIdFullDirectoryInformation; (name, size, attributes) each."""
    packed = b""
    for number, (text, size, attributes) in enumerate(entries):
        name = encode_utf16(text)
        following = 0 if number == len(entries) - 1 else 80 + len(name) + -len(name) % 8
        fields = (following, 0, *(_TIME,) * 4, size, 4096, attributes, len(name), 0, 0, number)
        packed += struct.pack("<IIQQQQQQIIIIQ", *fields) + name + bytes(-len(name) % 8)
    return _found(packed)


_CLOSED: Final = reply(struct.pack("<HHI", 60, 0, 0) + bytes(52))
_SECURITY: Final = _found(struct.pack("<BBHIIII", 1, 0, 0x8004, 0, 0, 0, 0))
_LINKS: Final = (
    _windows_link("..\\target", 1),
    _windows_link("\\??\\C:\\target", 0),
    struct.pack("<IHH", _LX_TAG, 10, 0) + struct.pack("<I", 2) + b"target",
    struct.pack("<IHH", 0x8000_0013, 4, 0) + b"dedu",
)
_MFSYMLINK: Final = symlinks.pack(b"../target")
_UNICODE: Final = "\uf020\uf07f\ud800x"
_LOOK: Final = (_created(), _all(), _SECURITY, _CLOSED)
_END: Final = refusal(Status.NO_MORE_FILES)

STAT, LIST, READ, READLINK, READ_FILES, UNLINK, LOCK = 0, 1, 2, 3, 4, 13, 10
"""The calls of smb_target.py."""
BY_PROFILE: Final = 16
DIALOGUES: Final[tuple[tuple[int, int, tuple[bytes, ...]], ...]] = (
    *(
        (0, READLINK, (_created(), _all(0, _REPARSE), _SECURITY, _CLOSED, _created(), _controlled(link), _CLOSED))
        for link in _LINKS
    ),
    (0, READLINK, (_created(), _all(len(_MFSYMLINK)), _SECURITY, _CLOSED, _created(), _data(_MFSYMLINK), _CLOSED)),
    (0, STAT, (refusal(Status.ACCESS_DENIED), *(refusal(Status.FILE_CLOSED),) * 3, _created(), _all(), _CLOSED)),
    (
        BY_PROFILE,
        LIST,
        (
            _created(_DIRECTORY),
            _listing(
                *((".", 0, _DIRECTORY), ("..", 0, _DIRECTORY), ("a", 10, _PLAIN), ("AUX~1.TXT", 1, _PLAIN)),
                *((_UNICODE, 1, _PLAIN), ("link", 0, _REPARSE), ("mf", len(_MFSYMLINK), _PLAIN)),
            ),
            _END,
            *(_created(), _all(1, _PLAIN, "\\root\\d\\aux."), _CLOSED),
            *(_created(), _CLOSED, _created(), _data(_MFSYMLINK), _CLOSED),
            *(_created(), _controlled(_LINKS[0]), _CLOSED),
        ),
    ),
    (BY_PROFILE, LIST, (_created(_REPARSE), _END, _END, _created(), _controlled(_LINKS[0]), _CLOSED)),
    (
        BY_PROFILE,
        LIST,
        (_created(_DIRECTORY), _listing(("AB123C~1", 10, _PLAIN)), _END, *(refusal(Status.ACCESS_DENIED),) * 3),
    ),
    (0, READ, (_created(), _all(300_000), _data(b"x" * 100), *(_data(b"y" * 4000),) * 3, _CLOSED)),
    (0, READ, (_created(), _all(300_000), refusal(Status.FILE_LOCK_CONFLICT), refusal(Status.END_OF_FILE), _CLOSED)),
    (0, READ_FILES, (_created(), _all(), _data(b"0123456789"), _CLOSED, _created(), _all(), _data(b"01"), _CLOSED)),
    (0, UNLINK, (refusal(Status.SHARING_VIOLATION), *(refusal(Status.FILE_CLOSED),) * 2, *_LOOK, *_LOOK)),
    (0, LOCK, (_created(), _all(), refusal(Status.LOCK_NOT_GRANTED), _CLOSED)),
    (0, LOCK, (_created(), _all(), reply(struct.pack("<QHHI", 1 << 33, 9, 0, 0), how=How.INTERIM), _CLOSED, _CLOSED)),
)
"""The setup of the connection, the call, and the answers."""
