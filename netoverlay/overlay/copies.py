"""Complete copies of what stands in a lower, made in the work directory of the upper.

Content, attributes and extended attributes; of a large file that is better left where it is only the attributes
(lazy_files.py). Who wants them gives them their names (copy_up.py).
"""

from __future__ import annotations

import errno
import logging
import stat as stat_bits
from collections.abc import Callable
from functools import partial

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    BackendFile,
    Creation,
    FileStat,
    FileType,
    LayerPath,
    os_error,
)
from netoverlay.overlay.capabilities import CAPABILITY
from netoverlay.overlay.content import SourceChangedError, TargetLostError, copy_content, writing
from netoverlay.overlay.inodes import FileInode, Inode
from netoverlay.overlay.layers import FOR_EVER_NS, LowerPlace, UpperLayer
from netoverlay.overlay.workspace import Workspace

logger = logging.getLogger(__name__)

COPY_ATTEMPTS = 3
"""How often a file is copied that changes in the lower while it is being read."""
LOST_ATTEMPTS = 10
"""Likewise, of which the upper is lost, if its deadline leaves time for that."""


class Copies:
    """Makes copies for one upper."""

    def __init__(self, upper: UpperLayer, workspace: Workspace) -> None:
        self._upper = upper
        self._backend = upper.backend
        self._workspace = workspace

    def regular_file(
        self, inode: FileInode, source: LowerPlace, size: int | None
    ) -> tuple[LayerPath, BackendFile, FileStat]:
        """Make the copy, complete and on stable storage: where, it, open for writing, and what it was.

        If the upper is lost in the middle it is made anew, as another file: what is on its way to the first one yet
        must not arrive in one to which programs write.
        """
        failure: OSError | None = None
        for _ in range(LOST_ATTEMPTS):
            temporary = self._workspace.temporary()
            try:
                return temporary, *self._copy_to(temporary, inode, source, size)
            except BaseException as error:
                if not self._workspace.abandon(temporary) or not isinstance(error, TargetLostError):
                    raise
                logger.info("copy-up of %s is begun anew: %s", source.path, error.strerror)
                failure = error
        raise failure or os_error(errno.EIO)

    def _copy_to(
        self, temporary: LayerPath, inode: FileInode, source: LowerPlace, size: int | None
    ) -> tuple[BackendFile, FileStat]:
        empty = target = self._backend.open(temporary, Access.READ_WRITE, create=Creation.EXCLUSIVE, mode=0o600)
        try:
            begun = self._begin_lazily(empty, source, size)
            if begun is None:
                stat = self._copy_content(target, inode, source, size)
            else:
                target, stat = begun
            self.attributes(temporary, stat, source, inode)
            _sync(target)
        except BaseException:
            quietly(partial(empty.truncate, 0))  # so that what is not sent yet is not sent for nothing
            quietly(target.close)
            raise
        return target, stat

    def _begin_lazily(
        self, empty: BackendFile, source: LowerPlace, size: int | None
    ) -> tuple[BackendFile, FileStat] | None:
        """None if the file is better copied."""
        lazy = self._upper.lazy
        if lazy is None or not lazy.files.takes_from(source.layer):
            return None
        stat = source.layer.backend.stat(source.path)
        wanted = _wanted_size(stat, size)
        return (lazy.files.begin(empty, source, stat, wanted), stat) if lazy.files.wants(stat, wanted) else None

    def _copy_content(self, target: BackendFile, inode: FileInode, source: LowerPlace, size: int | None) -> FileStat:
        """Copy all of a file that is wanted, and tell what it was."""
        lower_file = inode.file or source.layer.backend.open(source.path, Access.READ)
        try:
            if source.layer.ttl_ns != FOR_EVER_NS:
                return self._copy_unchanged(lower_file, target, size)
            stat = source.layer.backend.stat(source.path)
            copy_content(lower_file, target, _wanted_size(stat, size))
            return stat
        finally:
            if lower_file is not inode.file:
                lower_file.close()

    def _copy_unchanged(self, source: BackendFile, target: BackendFile, size: int | None) -> FileStat:
        """Copy a version of the file that is of one piece, although others may be changing it. ESTALE if they go on."""
        for _ in range(COPY_ATTEMPTS):
            before = source.stat()
            try:
                copy_content(source, target, _wanted_size(before, size))
                after = source.stat()
            except SourceChangedError:
                pass
            else:
                if (after.size, after.mtime_ns) == (before.size, before.mtime_ns):
                    return before
            with writing():
                target.truncate(0)
        raise OSError(errno.ESTALE, "the file kept changing in its layer while it was copied up")

    def special_file(self, inode: FileInode, source: LowerPlace) -> tuple[LayerPath, FileStat]:
        """Make the copy of what is neither a directory nor a regular file: where, and what it was."""
        temporary = self._workspace.temporary()
        try:
            stat = source.layer.backend.stat(source.path)
            if inode.type is FileType.SYMLINK:
                self._backend.symlink(temporary, source.layer.backend.readlink(source.path))
            else:
                self._backend.mknod(temporary, inode.type, 0o600, stat.rdev or 0)
            self.attributes(temporary, stat, source, inode)
        except BaseException:
            self._workspace.abandon(temporary)
            raise
        return temporary, stat

    def attributes(self, path: LayerPath, stat: FileStat, source: LowerPlace, inode: Inode) -> None:
        """Give what was made at `path` what `inode` has in a lower, where it is `stat`: all but content.

        Owner before xattrs, for a change of owner drops capabilities; the mode last, for it may forbid the rest.
        """
        mode = None if stat.type is FileType.SYMLINK else stat.mode
        # Where a layer does not tell whose a file is, its owner here has not given these rights.
        trusted = source.layer.capabilities.owners or stat.type is FileType.DIRECTORY
        if not (self._copy_owner(path, stat) and trusted) and mode is not None:
            mode &= ~(stat_bits.S_ISUID | stat_bits.S_ISGID)
        if source.layer.capabilities.xattrs:
            for name in source.layer.backend.list_xattrs(source.path):
                if trusted or name != CAPABILITY:
                    self._copy_xattr(path, name, source)
        self._upper.marks.record_inode_number(path, inode.ino)
        atime_ns = stat.mtime_ns if stat.atime_ns is None else stat.atime_ns
        self._backend.set_attributes(path, AttributeChange(mode=mode, atime_ns=atime_ns, mtime_ns=stat.mtime_ns))

    def _copy_owner(self, path: LayerPath, stat: FileStat) -> bool:
        """False if it stays with the user who mounted, for only root may give files away: as with cp(1)."""
        now = self._backend.stat(path)
        wanted = (now.uid if stat.uid is None else stat.uid, now.gid if stat.gid is None else stat.gid)
        if (now.uid, now.gid) == wanted:
            return True
        try:
            self._backend.set_attributes(path, AttributeChange(uid=stat.uid, gid=stat.gid))
        except PermissionError:
            logger.info("copy-up: the owner of %s is not kept", path)
            return False
        return True

    def _copy_xattr(self, path: LayerPath, name: str, source: LowerPlace) -> None:
        shown = source.layer.format.shown_xattr(name)
        if shown is None:
            return
        held = self._upper.marks.held_xattr(shown)
        try:
            self._backend.set_xattr(path, held, source.layer.backend.get_xattr(source.path, name))
        except OSError as error:
            # As overlayfs and cp(1): what the upper cannot hold, or this user may not set, does not stop the change.
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA):
                raise
            level = logging.INFO if error.errno == errno.EPERM else logging.WARNING
            logger.log(level, "copy-up of %s: the attribute %s is not kept: %s", source.path, name, error.strerror)


def _sync(target: BackendFile) -> None:
    """TargetLostError also where the layer is there again, but has, or may have, lost what was written before."""
    try:
        with writing():
            target.sync()
    except OSError as error:
        if error.errno != errno.EIO or isinstance(error, TargetLostError):
            raise
        raise TargetLostError(error.strerror or str(error)) from error


def quietly(call: Callable[[], None]) -> None:
    """For a copy that is given up: who waits for it is to be told why it is, not what came of giving it up."""
    try:
        call()
    except OSError as error:
        logger.debug("a copy that is given up: %s", error.strerror)


def _wanted_size(stat: FileStat, limit: int | None) -> int:
    return stat.size if limit is None else min(limit, stat.size)
