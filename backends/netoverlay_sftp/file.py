"""An open file on an SFTP server."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api import (
    AttributeChange,
    BackendFile,
    FileStat,
    LayerPath,
    NotSupportedError,
    Readable,
    Writable,
    os_error,
)
from netoverlay.backend_api.delegate import innermost
from netoverlay.backend_api.places import FilePlace, PlacedFile, place_of
from netoverlay_sftp import attributes, copying, diagnosis, transfer
from netoverlay_sftp.copying import NANOSECONDS
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.handles import ServerHandle, SftpHandles, SftpOpenFile
from netoverlay_sftp.protocol import Attributes, Extension, OpenFlags, PacketType, pack_attributes


class SftpFile(PlacedFile):
    """Reads and writes are split into pieces that the server takes, many of which are in flight."""

    def __init__(self, table: SftpHandles, file: SftpOpenFile, path: LayerPath) -> None:
        """`path` is where it was opened."""
        self._table = table
        self._file = file
        self._path = path

    @property
    def place(self) -> FilePlace | None:
        seen = self._file.seen
        if self._file.path is None or OpenFlags.READ not in self._file.flags:
            return None
        return FilePlace(str(self._table.url), self._path, seen.size or 0, (seen.mtime or 0) * NANOSECONDS, None)

    def read_into(self, offset: int, buffer: Writable) -> int:
        self._require(OpenFlags.READ)
        with self._borrow("read") as handle:
            return transfer.read_into(handle.channel, handle.raw, offset, memoryview(buffer).cast("B"))

    def write_at(self, offset: int, data: Readable) -> None:
        self._require(OpenFlags.WRITE)
        with self._borrow("write") as handle:
            self._table.note_change(self._file)
            transfer.write(handle.channel, handle.raw, offset, memoryview(data).cast("B"))
            self._table.note_written(self._file, handle)

    def truncate(self, size: int) -> None:
        self._require(OpenFlags.WRITE)
        if size < 0:
            raise os_error(errno.EINVAL)
        with self._borrow("truncate") as handle:
            self._set(handle, Attributes(size=size))
            self._table.note_written(self._file, handle)

    def stat(self) -> FileStat:
        with self._borrow("stat") as handle:
            return handle.channel.file_stat(handle.channel.fstat(handle.raw))

    def set_attributes(self, change: AttributeChange) -> None:
        with self._borrow("set_attributes") as handle:
            for step in attributes.steps(change, lambda: handle.channel.fstat(handle.raw)):
                self._set(handle, step)

    def sync(self, *, data_only: bool = False) -> None:  # noqa: ARG002  (the seam's; see below)
        """fsync@openssh.com, which knows no difference between data and the rest."""
        with self._borrow("sync") as handle:
            if Extension.FSYNC not in handle.channel.extensions:
                raise NotSupportedError("sync")
            with self._table.syncing(self._file):
                handle.channel.extended_status(Extension.FSYNC, handle.raw)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        """copy-data. What that refuses, a copy within one file, passes here. The copy of a hole is none."""
        self._require(OpenFlags.WRITE)
        source = innermost(source)
        with self._borrow("copy_range") as handle:
            if Extension.COPY_DATA not in handle.channel.extensions:
                raise NotSupportedError("copy_range")
            if isinstance(source, SftpFile) and source._table is self._table:  # noqa: SLF001  (of our own class)
                return self._copy_own(source, source_offset, handle, offset, length)
            place = place_of(source)
            path = copying.path_of(place, self._table.url) if place is not None else None
            if place is None or path is None or path == self._file.path:
                raise os_error(errno.EXDEV)
            with copying.opened_at(handle, path, place) as raw:
                self._table.note_change(self._file)
                count = copying.copy(handle.channel, raw, source_offset, handle.raw, offset, length)
            self._table.note_written(self._file, handle)
            return count

    def _copy_own(self, source: SftpFile, source_offset: int, handle: ServerHandle, offset: int, length: int) -> int:
        source._require(OpenFlags.READ)
        path = source._file.path
        within_one = self is source or (path is not None and path == self._file.path)
        if within_one and abs(source_offset - offset) < length:
            raise os_error(errno.EINVAL)
        with source._borrow("copy_range") as origin:
            self._table.note_change(self._file)
            if within_one:
                count = copying.copy_within(origin, source_offset, handle, offset, length)
            else:
                with copying.in_channel(origin, handle.channel, path) as raw:
                    count = copying.copy(handle.channel, raw, source_offset, handle.raw, offset, length)
        self._table.note_written(self._file, handle)
        return count

    def close(self) -> None:
        self._table.close(self._file)

    def _set(self, handle: ServerHandle, values: Attributes) -> None:
        self._table.note_change(self._file)
        handle.channel.status(PacketType.FSETSTAT, handle.raw + pack_attributes(values))

    def _require(self, flag: OpenFlags) -> None:
        if flag not in self._file.flags:
            raise os_error(errno.EBADF)

    @contextmanager
    def _borrow(self, operation: str) -> Iterator[ServerHandle]:
        with self._table.borrow(self._file) as handle:
            try:
                yield handle
            except StatusError as error:
                path = self._file.path
                raise diagnosis.of_file(handle.session.metadata, error, path, operation) from error
