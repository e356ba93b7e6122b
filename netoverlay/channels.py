"""What a mount lacks whose kernel channel is pyfuse3: as found with pyfuse3 3.5 and libfuse 3.14 (docs/channels.md)."""

from __future__ import annotations

import enum


class Lack(enum.Enum):
    """One thing that pyfuse3 or libfuse does not pass on, in words for who mounts."""

    LOCKS = "locks are the kernel's, and reach no layer"
    INTERRUPTS = "a signal does not end the wait for a server"
    NAMELESS_FILES = "no files without a name (O_TMPFILE)"
    HOLES = "lseek finds no holes"
    ALLOCATION = "no fallocate"
    SERVER_COPIES = "copy_file_range reads and writes"
    UMASK_BESIDE_ACLS = "the umask counts in directories with a default ACL, too"
    SET_IDS = "who loses set-id bits by a change of size is decided by uid, not by capability"
    MAPPED_WRITES = "a write through a mapping takes capabilities from the file"
    UNKNOWN_NAMES = "a listing fails where a name cannot be looked up"
    SHARED_NUMBERS = "of two files with one st_ino the later shows another"
    PASSTHROUGH = "no passthrough, and no files that the kernel opens by itself"
    KERNEL_CACHES = "the kernel keeps no listings and no targets of symbolic links"
    BACKGROUND = "12 requests at most that nobody waits for, or that are direct"
    PRUNING = "the mount of an ordinary user keeps all inodes that the kernel has seen"


def lacks(channel: str) -> tuple[Lack, ...]:
    """What a mount with that `mount.channel` lacks; our own lacks nothing of these."""
    return () if channel == "own" else tuple(Lack)
