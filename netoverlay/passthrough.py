"""Which open files the kernel reads and writes by itself: those whose file in a local upper is the whole truth.

The kernel's rules (fs/fuse/iomode.c): while a file has opens that are passed through, all are, to one backing file; and
while it has others, which use the page cache, none is. So what is open from before its copy-up keeps all later opens in
the page cache, until it is closed. The kernel opens the backing file anew for every open, with the flags of that: so it
must be the upper's file, and never that of a base, to which a later open could write.

A write that is passed through takes set-id bits and capabilities from the file as any other does: the kernel asks for
that with an empty SETATTR.
"""

from __future__ import annotations

import logging
import threading

from netoverlay.fuse.backing import BackingFiles
from netoverlay.overlay.handles import FileHandle
from netoverlay.overlay.inodes import FileInode

logger = logging.getLogger(__name__)


class _Use:
    """How the open handles of one file are served."""

    __slots__ = ("backing", "cached", "passed")

    def __init__(self) -> None:
        self.backing = 0
        """0: none."""
        self.passed: set[FileHandle] = set()
        self.cached: set[FileHandle] = set()


class Passthrough:
    """The decisions of one mount; thread-safe."""

    def __init__(self, backing_files: BackingFiles | None) -> None:
        """`backing_files`: None where nothing is passed through."""
        self._backing_files = backing_files
        self._lock = threading.Lock()
        self._uses: dict[int, _Use] = {}
        """By nodeid."""
        self._has_told = False
        """The kernel has refused a file, and the log says so."""

    def opened(self, handle: FileHandle) -> int:
        """The number of the backing file for a new handle; 0 if it uses the page cache."""
        if self._backing_files is None or not handle.inode.in_upper:
            return self._cached(handle)
        with self._lock:
            use = self._use_locked(handle.inode)
            if not use.cached and not use.backing:
                use.backing = self._back(handle.inode)
            (use.passed if use.backing and not use.cached else use.cached).add(handle)
            return use.backing

    def closed(self, handle: FileHandle) -> None:
        """A handle has been released. The kernel counts it no more since before it told us."""
        with self._lock:
            use = self._uses.get(handle.inode.nodeid)
            if use is None:
                return
            use.passed.discard(handle)
            use.cached.discard(handle)
            if use.passed or use.cached:
                return
            del self._uses[handle.inode.nodeid]
        if use.backing and self._backing_files is not None:
            self._backing_files.remove(use.backing)

    def _cached(self, handle: FileHandle) -> int:
        if self._backing_files is not None:
            with self._lock:
                self._use_locked(handle.inode).cached.add(handle)
        return 0

    def _use_locked(self, inode: FileInode) -> _Use:
        use = self._uses.get(inode.nodeid)
        if use is None:
            use = self._uses[inode.nodeid] = _Use()
        return use

    def _back(self, inode: FileInode) -> int:
        """A backing file for what an inode in the upper is read through; 0 if that cannot be one."""
        file = inode.file
        descriptor = None if file is None else file.fileno()
        if descriptor is None or self._backing_files is None:
            return 0
        try:
            return self._backing_files.add(descriptor)
        except OSError as error:
            # Of this file only: another file system may be mounted inside the upper.
            if not self._has_told:
                self._has_told = True
                logger.info("not all reads and writes of the upper are passed through: %s", error.strerror)
            return 0
