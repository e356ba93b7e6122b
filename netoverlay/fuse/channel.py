"""Reading and writing the device: one message a system call.

Errors of read(2) on /dev/fuse (fs/fuse/dev.c): ENOENT (the request was taken back before it was read), EINTR and EAGAIN
are tried again; ENODEV (unmounted) and ECONNABORTED (aborted, with ABORT_ERROR) are the end, as is the end of the
stream where a socket stands in for the device. All others are raised: nothing of ours can cause them but a defect.

Errors of write(2): ENOENT says that nobody waits for the reply any more. ENODEV, ECONNABORTED, EPIPE and ECONNRESET say
that the connection is gone, and the reader will see it too. For any other the caller gets EIO: were it not told at all,
it would wait for ever.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
from collections.abc import Sequence
from typing import Final

from netoverlay.fuse import abi
from netoverlay.fuse.replies import Payload, Reply

_log = logging.getLogger(__name__)

_READ_AGAIN: Final = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})
_ENDED: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.EPIPE, errno.ECONNRESET})
_LARGEST_ERRNO: Final = 511
"""The kernel ignores a reply with a larger one, and the caller would wait for ever."""
_COPIED_UP_TO: Final = 4096
"""Bytes of a reply up to which joining it to its header is cheaper than a vector."""
_HEADER_ROOM: Final = 4096
"""Bytes beside max_write in the buffer: for the headers, and for max_write to be a whole number of pages."""


class Channel:
    """The device of one mount, or a socket that keeps message boundaries in its place."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        return self._fd

    def close(self) -> None:
        """Close the device; the kernel then ends the connection, if it had not ended before."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @staticmethod
    def buffer(max_write: int) -> mmap.mmap:
        """What receive() needs for requests of up to `max_write` bytes of data. Takes memory once such a one comes."""
        return mmap.mmap(-1, max(max_write + _HEADER_ROOM, abi.MIN_READ_BUFFER))

    def receive(self, buffers: Sequence[mmap.mmap]) -> int:
        """Wait for a request and read it; its length in bytes, 0 at the end of the connection."""
        while True:
            try:
                return os.readv(self._fd, buffers)
            except OSError as error:
                if error.errno in _ENDED:
                    return 0
                if error.errno not in _READ_AGAIN:
                    raise

    def reply(self, unique: int, reply: Reply) -> bool:
        """Answer request `unique` with success; False if the kernel did not take it."""
        try:
            if reply is None:
                os.write(self._fd, abi.OUT_HEADER.pack(16, 0, unique))
            elif isinstance(reply, bytes) and len(reply) <= _COPIED_UP_TO:
                os.write(self._fd, abi.OUT_HEADER.pack(16 + len(reply), 0, unique) + reply)
            else:
                self._write_vector(unique, reply if isinstance(reply, tuple) else (reply,))
        except OSError as error:
            self._reply_failed(unique, error)
            return False
        return True

    def reply_errno(self, unique: int, code: int) -> None:
        """Answer request `unique` with an errno, or with 0 for success."""
        if not 0 <= code <= _LARGEST_ERRNO:
            code = errno.EIO
        try:
            os.write(self._fd, abi.OUT_HEADER.pack(16, -code, unique))
        except OSError as error:
            if error.errno != errno.ENOENT and error.errno not in _ENDED:
                _log.exception("request %d could not be answered with errno %d", unique, code)

    def notify(self, code: abi.NotifyCode, *parts: Payload) -> None:
        """Send a message that is no reply; raises what the kernel answers."""
        os.write(self._fd, abi.OUT_HEADER.pack(16 + sum(map(len, parts)), code, 0) + b"".join(parts))

    def _write_vector(self, unique: int, parts: tuple[Payload, ...]) -> None:
        length = abi.OUT_HEADER.size
        for part in parts:
            length += part.nbytes if isinstance(part, memoryview) else len(part)
        os.writev(self._fd, (abi.OUT_HEADER.pack(length, 0, unique), *parts))

    def _reply_failed(self, unique: int, error: OSError) -> None:
        if error.errno == errno.ENOENT or error.errno in _ENDED:
            return
        _log.error(
            "the kernel refused the reply to request %d, which fails with EIO; that is a defect, please report it: %s",
            unique,
            error,
        )
        self.reply_errno(unique, errno.EIO)
