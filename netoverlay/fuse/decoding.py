"""How each request is decoded.

A decoder takes the whole message, header included, as a memoryview of exactly its length, and returns the body.
MalformedRequestError (EINVAL) where the message is too short or a name is not what the kernel would send. Bytes after
a body are ignored: later minor versions append fields.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from netoverlay.fuse import abi
from netoverlay.fuse.requests import (
    CopyFileRangeRequest,
    CreateRequest,
    FallocateRequest,
    FlushRequest,
    ForgetRequest,
    FsyncRequest,
    GetattrRequest,
    GetxattrRequest,
    InitRequest,
    InterruptRequest,
    LinkRequest,
    ListxattrRequest,
    LockRequest,
    LseekRequest,
    MkdirRequest,
    MknodRequest,
    NameRequest,
    OpenRequest,
    ReadRequest,
    ReleaseRequest,
    RenameRequest,
    RequestHeader,
    SetattrRequest,
    SetxattrRequest,
    SymlinkRequest,
    WriteRequest,
)

HEADER_SIZE = abi.IN_HEADER.size
_NEVER_ENTRIES = frozenset((".", ".."))
"""The kernel follows these by itself."""

Decoder: TypeAlias = Callable[[memoryview], Any]
_Body = TypeVar("_Body")


class MalformedRequestError(OSError):
    """The message is not what its opcode says (EINVAL)."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EINVAL, what)


def decode_header(message: memoryview) -> RequestHeader:
    """The header of `message`, which must be as long as it says."""
    if len(message) < HEADER_SIZE:
        raise MalformedRequestError(f"a request of {len(message)} bytes has no header")
    # As RequestHeader._make() does, which is in Python.
    header = tuple.__new__(RequestHeader, abi.IN_HEADER.unpack_from(message))
    if header.length != len(message):
        raise MalformedRequestError(f"a request of {len(message)} bytes says it has {header.length}")
    return header


def _names(message: memoryview, start: int, count: int) -> list[str]:
    """The `count` names at the end of the message, each ended by a zero byte."""
    names = str(message[start:], "utf-8", "surrogateescape").split("\0")
    if len(names) != count + 1 or names[-1] or not all(names[:-1]):
        raise MalformedRequestError(f"expected {count} names, each ended by a zero byte")
    return names[:-1]


def nothing(message: memoryview) -> None:
    """For requests without a body."""
    del message


def _fixed(layout: struct.Struct, body: Callable[[tuple[Any, ...]], _Body]) -> Callable[[memoryview], _Body]:
    unpack = layout.unpack_from

    def decode(message: memoryview) -> _Body:
        try:
            return body(unpack(message, HEADER_SIZE))
        except struct.error as error:
            raise MalformedRequestError(str(error)) from None

    return decode


def _with_names(
    layout: struct.Struct, count: int, body: Callable[[tuple[Any, ...]], _Body], *, entries: int
) -> Callable[[memoryview], _Body]:
    """`entries`: how many of the names, the first ones, are of entries of a directory."""
    unpack = layout.unpack_from
    start = HEADER_SIZE + layout.size

    def decode(message: memoryview) -> _Body:
        try:
            fields, names = unpack(message, HEADER_SIZE), _names(message, start, count)
        except struct.error as error:
            raise MalformedRequestError(str(error)) from None
        for each in names[:entries]:
            _require_entry(each)
        return body((*fields, *names))

    return decode


def _require_entry(name: str) -> None:
    if "/" in name or name in _NEVER_ENTRIES:
        raise MalformedRequestError("expected the name of an entry of a directory")


def name(message: memoryview) -> NameRequest:
    """One entry and nothing else; apart from _with_names because LOOKUP is the most frequent request of all."""
    request = attribute_name(message)
    _require_entry(request.name)
    return request


def attribute_name(message: memoryview) -> NameRequest:
    """The name of an extended attribute and nothing else."""
    text = str(message[HEADER_SIZE:-1], "utf-8", "surrogateescape")
    if len(message) <= HEADER_SIZE or message[-1] or not text or "\0" in text:
        raise MalformedRequestError("expected one name, ended by a zero byte")
    return NameRequest(text)


def init(message: memoryview) -> InitRequest:
    """INIT: its length tells whether the kernel has the field flags2."""
    layout = abi.INIT_IN_EXT if len(message) >= HEADER_SIZE + abi.INIT_IN_EXT.size else abi.INIT_IN
    try:
        major, minor, max_readahead, flags, *more = layout.unpack_from(message, HEADER_SIZE)
    except struct.error as error:
        raise MalformedRequestError(str(error)) from None
    return InitRequest(major, minor, max_readahead, abi.InitFlag(flags | (more[0] << 32 if more else 0)))


def forget(message: memoryview) -> ForgetRequest:
    """FORGET: the inode is the header's."""
    try:
        (count,) = abi.FORGET_IN.unpack_from(message, HEADER_SIZE)
    except struct.error as error:
        raise MalformedRequestError(str(error)) from None
    return ForgetRequest([(abi.IN_HEADER.unpack_from(message)[3], count)])


def batch_forget(message: memoryview) -> ForgetRequest:
    """BATCH_FORGET."""
    start = HEADER_SIZE + abi.BATCH_FORGET_IN.size
    size = abi.FORGET_ONE.size
    try:
        (count,) = abi.BATCH_FORGET_IN.unpack_from(message, HEADER_SIZE)
    except struct.error as error:
        raise MalformedRequestError(str(error)) from None
    if len(message) < start + count * size:
        raise MalformedRequestError(f"a batch of {count} forgets in {len(message)} bytes")
    return ForgetRequest(list(abi.FORGET_ONE.iter_unpack(message[start : start + count * size])))


def rename(message: memoryview) -> RenameRequest:
    """RENAME, which has no flags."""
    new_parent, old_name, new_name = _rename(message)
    return RenameRequest(new_parent, 0, old_name, new_name)


def write(message: memoryview) -> WriteRequest:
    """WRITE."""
    start = HEADER_SIZE + abi.WRITE_IN.size
    try:
        fields = abi.WRITE_IN.unpack_from(message, HEADER_SIZE)
    except struct.error as error:
        raise MalformedRequestError(str(error)) from None
    data = message[start : start + fields[2]]
    if len(data) != fields[2]:
        raise MalformedRequestError(f"a write of {fields[2]} bytes carries {len(data)}")
    return WriteRequest._make((*fields, data))


def setxattr(message: memoryview) -> SetxattrRequest:
    """SETXATTR, where SETXATTR_EXT is agreed on."""
    return _setxattr(message, abi.SETXATTR_IN_EXT)


def setxattr_short(message: memoryview) -> SetxattrRequest:
    """SETXATTR, where it is not."""
    return _setxattr(message, abi.SETXATTR_IN)


def _setxattr(message: memoryview, layout: struct.Struct) -> SetxattrRequest:
    """The name, a zero byte, then the value."""
    start = HEADER_SIZE + layout.size
    try:
        size, flags, *more = layout.unpack_from(message, HEADER_SIZE)
    except struct.error as error:
        raise MalformedRequestError(str(error)) from None
    attribute, zero, value = bytes(message[start:]).partition(b"\0")
    if not attribute or not zero or len(value) < size:
        raise MalformedRequestError(f"expected a name, a zero byte and a value of {size} bytes")
    name = attribute.decode("utf-8", "surrogateescape")
    return SetxattrRequest(size, flags, more[0] if more else 0, name, value[:size])


interrupt = _fixed(abi.INTERRUPT_IN, InterruptRequest._make)
getattr_ = _fixed(abi.GETATTR_IN, GetattrRequest._make)
setattr_ = _fixed(abi.SETATTR_IN, SetattrRequest._make)
symlink = _with_names(struct.Struct(""), 2, SymlinkRequest._make, entries=1)
mknod = _with_names(abi.MKNOD_IN, 1, MknodRequest._make, entries=1)
mkdir = _with_names(abi.MKDIR_IN, 1, MkdirRequest._make, entries=1)
_rename = _with_names(abi.RENAME_IN, 2, tuple[Any, ...], entries=2)
rename2 = _with_names(abi.RENAME2_IN, 2, RenameRequest._make, entries=2)
link = _with_names(abi.LINK_IN, 1, LinkRequest._make, entries=1)
open_ = _fixed(abi.OPEN_IN, OpenRequest._make)
create = _with_names(abi.CREATE_IN, 1, CreateRequest._make, entries=1)
# What has no name comes with "/" for one.
tmpfile = _with_names(abi.CREATE_IN, 1, CreateRequest._make, entries=0)
read = _fixed(abi.READ_IN, ReadRequest._make)
release = _fixed(abi.RELEASE_IN, ReleaseRequest._make)
flush = _fixed(abi.FLUSH_IN, FlushRequest._make)
lock = _fixed(abi.LK_IN, LockRequest._make)
fsync = _fixed(abi.FSYNC_IN, FsyncRequest._make)
getxattr = _with_names(abi.GETXATTR_IN, 1, GetxattrRequest._make, entries=0)
listxattr = _fixed(abi.GETXATTR_IN, ListxattrRequest._make)
fallocate = _fixed(abi.FALLOCATE_IN, FallocateRequest._make)
lseek = _fixed(abi.LSEEK_IN, LseekRequest._make)
copy_file_range = _fixed(abi.COPY_FILE_RANGE_IN, CopyFileRangeRequest._make)
