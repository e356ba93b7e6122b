"""Open files and the server's handles for them, of which there are fewer.

A server grants each channel a limited number of handles. An open file therefore borrows one while it is in use; the one
least recently used is closed when another file needs it, and opened again, by path, on its next use. So is every handle
when the connection is lost. Two things follow:

- A file whose name is removed or replaced through this backend must keep its handle, since no path leads to it any
  more; and one whose name changes must learn the new one.
- A file that is opened again must be the same one. SFTP has no inode numbers, so its size and time of change must be
  what they were, unless it was changed through this backend in between; else it is stale (ESTALE).
"""

from __future__ import annotations

import errno
import stat as stat_bits
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from netoverlay.backend_api import StaleHandleError, os_error
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.connection import Session
from netoverlay_sftp.errors import StatusError, status_error
from netoverlay_sftp.paths import decode
from netoverlay_sftp.protocol import Attributes, OpenFlags, PacketType, StatusCode, pack_open

MAX_HANDLES = 512
"""A channel's handles, however many the server would grant: each costs it a descriptor."""
_RESERVED_HANDLES = 8
"""Left free for directories that are being listed, where data and metadata share a channel."""
_REOPEN_FLAGS = OpenFlags.READ | OpenFlags.WRITE
_REOPEN_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """What the server calls an open file, in one channel."""

    session: Session
    channel: SftpChannel
    raw: bytes


@dataclass(slots=True)
class _Place:
    """What is known of the files open under one path."""

    files: set[OpenFile] = field(default_factory=set)
    changed: bool = False
    """Changed through this backend since the first of them was opened: size and time tell nothing any more."""


@dataclass(eq=False, slots=True)
class OpenFile:
    """One open file of ours. Guarded by the table's lock."""

    path: bytes | None
    """The server's; None once the name is gone."""
    flags: OpenFlags
    seen: Attributes
    """When it was opened."""
    handle: ServerHandle | None = None
    users: int = 0
    closed: bool = False
    written: bool = False
    """Changed through its handle, so that closing that one may tell of an error."""
    failure: OSError | None = None
    """Of a close that nobody has seen yet."""
    reopening: threading.Lock = field(default_factory=threading.Lock)


class HandleTable:
    """All open files of a backend."""

    def __init__(self, session: Callable[[], Session]) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._places: dict[bytes, _Place] = {}
        self._recent: OrderedDict[OpenFile, None] = OrderedDict()
        """Those that have a handle, the least recently used first."""
        self._counts: Counter[SftpChannel] = Counter()

    def open(self, path: bytes, flags: OpenFlags, seen: Attributes, permissions: int | None = None) -> OpenFile:
        """Open, or create, `path`, of which `seen` was seen before. StatusError."""
        file = OpenFile(path, flags & _REOPEN_FLAGS, seen)
        handle = self._open_handle(path, flags, permissions)
        with self._lock:
            self._adopt(file, handle)
            place = self._places.setdefault(path, _Place())
            place.files.add(file)
            place.changed |= OpenFlags.TRUNCATE in flags or OpenFlags.CREATE in flags
        return file

    @contextmanager
    def borrow(self, file: OpenFile) -> Iterator[ServerHandle]:
        """A handle for `file`, which stays open at least until the block ends."""
        handle = self._take(file)
        if handle is None:
            with file.reopening:
                handle = self._take(file) or self._reopen(file)
        try:
            yield handle
        finally:
            with self._lock:
                file.users -= 1

    def close(self, file: OpenFile) -> None:
        """Give up `file`; raises what closing it, now or when its handle was needed, told of its data."""
        with self._lock:
            if file.closed:
                return
            file.closed = True
            handle = self._disown(file)
            self._forget_path(file)
        if handle is not None and not handle.session.broken:
            self._close_handle(file, handle)
        failure, file.failure = file.failure, None
        if failure is not None:
            raise failure

    def note_change(self, file: OpenFile) -> None:
        """`file` is being changed through its handle."""
        with self._lock:
            file.written = True
            if file.path is not None:
                self._places[file.path].changed = True

    def note_path_change(self, path: bytes) -> None:
        """What stands at `path` is being changed."""
        with self._lock:
            if path in self._places:
                self._places[path].changed = True

    @contextmanager
    def removing(self, path: bytes) -> Iterator[None]:
        """Around an operation that takes the name `path` away: the files open under it keep their handles for good."""
        place = self._places.get(path)
        with ExitStack() as borrowed:
            files = list(place.files) if place is not None else []
            for file in files:
                try:
                    borrowed.enter_context(self.borrow(file))
                except StaleHandleError:
                    continue  # it is lost already, and will say so to whoever uses it
            yield
            with self._lock:
                for file in files:
                    self._forget_path(file)

    def renamed(self, old: bytes, new: bytes) -> None:
        """Whatever was at `old`, or below it, is now at `new`."""
        below = old + b"/"
        with self._lock:
            moved = [path for path in self._places if path == old or path.startswith(below)]
            for path in moved:
                place = self._places.pop(path)
                target = self._places.setdefault(new + path[len(old) :], _Place())
                target.changed |= place.changed
                for file in place.files:
                    file.path = new + path[len(old) :]
                target.files |= place.files

    # Under the lock.

    def _adopt(self, file: OpenFile, handle: ServerHandle) -> None:
        file.handle = handle
        self._recent[file] = None

    def _disown(self, file: OpenFile) -> ServerHandle | None:
        handle, file.handle = file.handle, None
        if handle is not None:
            self._recent.pop(file, None)
            self._release(handle.channel)
        return handle

    def _release(self, channel: SftpChannel) -> None:
        self._counts[channel] -= 1
        if self._counts[channel] <= 0:
            del self._counts[channel]

    def _forget_path(self, file: OpenFile) -> None:
        path, file.path = file.path, None
        if path is not None:
            place = self._places[path]
            place.files.discard(file)
            if not place.files:
                del self._places[path]

    def _victim(self, channel: SftpChannel) -> OpenFile | None:
        """Whose handle to close: the least recently used one, of the files that are only read if there are such."""
        idle = [
            file
            for file in self._recent
            if file.users == 0 and file.path is not None and file.handle is not None and file.handle.channel is channel
        ]
        return next((file for file in idle if OpenFlags.WRITE not in file.flags), idle[0] if idle else None)

    # Taking the lock.

    def _take(self, file: OpenFile) -> ServerHandle | None:
        with self._lock:
            if file.closed:
                raise os_error(errno.EBADF)
            handle = file.handle
            if handle is not None and handle.session.broken:
                self._disown(file)
                handle = None
            if handle is not None:
                file.users += 1
                self._recent.move_to_end(file)
            return handle

    def _open_handle(self, path: bytes, flags: OpenFlags, permissions: int | None = None) -> ServerHandle:
        session = self._session()
        channel = session.data_channel()
        self._make_room(channel)
        try:
            raw = channel.handle(PacketType.OPEN, pack_open(path, flags, permissions))
        except BaseException:
            with self._lock:
                self._release(channel)
            raise
        return ServerHandle(session, channel, raw)

    def _make_room(self, channel: SftpChannel) -> None:
        """Count one handle more in `channel`, having closed one if there are too many. EMFILE if all are in use."""
        capacity = max(1, min(channel.limits.open_handles - _RESERVED_HANDLES, MAX_HANDLES))
        with self._lock:
            if self._counts[channel] < capacity:
                self._counts[channel] += 1
                return
            victim = self._victim(channel)
            if victim is None:
                raise os_error(errno.EMFILE)
            handle = self._disown(victim)
            self._counts[channel] += 1
        if handle is not None:
            self._close_handle(victim, handle)

    def _close_handle(self, file: OpenFile, handle: ServerHandle) -> None:
        if not file.written:
            handle.channel.forget_handle(handle.raw)
            return
        try:
            handle.channel.status(PacketType.CLOSE, handle.raw)
        except StatusError as error:
            file.failure = status_error(error, "", "close")

    def _reopen(self, file: OpenFile) -> ServerHandle:
        for _ in range(_REOPEN_ATTEMPTS):
            path = file.path
            if path is None:
                raise StaleHandleError("the file was removed, and the connection that held it open was lost")
            handle = self._reopen_at(file, path)
            if handle is None:
                if file.path == path:
                    raise StaleHandleError(f"{decode(path)} is no longer the file that was opened")
                continue  # it was renamed meanwhile
            with self._lock:
                if file.path == path and not file.closed:
                    self._adopt(file, handle)
                    file.users += 1
                    return handle
                self._release(handle.channel)
            handle.channel.forget_handle(handle.raw)
            if file.closed:
                raise os_error(errno.EBADF)
        raise StaleHandleError("the file was renamed again and again while it was opened anew")

    def _reopen_at(self, file: OpenFile, path: bytes) -> ServerHandle | None:
        """None if what stands at `path` is not `file`."""
        place = self._places.get(path)
        try:
            found = self._session().metadata.lstat(path)
            same = (place is not None and place.changed) or (found.size, found.mtime) == (
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
