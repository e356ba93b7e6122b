"""The overlay, put together: everything that can be done with one mount's tree, by subject."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from dataclasses import dataclass

from netoverlay.backend_api import SpaceUsage, os_error
from netoverlay.overlay.attributes import AttributeChanger, AttributeView
from netoverlay.overlay.copy_up import CopyUp
from netoverlay.overlay.creation import Creator
from netoverlay.overlay.directories import Directories
from netoverlay.overlay.file_locks import FileLocks
from netoverlay.overlay.files import Files
from netoverlay.overlay.handles import Handles
from netoverlay.overlay.implicit_handles import ImplicitHandles
from netoverlay.overlay.inodes import DirectoryInode
from netoverlay.overlay.kept_times import load_kept_times, save_kept_times
from netoverlay.overlay.layers import LayerStack
from netoverlay.overlay.links import LinkIndex
from netoverlay.overlay.lock_rules import LockMode
from netoverlay.overlay.lookup import Lookup
from netoverlay.overlay.ownership import Held, acquire
from netoverlay.overlay.pruning import Pruner
from netoverlay.overlay.removal import Remover
from netoverlay.overlay.rename import Renamer
from netoverlay.overlay.settling import Settler
from netoverlay.overlay.tree import Tree
from netoverlay.overlay.validity import Validity
from netoverlay.overlay.workspace import Workspace
from netoverlay.overlay.xattrs import Xattrs


@dataclass(frozen=True, slots=True)
class Changes:
    """What a mount with an upper can do beside reading."""

    creator: Creator
    remover: Remover
    renamer: Renamer
    attributes: AttributeChanger


class Overlay:
    """One mount's tree. Close it when nothing is served any more."""

    def __init__(
        self, stack: LayerStack, mountpoint: str, held: Held | None = None, lock_mode: LockMode = LockMode.DELEGATE
    ) -> None:
        """Takes ownership of the upper, if there is one, for the mount at `mountpoint`: UpperHeldError.

        `held` is given if the upper is owned already, as one must be whose backend has caches or a guard; then whoever
        did that gives it back. Else close() does, and a failure here.
        """
        self.tree = Tree(stack)
        self._taken: Held | None = None
        self._workspace: Workspace | None = None
        self._changes: Changes | None = None
        copy_up = None
        upper = stack.upper
        if upper is not None:
            if held is None:
                held = self._taken = acquire(upper.backend, upper.capabilities, upper.work, mountpoint)
            try:
                self._workspace = Workspace(upper.backend, upper.work, held)
                self.tree.links = LinkIndex(upper.backend, upper.work, upper.marks)
                copy_up = CopyUp(self.tree, upper, self._workspace, self.tree.links)
                copy_up.root()
                load_kept_times(upper.backend, upper.work, self.tree.inodes)
            except BaseException:
                self._give_back()
                raise
        self.pruner = Pruner(self.tree.inodes)
        self.lookup = Lookup(self.tree, copy_up)
        self.directories = Directories(self.tree, self.lookup)
        self.files = Files(self.tree, copy_up)
        self.validity = Validity(stack)
        self.file_locks = FileLocks(self.tree, self.files, copy_up, lock_mode)
        self.file_locks.drop_names = self.validity.drop_names
        if copy_up is not None:
            copy_up.moving_up = self.file_locks.moving_up
            copy_up.came_up = self.validity.note_listing
        self.handles = Handles()
        self.implicit_handles = ImplicitHandles(self.tree, self.files)
        self.view = AttributeView()
        self.xattrs = Xattrs(self.tree, copy_up)
        self.settler: Settler | None = None
        """Of an upper that may have lazily copied files."""
        if upper is not None and upper.lazy is not None:
            self.settler = Settler(self.tree, self.lookup, upper, upper.lazy)
        if upper is not None and copy_up is not None and self._workspace is not None:
            remover = Remover(self.tree, self.lookup, copy_up, upper, self._workspace)
            self._changes = Changes(
                creator=Creator(self.tree, self.lookup, copy_up, upper, self._workspace),
                remover=remover,
                renamer=Renamer(self.tree, self.lookup, copy_up, remover, upper),
                attributes=AttributeChanger(self.tree, copy_up),
            )

    def changes(self) -> Changes:
        """What changes the tree; EROFS where there is no upper."""
        if self._changes is None:
            raise os_error(errno.EROFS)
        return self._changes

    def space_usage(self) -> SpaceUsage:
        """Of the upper's file system, for there is where writes go; of the top-most layer without one."""
        stack = self.tree.stack
        return (stack.upper or stack.lowers[0]).backend.space_usage()

    def sync_directory(self, directory: DirectoryInode) -> None:
        """fsync(2) of a directory. What stands in a lower is on stable storage already."""
        if directory.in_upper and directory.removed_stat is None:
            with self.tree.paths.shared():
                self.tree.stack.writable_upper().backend.sync_directory(self.tree.upper_path(directory))

    def sync(self) -> None:
        """syncfs(2)."""
        if self.tree.stack.upper is not None:
            self.tree.stack.upper.backend.sync()

    def leave_kernel_alone(self) -> None:
        """Returns when the kernel is asked to forget nothing any more. Harmless if it never was."""
        self.pruner.stop()
        self.validity.listings.stop()

    def _save_kept_times(self, workspace: Workspace) -> None:
        upper = self.tree.stack.writable_upper()
        if not workspace.lost:
            save_kept_times(upper.backend, upper.work, self.tree.inodes, workspace)

    def _give_back(self) -> None:
        if self._taken is not None:
            self._taken.release()

    def close(self) -> None:
        """Close what is still open, and then give back what was taken. The layers stay connected."""
        with ExitStack() as stack:
            stack.callback(self._give_back)
            if self._workspace is not None:
                stack.callback(self._workspace.close)
                stack.callback(self._save_kept_times, self._workspace)
            stack.callback(self.implicit_handles.close)
            for number in self.handles.open_files():
                stack.callback(self.files.release, self.handles.remove_file(number))
            stack.callback(self.file_locks.close)
            stack.callback(self.leave_kernel_alone)
