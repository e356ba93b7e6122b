"""What is mounted, from the kernel's table: what that says is true even if no file system answers."""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

FILE_SYSTEM_TYPE = b"fuse.netoverlay"
TABLE = "/proc/self/mountinfo"


class MountTableEntry(NamedTuple):
    """One mount of netoverlay."""

    mountpoint: str
    """With symbolic links resolved."""
    device_number: int
    """Its st_dev."""
    user_id: int
    """Who mounted it, and serves it."""


def netoverlay_mounts() -> list[MountTableEntry]:
    """All that this process can see, in the order in which they were mounted."""
    with open(TABLE, "rb") as table:
        return [entry for line in table if (entry := _parse(line)) is not None]


def mount_at(path: str) -> MountTableEntry | None:
    """The uppermost mount of netoverlay at exactly `path`, which may be relative, or lead there by symbolic links."""
    mounts = {entry.mountpoint: entry for entry in netoverlay_mounts()}
    # The last component is looked at only if it is no mountpoint: a mount that does not answer would block that.
    return mounts.get(_without_last_link(path)) or mounts.get(os.path.realpath(path))


def mounted_device(mountpoint: str) -> int | None:
    """The device number (st_dev) of what is mounted last on `mountpoint`, of any type; None if nothing is.

    A symbolic link as the last component is not followed: to look at it would ask the file system.
    """
    wanted = _without_last_link(mountpoint)
    found = None
    with open(TABLE, "rb") as table:
        for line in table:
            path, device_number = _place(line)
            if path == wanted:
                found = device_number
    return found


def required_mount(path: str) -> MountTableEntry:
    """As mount_at(). OSError (EINVAL) if there is none."""
    entry = mount_at(path)
    if entry is None:
        raise OSError(errno.EINVAL, "no netoverlay mount; `netoverlay status` lists them", path)
    return entry


def _parse(line: bytes) -> MountTableEntry | None:
    """A line of /proc/PID/mountinfo (proc(5)): the fields after " - " are type, source and the options of the type."""
    mount, _, file_system = line.partition(b" - ")
    type_name, _, options = file_system.split(b" ", 2)
    user_id = re.search(rb"\buser_id=(\d+)", options)
    if type_name != FILE_SYSTEM_TYPE or user_id is None:
        return None
    return MountTableEntry(*_place(mount), int(user_id[1]))


def _place(line: bytes) -> tuple[str, int]:
    """The mountpoint of a line, and its device number."""
    fields = line.split(b" ")
    major, minor = fields[2].split(b":")
    return os.fsdecode(_unescape(fields[4])), os.makedev(int(major), int(minor))


def _without_last_link(path: str) -> str:
    """The absolute path, with symbolic links resolved in all components but the last."""
    absolute = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))


def _unescape(field: bytes) -> bytes:
    """Blanks, tabs, line ends and backslashes are written as three octal digits after a backslash."""
    return re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), field)
