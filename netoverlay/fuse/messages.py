"""The table of requests: one row for every opcode, which says how it is decoded and who answers it."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from netoverlay.fuse import decoding
from netoverlay.fuse.abi import InitFlag, Opcode
from netoverlay.fuse.decoding import Decoder

_NOTHING: Final = InitFlag(0)


@dataclass(frozen=True, slots=True)
class Served:
    """Answered by a method of Operations."""

    decode: Decoder
    method: str
    needs: InitFlag = _NOTHING
    """What must be agreed on for `decode` to be the right one."""
    decode_without: Decoder | None = None
    """The right one where `needs` is not agreed on."""
    spared_by: InitFlag = _NOTHING
    """Where this is agreed on, it is answered with ENOSYS, after which the kernel does it by itself."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Answered with an errno (0: done), always."""

    errno: int
    reason: str


@dataclass(frozen=True, slots=True)
class Internal:
    """Handled by the session itself, and not answered."""

    decode: Decoder
    method: str


Row: TypeAlias = Served | Answered | Internal

_NO_DAX: Final = "for virtiofs with a DAX window"
_BYTE_ORDER: Final = "an INIT in the other byte order: the kernel of this machine sends none"

MESSAGES: Final[Mapping[Opcode, Row]] = MappingProxyType(
    {
        Opcode.LOOKUP: Served(decoding.name, "lookup"),
        Opcode.FORGET: Internal(decoding.forget, "forget"),
        Opcode.GETATTR: Served(decoding.getattr_, "getattr"),
        Opcode.SETATTR: Served(decoding.setattr_, "setattr"),
        Opcode.READLINK: Served(decoding.nothing, "readlink"),
        Opcode.SYMLINK: Served(decoding.symlink, "symlink"),
        Opcode.MKNOD: Served(decoding.mknod, "mknod"),
        Opcode.MKDIR: Served(decoding.mkdir, "mkdir"),
        Opcode.UNLINK: Served(decoding.name, "unlink"),
        Opcode.RMDIR: Served(decoding.name, "rmdir"),
        Opcode.RENAME: Served(decoding.rename, "rename"),
        Opcode.LINK: Served(decoding.link, "link"),
        Opcode.OPEN: Served(decoding.open_, "open", spared_by=InitFlag.NO_OPEN_SUPPORT),
        Opcode.READ: Served(decoding.read, "read"),
        Opcode.WRITE: Served(decoding.write, "write"),
        Opcode.STATFS: Served(decoding.nothing, "statfs"),
        Opcode.RELEASE: Served(decoding.release, "release"),
        Opcode.FSYNC: Served(decoding.fsync, "fsync"),
        Opcode.SETXATTR: Served(decoding.setxattr, "setxattr", InitFlag.SETXATTR_EXT, decoding.setxattr_short),
        Opcode.GETXATTR: Served(decoding.getxattr, "getxattr"),
        Opcode.LISTXATTR: Served(decoding.listxattr, "listxattr"),
        Opcode.REMOVEXATTR: Served(decoding.attribute_name, "removexattr"),
        Opcode.FLUSH: Served(decoding.flush, "flush", spared_by=InitFlag.NO_OPEN_SUPPORT),
        Opcode.INIT: Answered(errno.EPROTO, "the handshake is over"),
        Opcode.OPENDIR: Served(decoding.open_, "opendir", spared_by=InitFlag.NO_OPENDIR_SUPPORT),
        Opcode.READDIR: Served(decoding.read, "readdir"),
        Opcode.RELEASEDIR: Served(decoding.release, "releasedir"),
        Opcode.FSYNCDIR: Served(decoding.fsync, "fsyncdir"),
        Opcode.GETLK: Served(decoding.lock, "getlk"),
        Opcode.SETLK: Served(decoding.lock, "setlk"),
        Opcode.SETLKW: Served(decoding.lock, "setlkw"),
        Opcode.ACCESS: Answered(
            errno.ENOSYS, "with default_permissions the kernel checks; ENOSYS stops it from asking"
        ),
        Opcode.CREATE: Served(decoding.create, "create"),
        Opcode.INTERRUPT: Internal(decoding.interrupt, "interrupt"),
        Opcode.BMAP: Answered(errno.ENOSYS, "only a file system on a block device has block numbers"),
        Opcode.DESTROY: Answered(0, "Operations.destroy is called when the last request is done, which is later"),
        Opcode.IOCTL: Answered(errno.ENOTTY, "no ioctl is served; ENOTTY is what the caller expects then"),
        Opcode.POLL: Answered(errno.ENOSYS, "files are always ready, which is what ENOSYS makes the kernel say"),
        Opcode.NOTIFY_REPLY: Answered(errno.EPROTO, "no notification of ours asks for pages"),
        Opcode.BATCH_FORGET: Internal(decoding.batch_forget, "forget"),
        Opcode.FALLOCATE: Served(decoding.fallocate, "fallocate"),
        Opcode.READDIRPLUS: Served(decoding.read, "readdirplus"),
        Opcode.RENAME2: Served(decoding.rename2, "rename"),
        Opcode.LSEEK: Served(decoding.lseek, "lseek"),
        Opcode.COPY_FILE_RANGE: Served(decoding.copy_file_range, "copy_file_range"),
        Opcode.SETUPMAPPING: Answered(errno.ENOSYS, _NO_DAX),
        Opcode.REMOVEMAPPING: Answered(errno.ENOSYS, _NO_DAX),
        Opcode.SYNCFS: Served(decoding.nothing, "syncfs"),
        Opcode.TMPFILE: Served(decoding.tmpfile, "tmpfile"),
        Opcode.STATX: Answered(errno.ENOSYS, "layers tell no birth time; ENOSYS makes the kernel use GETATTR"),
        Opcode.COPY_FILE_RANGE_64: Served(decoding.copy_file_range, "copy_file_range"),
        Opcode.CUSE_INIT: Answered(errno.EPROTO, "for character devices, on a device file of their own"),
        Opcode.CUSE_INIT_BSWAP_RESERVED: Answered(errno.EPROTO, _BYTE_ORDER),
        Opcode.INIT_BSWAP_RESERVED: Answered(errno.EPROTO, _BYTE_ORDER),
    }
)
