"""A layer that is a directory of this machine, or of anything mounted there."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
import sys
from functools import lru_cache

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    Backend,
    BackendFile,
    Capabilities,
    Creation,
    DirEntry,
    FileStat,
    FileType,
    LayerPath,
    LayerSetupError,
    RenameFlags,
    SpaceUsage,
    XattrMode,
    os_error,
)
from netoverlay_local.attributes import DEVICE_TYPES, apply_change, has_mode, to_file_stat
from netoverlay_local.claims import Claims
from netoverlay_local.file import XATTR_FLAGS, LocalFile
from netoverlay_local.probe import probe_capabilities
from netoverlay_local.root import RESOLVE, Entry, Root
from netoverlay_local.system_calls import OpenMode, renameat2, syncfs

ACCESS_FLAGS = {Access.READ: os.O_RDONLY, Access.WRITE: os.O_WRONLY, Access.READ_WRITE: os.O_RDWR}
# Without O_NONBLOCK, opening a FIFO that was put in a file's place would wait for its other end.
OPEN_FLAGS = os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
OPEN_MODES = {
    (access, truncate): OpenMode(flags | OPEN_FLAGS | (os.O_TRUNC if truncate else 0), RESOLVE)
    for access, flags in ACCESS_FLAGS.items()
    for truncate in (False, True)
}
_MODES_KEPT = 64
NODE_TYPES = (FileType.FIFO, FileType.SOCKET, *DEVICE_TYPES)
NAMES_ARE_UTF8 = sys.getfilesystemencoding() == "utf-8"


class LocalBackend(Backend):
    """Everything beneath the directory `path`, through any mount point and through no symbolic link."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._root: Root | None = None
        self._claims = Claims(Capabilities())
        self._files: set[LocalFile] = set()

    def connect(self) -> Capabilities:
        """LayerSetupError if the root is missing, no directory or not readable."""
        try:
            self._root = Root(self._path)
        except FileNotFoundError:
            raise LayerSetupError(f"there is no directory {self._path}: create it", errno.ENOENT) from None
        except NotADirectoryError:
            raise LayerSetupError(f"{self._path} is no directory: name one", errno.ENOTDIR) from None
        except PermissionError:
            raise LayerSetupError(
                f"{self._path} may not be read by this user (uid {os.geteuid()}): change its mode or its owner"
            ) from None
        self._check_kernel(self._root)
        self._claims = Claims(probe_capabilities(self._root.descriptor))
        return self._claims.can

    def close(self) -> None:
        for file in list(self._files):
            file.close()
        if self._root is not None:
            self._root.close()

    def identity(self) -> str:
        return f"file://{os.path.realpath(self._path)}"

    def space_usage(self) -> SpaceUsage:
        usage = os.fstatvfs(self._connected.descriptor)
        return SpaceUsage(
            total_bytes=usage.f_blocks * usage.f_frsize,
            free_bytes=usage.f_bfree * usage.f_frsize,
            available_bytes=usage.f_bavail * usage.f_frsize,
            total_files=usage.f_files,
            free_files=usage.f_ffree,
            block_size=usage.f_frsize,
            max_name_bytes=usage.f_namemax,
        )

    def stat(self, path: LayerPath) -> FileStat:
        root = self._connected
        return to_file_stat(root.stat(path), root.device)

    def list_dir(self, path: LayerPath) -> list[DirEntry]:
        root = self._connected
        directory = root.open_directory(path)
        entries: list[DirEntry] = []
        try:
            for name in os.listdir(directory):
                try:
                    result = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                shown = name if NAMES_ARE_UTF8 else os.fsencode(name).decode("utf-8", "surrogateescape")
                entries.append(DirEntry(shown, to_file_stat(result, root.device)))
        finally:
            os.close(directory)
        return entries

    def open(
        self,
        path: LayerPath,
        access: Access,
        *,
        create: Creation = Creation.NEVER,
        truncate: bool = False,
        mode: int = 0o600,
    ) -> BackendFile:
        root = self._connected
        exclusive = create is Creation.EXCLUSIVE
        if access.writes or truncate or exclusive:
            self._claims.require_writable("open for writing")
        if exclusive:
            descriptor = root.open(path, _creation(access, mode))
        else:
            descriptor = self._open_existing(root, path, access, truncate=truncate)
        try:
            result = os.fstat(descriptor)
            _check_regular(result, path)
            # The process' umask, or a default ACL of the parent, may have taken bits away.
            if exclusive and self._claims.can.modes and not has_mode(result, mode):
                os.fchmod(descriptor, mode)
        except BaseException:
            os.close(descriptor)
            raise
        file = LocalFile(descriptor, root.device, self._claims, self._files.discard)
        self._files.add(file)
        return file

    def readlink(self, path: LayerPath) -> str:
        self._claims.require(self._claims.can.symlinks, "readlink")
        with self._entry(path, errno.EINVAL) as entry:
            return os.readlink(entry.name, dir_fd=entry.directory).decode("utf-8", "surrogateescape")

    def mkdir(self, path: LayerPath, mode: int) -> None:
        self._claims.require_writable("mkdir")
        with self._entry(path, errno.EEXIST) as entry:
            os.mkdir(entry.name, mode, dir_fd=entry.directory)
            self._correct_mode(entry, mode)

    def unlink(self, path: LayerPath) -> None:
        self._claims.require_writable("unlink")
        with self._entry(path, errno.EISDIR) as entry:
            os.unlink(entry.name, dir_fd=entry.directory)

    def rmdir(self, path: LayerPath) -> None:
        self._claims.require_writable("rmdir")
        with self._entry(path, errno.EBUSY) as entry:
            os.rmdir(entry.name, dir_fd=entry.directory)

    def rename(self, old: LayerPath, new: LayerPath, flags: RenameFlags = RenameFlags.NONE) -> None:
        kernel_flags = self._claims.rename_flags(flags)
        with self._entry(old, errno.EBUSY) as source, self._entry(new, errno.EBUSY) as target:
            if kernel_flags:
                renameat2(source.directory, source.name, target.directory, target.name, kernel_flags)
            else:
                os.rename(source.name, target.name, src_dir_fd=source.directory, dst_dir_fd=target.directory)

    def symlink(self, path: LayerPath, target: str) -> None:
        self._claims.require_writable("symlink")
        self._claims.require(self._claims.can.symlinks, "symlink")
        if "\0" in target:
            raise os_error(errno.EINVAL, path)
        with self._entry(path, errno.EEXIST) as entry:
            os.symlink(target.encode("utf-8", "surrogateescape"), entry.name, dir_fd=entry.directory)

    def link(self, existing: LayerPath, new: LayerPath) -> None:
        self._claims.require_writable("link")
        self._claims.require(self._claims.can.hard_links, "link")
        with self._entry(existing, errno.EPERM) as source, self._entry(new, errno.EEXIST) as target:
            os.link(
                source.name,
                target.name,
                src_dir_fd=source.directory,
                dst_dir_fd=target.directory,
                follow_symlinks=False,
            )

    def mknod(self, path: LayerPath, type: FileType, mode: int, rdev: int = 0) -> None:
        if type not in NODE_TYPES:
            raise os_error(errno.EINVAL, path)
        self._claims.require_node(type, rdev)
        with self._entry(path, errno.EEXIST) as entry:
            os.mknod(entry.name, type | mode, rdev, dir_fd=entry.directory)
            self._correct_mode(entry, mode)

    def set_attributes(self, path: LayerPath, change: AttributeChange) -> None:
        self._claims.require_change(change)
        with self._connected.pin(path) as pinned:
            apply_change(pinned.proc_path, change)

    def get_xattr(self, path: LayerPath, name: str) -> bytes:
        self._claims.require_xattr(name, "get_xattr")
        with self._connected.pin(path) as pinned:
            return os.getxattr(pinned.proc_path, name)

    def list_xattrs(self, path: LayerPath) -> list[str]:
        self._claims.require(self._claims.can.xattrs, "list_xattrs")
        with self._connected.pin(path) as pinned:
            return self._claims.visible_xattrs(os.listxattr(pinned.proc_path))

    def set_xattr(self, path: LayerPath, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._claims.require_xattr_change(name, "set_xattr")
        with self._connected.pin(path) as pinned:
            os.setxattr(pinned.proc_path, name, value, XATTR_FLAGS[mode])

    def remove_xattr(self, path: LayerPath, name: str) -> None:
        self._claims.require_xattr_change(name, "remove_xattr")
        with self._connected.pin(path) as pinned:
            os.removexattr(pinned.proc_path, name)

    def sync_directory(self, path: LayerPath) -> None:
        directory = self._connected.open_directory(path)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def sync(self) -> None:
        syncfs(self._connected.descriptor)

    @property
    def _connected(self) -> Root:
        if self._root is None:
            raise os_error(errno.ENOTCONN, self._path)
        return self._root

    def _entry(self, path: LayerPath, root_code: int) -> Entry:
        return self._connected.entry(path, root_code)

    def _open_existing(self, root: Root, path: LayerPath, access: Access, *, truncate: bool) -> int:
        try:
            return root.open(path, OPEN_MODES[access, truncate])
        except BlockingIOError:
            # A lease on the file has to be broken first (fcntl(2), F_SETLEASE), for which an open waits if it may.
            with root.pin(path) as pinned:
                _check_regular(os.fstat(pinned.descriptor), path)
                flags = ACCESS_FLAGS[access] | (os.O_TRUNC if truncate else 0)
                return os.open(pinned.proc_path, flags | os.O_CLOEXEC)

    def _correct_mode(self, entry: Entry, mode: int) -> None:
        """Give what was just made the mode that the umask, an ACL or a set-gid parent has changed."""
        result = os.stat(entry.name, dir_fd=entry.directory, follow_symlinks=False)
        if self._claims.can.modes and not has_mode(result, mode):
            with entry.pin() as pinned:
                os.chmod(pinned.proc_path, mode)

    @staticmethod
    def _check_kernel(root: Root) -> None:
        try:
            root.pin("").__exit__(None, None, None)
        except OSError as error:
            root.close()
            if error.errno != errno.ENOSYS:
                raise
            raise LayerSetupError(
                "local layers need openat2(2), of Linux 5.6 or later: use such a kernel, or allow the call in the "
                "container's seccomp profile",
                errno.ENOSYS,
            ) from None


@lru_cache(_MODES_KEPT)
def _creation(access: Access, mode: int) -> OpenMode:
    return OpenMode(ACCESS_FLAGS[access] | OPEN_FLAGS | os.O_CREAT | os.O_EXCL, RESOLVE, mode)


def _check_regular(result: os.stat_result, path: LayerPath) -> None:
    if stat_bits.S_ISREG(result.st_mode):
        return
    if stat_bits.S_ISDIR(result.st_mode):
        raise os_error(errno.EISDIR, path)
    raise os_error(errno.ELOOP if stat_bits.S_ISLNK(result.st_mode) else errno.ENXIO, path)
