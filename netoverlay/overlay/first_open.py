"""The content of a small file, given to the kernel when the file is opened for the first time: no READ comes.

The kernel puts what it is given into its page cache, over what is there, and locks the pages for that. So it is given
only while nobody can have read or written the file, is at it, or can begin: at its first open ever, before that is
answered, and under COPY_UP, which each further open waits for until then, and whatever would make it another file than
that of its layer. Of layers that never change only, so that it stays right, and has the size that was told.

Whatever the kernel has of a file later, it keeps, or reads again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from netoverlay.backend_api import Access
from netoverlay.overlay.inodes import FileInode

Give: TypeAlias = Callable[[FileInode, bytes], object]

GIVEN_UP_TO = 64 << 10
"""Bytes of the largest file that is given: who opens a larger one may want little of it."""


class FirstOpen:
    """The first opens of the files of one mount."""

    def __init__(self) -> None:
        self.give: Give | None = None
        """Has the kernel take the content of a file, on a thread that serves its open; None where it has to ask."""

    def note(self, inode: FileInode, access: Access) -> None:
        """A regular file of a layer that never changes is being opened. Preconditions: a handle is counted, no lock."""
        if self.give is not None and not inode.was_opened:
            with inode.copy_up_lock:
                self._note_locked(inode, access, self.give)

    @staticmethod
    def _note_locked(inode: FileInode, access: Access, give: Give) -> None:
        if inode.was_opened:
            return
        content = None if inode.in_upper or access.writes else _at_hand(inode)
        if content:
            give(inode, content)
        inode.was_opened = True


def _at_hand(inode: FileInode) -> bytes | None:
    """All of a small file, unless a server has to be asked."""
    layer, path = inode.lower_place()
    if not layer.capabilities.local:
        return layer.backend.at_hand(path, GIVEN_UP_TO)
    with layer.backend.open(path, Access.READ) as file:
        size = file.stat().size
        return file.read_at(0, size) if size <= GIVEN_UP_TO else None
