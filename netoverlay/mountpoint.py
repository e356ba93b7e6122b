"""Where a profile is to be mounted, and whether it can be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from netoverlay.config.model import Profile
from netoverlay.config.overlaps import refuse_mountpoint
from netoverlay.mount_table import mount_at


def checked_mountpoint(profile: Profile, mountpoint: Path) -> Path:
    """`mountpoint`, absolute and with symbolic links resolved.

    OSError with a remedy if it is no directory (ENOENT, ENOTDIR, ...) or there is a mount of netoverlay already
    (EBUSY); ConfigError if it cannot go with the layers of `profile`.
    """
    if mount_at(str(mountpoint)) is not None:
        message = "netoverlay is mounted there already; unmount it first with `netoverlay umount`"
        raise OSError(errno.EBUSY, message, str(mountpoint))
    try:
        is_directory = stat.S_ISDIR(os.stat(mountpoint).st_mode)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "no such directory; make it with `mkdir -p`", str(mountpoint)) from None
    if not is_directory:
        raise OSError(errno.ENOTDIR, "not a directory; a mountpoint has to be one", str(mountpoint))
    refuse_mountpoint(profile, mountpoint)
    return Path(os.path.realpath(mountpoint))
