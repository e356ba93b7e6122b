"""An open file on an SMB server."""

from __future__ import annotations

import errno
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api import (
    AllocateMode,
    AttributeChange,
    BackendFile,
    FileStat,
    LayerPath,
    NotSupportedError,
    Readable,
    Writable,
    XattrMode,
    os_error,
)
from netoverlay.backend_api.delegate import innermost
from netoverlay.backend_api.places import FilePlace, PlacedFile, place_of
from netoverlay_smb import attributes, commands, copying, look, replies, transfer, xattrs
from netoverlay_smb.attributes import Appearance
from netoverlay_smb.errors import StatusError, status_error
from netoverlay_smb.facts import ShareFacts
from netoverlay_smb.handles import ServerHandle, SmbHandles, SmbOpenFile
from netoverlay_smb.protocol import Control, InfoClass
from netoverlay_smb.status import Status

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
        done, is_all = self._read_beginning(offset, target)
        if is_all:
            return done
        with self._borrow("read") as handle:
            return done + transfer.read_into(
                handle.session, handle.raw, offset + done, target[done:], self._file.seen.size
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
        with self._borrow("write") as handle:
            self._table.note_change(self._file)
            transfer.write(handle.session, handle.raw, offset, memoryview(data).cast("B"))

    def truncate(self, size: int) -> None:
        self._require_writable()
        if size < 0:
            raise os_error(errno.EINVAL)
        with self._borrow("truncate") as handle:
            self._table.note_change(self._file)
            handle.session.call(commands.set_size(size, handle.raw))

    def stat(self) -> FileStat:
        with self._borrow("stat") as handle:
            session = handle.session
            asked = [commands.query_file(InfoClass.ALL, handle.raw)]
            secured = self._appearance.modes_from_server
            requests = session.engine.call(*asked, *([commands.query_security(handle.raw)] if secured else []))
            facts = look.all_of(session, requests[0])
            told = look.ownership(session, requests[1]) if secured else attributes.NOTHING_TOLD
            return self._appearance.stat(facts, told)

    def set_attributes(self, change: AttributeChange) -> None:
        with self._borrow("set_attributes") as handle:
            body = attributes.set_times(change, handle.raw)
            if body is not None:
                self._table.note_change(self._file)
                handle.session.call(body)

    def sync(self, *, data_only: bool = False) -> None:  # noqa: ARG002  (the seam's; see below)
        """FLUSH, which knows no difference between data and the rest."""
        with self._borrow("sync") as handle:
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
            self._table.note_change(self._file)
            size = self._size(handle)
            end = min(offset + length, size)
            if offset < end:
                zeros = commands.control(Control.SET_ZERO_DATA, _TWO.pack(offset, end), handle.raw, reply_bytes=0)
                handle.session.call(commands.control(Control.SET_SPARSE, b"", handle.raw, reply_bytes=0))
                handle.session.call(zeros)

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
                self._table.note_change(self._file)
                count = min(length, size - source_offset)
                return copying.copy(handle.session, key, source_offset, handle.raw, offset, count)

    def _copy_own(self, source: SmbFile, source_offset: int, handle: ServerHandle, offset: int, length: int) -> int:
        if not source._file.access.reads:
            raise os_error(errno.EBADF)
        if self._is_same_file(source) and abs(source_offset - offset) < length:
            raise os_error(errno.EINVAL)
        with source._borrow("copy_range") as origin:
            key, size = copying.source(origin.session, origin.raw)
            self._table.note_change(self._file)
            count = min(length, size - source_offset)
            return copying.copy(handle.session, key, source_offset, handle.raw, offset, count)

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

    def close(self) -> None:
        self._table.close(self._file)

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
