"""What is sent: one function a command of MS-SMB2 section 2.2, as a body to be put behind a header."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from netoverlay.backend_api import Readable
from netoverlay_smb.protocol import (
    CREDIT_BYTES,
    HEADER_BYTES,
    PREVIOUS_HANDLE,
    SHARE_ALL,
    Command,
    Control,
    CreateOptions,
    Disposition,
    FileAccess,
    InfoClass,
    InfoType,
    LeaseState,
    LockFlags,
    OplockLevel,
    SecurityParts,
    VolumeClass,
)

_CREATE = struct.Struct("<HBBIQQIIIIIHHII")
_CREATE_BYTES = _CREATE.size
_CONTEXT = struct.Struct("<IHHHHI")
_CLOSE = struct.Struct("<HHI16s")
_READ = struct.Struct("<HBBIQ16sIIIHHB")
_WRITE = struct.Struct("<HHIQ16sIIHHI")
_LOCK = struct.Struct("<HHI16s")
_LOCKED = struct.Struct("<QQII")
_QUERY_DIRECTORY = struct.Struct("<HBBI16sHHI")
_QUERY_INFO = struct.Struct("<HBBIHHIII16s")
_SET_INFO = struct.Struct("<HBBIHHI16s")
_IOCTL = struct.Struct("<HHI16sIIIIIIII")
_CHUNKS = struct.Struct("<24sII")
_CHUNK = struct.Struct("<QQII")
_COPIED_BYTES = 12
_LEASE = struct.Struct("<16sIIQ16sHH")
_RENAME = struct.Struct("<B7xQI")
_RENAME_LEAST_BYTES = 24
"""Windows refuses less (STATUS_INFO_LENGTH_MISMATCH): it is the size of its structure, which a name of one character
does not fill."""
_IMPERSONATION = 2
_OPEN_REPARSE_POINT = int(CreateOptions.OPEN_REPARSE_POINT)
_ALL_SECURITY = int(SecurityParts.OWNER | SecurityParts.GROUP | SecurityParts.DACL)
_PADDING = 0x50
"""Where we would like the data of a READ reply: right behind header and fixed part."""
_IS_FSCTL = 1
_RESTART = 1
_MAX_INFO_BYTES = CREDIT_BYTES - 512
"""Asked for at most where a reply has to be paid with one credit."""


class Body(NamedTuple):
    """One command of a request."""

    command: Command
    content: bytes
    charge: int = 1
    """Credits."""
    tail: Readable | None = None
    """What follows `content`, and is not copied."""
    buffer: memoryview | None = None
    """Where the data of a READ reply goes."""
    reply_bytes: int = 0
    """Of content that the reply brings, at most."""


def charge_of(size: int) -> int:
    """The credits for a payload of `size` bytes (MS-SMB2 3.1.5.2)."""
    return max(1, -(-size // CREDIT_BYTES))


def create(
    path: bytes,
    access: FileAccess,
    options: CreateOptions,
    disposition: Disposition = Disposition.OPEN,
    *,
    share: int = SHARE_ALL,
    contexts: bytes = b"",
    oplock: OplockLevel = OplockLevel.NONE,
    through: bool = False,
) -> Body:
    """2.2.13: open or make `path` (UTF-16, from the root of the share), and never follow a link that it is itself.

    `through`: have the server make of a reparse point what it stands for. Only for what is known to be no link.
    """
    name = path or b"\0\0"
    offset = 0
    if contexts:
        name += bytes(-len(name) % 8)
        offset = HEADER_BYTES + _CREATE_BYTES + len(name)
    fixed = _CREATE.pack(
        57,
        0,
        oplock,
        _IMPERSONATION,
        0,
        0,
        access,
        0,
        share,
        disposition,
        int(options) | (0 if through else _OPEN_REPARSE_POINT),
        HEADER_BYTES + _CREATE_BYTES,
        len(path),
        offset,
        len(contexts),
    )
    return Body(Command.CREATE, fixed + name + contexts)


def create_context(name: bytes, data: bytes) -> bytes:
    """2.2.13.2: one context, the last of its chain."""
    padded = name + bytes(-len(name) % 8)
    header = _CONTEXT.pack(0, 16, len(name), 0, 16 + len(padded) if data else 0, len(data))
    return header + padded + data


def lease_context(key: bytes, state: LeaseState) -> bytes:
    """2.2.13.2.10, version 2: ask for a lease under `key` (16 bytes)."""
    return create_context(b"RqLs", _LEASE.pack(key, state, 0, 0, bytes(16), 0, 0))


def close(handle: bytes = PREVIOUS_HANDLE) -> Body:
    """2.2.15."""
    return Body(Command.CLOSE, _CLOSE.pack(24, 0, 0, handle))


def flush(handle: bytes) -> Body:
    """2.2.17."""
    return Body(Command.FLUSH, _CLOSE.pack(24, 0, 0, handle))


def read(handle: bytes, offset: int, size: int, buffer: memoryview | None = None) -> Body:
    """2.2.19."""
    fixed = _READ.pack(49, _PADDING, 0, size, offset, handle, 0, 0, 0, 0, 0, 0)
    return Body(Command.READ, fixed, charge_of(size), None, buffer, size)


def write(handle: bytes, offset: int, data: Readable) -> Body:
    """2.2.21."""
    fixed = _WRITE.pack(49, HEADER_BYTES + _WRITE.size, len(data), offset, handle, 0, 0, 0, 0, 0)
    return Body(Command.WRITE, fixed, charge_of(len(data)), data)


class LockElement(NamedTuple):
    """2.2.26.1."""

    offset: int
    length: int
    flags: LockFlags


def lock(handle: bytes, elements: Sequence[LockElement]) -> Body:
    """2.2.26. Of several elements that lock, all or none are granted; all must lock, or all unlock (3.3.5.14)."""
    packed = b"".join(_LOCKED.pack(*element, 0) for element in elements)
    return Body(Command.LOCK, _LOCK.pack(48, len(elements), 0, handle) + packed)


def query_directory(handle: bytes, listed: InfoClass, size: int, *, restart: bool = False, pattern: str = "*") -> Body:
    """2.2.33: as many entries as fit into `size` bytes; `pattern` with `*` and `?`, as of MS-FSA 2.1.4.4."""
    searched = pattern.encode("utf-16-le")
    at = HEADER_BYTES + _QUERY_DIRECTORY.size
    flags = _RESTART if restart else 0
    fixed = _QUERY_DIRECTORY.pack(33, listed, flags, 0, handle, at, len(searched), size)
    return Body(Command.QUERY_DIRECTORY, fixed + searched, charge_of(size))


def _query_info(kind: InfoType, wanted: int, handle: bytes, size: int, additional: int = 0) -> Body:
    return Body(Command.QUERY_INFO, _QUERY_INFO.pack(41, kind, wanted, size, 0, 0, 0, additional, 0, handle))


def query_file(wanted: InfoClass, handle: bytes = PREVIOUS_HANDLE, size: int = 4096) -> Body:
    """2.2.37, of a file."""
    return _query_info(InfoType.FILE, wanted, handle, size)


def query_attribute_list(handle: bytes = PREVIOUS_HANDLE) -> Body:
    """2.2.37: all extended attributes of a file."""
    return _query_info(InfoType.FILE, InfoClass.FULL_EA, handle, _MAX_INFO_BYTES)


def query_volume(wanted: VolumeClass, handle: bytes = PREVIOUS_HANDLE) -> Body:
    """2.2.37, of the file system that holds a file."""
    return _query_info(InfoType.FILE_SYSTEM, wanted, handle, 1024)


def query_security(handle: bytes = PREVIOUS_HANDLE) -> Body:
    """2.2.37: owner, group and access control list."""
    return _query_info(InfoType.SECURITY, 0, handle, _MAX_INFO_BYTES, _ALL_SECURITY)


def set_file(changed: InfoClass, data: bytes, handle: bytes = PREVIOUS_HANDLE) -> Body:
    """2.2.39, of a file."""
    fixed = _SET_INFO.pack(33, InfoType.FILE, changed, len(data), HEADER_BYTES + _SET_INFO.size, 0, 0, handle)
    return Body(Command.SET_INFO, fixed + data, charge_of(len(data)))


def rename(path: bytes, handle: bytes = PREVIOUS_HANDLE, *, replace: bool) -> Body:
    """MS-FSCC 2.4.42.2: to `path` (UTF-16, from the root of the share)."""
    return set_file(InfoClass.RENAME, _new_name(path, replace=replace), handle)


def link(path: bytes, handle: bytes = PREVIOUS_HANDLE) -> Body:
    """MS-FSCC 2.4.27.2: one name more, which must not be there yet."""
    return set_file(InfoClass.LINK, _new_name(path, replace=False), handle)


def _new_name(path: bytes, *, replace: bool) -> bytes:
    return (_RENAME.pack(replace, 0, len(path)) + path).ljust(_RENAME_LEAST_BYTES, b"\0")


def delete_on_close(handle: bytes = PREVIOUS_HANDLE) -> Body:
    """MS-FSCC 2.4.11."""
    return set_file(InfoClass.DISPOSITION, b"\1", handle)


def set_size(size: int, handle: bytes = PREVIOUS_HANDLE) -> Body:
    """MS-FSCC 2.4.13."""
    return set_file(InfoClass.END_OF_FILE, struct.pack("<Q", size), handle)


def control(
    code: Control, data: bytes = b"", handle: bytes = PREVIOUS_HANDLE, *, reply_bytes: int = _MAX_INFO_BYTES
) -> Body:
    """2.2.31."""
    at = HEADER_BYTES + _IOCTL.size
    fixed = _IOCTL.pack(57, 0, code, handle, at, len(data), 0, 0, 0, reply_bytes, _IS_FSCTL, 0)
    return Body(Command.IOCTL, fixed + data, charge_of(max(len(data), reply_bytes)))


def request_resume_key(handle: bytes = PREVIOUS_HANDLE) -> Body:
    """FSCTL_SRV_REQUEST_RESUME_KEY (2.2.31): what names an open file as the source of a copy."""
    return control(Control.REQUEST_RESUME_KEY, b"", handle)


def copy_chunks(key: bytes, chunks: Sequence[tuple[int, int, int]], handle: bytes) -> Body:
    """FSCTL_SRV_COPYCHUNK_WRITE (2.2.31.1): each chunk is offsets in the source and the target, and a length."""
    packed = b"".join(_CHUNK.pack(*chunk, 0) for chunk in chunks)
    return control(Control.COPY_CHUNKS, _CHUNKS.pack(key, len(chunks), 0) + packed, handle, reply_bytes=_COPIED_BYTES)


def echo() -> Body:
    """2.2.28."""
    return Body(Command.ECHO, struct.pack("<HH", 4, 0))


def logoff() -> Body:
    """2.2.7."""
    return Body(Command.LOGOFF, struct.pack("<HH", 4, 0))


def acknowledge_oplock(handle: bytes, level: int) -> Body:
    """2.2.24.1."""
    return Body(Command.OPLOCK_BREAK, struct.pack("<HBBI16s", 24, level, 0, 0, handle))


def acknowledge_lease(key: bytes, state: int) -> Body:
    """2.2.24.2."""
    return Body(Command.OPLOCK_BREAK, struct.pack("<HHI16sIQ", 36, 0, 0, key, state, 0))
