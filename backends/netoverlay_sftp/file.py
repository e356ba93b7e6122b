"""An open file on an SFTP server."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api import (
    AttributeChange,
    BackendFile,
    FileStat,
    NotSupportedError,
    Readable,
    Writable,
    os_error,
)
from netoverlay_sftp import attributes, diagnosis, transfer
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.handles import ServerHandle, SftpHandles, SftpOpenFile
from netoverlay_sftp.protocol import Attributes, Extension, OpenFlags, PacketType, pack_attributes, pack_open

_COPY_PIECE_BYTES = 4 << 20


class SftpFile(BackendFile):
    """Reads and writes are split into pieces that the server takes, many of which are in flight."""

    def __init__(self, table: SftpHandles, file: SftpOpenFile) -> None:
        self._table = table
        self._file = file

    def read_into(self, offset: int, buffer: Writable) -> int:
        self._require(OpenFlags.READ)
        with self._borrow("read") as handle:
            return transfer.read_into(handle.channel, handle.raw, offset, memoryview(buffer).cast("B"))

    def write_at(self, offset: int, data: Readable) -> None:
        self._require(OpenFlags.WRITE)
        with self._borrow("write") as handle:
            self._table.note_change(self._file)
            transfer.write(handle.channel, handle.raw, offset, memoryview(data).cast("B"))

    def truncate(self, size: int) -> None:
        self._require(OpenFlags.WRITE)
        if size < 0:
            raise os_error(errno.EINVAL)
        with self._borrow("truncate") as handle:
            self._set(handle, Attributes(size=size))

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
            handle.channel.extended_status(Extension.FSYNC, handle.raw)

    def copy_range(self, source: BackendFile, source_offset: int, offset: int, length: int) -> int:
        """copy-data. Within one file, which that refuses, the data comes here and goes back."""
        self._require(OpenFlags.WRITE)
        if not isinstance(source, SftpFile) or source._table is not self._table:  # noqa: SLF001  (of our own class)
            raise os_error(errno.EXDEV)
        source._require(OpenFlags.READ)  # noqa: SLF001  (of our own class)
        with self._borrow("copy_range") as handle, source._borrow("copy_range") as origin:  # noqa: SLF001  (as above)
            if Extension.COPY_DATA not in handle.channel.extensions:
                raise NotSupportedError("copy_range")
            size = origin.channel.fstat(origin.raw).size or 0
            count = max(0, min(length, size - source_offset))
            self._table.note_change(self._file)
            if self._file.path == source._file.path:  # noqa: SLF001  (of our own class)
                _copy_through_here(origin, source_offset, handle, offset, count)
            else:
                with _in_channel(origin, handle.channel, source._file.path) as raw:  # noqa: SLF001  (as above)
                    transfer.copy(handle.channel, raw, source_offset, handle.raw, offset, count)
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


@contextmanager
def _in_channel(origin: ServerHandle, channel: SftpChannel, path: bytes | None) -> Iterator[bytes]:
    """A handle in `channel` for the file at `path` that `origin` has open, maybe in another channel."""
    if origin.channel is channel:
        yield origin.raw
        return
    if path is None:
        raise NotSupportedError("copy_range of a removed file")
    raw = channel.handle(PacketType.OPEN, pack_open(path, OpenFlags.READ))
    try:
        yield raw
    finally:
        channel.forget_handle(raw)


def _copy_through_here(origin: ServerHandle, source_offset: int, target: ServerHandle, offset: int, count: int) -> None:
    buffer = memoryview(bytearray(min(count, _COPY_PIECE_BYTES)))
    # Backwards where the target is ahead of the source, so that what overlaps is read before it is overwritten.
    starts = range(0, count, _COPY_PIECE_BYTES)
    for start in reversed(starts) if offset > source_offset else starts:
        part = buffer[: min(len(buffer), count - start)]
        filled = transfer.read_into(origin.channel, origin.raw, source_offset + start, part)
        transfer.write(target.channel, target.raw, offset + start, part[:filled])
