"""Unmount, and wait until everything is flushed."""

from __future__ import annotations

import errno
import os
import select

from netoverlay.fuse.mount import unmount
from netoverlay.mount_table import required_mount
from netoverlay.status.control_client import daemon_pid


def unmount_and_wait(mountpoint: str, *, lazy: bool) -> None:
    """Unmount the netoverlay mount at `mountpoint`, and return once its daemon has ended.

    With `lazy` take it out of the tree at once, and wait for nothing: the daemon ends with the last user of the mount.
    OSError: EINVAL if there is no such mount, EBUSY if it is in use, EPERM if it is another user's.
    """
    entry = required_mount(mountpoint)
    pid = daemon_pid(entry.mountpoint, entry.user_id)
    daemon = _open_process(pid) if pid else None  # 0: in a container, of which this process sees no processes
    try:
        try:
            unmount(entry.mountpoint, entry.device_number, lazy=lazy)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise OSError(errno.EBUSY, "target is busy", mountpoint) from None
        if daemon is not None and not lazy:
            select.select([daemon], [], [])
    finally:
        if daemon is not None:
            os.close(daemon)


def _open_process(pid: int) -> int | None:
    """A descriptor that becomes readable when the process ends; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
