"""The handles of open files at an SFTP server (how files keep and lose them is in netoverlay.backend_api.open_files).

A server grants each channel a limited number of them. So the one least recently used is closed when another file needs
it. And SFTP has no inode numbers: that a file which is opened again is the same one is told by its size and time of
change, unless it was changed through this backend in between.
"""

from __future__ import annotations

import errno
import stat as stat_bits
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from netoverlay.backend_api import LayerUrl, os_error
from netoverlay.backend_api.open_files import HandleTable, OpenFile, Opening
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.connection import Session
from netoverlay_sftp.errors import StatusError, status_error
from netoverlay_sftp.paths import decode
from netoverlay_sftp.protocol import Attributes, OpenFlags, PacketType, StatusCode, pack_open

MAX_HANDLES = 512
"""A channel's handles, however many the server would grant: each costs it a descriptor."""
_RESERVED_HANDLES = 8
"""Left free for directories that are being listed, where data and metadata share a channel."""
_TRANSIENT_SHARE = 4
"""One part in so many is left free for files that are opened, read and closed in one call."""
_REOPEN_FLAGS = OpenFlags.READ | OpenFlags.WRITE


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """What the server calls an open file, in one channel."""

    session: Session
    channel: SftpChannel
    raw: bytes


@dataclass(eq=False, slots=True, kw_only=True)
class SftpOpenFile(OpenFile[ServerHandle]):
    """An open file on an SFTP server."""

    flags: OpenFlags
    seen: Attributes
    """When it was opened."""


class SftpHandles(HandleTable[SftpOpenFile, ServerHandle]):
    """All open files of a backend."""

    def __init__(self, session: Callable[[], Session], url: LayerUrl) -> None:
        """`url` is the layer's."""
        super().__init__(b"/")
        self.url = url
        self._session = session
        self._recent: OrderedDict[SftpOpenFile, None] = OrderedDict()
        """Those that have a handle, the least recently used first."""
        self._counts: Counter[SftpChannel] = Counter()
        self._transient: Counter[SftpChannel] = Counter()

    def open(
        self, path: bytes, flags: OpenFlags, seen: Attributes, opening: Opening, permissions: int | None = None
    ) -> SftpOpenFile:
        """Open, or create, `path`, of which `seen` was seen before, since when it is `opening`. StatusError."""
        file = SftpOpenFile(path=path, flags=flags & _REOPEN_FLAGS, seen=seen)
        handle = self._open_handle(path, flags, permissions)
        made = OpenFlags.TRUNCATE in flags or OpenFlags.CREATE in flags
        self._register(file, handle, changed=made or opening.changed)
        return file

    @contextmanager
    def transient(self, channel: SftpChannel, wanted: int) -> Iterator[int]:
        """How many handles, up to `wanted`, can be used in `channel` until the block ends, beside those of open files;
        0 if others have them all."""
        with self._lock:
            free = channel.limits.open_handles // _TRANSIENT_SHARE - self._transient[channel]
            count = max(0, min(wanted, free))
            self._transient[channel] += count
        try:
            yield count
        finally:
            with self._lock:
                self._release(self._transient, channel, count)

    def _is_usable(self, handle: ServerHandle) -> bool:
        return not handle.session.broken

    # Under the lock.

    def _adopt(self, file: SftpOpenFile, handle: ServerHandle) -> None:
        super()._adopt(file, handle)
        self._recent[file] = None

    def _disown(self, file: SftpOpenFile) -> ServerHandle | None:
        handle = super()._disown(file)
        if handle is not None:
            self._recent.pop(file, None)
            self._release(self._counts, handle.channel)
        return handle

    def _used(self, file: SftpOpenFile) -> None:
        self._recent.move_to_end(file)

    @staticmethod
    def _release(counts: Counter[SftpChannel], channel: SftpChannel, count: int = 1) -> None:
        counts[channel] -= count
        if counts[channel] <= 0:
            del counts[channel]

    def _victim(self, channel: SftpChannel) -> SftpOpenFile | None:
        """Whose handle to close: the least recently used one, of the files that are only read if there are such."""
        idle = [
            file
            for file in self._recent
            if file.users == 0 and file.path is not None and file.handle is not None and file.handle.channel is channel
        ]
        return next((file for file in idle if OpenFlags.WRITE not in file.flags), idle[0] if idle else None)

    # Taking the lock.

    def _unused(self, handle: ServerHandle) -> None:
        with self._lock:
            self._release(self._counts, handle.channel)
        handle.channel.forget_handle(handle.raw)

    def _open_handle(self, path: bytes, flags: OpenFlags, permissions: int | None = None) -> ServerHandle:
        session = self._session()
        channel = session.data_channel()
        self._make_room(channel)
        try:
            raw = channel.handle(PacketType.OPEN, pack_open(path, flags, permissions))
        except BaseException:
            with self._lock:
                self._release(self._counts, channel)
            raise
        return ServerHandle(session, channel, raw)

    @staticmethod
    def _capacity(channel: SftpChannel) -> int:
        granted = channel.limits.open_handles
        return max(1, min(granted - _RESERVED_HANDLES - granted // _TRANSIENT_SHARE, MAX_HANDLES))

    def _make_room(self, channel: SftpChannel) -> None:
        """Count one handle more in `channel`, having closed one if there are too many. EMFILE if all are in use."""
        with self._lock:
            if self._counts[channel] < self._capacity(channel):
                self._counts[channel] += 1
                return
            victim = self._victim(channel)
            if victim is None:
                raise os_error(errno.EMFILE)
            handle = self._disown(victim)
            self._counts[channel] += 1
        if handle is not None:
            self._close_handle(victim, handle)

    def _close_handle(self, file: SftpOpenFile, handle: ServerHandle) -> None:
        if not file.written:
            handle.channel.forget_handle(handle.raw)
            return
        try:
            handle.channel.status(PacketType.CLOSE, handle.raw)
        except StatusError as error:
            file.failure = status_error(error, "", "close")

    def _reopen_at(self, file: SftpOpenFile, path: bytes) -> ServerHandle | None:
        try:
            found = self._session().metadata.lstat(path)
            same = self._was_changed(path) or (found.size, found.mtime) == (
                file.seen.size,
                file.seen.mtime,
            )
            if not same or not stat_bits.S_ISREG(found.permissions or 0):
                return None
            return self._open_handle(path, file.flags)
        except StatusError as error:
            if error.code in (StatusCode.NO_SUCH_FILE, StatusCode.PERMISSION_DENIED):
                return None
            raise status_error(error, decode(path), "open") from error
