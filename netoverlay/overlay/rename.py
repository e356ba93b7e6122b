"""Rename: of files and directories, over what exists, exchanged, of the lowers' as of the upper's.

Everything is first made so that one rename in the upper is the whole change: the source is copied up, a directory of
the lowers gets a redirect to where its content stays, a pure directory that would show a lower one through is made
opaque, an existing target directory is made to hold nothing. The rename then leaves a whiteout under the old name in
the same step, where a lower would show through there.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack

from netoverlay.backend_api import FileType, LayerPath, RenameFlags, join_path, os_error
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.inodes import DirectoryInode, FileInode, Inode, Name
from netoverlay.overlay.layers import UpperLayer
from netoverlay.overlay.locks import RankedLock
from netoverlay.overlay.lookup import Lookup
from netoverlay.overlay.removal import Remover
from netoverlay.overlay.tree import Tree


class Renamer:
    """Renames in one tree."""

    def __init__(self, tree: Tree, lookup: Lookup, copy_up: CopyUp, remover: Remover, upper: UpperLayer) -> None:
        self._tree = tree
        self._lookup = lookup
        self._copy_up = copy_up
        self._remover = remover
        self._upper = upper
        self._backend = upper.backend

    def rename(self, old: Name, new: Name, flags: RenameFlags) -> None:
        """renameat2(2), with NOREPLACE or EXCHANGE. ENOENT, EEXIST, ENOTEMPTY, EISDIR, ENOTDIR, EINVAL."""
        if RenameFlags.WHITEOUT in flags or flags == RenameFlags.NOREPLACE | RenameFlags.EXCHANGE:
            raise os_error(errno.EINVAL)
        if old.directory is new.directory:
            with old.directory.directory_lock:
                self._rename_locked(old, new, flags)
            return
        with self._tree.rename_lock:
            first, second = self._in_order(old.directory, new.directory)
            with first, second:
                self._rename_locked(old, new, flags)

    def _in_order(self, one: DirectoryInode, other: DirectoryInode) -> tuple[RankedLock, RankedLock]:
        """Their DIRECTORY locks, in the order of locks.py. Precondition: RENAME is held, so ancestry stays."""
        if _is_ancestor(other, one) or (other.nodeid < one.nodeid and not _is_ancestor(one, other)):
            one, other = other, one
        return one.directory_lock, other.directory_lock

    def _rename_locked(self, old: Name, new: Name, flags: RenameFlags) -> None:
        """Precondition: DIRECTORY of both directories is held."""
        source = self._lookup.require_locked(old.directory, old.name).inode
        try:
            target_entry = self._lookup.lookup_locked(new.directory, new.name)
            target = None if target_entry is None else target_entry.inode
            try:
                if new.directory.removed_stat is not None:
                    raise os_error(errno.ENOENT)
                if target is source:
                    return
                if RenameFlags.EXCHANGE in flags:
                    if target is None:
                        raise os_error(errno.ENOENT, new.name)
                    self._exchange(old, new, source, target)
                else:
                    if target is not None and RenameFlags.NOREPLACE in flags:
                        raise os_error(errno.EEXIST, new.name)
                    self._replace(old, new, source, target)
            finally:
                if target is not None:
                    self._tree.inodes.forget(target.nodeid)
        finally:
            self._tree.inodes.forget(source.nodeid)

    def _replace(self, old: Name, new: Name, source: Inode, target: Inode | None) -> None:
        if isinstance(source, DirectoryInode) and _is_ancestor(source, new.directory):
            raise os_error(errno.EINVAL)
        if target is not None:
            _check_types(source, target)
        if isinstance(target, DirectoryInode) and _is_ancestor(target, old.directory):
            raise os_error(errno.ENOTEMPTY)
        if not isinstance(target, DirectoryInode):
            self._bring(old, new, source)
            self._move(old, new, source, target)
            return
        with target.directory_lock:
            # First of all, for a rename that is refused leaves the source alone.
            self._remover.require_empty_locked(target)
            self._bring(old, new, source)
            self._remover.empty_directory_locked(target)
            self._move(old, new, source, target)

    def _bring(self, old: Name, new: Name, source: Inode) -> None:
        """To the upper: what is renamed, and the directories that it is renamed between."""
        self._copy_up.directory(old.directory)
        self._copy_up.directory(new.directory)
        self._copy_up.inode(source)

    def _move(self, old: Name, new: Name, source: Inode, target: Inode | None) -> None:
        """The rename itself, all being prepared."""
        leaves_whiteout = self._tree.shows_below(old.directory, old.name)
        if isinstance(source, DirectoryInode):
            self._mark_for_move(source, covers=self._tree.shows_below(new.directory, new.name))
        # A copy-up of the target that is under way must not publish it over what takes its place, and no other of its
        # names may go meanwhile.
        with ExitStack() as locks:
            stat = None
            if isinstance(target, FileInode):
                locks.enter_context(target.copy_up_lock)
                stat = self._tree.stat_locked(target)
            elif target is not None:
                stat = self._tree.stat(target)
            locks.enter_context(self._tree.paths.exclusive())
            old_path = join_path(self._tree.upper_path(old.directory), old.name)
            new_path = join_path(self._tree.upper_path(new.directory), new.name)
            if isinstance(target, FileInode) and stat is not None:
                self._copy_up.before_removal(target, stat)
            self._rename_in_upper(old_path, new_path, source, leaves_whiteout=leaves_whiteout)
            if target is not None and stat is not None:
                target.note_removed(stat)
            self._tree.inodes.move_name(source, old, new)
            if isinstance(target, FileInode) and stat is not None:
                self._copy_up.after_removal(target, stat)
            old.directory.note_change(source.type, -1)
            new.directory.note_change(source.type, 1 - isinstance(target, DirectoryInode))
            source.kept_ctime = None
            self._tree.path_epoch += 1

    def _rename_in_upper(self, old: LayerPath, new: LayerPath, source: Inode, *, leaves_whiteout: bool) -> None:
        """Precondition: PATHS is held exclusively."""
        if source.type is FileType.DIRECTORY:
            above = self._upper.stat_or_none(new)
            if above is not None and self._upper.marks.hides(new, above):
                # A directory cannot be renamed over a whiteout. Exchanged, the whiteout comes to hide the old name.
                self._backend.rename(old, new, RenameFlags.EXCHANGE)
                if not leaves_whiteout:
                    self._remover.unlink_whiteout(old)
                return
        self._backend.rename(old, new, RenameFlags.WHITEOUT if leaves_whiteout else RenameFlags.NONE)

    def _exchange(self, old: Name, new: Name, source: Inode, target: Inode) -> None:
        for inode, directory in ((source, new.directory), (target, old.directory)):
            if isinstance(inode, DirectoryInode) and _is_ancestor(inode, directory):
                raise os_error(errno.EINVAL)
        self._copy_up.inode(source)
        self._copy_up.inode(target)
        for inode, place in ((source, new), (target, old)):
            if isinstance(inode, DirectoryInode):
                self._mark_for_move(inode, covers=self._tree.shows_below(place.directory, place.name))
        with self._tree.paths.exclusive():
            old_path = join_path(self._tree.upper_path(old.directory), old.name)
            new_path = join_path(self._tree.upper_path(new.directory), new.name)
            self._backend.rename(old_path, new_path, RenameFlags.EXCHANGE)
            self._tree.inodes.exchange_names(old, new)
            for directory, came, went in ((old.directory, target, source), (new.directory, source, target)):
                directory.note_change(came.type, 1)
                directory.note_change(went.type, -1)
            source.kept_ctime = target.kept_ctime = None
            self._tree.path_epoch += 1

    def _mark_for_move(self, directory: DirectoryInode, *, covers: bool) -> None:
        """Keep a directory's content what it is under its new name, where a lower may show something (`covers`).

        EXDEV, as from overlayfs, if it cannot be written where the content is: mv(1) then copies.
        """
        redirect = None
        if directory.lowers:
            redirect = self._path_below(directory)
            # Others may have changed the lowers since the directory was found.
            if self._tree.merge.redirected(redirect) != directory.lowers:
                raise os_error(errno.EXDEV)
        with self._tree.paths.shared():
            path = self._tree.upper_path(directory)
            try:
                if redirect is not None:
                    self._upper.marks.set_redirect(path, redirect)
                elif covers:
                    self._upper.marks.set_opaque(path)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ERANGE):
                    raise os_error(errno.EXDEV) from error
                raise

    def _path_below(self, directory: DirectoryInode) -> str:
        """Where the lowers alone, merged, show what they hold of a directory: "/" and a path from their root."""
        parts: list[str] = []
        walk = directory
        with self._tree.paths.shared():
            while walk.names:
                redirect = self._upper.marks.redirect(self._tree.upper_path(walk)) if walk.in_upper else None
                if redirect is not None and redirect.startswith("/"):
                    return "/".join([redirect, *reversed(parts)])
                walk, name = walk.names[0]
                parts.append(name if redirect is None else redirect)
        return "/" + "/".join(reversed(parts))


def _is_ancestor(directory: DirectoryInode, of: DirectoryInode) -> bool:
    """Whether `directory` is `of` or above it."""
    walk = of
    while walk is not directory:
        if not walk.names:
            return False
        walk = walk.names[0].directory
    return True


def _check_types(source: Inode, target: Inode) -> None:
    if isinstance(source, DirectoryInode) and not isinstance(target, DirectoryInode):
        raise os_error(errno.ENOTDIR)
    if isinstance(target, DirectoryInode) and not isinstance(source, DirectoryInode):
        raise os_error(errno.EISDIR)
