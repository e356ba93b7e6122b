"""INIT: what kernel and server agree on, and why each flag is asked for or refused.

The reply holds the smaller of the two minor versions and those of our flags that the kernel offered.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from netoverlay.fuse import abi, backing
from netoverlay.fuse.abi import InitFlag
from netoverlay.fuse.requests import InitRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """How a session is run."""

    max_write: int = 1 << 20
    """Bytes in one READ or WRITE; a multiple of the page size. 1 MiB is the most that the kernel allows."""
    max_readahead: int = 1 << 20
    """Bytes that the kernel may read ahead of a sequential reader."""
    max_background: int = 64
    """Requests that nobody waits for (read-ahead, asynchronous direct I/O) in flight at once."""
    congestion_threshold: int = 48
    """From how many of those on the kernel holds read-ahead back."""
    max_threads: int = 256
    """Requests that are served, and can wait, at once: more than wait for servers that are away, so that files that are
    elsewhere are served meanwhile."""
    idle_threads: int = 8
    """Threads that are kept although there is nothing to do."""
    auto_inval_data: bool = False
    """Some lower may change: a new mtime makes the kernel drop the file's pages."""
    cache_symlinks: bool = False
    """Every lower is immutable: the kernel may keep the targets of symbolic links."""
    kernel_locks: bool = False
    """Nobody outside the mount can lock its files: the kernel keeps the locks, and does not ask."""
    passthrough: bool = False
    """The kernel may be given backing files: only by root."""
    handleless: bool = False
    """The kernel opens and closes files by itself. Only where nobody else changes them, it keeps the locks, and closing
    tells nothing; requests on a file it has opened so hold 0 for the handle."""
    handleless_directories: bool = False
    """As `handleless`, for directories. It caches their listings: those that others can change have to be dropped."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Asked for whenever the kernel offers it."""

    reason: str


@dataclass(frozen=True, slots=True)
class AskIf:
    """Asked for if the field `setting` of SessionSettings is true."""

    setting: str
    reason: str


@dataclass(frozen=True, slots=True)
class AskUnless:
    """Asked for if the field `setting` of SessionSettings is false."""

    setting: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Never asked for."""

    reason: str


Decision: TypeAlias = Ask | AskIf | AskUnless | Refuse

DECISIONS: Final[Mapping[InitFlag, Decision]] = MappingProxyType(
    {
        InitFlag.ASYNC_READ: Ask("reads of one file are served in parallel; order does not matter to us"),
        InitFlag.POSIX_LOCKS: AskUnless("kernel_locks", "fcntl(2) locks reach the layer that has the file"),
        InitFlag.FILE_OPS: Refuse("no kernel ever gave it a meaning"),
        InitFlag.ATOMIC_O_TRUNC: AskUnless("handleless", "open with O_TRUNC is one request"),
        InitFlag.EXPORT_SUPPORT: Refuse('inodes that the kernel forgot cannot be found by "." and ".."'),
        InitFlag.BIG_WRITES: Ask("writes larger than a page"),
        InitFlag.DONT_MASK: Ask("in a directory with a default ACL the umask must not count: only we know which"),
        InitFlag.SPLICE_WRITE: Refuse("plain Python has no vmsplice to feed the pipe without a copy"),
        InitFlag.SPLICE_MOVE: Refuse("as SPLICE_WRITE"),
        InitFlag.SPLICE_READ: Refuse("as SPLICE_WRITE"),
        InitFlag.FLOCK_LOCKS: AskUnless("kernel_locks", "as POSIX_LOCKS, for flock(2)"),
        InitFlag.HAS_IOCTL_DIR: Refuse("no ioctl is served"),
        InitFlag.AUTO_INVAL_DATA: AskIf("auto_inval_data", "what others change on a lower must not stay cached"),
        InitFlag.DO_READDIRPLUS: Ask("a listing brings the attributes, as the layers' listings do"),
        InitFlag.READDIRPLUS_AUTO: Ask("only while the caller also looks at the entries"),
        InitFlag.ASYNC_DIO: Refuse("the kernel interrupts no request of it, so a killed reader stays until the answer"),
        InitFlag.WRITEBACK_CACHE: Refuse("sizes and times would be the kernel's, which lowers that change contradict"),
        InitFlag.NO_OPEN_SUPPORT: AskIf("handleless", "an open, and what is cached, then costs no request"),
        InitFlag.PARALLEL_DIROPS: Ask("lookups in one directory do not wait for each other's network"),
        InitFlag.HANDLE_KILLPRIV: Refuse("HANDLE_KILLPRIV_V2 is the exact one"),
        InitFlag.POSIX_ACL: Ask("the kernel checks the ACLs that layers hold, as it does on a local file system"),
        InitFlag.ABORT_ERROR: Ask("tells an aborted connection (ECONNABORTED) from an unmounted one"),
        InitFlag.MAX_PAGES: Ask("requests of max_write bytes instead of 128 KiB"),
        InitFlag.CACHE_SYMLINKS: AskIf("cache_symlinks", "the cache has no time limit, so targets must never change"),
        InitFlag.NO_OPENDIR_SUPPORT: AskIf("handleless_directories", "as NO_OPEN_SUPPORT, for directories"),
        InitFlag.EXPLICIT_INVAL_DATA: Refuse("pages of a file whose size changed on its layer must go"),
        InitFlag.MAP_ALIGNMENT: Refuse("no DAX window here: that is for virtiofs"),
        InitFlag.SUBMOUNTS: Refuse("the overlay is one file system with one device number"),
        InitFlag.HANDLE_KILLPRIV_V2: Ask("spares a lookup of security.capability before every write"),
        InitFlag.SETXATTR_EXT: Ask("tells whether a new ACL takes set-group-ID away"),
        InitFlag.INIT_EXT: Ask("without it the flags from bit 32 on are ignored"),
        InitFlag.INIT_RESERVED: Refuse("reserved"),
        InitFlag.SECURITY_CTX: Refuse("layers have no security labels of their own to be set at creation"),
        InitFlag.HAS_INODE_DAX: Refuse("as MAP_ALIGNMENT"),
        InitFlag.CREATE_SUPP_GROUP: Refuse("only the kernel decides by group, and drops set-group-ID before it asks"),
        InitFlag.HAS_EXPIRE_ONLY: Ask("entries can be made to be looked up again without being dropped"),
        InitFlag.DIRECT_IO_ALLOW_MMAP: Ask("a file opened past the page cache can still be mapped"),
        InitFlag.PASSTHROUGH: AskIf("passthrough", "files of a local upper at the speed of its file system"),
        InitFlag.NO_EXPORT_SUPPORT: Refuse("handles of inodes still cached let fanotify watch; a lost one is ESTALE"),
        InitFlag.HAS_RESEND: Refuse("a session never takes over another's requests"),
        InitFlag.ALLOW_IDMAP: Refuse("owners are those that the layers tell"),
        InitFlag.OVER_IO_URING: Refuse("plain Python has no io_uring"),
        InitFlag.REQUEST_TIMEOUT: Refuse("it would abort the whole mount; deadlines are the backends'"),
    }
)


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What was agreed on."""

    minor: int
    flags: InitFlag
    max_write: int
    max_readahead: int
    kernel_minor: int
    offered: InitFlag

    @property
    def can_prune(self) -> bool:
        """The kernel knows the notification PRUNE, for which there is no flag."""
        return self.kernel_minor >= abi.PRUNE_MINOR


def wanted(settings: SessionSettings) -> InitFlag:
    """The flags that are asked for."""
    flags = InitFlag(0)
    for flag, decision in DECISIONS.items():
        match decision:
            case Ask():
                flags |= flag
            case AskIf(setting=setting) if getattr(settings, setting):
                flags |= flag
            case AskUnless(setting=setting) if not getattr(settings, setting):
                flags |= flag
            case _:
                pass
    return flags


def negotiate(request: InitRequest, settings: SessionSettings) -> Negotiated:
    """What follows from the kernel's offer; EPROTONOSUPPORT if the kernel is too old."""
    if (request.major, request.minor) < (abi.MAJOR, abi.OLDEST_MINOR):
        raise OSError(
            errno.EPROTONOSUPPORT,
            f"the kernel speaks FUSE {request.major}.{request.minor}; "
            f"{abi.MAJOR}.{abi.OLDEST_MINOR} (Linux 5.4) or later is needed",
        )
    return Negotiated(
        minor=min(request.minor, abi.MINOR),
        flags=wanted(settings) & request.flags,
        max_write=settings.max_write,
        max_readahead=min(request.max_readahead, settings.max_readahead),
        kernel_minor=request.minor,
        offered=request.flags,
    )


def init_reply(agreed: Negotiated, settings: SessionSettings) -> bytes:
    """The body of the reply to INIT."""
    return abi.INIT_OUT.pack(
        abi.MAJOR,
        agreed.minor,
        agreed.max_readahead,
        agreed.flags & 0xFFFF_FFFF,
        settings.max_background,
        settings.congestion_threshold,
        agreed.max_write,
        1,  # time_gran: times are kept to the nanosecond
        max(1, agreed.max_write // os.sysconf("SC_PAGE_SIZE")),
        0,  # map_alignment
        agreed.flags >> 32,
        backing.STACK_DEPTH if InitFlag.PASSTHROUGH in agreed.flags else 0,  # max_stack_depth
        0,  # request_timeout
    )


def major_only_reply() -> bytes:
    """The reply to an INIT of a later major version: the kernel asks again with ours."""
    return abi.INIT_OUT.pack(abi.MAJOR, abi.MINOR, *(0,) * 11)
