"""What a file system implements to be served: one method for each kind of request.

Every method gets the header (whose `nodeid` is the inode, or for operations on a name its directory) and the decoded
body, and returns what a function of replies.py made, or None for the bare "done". Errors are raised as OSError with
errno set. Methods are called from several threads at once.

Rules that the kernel sets:

- Never raise ENOSYS: the kernel takes it for the whole mount and never asks again.
- A reply that holds a nodeid (lookup, mknod, mkdir, symlink, link, create, tmpfile, each entry of readdirplus) counts
  one lookup of that inode. It must be known until forget() has taken back as many.
- With default_permissions, which every mount has, the kernel has checked permissions, ACLs and sticky bits before it
  asks. ACLs are the xattrs system.posix_acl_access and system.posix_acl_default.
- DONT_MASK is agreed on: the mode of what is to be made comes as the caller gave it, with the umask beside it, which
  counts unless the directory has a default ACL.
- HANDLE_KILLPRIV_V2 is agreed on, so clearing set-id bits and file capabilities is left to these methods, for regular
  files: setattr with a uid or gid always clears set-user-ID, and set-group-ID if the group may execute; write, setattr
  with a size, open and create with O_TRUNC do so when told (WriteFlag.KILL_SUIDGID, Fattr.KILL_SUIDGID,
  OpenRequestFlag.KILL_SUIDGID); all of them always remove the xattr security.capability.
"""

from __future__ import annotations

import abc

from netoverlay.fuse import requests
from netoverlay.fuse.deferred import Deferred
from netoverlay.fuse.negotiation import Negotiated
from netoverlay.fuse.replies import Reply
from netoverlay.fuse.requests import RequestHeader
from netoverlay.fuse.undelivered import granted


class Operations(abc.ABC):
    """A file system, as the kernel sees it."""

    def init(self, negotiated: Negotiated) -> None:  # noqa: B027 - most file systems need no hook
        """Called once, before any other method; does nothing here."""

    def destroy(self) -> None:  # noqa: B027 - as init
        """Called once, after every other method has returned; does nothing here."""

    def unanswered(self, request: RequestHeader, body: object, reply: Reply) -> None:
        """The kernel did not take `reply`: take back the lookups it counts, and close the handle that it holds.

        Called on the thread that served the request, right after it. The kernel forgets everything itself once the
        connection is gone, so a file system that has nothing of its own to free loses nothing by this being late.
        """
        del body
        given = granted(request.opcode, reply)
        if given.forgets:
            self.forget(request, requests.ForgetRequest(given.forgets))
        if given.handle is not None:
            close = self.releasedir if given.is_directory else self.release
            close(request, requests.ReleaseRequest(given.handle, 0, 0, 0))

    @abc.abstractmethod
    def lookup(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        """replies.entry, or replies.absent to have the absence remembered."""

    @abc.abstractmethod
    def forget(self, request: RequestHeader, body: requests.ForgetRequest) -> None:
        """Take back lookups. Never answered, must not wait for anything, and must not raise."""

    @abc.abstractmethod
    def getattr(self, request: RequestHeader, body: requests.GetattrRequest) -> Reply:
        """replies.attributes."""

    @abc.abstractmethod
    def setattr(self, request: RequestHeader, body: requests.SetattrRequest) -> Reply:
        """replies.attributes, as they are now."""

    @abc.abstractmethod
    def readlink(self, request: RequestHeader, body: None) -> Reply:
        """replies.target."""

    @abc.abstractmethod
    def symlink(self, request: RequestHeader, body: requests.SymlinkRequest) -> Reply:
        """replies.entry."""

    @abc.abstractmethod
    def mknod(self, request: RequestHeader, body: requests.MknodRequest) -> Reply:
        """replies.entry. Also for regular files, where the caller did not open(2) them."""

    @abc.abstractmethod
    def mkdir(self, request: RequestHeader, body: requests.MkdirRequest) -> Reply:
        """replies.entry."""

    @abc.abstractmethod
    def unlink(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        """None."""

    @abc.abstractmethod
    def rmdir(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        """None."""

    @abc.abstractmethod
    def rename(self, request: RequestHeader, body: requests.RenameRequest) -> Reply:
        """None. EINVAL for flags that cannot be kept."""

    @abc.abstractmethod
    def link(self, request: RequestHeader, body: requests.LinkRequest) -> Reply:
        """replies.entry, of the same inode."""

    @abc.abstractmethod
    def open(self, request: RequestHeader, body: requests.OpenRequest) -> Reply:
        """replies.opened. Truncates where the flags hold O_TRUNC."""

    @abc.abstractmethod
    def read(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        """The bytes; fewer than asked for only at the end of the file.

        They are sent before the thread serves anything else, so a view of a buffer that the thread uses again is fine.
        """

    @abc.abstractmethod
    def write(self, request: RequestHeader, body: requests.WriteRequest) -> Reply:
        """replies.written. `body.data` is valid until this returns."""

    @abc.abstractmethod
    def statfs(self, request: RequestHeader, body: None) -> Reply:
        """replies.statistics."""

    @abc.abstractmethod
    def release(self, request: RequestHeader, body: requests.ReleaseRequest) -> Reply:
        """None. The last descriptor and mapping of the handle are gone; nobody sees an error.

        With ReleaseFlag.FLOCK_UNLOCK the flock(2) lock of `lock_owner` goes. Locks of F_OFD_SETLK, whose owner is the
        open file as well, go without being named.
        """

    @abc.abstractmethod
    def fsync(self, request: RequestHeader, body: requests.FsyncRequest) -> Reply:
        """None, once the file is on stable storage."""

    @abc.abstractmethod
    def setxattr(self, request: RequestHeader, body: requests.SetxattrRequest) -> Reply:
        """None. With SetxattrFlag.ACL_KILL_SGID a new access ACL takes set-group-ID away."""

    @abc.abstractmethod
    def getxattr(self, request: RequestHeader, body: requests.GetxattrRequest) -> Reply:
        """replies.xattr. ENODATA if there is none; EOPNOTSUPP for a name space that is not stored."""

    @abc.abstractmethod
    def listxattr(self, request: RequestHeader, body: requests.ListxattrRequest) -> Reply:
        """replies.xattr."""

    @abc.abstractmethod
    def removexattr(self, request: RequestHeader, body: requests.NameRequest) -> Reply:
        """None."""

    @abc.abstractmethod
    def flush(self, request: RequestHeader, body: requests.FlushRequest) -> Reply:
        """None. An error is what close(2) returns. The fcntl(2) locks of `lock_owner` on the file go."""

    @abc.abstractmethod
    def getlk(self, request: RequestHeader, body: requests.LockRequest) -> Reply:
        """replies.lock."""

    @abc.abstractmethod
    def setlk(self, request: RequestHeader, body: requests.LockRequest) -> Reply | Deferred:
        """None. EAGAIN if another owner's lock is in the way, ENOLCK if it cannot be kept."""

    @abc.abstractmethod
    def setlkw(self, request: RequestHeader, body: requests.LockRequest) -> Reply | Deferred:
        """As setlk, but the answer comes when nothing is in the way any more; EINTR, EDEADLK."""

    @abc.abstractmethod
    def opendir(self, request: RequestHeader, body: requests.OpenRequest) -> Reply:
        """replies.opened."""

    @abc.abstractmethod
    def readdir(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        """DirectoryPacker.reply, filled with add()."""

    @abc.abstractmethod
    def readdirplus(self, request: RequestHeader, body: requests.ReadRequest) -> Reply:
        """DirectoryPacker.reply, filled with add_plus()."""

    @abc.abstractmethod
    def releasedir(self, request: RequestHeader, body: requests.ReleaseRequest) -> Reply:
        """None."""

    @abc.abstractmethod
    def fsyncdir(self, request: RequestHeader, body: requests.FsyncRequest) -> Reply:
        """None, once the directory is on stable storage."""

    @abc.abstractmethod
    def create(self, request: RequestHeader, body: requests.CreateRequest) -> Reply:
        """replies.created. For a name that is taken EEXIST if the flags hold O_EXCL, else ESTALE.

        The kernel checks no permissions of what it takes to be new; on ESTALE it looks the name up again.
        """

    @abc.abstractmethod
    def lseek(self, request: RequestHeader, body: requests.LseekRequest) -> Reply:
        """replies.position; ENXIO past the last data."""

    @abc.abstractmethod
    def fallocate(self, request: RequestHeader, body: requests.FallocateRequest) -> Reply:
        """None. EOPNOTSUPP for modes that cannot be kept."""

    @abc.abstractmethod
    def copy_file_range(self, request: RequestHeader, body: requests.CopyFileRangeRequest) -> Reply:
        """replies.copied. EOPNOTSUPP or EXDEV make the kernel read and write instead."""

    @abc.abstractmethod
    def tmpfile(self, request: RequestHeader, body: requests.CreateRequest) -> Reply:
        """replies.created, of a file without a name in the header's directory. EOPNOTSUPP where there is no such."""

    @abc.abstractmethod
    def syncfs(self, request: RequestHeader, body: None) -> Reply:
        """None, once everything is on stable storage. Linux sends it for virtiofs only so far."""
