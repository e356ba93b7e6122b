"""Telling the kernel that what it caches is out of date.

Never call these on a thread that serves a request, before it is answered: the kernel takes the lock of the inode or
directory concerned, a request on the same one may hold that lock while it waits for its answer, and where the answer
needs this very thread, both wait for ever. The same goes for a thread that holds a lock of ours which a serving thread
wants. Call them from a thread of their own, with no lock held. store() is another case: it has a rule of its own.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Sequence
from typing import Final

from netoverlay.fuse import abi
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.replies import Payload

_PRUNED_AT_ONCE: Final = 512
"""As many as the kernel considers before it lets an unmount come between."""


class Notifier:
    """The notifications of one session. Each returns False if the kernel had nothing of the kind cached."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def invalidate_inode(self, nodeid: int, offset: int = 0, length: int = 0) -> bool:
        """Drop the attributes of an inode, and its pages from byte `offset` on: `length` bytes, or all if 0.

        A negative offset drops the attributes only.
        """
        return self._send(abi.NotifyCode.INVAL_INODE, abi.NOTIFY_INVAL_INODE_OUT.pack(nodeid, offset, length))

    def invalidate_entry(self, parent: int, name: str) -> bool:
        """Drop a name of the directory `parent`, so that it is looked up again; open files of it stay usable."""
        return self._send_entry(parent, name, 0)

    def expire_entry(self, parent: int, name: str) -> bool:
        """Have a name looked up again at its next use, without dropping it: mounts below it stay. Linux 6.2."""
        return self._send_entry(parent, name, abi.NotifyEntryFlag.EXPIRE_ONLY)

    def delete(self, parent: int, child: int, name: str) -> bool:
        """A name is gone from its layer: drop it, and tell those who watch it (inotify).

        ENOTEMPTY if something below it is in use, EBUSY if it is a mount point.
        """
        raw = os.fsencode(name)
        return self._send(abi.NotifyCode.DELETE, abi.NOTIFY_DELETE_OUT.pack(parent, child, len(raw)), raw, b"\0")

    def prune(self, nodeids: Sequence[int]) -> None:
        """Have the kernel forget inodes that nobody uses; those that are in use stay as they are. Linux 6.18."""
        for start in range(0, len(nodeids), _PRUNED_AT_ONCE):
            part = nodeids[start : start + _PRUNED_AT_ONCE]
            self._send(abi.NotifyCode.PRUNE, abi.NOTIFY_PRUNE_OUT.pack(len(part)), array("Q", part).tobytes())

    def store(self, nodeid: int, content: Payload) -> bool:
        """Put the content of a file, all of it and not nothing, into the kernel's page cache, which then need not read.

        It locks the pages, and overwrites what is there (fuse_notify_store() in fs/fuse/dev.c): only for a file that
        nobody has open, so that no READ or WRITE holds one of them, and that nobody can open or change until this
        returns. That may be on the thread that serves its OPEN. The size must be the one that was told, for a larger
        one would become the file's. False if not all of it was taken: what is missing is read.
        """
        head = abi.NOTIFY_STORE_OUT.pack(nodeid, 0, len(content))
        try:
            return self._send(abi.NotifyCode.STORE, head, content)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            return False

    def _send_entry(self, parent: int, name: str, flags: int) -> bool:
        raw = os.fsencode(name)
        head = abi.NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(raw), flags)
        return self._send(abi.NotifyCode.INVAL_ENTRY, head, raw, b"\0")

    def _send(self, code: abi.NotifyCode, *parts: Payload) -> bool:
        try:
            self._channel.notify(code, *parts)
        except OSError as error:
            # The connection may be gone already, and everything that was cached with it.
            if error.errno in {errno.ENOENT, errno.ENODEV, errno.ECONNABORTED}:
                return False
            raise
        return True
