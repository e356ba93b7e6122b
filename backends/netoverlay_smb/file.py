"""An open file on an SMB server."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from netoverlay.backend_api import (
    AllocateMode,
    AttributeChange,
    BackendFile,
    FileStat,
    LayerPath,
    LockKind,
    NotSupportedError,
    Readable,
    StaleHandleError,
    UnavailableError,
    Writable,
    XattrMode,
    os_error,
)
from netoverlay.backend_api.delegate import innermost
from netoverlay.backend_api.places import FilePlace, PlacedFile, place_of
from netoverlay_smb import attributes, commands, copying, locking, look, replies, transfer, xattrs
from netoverlay_smb.attributes import Appearance
from netoverlay_smb.errors import StatusError, status_error
from netoverlay_smb.facts import ShareFacts
from netoverlay_smb.handles import SmbHandles, SmbOpenFile
from netoverlay_smb.lock_ranges import END, whole_span
from netoverlay_smb.protocol import Control, InfoClass
from netoverlay_smb.session import ServerHandle
from netoverlay_smb.status import Status

_T = TypeVar("_T")

FRESH_SECONDS = 1.0
"""For so long the beginning of a file that came with opening it is taken for its content."""
_TWO = struct.Struct("<QQ")
_LEAST_WINDOW = 1 << 20
"""With a range for each two blocks the reply has room for this."""


class SmbFile(PlacedFile):
    """Large reads and writes are split into pieces, many of which are in flight."""

    def __init__(
        self,
        table: SmbHandles,
        file: SmbOpenFile,
        path: LayerPath,
        appearance: Appearance,
        facts: ShareFacts,
        beginning: bytes | None,
    ) -> None:
        """`path` is where it was opened; `beginning` is what came with that: all of it, if less than was asked for."""
        self._table = table
        self._file = file
        self._path = path
        self._appearance = appearance
        self._facts = facts
        self._beginning = beginning
        self._fresh_until = time.monotonic() + FRESH_SECONDS
        self._window = 1 << 62
        """So many bytes have no more ranges of data than the server tells at once."""

    @property
    def place(self) -> FilePlace | None:
        if self._file.path is None or not self._file.access.reads:
            return None
        return FilePlace.of(str(self._table.url), self._path, self._appearance.stat(self._file.seen))

    def read_into(self, offset: int, buffer: Writable) -> int:
        if not self._file.access.reads:
            raise os_error(errno.EBADF)
        target = memoryview(buffer).cast("B")
        self._require_locks()
        done, is_all = self._read_beginning(offset, target)
        if is_all:
            return done
        rest, start, size = target[done:], offset + done, self._file.seen.size
        with self._borrow("read") as handle:
            self._require_locks()
            return done + locking.patiently(
                lambda: transfer.read_into(handle.session, handle.raw, start, rest, size),
            )

    def _read_beginning(self, offset: int, target: memoryview) -> tuple[int, bool]:
        """Read what came with opening the file, if it can be trusted still: the count, and whether that is all."""
        known = self._beginning
        if known is None or self._file.closed:
            return 0, False
        if time.monotonic() > self._fresh_until or not self._table.is_as_opened(self._file):
            self._beginning = None
            return 0, False
        part = known[offset : offset + len(target)]
        target[: len(part)] = part
        return len(part), len(part) == len(target) or len(known) == self._file.seen.size

    def write_at(self, offset: int, data: Readable) -> None:
        self._require_writable()
        view = memoryview(data).cast("B")
        with self._borrow("write") as handle:
            if view:
                self._change(
                    handle, offset, len(view), lambda: transfer.write(handle.session, handle.raw, offset, view)
                )

    def truncate(self, size: int) -> None:
        self._require_writable()
        if size < 0:
            raise os_error(errno.EINVAL)
        with self._borrow("truncate") as handle:
            self._require_locks()
            self._table.note_change(self._file)
            try:
                handle.session.call(commands.set_size(size, handle.raw))
            except StatusError as error:
                if error.status != Status.FILE_LOCK_CONFLICT:  # Samba, for one, does not look at locks for this
                    raise
                self._change(handle, size, 0, lambda: handle.session.call(commands.set_size(size, handle.raw)))
            else:
                self._table.note_written(self._file, handle)

    def stat(self) -> FileStat:
        with self._borrow("stat") as handle:
            session = handle.session
            asked = [commands.query_file(InfoClass.ALL, handle.raw)]
            secured = self._appearance.modes_from_server
            requests = session.engine.call(*asked, *([commands.query_security(handle.raw)] if secured else []))
            facts = look.all_of(session, requests[0])
            told = look.ownership(session, requests[1]) if secured else attributes.NOTHING_TOLD
            return self._appearance.stat(facts, told)

    def revalidate(self) -> FileStat:
        self._beginning = None
        return self.stat()

    def set_attributes(self, change: AttributeChange) -> None:
        with self._borrow("set_attributes") as handle:
            body = attributes.set_times(change, handle.raw)
            if body is not None:
                self._table.note_change(self._file)
                handle.session.call(body)

    def sync(self, *, data_only: bool = False) -> None:  # noqa: ARG002  (the seam's; see below)
        """FLUSH, which knows no difference between data and the rest."""
        with self._borrow("sync") as handle, self._table.syncing(self._file):
            if self._file.access.writes:  # what was only opened to be read has nothing to flush, and may not
                handle.session.call(commands.flush(handle.raw))

    def seek_data(self, offset: int) -> int:
        """FSCTL_QUERY_ALLOCATED_RANGES."""
        self._require_holes("seek_data")
        with self._borrow("seek_data") as handle:
            for start, _ in self._allocated(handle, offset, self._size_beyond(handle, offset)):
                return max(start, offset)
        raise os_error(errno.ENXIO)

    def seek_hole(self, offset: int) -> int:
        """FSCTL_QUERY_ALLOCATED_RANGES."""
        self._require_holes("seek_hole")
        with self._borrow("seek_hole") as handle:
            size = self._size_beyond(handle, offset)
            reached = offset
            for start, length in self._allocated(handle, offset, size):
                if start > reached:
                    return reached
                reached = start + length
            return min(reached, size)

    def allocate(self, mode: AllocateMode, offset: int, length: int) -> None:
        """PUNCH_HOLE by FSCTL_SET_ZERO_DATA; the others change a size and more, which SMB cannot do in one step."""
        if mode is not AllocateMode.PUNCH_HOLE or not self._facts.has_holes:
            raise NotSupportedError(f"allocate({mode.name})")
        self._require_writable()
        if offset < 0 or length <= 0:
            raise os_error(errno.EINVAL)
        with self._borrow("allocate") as handle:
            size = self._size(handle)
            end = min(offset + length, size)
            if offset < end:
                zeros = commands.control(Control.SET_ZERO_DATA, _TWO.pack(offset, end), handle.raw, reply_bytes=0)
                handle.session.call(commands.control(Control.SET_SPARSE, b"", handle.raw, reply_bytes=0))
                self._change(handle, offset, end - offset, lambda: handle.session.call(zeros))

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        """FSCTL_SRV_COPYCHUNK_WRITE."""
        if not self._facts.copies:
            raise NotSupportedError("copy_range")
        self._require_writable()
        source = innermost(source)
        with self._borrow("copy_range") as handle:
            if isinstance(source, SmbFile) and source._table is self._table:  # noqa: SLF001  (of our own class)
                return self._copy_own(source, source_offset, handle, offset, length)
            place = place_of(source)
            path = copying.path_of(place, self._table.url, handle.session) if place is not None else None
            if place is None or path is None or path == self._file.path:
                raise os_error(errno.EXDEV)
            with copying.opened_at(handle.session, path, place) as (key, size):
                return self._copy(handle, key, source_offset, offset, min(length, size - source_offset))

    def _copy_own(self, source: SmbFile, source_offset: int, handle: ServerHandle, offset: int, length: int) -> int:
        if not source._file.access.reads:
            raise os_error(errno.EBADF)
        if self._is_same_file(source) and abs(source_offset - offset) < length:
            raise os_error(errno.EINVAL)
        with source._borrow("copy_range") as origin:
            source._require_locks()
            key, size = copying.source(origin.session, origin.raw)
            return self._copy(handle, key, source_offset, offset, min(length, size - source_offset))

    def _copy(self, handle: ServerHandle, key: bytes, source_offset: int, offset: int, count: int) -> int:
        if count <= 0:
            return 0
        return self._change(
            handle,
            offset,
            count,
            lambda: copying.copy(handle.session, key, source_offset, handle.raw, offset, count),
        )

    def _is_same_file(self, other: SmbFile) -> bool:
        mine, others = self._file, other._file
        same_id = mine.seen.file_id == others.seen.file_id != 0
        return mine is others or same_id or (mine.path is not None and mine.path == others.path)

    def get_xattr(self, name: str) -> bytes:
        return xattrs.value_of(self._attributes(), name)

    def list_xattrs(self) -> list[str]:
        return sorted(self._attributes())

    def set_xattr(self, name: str, value: bytes, mode: XattrMode = XattrMode.ANY) -> None:
        self._require_attributes("set_xattr", name)
        xattrs.check_mode(self._attributes, name, mode)
        self._set_attribute(name, value, "set_xattr")

    def remove_xattr(self, name: str) -> None:
        self._require_attributes("remove_xattr", name)
        xattrs.value_of(self._attributes(), name)
        self._set_attribute(name, None, "remove_xattr")

    def lock(self, kind: LockKind, start: int, length: int) -> None:
        """SMB2 LOCK (locking.py). Letting go succeeds without a connection, too: the lock is gone with it."""
        span = whole_span(start, length)
        if span is None:
            raise os_error(errno.EINVAL)
        self._beginning = None  # another may have written until just now
        if kind is LockKind.UNLOCK and self._file.locks is None:
            return
        locks = self._table.locks_of(self._file)
        if kind is LockKind.UNLOCK and locks.is_empty:
            locks.forget(span)
            return
        try:
            with self._borrow("lock") as handle:
                locks.set(handle, kind, span)
        except (StaleHandleError, UnavailableError):
            if kind is not LockKind.UNLOCK:
                raise
            locks.forget(span)

    @property
    def lost_locks(self) -> tuple[tuple[int, int], ...]:
        locks = self._file.locks
        lost = () if locks is None else locks.lost
        return tuple((each.start, 0 if each.end == END else each.length) for each in lost)

    def close(self) -> None:
        self._table.close(self._file)

    def _require_locks(self) -> None:
        """EIO if some were lost."""
        locks = self._file.locks
        if locks is not None:
            locks.require_kept()

    def _change(self, handle: ServerHandle, start: int, length: int, call: Callable[[], _T]) -> _T:
        """call(), which changes the content in a range. Length 0: to the end. StatusError."""
        self._table.note_change(self._file)
        locks = self._file.locks
        span = None if locks is None else whole_span(start, length)
        if locks is None or span is None:  # the server refuses what is no range
            result = locking.patiently(call)
        else:
            result = locking.patiently(lambda: locks.change(handle, span, call))
        self._table.note_written(self._file, handle)
        return result

    def _attributes(self) -> dict[str, bytes]:
        if not self._facts.has_attributes:
            raise NotSupportedError("extended attributes")
        with self._borrow("list_xattrs") as handle:
            return xattrs.fetched(handle.session, handle.session.submit(commands.query_attribute_list(handle.raw))[0])

    def _set_attribute(self, name: str, value: bytes | None, operation: str) -> None:
        with self._borrow(operation) as handle:
            try:
                handle.session.call(xattrs.setting(name, value, handle.raw))
            except StatusError as error:
                raise xattrs.refusal(error, operation) from error

    def _require_attributes(self, operation: str, name: str) -> None:
        if not self._facts.has_attributes or not xattrs.is_ours(name):
            raise NotSupportedError(f"{operation} of {name}")

    def _require_holes(self, operation: str) -> None:
        if not self._facts.has_holes:
            raise NotSupportedError(operation)

    def _require_writable(self) -> None:
        if not self._file.access.writes:
            raise os_error(errno.EBADF)

    @staticmethod
    def _size(handle: ServerHandle) -> int:
        session = handle.session
        return look.all_of(session, session.submit(commands.query_file(InfoClass.ALL, handle.raw))[0]).size

    def _size_beyond(self, handle: ServerHandle, offset: int) -> int:
        """The size of the file. ENXIO if `offset` is not in it."""
        size = self._size(handle)
        if not 0 <= offset < size:
            raise os_error(errno.ENXIO)
        return size

    def _allocated(self, handle: ServerHandle, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """The ranges of data from `offset` on, in order, as far as they are asked for."""
        session = handle.session
        at = offset
        while at < end:
            window = min(self._window, end - at)
            asking = commands.control(Control.QUERY_ALLOCATED_RANGES, _TWO.pack(at, window), handle.raw)
            try:
                request = session.submit(asking)[0]
                body = session.expect(request, Status.BUFFER_OVERFLOW)
            except StatusError as error:
                # What Samba says where others tell of the first ranges.
                if error.status != Status.BUFFER_TOO_SMALL or window <= _LEAST_WINDOW:
                    raise
                self._window = window // 2
                continue
            found = session.parse(replies.ranges, session.parse(replies.controlled, body))
            yield from found
            told_all = request.status == Status.SUCCESS or not found
            at = at + window if told_all else max(at + 1, sum(found[-1]))

    @contextmanager
    def _borrow(self, operation: str) -> Iterator[ServerHandle]:
        with self._table.borrow(self._file) as handle:
            try:
                yield handle
            except StatusError as error:
                raise status_error(error, None, operation) from error
