"""Where a profile is to be mounted, and whether it can be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from netoverlay.config.model import Profile
from netoverlay.config.overlaps import refuse_mountpoint
from netoverlay.mount_table import mount_at


def checked_mountpoint(profile: Profile, mountpoint: Path, log_file: Path | None) -> Path:
    """`mountpoint`, absolute and with symbolic links resolved.

    OSError with a remedy if it is no directory (ENOENT, ENOTDIR, ...), if there is a mount of netoverlay already
    (EBUSY), or if the daemon would log into its own mount (EINVAL); ConfigError if it cannot go with the layers of
    `profile`.
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
    resolved = Path(os.path.realpath(mountpoint))
    if log_file is not None and resolved in Path(os.path.realpath(log_file)).parents:
        raise OSError(errno.EINVAL, f"the log file lies in the mountpoint {mountpoint}; log elsewhere", str(log_file))
    return resolved
