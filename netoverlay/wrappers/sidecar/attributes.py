"""What is shown of a file: what the server tells, and over it what is known better; and changes of that."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable

from netoverlay.backend_api import (
    AttributeChange,
    Capabilities,
    FileStat,
    FileType,
    NotSupportedError,
    XattrMode,
    os_error,
)
from netoverlay.backend_api.types import NAME_ENCODING, NAME_ERRORS
from netoverlay.wrappers.sidecar import access_lists
from netoverlay.wrappers.sidecar.journal import Journal
from netoverlay.wrappers.sidecar.nodes import Directory, Node

OPAQUE_ATTRIBUTE = "trusted.overlay.opaque"
OPAQUE_VALUE = b"y"
"""This attribute with this value is a file on the server (marks.py), not in the journal."""
MAX_XATTR_NAME_BYTES = 255
MAX_XATTR_VALUE_BYTES = 65536
"""As on Linux (xattr(7))."""
_MAX_UNSETTLED = 1000
"""Directories whose times are not recorded for as long as names in them change."""
_NAME_SPACES = ("user.", "trusted.", "security.")
_DEFAULT_MODES = {FileType.DIRECTORY: 0o755, FileType.SYMLINK: 0o777}
_ALL_BITS = 0o7777
_ON_SERVER = {True: 0o700, False: 0o600}
"""What we keep for ourselves on the server, of a directory and of a file, whatever mode it is shown with."""

WHITEOUT = FileStat(
    FileType.CHARACTER_DEVICE, 0, 0, os.geteuid(), os.getegid(), 0, 0, 0, nlink=1, rdev=os.makedev(0, 0), blocks=0
)


def server_mode(mode: int, *, directory: bool) -> int:
    """The mode on the server of what is shown with `mode`."""
    return mode & 0o777 | _ON_SERVER[directory]


class Attributes:
    """Reads and changes what nodes hold. Preconditions of existence are the caller's."""

    def __init__(self, journal: Journal, inner: Capabilities) -> None:
        """`inner`: what the server can do."""
        self._journal = journal
        self._lock = journal.tree.lock
        self._inner = inner
        self._uid = os.geteuid()
        self._gid = os.getegid()
        self._unsettled: dict[Directory, None] = {}
        """Directories in which names were changed, whose times are not recorded."""

    def fresh(self, node: Node, mode: int | None, group: int | None) -> None:
        """Let a node be one that was made just now, by this process. `group`: if its directory decides that."""
        now = time.time_ns()
        node.mode = None if mode is None else mode & _ALL_BITS
        node.uid, node.gid = self._uid, self._gid if group is None else group
        node.mtime_ns = node.atime_ns = node.ctime_ns = now

    def shown(self, node: Node, told: FileStat) -> FileStat:
        """What the server told of a file, as it is to be shown."""
        kind = node.type or told.type
        special = node.type is not None
        mode = told.mode if node.mode is None and not special else node.mode
        uid = node.uid if node.uid is not None else told.uid
        gid = node.gid if node.gid is not None else told.gid
        return FileStat(
            kind,
            len((node.target or "").encode(NAME_ENCODING, NAME_ERRORS)) if special else told.size,
            _DEFAULT_MODES.get(kind, 0o644) if mode is None else mode,
            self._uid if uid is None else uid,
            self._gid if gid is None else gid,
            told.mtime_ns if node.mtime_ns is None else node.mtime_ns,
            told.atime_ns if node.atime_ns is None else node.atime_ns,
            told.ctime_ns if node.ctime_ns is None else node.ctime_ns,
            (told.nlink or 1) if isinstance(node, Directory) else node.links,
            node.number,
            node.rdev if special else told.rdev,
            0 if special else told.blocks,
        )

    def group_in(self, directory: Directory, told: Callable[[], FileStat]) -> int | None:
        """The group of what is made in a set-group-ID directory (inode(7)), else None. `told`: of the directory."""
        mode, group = directory.mode, directory.gid
        if mode is None or group is None:
            shown = self.shown(directory, told())
            mode, group = shown.mode, shown.gid
        return group if (mode or 0) & stat.S_ISGID else None

    def set(
        self, node: Node, told: FileStat, change: AttributeChange, on_server: Callable[[AttributeChange], None]
    ) -> None:
        """Change the node, which is shown as `told`, and, as far as that goes, the server's file."""
        if change == AttributeChange():
            return
        if change.mode is not None and told.type is FileType.SYMLINK:
            raise NotSupportedError("set_attributes(mode) of a symbolic link")
        before = told.mode if node.mode is None else node.mode
        there = self._server_change(change, before, directory=told.type is FileType.DIRECTORY)
        if there != AttributeChange():
            # What the server cannot keep, or refuses, is in the journal all the same.
            with contextlib.suppress(PermissionError, NotSupportedError, OverflowError):
                _unless_invalid(lambda: on_server(there))
        with self._lock:
            if change.mode is not None:
                node.mode = change.mode & _ALL_BITS
                node.xattrs = access_lists.after_chmod(node.xattrs, change.mode)
            node.uid = node.uid if change.uid is None else change.uid
            node.gid = node.gid if change.gid is None else change.gid
            node.atime_ns = node.atime_ns if change.atime_ns is None else change.atime_ns
            if change.mtime_ns is not None:
                node.mtime_ns = change.mtime_ns
                node.settled = True
            self._touch(node)

    def note_change(self, node: Node) -> None:
        """Something of it changed that has no time of its own: a name, say."""
        with self._lock:
            self._touch(node)

    def note_names(self, directory: Directory) -> None:
        """Names in it changed. Its times are ours: a server may have whole seconds only, and many changes in each."""
        with self._lock:
            directory.mtime_ns = directory.ctime_ns = time.time_ns()
            if len(self._unsettled) >= _MAX_UNSETTLED:  # most of them may be gone
                self.settle_directories()
            self._unsettled[directory] = None
            if directory.settled:
                directory.settled = False  # one line in the journal, not one for every name
                self._journal.changed(directory)

    def settle_directories(self) -> None:
        """Let the times of directories be recorded: to be called before what is recorded is to last."""
        with self._lock:
            directories, self._unsettled = self._unsettled, {}
            for directory in directories:
                self.note_settled(directory)

    def note_unsettled(self, node: Node) -> None:
        """Its content is about to change: from now on its recorded times are not to be believed after a crash."""
        with self._lock:
            if node.settled:
                node.settled = False
                self._journal.changed(node)

    def note_write(self, node: Node) -> None:
        """Its content has changed. Quick, for it comes with every write."""
        node.mtime_ns = node.ctime_ns = time.time_ns()

    def note_settled(self, node: Node) -> None:
        """What was written to it is on the server, and so its times may be recorded."""
        with self._lock:
            if not node.settled:
                node.settled = True
                self._journal.changed(node)

    def get_xattr(self, node: Node, name: str) -> bytes:
        """ENODATA."""
        _check_name(name, "get_xattr")
        value = (node.xattrs or {}).get(name)
        if value is None:
            raise os_error(errno.ENODATA)
        return value

    def list_xattrs(self, node: Node) -> list[str]:
        """The names."""
        with self._lock:
            return list(node.xattrs or ())

    def set_xattr(self, node: Node, type: FileType, name: str, value: bytes, mode: XattrMode) -> None:
        """EEXIST, ENODATA, E2BIG; EPERM for "user." on what is neither file nor directory."""
        _check_change(type, name, "set_xattr")
        if len(value) > MAX_XATTR_VALUE_BYTES:
            raise os_error(errno.E2BIG)
        with self._lock:
            known = node.xattrs or {}
            check_mode(name in known, mode)
            node.xattrs = {**known, name: bytes(value)}
            self._touch(node)

    def set_access_list(
        self, node: Node, told: FileStat, name: str, value: bytes, on_server: Callable[[AttributeChange], None]
    ) -> None:
        """Set a POSIX ACL of the node, which is shown as `told`, and with it the mode. EINVAL, EACCES, EOPNOTSUPP."""
        entries = access_lists.checked(told.type, name, value)
        before = told.mode or 0
        mode = access_lists.mode_after(name, entries, before)
        if mode != before:
            self.set(node, told, AttributeChange(mode=mode), on_server)
        kept = access_lists.kept(name, entries)
        with self._lock:
            if kept is not None:
                node.xattrs = {**(node.xattrs or {}), name: kept}
            elif name in (node.xattrs or {}):
                node.xattrs = _without(node.xattrs, name)
            self._touch(node)

    def remove_xattr(self, node: Node, type: FileType, name: str) -> None:
        """ENODATA, but for ACLs, which need not be there."""
        _check_change(type, name, "remove_xattr")
        with self._lock:
            if name not in (node.xattrs or {}):
                if name in access_lists.NAMES:
                    return
                raise os_error(errno.ENODATA)
            node.xattrs = _without(node.xattrs, name)
            self._touch(node)

    def _touch(self, node: Node) -> None:
        node.ctime_ns = time.time_ns()
        self._journal.changed(node)

    def _server_change(self, change: AttributeChange, before: int | None, *, directory: bool) -> AttributeChange:
        mode = None
        if change.mode is not None and self._inner.modes:
            mode = server_mode(change.mode, directory=directory)
            if before is not None and mode == server_mode(before, directory=directory):
                mode = None
        return AttributeChange(mode=mode, atime_ns=change.atime_ns, mtime_ns=change.mtime_ns)


def _without(xattrs: dict[str, bytes] | None, name: str) -> dict[str, bytes] | None:
    return {known: value for known, value in (xattrs or {}).items() if known != name} or None


def check_mode(exists: bool, mode: XattrMode) -> None:
    """EEXIST, ENODATA."""
    if mode is XattrMode.CREATE and exists:
        raise os_error(errno.EEXIST)
    if mode is XattrMode.REPLACE and not exists:
        raise os_error(errno.ENODATA)


def _check_name(name: str, operation: str) -> None:
    if not name.startswith(_NAME_SPACES) and name not in access_lists.NAMES:
        raise NotSupportedError(f"{operation} of {name}")
    if len(name.encode(NAME_ENCODING, NAME_ERRORS)) > MAX_XATTR_NAME_BYTES:
        raise os_error(errno.ERANGE)


def _check_change(type: FileType, name: str, operation: str) -> None:
    _check_name(name, operation)
    if name.startswith("user.") and type not in (FileType.REGULAR, FileType.DIRECTORY):
        raise os_error(errno.EPERM)


def _unless_invalid(call: Callable[[], None]) -> None:
    """A transport may not be able to tell a time before 1970, say."""
    try:
        call()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
