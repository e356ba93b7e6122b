"""Between the kernel channel and the overlay: each request becomes calls of the overlay, its results a reply."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
from collections.abc import Callable

from netoverlay import kernel_values as values
from netoverlay.backend_api import AttributeChange, FileStat, LockKind, UnavailableError, os_error
from netoverlay.fuse import abi, replies, requests
from netoverlay.fuse.backing import BackingFiles
from netoverlay.fuse.deferred import Deferred
from netoverlay.fuse.negotiation import Negotiated
from netoverlay.fuse.operations import Operations
from netoverlay.fuse.replies import Reply
from netoverlay.fuse.requests import RequestHeader
from netoverlay.given_up import GivenUp
from netoverlay.overlay.creation import Caller, CreatedFile
from netoverlay.overlay.handles import DirectoryHandle, FileHandle
from netoverlay.overlay.inode_locks import LockRequest
from netoverlay.overlay.inodes import DirectoryInode, FileInode, Inode, Name
from netoverlay.overlay.layers import FOR_EVER_NS
from netoverlay.overlay.lookup import Entry
from netoverlay.overlay.overlay import Overlay
from netoverlay.passthrough import Passthrough


class Bridge(Operations):
    """Serves one overlay."""

    def __init__(
        self,
        overlay: Overlay,
        backing_files: BackingFiles | None = None,
        store: Callable[[int, bytes], object] | None = None,
    ) -> None:
        """`backing_files`: where reads and writes may be passed through, if the kernel agrees to that.

        `store`: has the kernel take the content of a file, by its nodeid (Notifier.store()).
        """
        self._overlay = overlay
        self._backing_files = backing_files
        self._store = store
        self._passthrough = Passthrough(None)
        self._is_handleless = False
        self._kernel_has_locks = False
        self._tree = overlay.tree
        self._inodes = overlay.tree.inodes
        self._handles = overlay.handles
        self._implicit = overlay.implicit_handles
        self._validity = overlay.validity
        # What is copied up keeps its pages, so that those of a lower that changes must not be kept.
        self._may_keep = overlay.tree.stack.lowers_unchanging
        self._given_up = GivenUp()

    def init(self, negotiated: Negotiated) -> None:
        self._is_handleless = abi.InitFlag.NO_OPEN_SUPPORT in negotiated.flags
        self._kernel_has_locks = not negotiated.flags & (abi.InitFlag.POSIX_LOCKS | abi.InitFlag.FLOCK_LOCKS)
        if abi.InitFlag.PASSTHROUGH in negotiated.flags:
            self._passthrough = Passthrough(self._backing_files)
        store = self._store
        # Where pages are not kept at an open, or files are opened without one, nothing can be given with it.
        if store is not None and self._may_keep and not self._is_handleless:
            self._overlay.files.first_open.give = lambda inode, content: store(inode.nodeid, content)

    def destroy(self) -> None:
        self._overlay.leave_kernel_alone()

    # -- from and to the kernel's numbers

    def _inode(self, nodeid: int) -> Inode:
        try:
            return self._inodes.get(nodeid)
        except KeyError:
            raise os_error(errno.ESTALE) from None

    def _directory(self, nodeid: int) -> DirectoryInode:
        inode = self._inode(nodeid)
        if not isinstance(inode, DirectoryInode):
            raise os_error(errno.ENOTDIR)
        return inode

    def _file(self, nodeid: int) -> FileInode:
        inode = self._inode(nodeid)
        if not isinstance(inode, FileInode):
            raise os_error(errno.EISDIR)
        return inode

    def _opened(self, nodeid: int, number: int) -> FileHandle:
        """The handle with that number; 0 where the kernel has opened the file by itself."""
        return self._handles.file(number) if number else self._implicit.file(self._file(nodeid))

    def _listed(self, nodeid: int, number: int) -> DirectoryHandle:
        """As _opened(), of a directory."""
        return self._handles.directory(number) if number else self._implicit.directory(self._directory(nodeid))

    def _shown(self, inode: Inode, stat: FileStat) -> replies.FuseAttributes:
        return values.fuse_attributes(self._overlay.view.complete(inode.ino, stat))

    def _entry(self, directory: DirectoryInode, name: str, entry: Entry) -> replies.Entry:
        name_ns, attributes_ns = self._validity.of_entry(directory, name, entry.inode)
        shown = self._shown(entry.inode, entry.stat)
        return replies.Entry(entry.inode.nodeid, 0, _as_told(name_ns), _as_told(attributes_ns), shown)

    def _attributes(self, inode: Inode) -> bytes:
        shown = self._shown(inode, self._tree.stat(inode))
        return replies.attributes(shown, _as_told(self._validity.of_attributes(inode)))

    def _take(self, handle: FileHandle) -> tuple[int, int, int]:
        """Of an open file: the number of its handle, how the kernel treats it, and the backing file."""
        backing = self._passthrough.opened(handle)
        if backing:
            flags = abi.Fopen.PASSTHROUGH
        else:
            flags = abi.Fopen.KEEP_CACHE if self._may_keep and self._validity.is_kept(handle.inode) else 0
        if self._kernel_has_locks and not handle.writes:
            flags |= abi.Fopen.NOFLUSH  # close(2) then has nothing to give back, and nothing to tell
        return self._handles.add_file(handle), flags, backing

    def _directory_flags(self, inode: DirectoryInode) -> int:
        is_kept = self._may_keep and self._validity.is_kept(inode)
        return abi.Fopen.KEEP_CACHE | abi.Fopen.CACHE_DIR if is_kept else 0

    # -- names

    def lookup(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        directory, name, asked = self._directory(request.nodeid), body.name, (request.nodeid, body.name)
        self._given_up.refuse_again(asked)
        try:
            entry = self._overlay.lookup.lookup(directory, name)
        except UnavailableError as error:
            if name in directory.children:  # the kernel knew it, and wanted to have it confirmed
                self._given_up.note(asked, error)
            raise
        if entry is None:
            return replies.absent(_as_told(self._validity.of_absence(directory, name)))
        return replies.entry(self._entry(directory, name, entry))

    def forget(self, request: RequestHeader, body: requests.ForgetRequest) -> None:
        del request
        for nodeid, count in body.forgets:
            self._implicit.forgotten(nodeid)
            self._inodes.forget(nodeid, count)

    def mknod(self, request: RequestHeader, body: requests.MknodRequest) -> Reply:
        creator = self._overlay.changes().creator
        directory, mode = self._directory(request.nodeid), body.mode & values.PERMISSIONS
        kind, caller = values.file_type(body.mode), _caller(request, body.umask)
        made = creator.mknod(directory, body.name, kind, mode, body.rdev, caller)
        return replies.entry(self._entry(directory, body.name, made))

    def mkdir(self, request: RequestHeader, body: requests.MkdirRequest) -> Reply:
        creator = self._overlay.changes().creator
        directory, mode = self._directory(request.nodeid), body.mode & values.PERMISSIONS
        made = creator.mkdir(directory, body.name, mode, _caller(request, body.umask))
        return replies.entry(self._entry(directory, body.name, made))

    def symlink(self, request: RequestHeader, body: requests.SymlinkRequest) -> Reply:
        creator = self._overlay.changes().creator
        directory = self._directory(request.nodeid)
        made = creator.symlink(directory, body.name, body.target, _caller(request))
        return replies.entry(self._entry(directory, body.name, made))

    def link(self, request: RequestHeader, body: requests.LinkRequest) -> Reply:
        directory = self._directory(request.nodeid)
        made = self._overlay.changes().creator.link(self._file(body.nodeid), directory, body.name)
        return replies.entry(self._entry(directory, body.name, made))

    def unlink(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        self._overlay.changes().remover.unlink(self._directory(request.nodeid), body.name)
        return None

    def rmdir(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        self._overlay.changes().remover.rmdir(self._directory(request.nodeid), body.name)
        return None

    def rename(self, request: RequestHeader, body: requests.RenameRequest) -> Reply:
        old = Name(self._directory(request.nodeid), body.old_name)
        new = Name(self._directory(body.new_parent), body.new_name)
        self._overlay.changes().renamer.rename(old, new, values.rename_flags(body.flags))
        return None

    def readlink(self, request: RequestHeader, body: None) -> Reply:
        del body
        return replies.target(self._overlay.files.readlink(self._file(request.nodeid)))

    # -- attributes

    def getattr(self, request: RequestHeader, body: requests.GetattrRequest) -> Reply:
        del body
        return self._attributes(self._inode(request.nodeid))

    def setattr(self, request: RequestHeader, body: requests.SetattrRequest) -> Reply:
        changes = self._overlay.changes()
        inode = self._inode(request.nodeid)
        if body.valid & abi.Fattr.SIZE:
            clear = bool(body.valid & abi.Fattr.KILL_SUIDGID)
            self._overlay.files.truncate(self._file(request.nodeid), body.size, clear_set_ids=clear)
        change = values.attribute_change(body)
        if change != AttributeChange():
            changes.attributes.change(inode, change)
        elif not body.valid:
            # All that fallocate(2), copy_file_range(2), and a write to a file with capabilities leave for us to do.
            changes.attributes.clear_privileges(inode, set_ids=request.uid != 0)
        return self._attributes(inode)

    def statfs(self, request: RequestHeader, body: None) -> Reply:
        del request, body
        usage = self._overlay.space_usage()
        return replies.statistics(values.statistics(usage))

    def setxattr(self, request: RequestHeader, body: requests.SetxattrRequest) -> Reply:
        inode = self._inode(request.nodeid)
        if body.flags == values.XATTR_CREATE_AND_REPLACE:
            self._overlay.xattrs.get(inode, body.name)
            raise os_error(errno.EEXIST)
        self._overlay.xattrs.set(inode, body.name, body.value, values.xattr_mode(body.flags))
        if body.setxattr_flags & abi.SetxattrFlag.ACL_KILL_SGID:
            mode = self._tree.stat(inode).mode
            if mode is not None and mode & stat_bits.S_ISGID:
                self._overlay.changes().attributes.change(inode, AttributeChange(mode=mode & ~stat_bits.S_ISGID))
        return None

    def getxattr(self, request: RequestHeader, body: requests.GetxattrRequest) -> Reply:
        return replies.xattr(body.size, self._overlay.xattrs.get(self._inode(request.nodeid), body.name))

    def listxattr(self, request: RequestHeader, body: requests.ListxattrRequest) -> Reply:
        names = self._overlay.xattrs.list(self._inode(request.nodeid), privileged=request.uid == 0)
        return replies.xattr(body.size, b"".join(os.fsencode(name) + b"\0" for name in names))

    def removexattr(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        self._overlay.xattrs.remove(self._inode(request.nodeid), body.name)
        return None

    # -- data

    def open(self, request: RequestHeader, body: requests.OpenRequest) -> Reply:
        handle = self._open_file(self._file(request.nodeid), body.flags, body.open_flags)
        return replies.opened(*self._take(handle))

    def _open_file(self, inode: FileInode, flags: int, open_flags: int) -> FileHandle:
        truncate = bool(flags & os.O_TRUNC)
        clear = bool(open_flags & abi.OpenRequestFlag.KILL_SUIDGID)
        return self._overlay.files.open(inode, values.access(flags), truncate=truncate, clear_set_ids=clear)

    def create(self, request: RequestHeader, body: requests.CreateRequest) -> Reply:
        directory = self._directory(request.nodeid)
        try:
            creator = self._overlay.changes().creator
            mode, caller = body.mode & values.PERMISSIONS, _caller(request, body.umask)
            made = creator.create(directory, body.name, mode, caller)
        except FileExistsError:
            if body.flags & os.O_EXCL:
                raise
            # The kernel did not know it, so has not asked whether the caller may open it. On ESTALE it looks again.
            raise os_error(errno.ESTALE) from None
        return self._created(directory, body.name, made)

    def _created(self, directory: DirectoryInode, name: str, made: CreatedFile) -> Reply:
        handle = self._overlay.files.adopt(made.inode, made.file)
        if self._is_handleless:
            # The kernel sends no RELEASE, from the first OPEN on that it need not send.
            with self._implicit.file(made.inode):
                self._overlay.files.release(handle)
            return replies.created(self._entry(directory, name, Entry(made.inode, made.stat)), 0)
        entry = self._entry(directory, name, Entry(made.inode, made.stat))
        return replies.created(entry, *self._take(handle))

    def tmpfile(self, request: RequestHeader, body: requests.CreateRequest) -> Reply:
        creator = self._overlay.changes().creator
        mode, caller = body.mode & values.PERMISSIONS, _caller(request, body.umask)
        directory = self._directory(request.nodeid)
        return self._created(directory, body.name, creator.tmpfile(directory, mode, caller))

    def read(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        with self._opened(request.nodeid, body.handle) as handle:
            try:
                return self._given_up.read(request.nodeid, self._overlay.files.read, handle, body.offset, body.size)
            except OSError:
                self._overlay.file_locks.notice_loss(handle.inode)
                raise

    def write(self, request: RequestHeader, body: requests.WriteRequest) -> Reply:
        clear = bool(body.write_flags & abi.WriteFlag.KILL_SUIDGID)
        mapped = bool(body.write_flags & abi.WriteFlag.CACHE)
        with self._opened(request.nodeid, body.handle) as handle:
            try:
                self._overlay.files.write(handle, body.offset, body.data, clear_set_ids=clear, of_mapping=mapped)
            except OSError:
                self._overlay.file_locks.notice_loss(handle.inode)
                raise
        return replies.written(len(body.data))

    def flush(self, request: RequestHeader, body: requests.FlushRequest) -> Reply:
        del request
        handle = self._handles.file(body.handle)
        try:
            self._overlay.files.flush(handle)
        except OSError:
            self._overlay.file_locks.notice_loss(handle.inode)
            raise
        finally:
            self._overlay.file_locks.flushed(handle, body.lock_owner)
        return None

    def release(self, request: RequestHeader, body: requests.ReleaseRequest) -> Reply:
        del request
        if not body.handle:
            return None
        handle = self._handles.remove_file(body.handle)
        self._passthrough.closed(handle)
        flock = body.lock_owner if body.release_flags & abi.ReleaseFlag.FLOCK_UNLOCK else None
        try:
            self._overlay.file_locks.released(handle, flock)
        finally:
            self._overlay.files.release(handle)
        return None

    # -- locks

    def getlk(self, request: RequestHeader, body: requests.LockRequest) -> Reply:
        del request
        wanted = values.wanted_lock(body)
        found = self._overlay.file_locks.find(self._handles.file(body.handle), wanted)
        if found is None:
            return replies.lock(body.start, body.end, values.LOCK_TYPE[LockKind.UNLOCK], 0)
        return replies.lock(found.start, found.end - 1, values.LOCK_TYPE[found.kind], found.pid)

    def setlk(self, request: RequestHeader, body: requests.LockRequest) -> Reply | Deferred:
        del request
        return self._set_lock(body, waits=False)

    def setlkw(self, request: RequestHeader, body: requests.LockRequest) -> Reply | Deferred:
        del request
        return self._set_lock(body, waits=True)

    def _set_lock(self, body: requests.LockRequest, *, waits: bool) -> Deferred | None:
        locks = self._overlay.file_locks
        deferred = Deferred()
        asked = LockRequest(self._handles.file(body.handle), values.wanted_lock(body), waits, deferred.answer)
        if locks.set(asked):
            return None
        deferred.on_interrupt(lambda: locks.cancel(asked))
        return deferred

    def fsync(self, request: RequestHeader, body: requests.FsyncRequest) -> Reply:
        data_only = bool(body.flags & abi.FsyncFlag.DATA_ONLY)
        with self._opened(request.nodeid, body.handle) as handle:
            try:
                self._overlay.files.sync(handle, data_only=data_only)
            except OSError:
                self._overlay.file_locks.notice_loss(handle.inode)
                raise
        return None

    def lseek(self, request: RequestHeader, body: requests.LseekRequest) -> Reply:
        with self._opened(request.nodeid, body.handle) as handle:
            return replies.position(self._overlay.files.seek(handle, body.offset, body.whence))

    def fallocate(self, request: RequestHeader, body: requests.FallocateRequest) -> Reply:
        mode = values.allocate_mode(body.mode)
        with self._opened(request.nodeid, body.handle) as handle:
            self._overlay.files.allocate(handle, mode, body.offset, body.length)
        return None

    def copy_file_range(self, request: RequestHeader, body: requests.CopyFileRangeRequest) -> Reply:
        with (
            self._opened(request.nodeid, body.source_handle) as source,
            self._opened(body.nodeid, body.handle) as target,
        ):
            count = self._overlay.files.copy_range(source, body.source_offset, target, body.offset, body.length)
        return replies.copied(request, count)

    def syncfs(self, request: RequestHeader, body: None) -> Reply:
        del request, body
        self._overlay.sync()
        return None

    # -- directories

    def opendir(self, request: RequestHeader, body: requests.OpenRequest) -> Reply:
        del body
        handle = self._overlay.directories.open(self._directory(request.nodeid))
        return replies.opened(self._handles.add_directory(handle), self._directory_flags(handle.inode))

    def readdir(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        handle = self._read(request, body)
        packer = replies.DirectoryPacker(body.size)
        with handle.inode.directory_lock:
            for name, ino, kind, position, _ in self._overlay.directories.read_locked(handle, body.offset):
                if not packer.add(name, ino, kind >> 12, position):
                    break
        return self._packed(handle, body, packer)

    def readdirplus(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        handle = self._read(request, body)
        directories = self._overlay.directories
        packer = replies.DirectoryPacker(body.size)
        is_away = False
        with handle.inode.directory_lock:
            for name, ino, kind, position, listed in directories.read_locked(handle, body.offset):
                entry = None
                if listed is not None and not is_away:
                    try:
                        entry = directories.entry_locked(handle, listed)
                    except OSError as error:
                        # Listed without attributes, as by READDIR: whoever looks it up is told what is wrong with it.
                        # A layer that cannot be reached is not waited for again for each of the other names.
                        is_away = isinstance(error, UnavailableError)
                    else:
                        if entry is None:
                            continue
                found = None if entry is None else self._entry(handle.inode, name, entry)
                if not packer.add_plus(name, ino, kind >> 12, position, found):
                    if entry is not None:
                        self._inodes.forget(entry.inode.nodeid)
                    break
        return self._packed(handle, body, packer)

    def _read(self, request: RequestHeader, body: requests.ReadRequest) -> DirectoryHandle:
        """The handle of a directory, a part of which is about to be listed."""
        if not body.offset and not body.handle:
            self._validity.note_begun(self._directory(request.nodeid))
        return self._listed(request.nodeid, body.handle)

    def _packed(self, handle: DirectoryHandle, body: requests.ReadRequest, packer: replies.DirectoryPacker) -> Reply:
        reply = packer.reply()
        if not reply and not body.handle:
            self._implicit.read_to_end(handle.inode)
            self._validity.note_listing(handle.inode)
        return reply

    def releasedir(self, request: RequestHeader, body: requests.ReleaseRequest) -> Reply:
        del request
        self._overlay.directories.release(self._handles.remove_directory(body.handle))
        return None

    def fsyncdir(self, request: RequestHeader, body: requests.FsyncRequest) -> Reply:
        self._overlay.sync_directory(self._listed(request.nodeid, body.handle).inode)
        return None


def _caller(request: RequestHeader, umask: int = 0) -> Caller:
    return Caller(request.uid, request.gid, umask)


def _as_told(valid_ns: int) -> int:
    return replies.FOR_EVER if valid_ns == FOR_EVER_NS else valid_ns
