"""pyfuse3 in front of the operations of fuse/operations.py: its calls as requests, their replies as its objects.

pyfuse3 calls on the thread of its event loop; the operations block, and run in a bounded pool of threads. What it does
not pass on, and what follows, is in channels.py.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, TypeVarTuple

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext, SetattrFields, StatvfsData

from netoverlay.backend_api import waiting
from netoverlay.fuse import abi, requests
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.operations import Operations
from netoverlay.fuse.replies import FileSystemStatistics, FuseAttributes
from netoverlay.fuse.requests import RequestHeader
from netoverlay.fuse.undelivered import joined, listed
from netoverlay.pyfuse3_numbers import ROOT, KernelNumbers

_log = logging.getLogger(__name__)

_SECOND: Final = 1_000_000_000
_LISTING_BYTES: Final = 4096
"""Of one part of a listing: pyfuse3 does not tell how much the kernel has room for, which is a page at least."""
_XATTR_BYTES: Final = 1 << 16
"""The most that the kernel has room for (xattr(7)); pyfuse3 compares with what its caller has."""
_ACCESS_LIST: Final = "system.posix_acl_access"
_DOTS: Final = frozenset({b".", b".."})
_NOBODY: Final = RequestHeader(0, 0, 0, 0, 0, 0, 0, 0)

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
_Method = Callable[[RequestHeader, Any], Any]


class Adapter(pyfuse3.Operations):
    """One mount, for pyfuse3."""

    supports_dot_lookup = False
    enable_acl = True

    def __init__(
        self,
        operations: Operations,
        errno_of: Callable[[OSError], int],
        max_threads: int,
        on_init: Callable[[], None],
    ) -> None:
        """`on_init` is called when INIT has come, just before it is answered; the others are as of Session."""
        self._operations: Final = operations
        self._errno_of = errno_of
        self._on_init = on_init
        self._limiter = trio.CapacityLimiter(max_threads)
        self.numbers: Final = KernelNumbers()
        self.counts: Final[Counter[Opcode]] = Counter()

    def init(self) -> None:
        self._on_init()

    async def _reply(
        self, opcode: Opcode, method: _Method, body: object, inode: int = 0, ctx: RequestContext | None = None
    ) -> bytes:
        """What an operation replies, joined. Where pyfuse3 names no inode, a handle names the file."""
        header = _NOBODY._replace(opcode=opcode, nodeid=self._nodeid(inode) if inode else 0)
        if ctx is not None:
            header = header._replace(uid=ctx.uid, gid=ctx.gid, pid=ctx.pid)
        self.counts[opcode] += 1
        return await self._in_thread(self._answer, method, header, body)

    async def _in_thread(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """Abandoned only where the whole session is given up: pyfuse3 tells of no interrupts."""
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._limiter, abandon_on_cancel=True)

    def _answer(self, method: _Method, header: RequestHeader, body: object) -> bytes:
        """On a thread of the pool. Anything but a FUSEError would end the mount."""
        try:
            with waiting.as_one_request():
                return bytes(joined(method(header, body)))
        except OSError as error:
            code = self._errno_of(error) or errno.EIO
        except Exception:  # noqa: BLE001 - a defect in one operation must not end the mount
            _log.exception("a request (opcode %d) failed", header.opcode)
            code = errno.EIO
        raise FUSEError(code)

    def _nodeid(self, number: int) -> int:
        nodeid = self.numbers.nodeid_of(number)
        if nodeid is None:
            raise FUSEError(errno.ESTALE)
        return nodeid

    async def _entry(
        self, opcode: Opcode, method: _Method, body: object, inode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._told(abi.ENTRY_OUT.unpack(await self._reply(opcode, method, body, inode, ctx)))

    def _told(self, fields: Sequence[int]) -> EntryAttributes:
        """The fields of struct fuse_entry_out, which counts a lookup, for pyfuse3."""
        nodeid, generation, name_s, attributes_s, name_ns, attributes_ns = fields[:6]
        shown = FuseAttributes(*fields[6:])
        entry = _attributes(self.numbers.told(nodeid, shown.ino) if nodeid else 0, shown)
        entry.generation = generation
        entry.entry_timeout = name_s + name_ns / _SECOND
        entry.attr_timeout = attributes_s + attributes_ns / _SECOND
        return entry

    def _attributes_of(self, inode: int, reply: bytes) -> EntryAttributes:
        seconds, nanoseconds, *fields = abi.ATTR_OUT.unpack(reply)
        shown = FuseAttributes(*fields)
        found = _attributes(shown.ino if inode == ROOT else inode, shown)
        found.attr_timeout = seconds + nanoseconds / _SECOND
        return found

    # -- names

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        body = requests.NameRequest(os.fsdecode(name))
        return await self._entry(Opcode.LOOKUP, self._operations.lookup, body, parent_inode, ctx)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self.counts[Opcode.FORGET] += 1
        known = [(self.numbers.forget(number, count), count) for number, count in inode_list]
        await self._forget(Opcode.FORGET, [(nodeid, count) for nodeid, count in known if nodeid is not None])

    async def _forget(self, opcode: int, forgets: list[tuple[int, int]]) -> None:
        header, body = _NOBODY._replace(opcode=opcode), requests.ForgetRequest(forgets)
        try:
            await self._in_thread(self._operations.forget, header, body)
        except Exception:  # noqa: BLE001 - as in _answer()
            _log.exception("inodes were not forgotten")

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        body = requests.MknodRequest(mode, rdev, ctx.umask, os.fsdecode(name))
        return await self._entry(Opcode.MKNOD, self._operations.mknod, body, parent_inode, ctx)

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        body = requests.MkdirRequest(mode, ctx.umask, os.fsdecode(name))
        return await self._entry(Opcode.MKDIR, self._operations.mkdir, body, parent_inode, ctx)

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        body = requests.SymlinkRequest(os.fsdecode(name), os.fsdecode(target))
        return await self._entry(Opcode.SYMLINK, self._operations.symlink, body, parent_inode, ctx)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        body = requests.LinkRequest(self._nodeid(inode), os.fsdecode(new_name))
        return await self._entry(Opcode.LINK, self._operations.link, body, new_parent_inode, ctx)

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        body = requests.NameRequest(os.fsdecode(name))
        await self._reply(Opcode.UNLINK, self._operations.unlink, body, parent_inode, ctx)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        body = requests.NameRequest(os.fsdecode(name))
        await self._reply(Opcode.RMDIR, self._operations.rmdir, body, parent_inode, ctx)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        new_parent = self._nodeid(parent_inode_new)
        body = requests.RenameRequest(new_parent, flags, os.fsdecode(name_old), os.fsdecode(name_new))
        await self._reply(Opcode.RENAME2, self._operations.rename, body, parent_inode_old, ctx)

    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return await self._reply(Opcode.READLINK, self._operations.readlink, None, inode, ctx)

    # -- attributes

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        body = requests.GetattrRequest(0, 0)
        return self._attributes_of(inode, await self._reply(Opcode.GETATTR, self._operations.getattr, body, inode, ctx))

    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        body = _setattr_request(attr, fields, fh or 0, ctx)
        return self._attributes_of(inode, await self._reply(Opcode.SETATTR, self._operations.setattr, body, inode, ctx))

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = FileSystemStatistics(
            *abi.STATFS_OUT.unpack(await self._reply(Opcode.STATFS, self._operations.statfs, None, ROOT, ctx))
        )
        told = StatvfsData()
        told.f_blocks, told.f_bfree, told.f_bavail = found.blocks, found.bfree, found.bavail
        told.f_files, told.f_ffree, told.f_favail = found.files, found.ffree, found.ffree
        told.f_bsize, told.f_namemax, told.f_frsize = found.bsize, found.namelen, found.frsize
        return told

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        decoded, kills = os.fsdecode(name), 0
        if decoded == _ACCESS_LIST and ctx.uid != 0 and (await self.getattr(inode, ctx)).st_gid not in _groups(ctx):
            kills = abi.SetxattrFlag.ACL_KILL_SGID
        body = requests.SetxattrRequest(len(value), 0, kills, decoded, value)
        await self._reply(Opcode.SETXATTR, self._operations.setxattr, body, inode, ctx)

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        body = requests.GetxattrRequest(_XATTR_BYTES, os.fsdecode(name))
        return await self._reply(Opcode.GETXATTR, self._operations.getxattr, body, inode, ctx)

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        body = requests.ListxattrRequest(_XATTR_BYTES)
        names = await self._reply(Opcode.LISTXATTR, self._operations.listxattr, body, inode, ctx)
        return names.split(b"\0")[:-1]

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        body = requests.NameRequest(os.fsdecode(name))
        await self._reply(Opcode.REMOVEXATTR, self._operations.removexattr, body, inode, ctx)

    # -- data

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        body = requests.OpenRequest(flags, _open_flags(ctx))
        return _file_info(await self._reply(Opcode.OPEN, self._operations.open, body, inode, ctx))

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        body = requests.CreateRequest(flags, mode, ctx.umask, _open_flags(ctx), os.fsdecode(name))
        reply = await self._reply(Opcode.CREATE, self._operations.create, body, parent_inode, ctx)
        entry = self._told(abi.ENTRY_OUT.unpack_from(reply))
        return _file_info(reply[abi.ENTRY_OUT.size :]), entry

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return await self._reply(Opcode.READ, self._operations.read, requests.ReadRequest(fh, off, size, 0, 0, 0))

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        body = requests.WriteRequest(fh, off, len(buf), 0, 0, 0, memoryview(buf))
        (count,) = abi.WRITE_OUT.unpack(await self._reply(Opcode.WRITE, self._operations.write, body))
        return int(count)

    async def flush(self, fh: int) -> None:
        await self._reply(Opcode.FLUSH, self._operations.flush, requests.FlushRequest(fh, 0))

    async def release(self, fh: int) -> None:
        await self._reply(Opcode.RELEASE, self._operations.release, requests.ReleaseRequest(fh, 0, 0, 0))

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._reply(Opcode.FSYNC, self._operations.fsync, _fsync_request(fh, datasync))

    # -- directories

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        body = requests.OpenRequest(os.O_RDONLY, 0)
        return _file_info(await self._reply(Opcode.OPENDIR, self._operations.opendir, body, inode, ctx)).fh

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        body = requests.ReadRequest(fh, start_id, _LISTING_BYTES, 0, 0, 0)
        reply = await self._reply(Opcode.READDIRPLUS, self._operations.readdirplus, body)
        entries = list(listed(reply))
        for index, (fields, name) in enumerate(entries):
            nodeid, ino, position, kind = fields[0], fields[-4], fields[-3], fields[-1]
            if nodeid:
                entry = self._told(fields[:-4])
            elif name in _DOTS:
                entry = _without_lookup(ino, kind)
            else:
                # The kernel is not told of these lookups.
                await self._forget(0, [(fields[0], 1) for fields, _ in entries[index:] if fields[0]])
                if index == 0:
                    raise FUSEError(errno.EIO)
                return
            pyfuse3.readdir_reply(token, name, entry, position)

    async def releasedir(self, fh: int) -> None:
        await self._reply(Opcode.RELEASEDIR, self._operations.releasedir, requests.ReleaseRequest(fh, 0, 0, 0))

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._reply(Opcode.FSYNCDIR, self._operations.fsyncdir, _fsync_request(fh, datasync))


def _attributes(number: int, shown: FuseAttributes) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = number
    entry.st_mode, entry.st_nlink = shown.mode, shown.nlink
    entry.st_uid, entry.st_gid, entry.st_rdev = shown.uid, shown.gid, shown.rdev
    entry.st_size, entry.st_blocks, entry.st_blksize = shown.size, shown.blocks, shown.blksize
    entry.st_atime_ns = shown.atime * _SECOND + shown.atimensec
    entry.st_mtime_ns = shown.mtime * _SECOND + shown.mtimensec
    entry.st_ctime_ns = shown.ctime * _SECOND + shown.ctimensec
    return entry


def _without_lookup(ino: int, kind: int) -> EntryAttributes:
    """ "." or "..", of which the kernel counts no lookup."""
    entry = EntryAttributes()
    entry.st_ino = ino
    entry.st_mode = kind << 12
    return entry


def _file_info(reply: bytes) -> FileInfo:
    handle, flags, _ = abi.OPEN_OUT.unpack(reply)
    return FileInfo(
        fh=handle,
        direct_io=bool(flags & abi.Fopen.DIRECT_IO),
        keep_cache=bool(flags & abi.Fopen.KEEP_CACHE),
        nonseekable=bool(flags & abi.Fopen.NONSEEKABLE),
    )


def _open_flags(ctx: RequestContext) -> int:
    """libfuse's older agreement on set-id bits leaves to us who loses them by truncating: all but root."""
    return abi.OpenRequestFlag.KILL_SUIDGID if ctx.uid != 0 else 0


def _fsync_request(fh: int, datasync: bool) -> requests.FsyncRequest:
    return requests.FsyncRequest(fh, abi.FsyncFlag.DATA_ONLY if datasync else 0)


def _setattr_request(
    attr: EntryAttributes, fields: SetattrFields, fh: int, ctx: RequestContext
) -> requests.SetattrRequest:
    valid = 0
    for is_set, bit in (
        (fields.update_mode, abi.Fattr.MODE),
        (fields.update_uid, abi.Fattr.UID),
        (fields.update_gid, abi.Fattr.GID),
        (fields.update_size, abi.Fattr.SIZE),
        (fields.update_size and ctx.uid != 0, abi.Fattr.KILL_SUIDGID),
        (fields.update_atime, abi.Fattr.ATIME),
        (fields.update_mtime, abi.Fattr.MTIME),
        (fields.update_ctime, abi.Fattr.CTIME),
    ):
        if is_set:
            valid |= bit
    times = [divmod(time_ns, _SECOND) for time_ns in (attr.st_atime_ns, attr.st_mtime_ns, attr.st_ctime_ns)]
    (atime, atimensec), (mtime, mtimensec), (ctime, ctimensec) = times
    return requests.SetattrRequest(
        valid=valid,
        handle=fh,
        size=attr.st_size,
        lock_owner=0,
        atime=atime,
        mtime=mtime,
        ctime=ctime,
        atimensec=atimensec,
        mtimensec=mtimensec,
        ctimensec=ctimensec,
        mode=attr.st_mode,
        uid=attr.st_uid,
        gid=attr.st_gid,
    )


def _groups(ctx: RequestContext) -> set[int]:
    """Those of the caller; of one who lives in another PID name space, or is gone, only the first."""
    try:
        return {ctx.gid, *pyfuse3.get_sup_groups(ctx.pid)}
    except OSError:
        return {ctx.gid}
