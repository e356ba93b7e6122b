"""The locks on a mount's files where the kernel keeps them: read from its own table, /proc/locks (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from netoverlay.backend_api import LockKind
from netoverlay.mount_table import mounted_device
from netoverlay.overlay.lock_report import ReportedLock, shown_path
from netoverlay.overlay.lock_table import END, Held, LockCall, Owner
from netoverlay.overlay.overlay import Overlay

TABLE: Final = "/proc/locks"
_CALLS: Final = {"POSIX": LockCall.FCNTL, "OFDLCK": LockCall.FCNTL, "FLOCK": LockCall.FLOCK}
"""Leases (LEASE, DELEG) are no locks."""
_KINDS: Final = {"READ": LockKind.SHARED, "WRITE": LockKind.EXCLUSIVE}


class KernelLock(NamedTuple):
    """One line of the table."""

    device_number: int
    """st_dev of the file."""
    ino: int
    lock: Held
    waits: bool
    """It is asked for, and the one above it in the table is in its way."""


def kernels_locks(overlay: Overlay, mountpoint: str) -> Iterator[ReportedLock]:
    """The locks on the files of the mount at `mountpoint`."""
    device_number = mounted_device(mountpoint)
    with open(TABLE, encoding="ascii") as table:
        found = [each for line in table if (each := parse(line)) and each.device_number == device_number]
    inodes = overlay.tree.inodes.by_numbers({each.ino for each in found})
    for each in found:
        inode = inodes.get(each.ino)
        path = "" if inode is None else shown_path(inode)
        yield ReportedLock(path, each.lock, "waiting" if each.waits else "held", None)


def parse(line: str) -> KernelLock | None:
    """What a line says, as in `1: POSIX  ADVISORY  WRITE 4711 00:2f:12 0 EOF`; None if it is of no lock."""
    number, *words = line.split()
    waits = words[0] == "->"
    call, _, kind, pid, place, start, end = words[waits:]
    if call not in _CALLS or kind not in _KINDS:
        return None
    major, minor, ino = place.split(":")
    owner = Owner(_CALLS[call], int(number.rstrip(":")))
    behind = END if end == "EOF" else int(end) + 1
    held = Held(owner, _KINDS[kind], int(start), behind, max(0, int(pid)))
    return KernelLock(os.makedev(int(major, 16), int(minor, 16)), int(ino), held, waits)
