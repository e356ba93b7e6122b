"""Backing files: open files that the kernel reads and writes by itself in the place of ours (FUSE_PASSTHROUGH).

Their numbers go into the reply to OPEN or CREATE. As in fs/fuse/backing.c of Linux 6.9 and later.
"""

from __future__ import annotations

import fcntl
import struct
from typing import Final

from netoverlay.fuse.channel import Channel

_BACKING_OPEN: Final = 1 << 30 | 16 << 16 | 229 << 8 | 1
_BACKING_CLOSE: Final = 1 << 30 | 4 << 16 | 229 << 8 | 2
"""_IOW(FUSE_DEV_IOC_MAGIC, 1, struct fuse_backing_map), and with 2 and uint32_t."""
_BACKING_MAP: Final = struct.Struct("=iIQ")
"""struct fuse_backing_map: fd, flags, padding."""
STACK_DEPTH: Final = 1
"""Backing files may not lie on a file system that is stacked itself."""


class BackingFiles:
    """Those of one mount."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def add(self, descriptor: int) -> int:
        """The number of a backing file. EPERM without CAP_SYS_ADMIN, ELOOP on a stacked file system."""
        # A buffer that can be written to: for any other, fcntl.ioctl returns that and not the kernel's answer.
        number: int = fcntl.ioctl(self._channel.fd, _BACKING_OPEN, bytearray(_BACKING_MAP.pack(descriptor, 0, 0)))
        return number

    def remove(self, number: int) -> None:
        """Open files go on using it."""
        fcntl.ioctl(self._channel.fd, _BACKING_CLOSE, struct.pack("=I", number))
