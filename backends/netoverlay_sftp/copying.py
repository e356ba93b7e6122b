"""Copies that the server makes, by copy-data (draft-ietf-secsh-filexfer-extensions-00, section 7; OpenSSH 9.0).

Both handles have to be of one channel, which is a server process of its own: a source that is open in another one, or
over another connection, is opened here once more. A server refuses a source that is the target: that data comes here.
"""

from __future__ import annotations

import errno
import stat as stat_bits
from collections.abc import Iterator
from contextlib import contextmanager

from netoverlay.backend_api import LayerUrl, os_error
from netoverlay.backend_api.pieces import copy_in_pieces
from netoverlay.backend_api.places import FilePlace
from netoverlay_sftp import protocol, transfer
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.handles import ServerHandle
from netoverlay_sftp.multiplexer import Request
from netoverlay_sftp.paths import PathMap
from netoverlay_sftp.protocol import Extension, OpenFlags, PacketType, StatusCode, pack_open

_REQUEST_BYTES = 8 << 20
"""Copied by one request, for which all others to its channel wait: done long before the deadline."""
_WITHIN_BYTES = 64 << 20
"""Of a copy within one file: by one call."""
_PIECE_BYTES = 4 << 20
NANOSECONDS = 1_000_000_000


def path_of(place: FilePlace, url: LayerUrl) -> bytes | None:
    """The path of a file of any layer, if the server of the layer at `url` has it for the same user."""
    found = place.url_if_reached(url)
    return PathMap(found.path).on_server(place.path) if found is not None else None


@contextmanager
def opened_at(handle: ServerHandle, path: bytes, place: FilePlace) -> Iterator[bytes]:
    """A handle in the channel of `handle` for what `path` leads to. EXDEV if it is not to be had, or has changed."""
    try:
        found = handle.session.metadata.lstat(path)
        unchanged = place.holds(found.size or 0, (found.mtime or 0) * NANOSECONDS)
        # Never tried with a FIFO, which the server would wait for.
        raw = _open(handle.channel, path) if unchanged and stat_bits.S_ISREG(found.permissions or 0) else None
    except StatusError:
        raw = None
    if raw is None:
        raise os_error(errno.EXDEV)
    try:
        yield raw
    finally:
        handle.channel.forget_handle(raw)


@contextmanager
def in_channel(origin: ServerHandle, channel: SftpChannel, path: bytes | None) -> Iterator[bytes]:
    """A handle in `channel` for the file at `path` that `origin` has open, maybe in another channel. StatusError.

    EXDEV for one that has lost its name, and is open in another.
    """
    if origin.channel is channel:
        yield origin.raw
        return
    if path is None:
        raise os_error(errno.EXDEV)
    raw = _open(channel, path)
    try:
        yield raw
    finally:
        channel.forget_handle(raw)


def _open(channel: SftpChannel, path: bytes) -> bytes:
    return channel.handle(PacketType.OPEN, pack_open(path, OpenFlags.READ))


def copy(channel: SftpChannel, source: bytes, source_offset: int, target: bytes, offset: int, length: int) -> int:
    """The server copies up to `length` bytes: the count, less where the source ends.

    EXDEV where it refuses, for it does not say why: whoever writes the data himself will be told.
    """

    def submit(start: int, size: int) -> tuple[Request, Request]:
        parts = protocol.pack_copy(source, source_offset + start, size, target, offset + start)
        copying = channel.submit(PacketType.EXTENDED, protocol.pack_extended(Extension.COPY_DATA, parts))
        return copying, channel.submit(PacketType.FSTAT, source)

    # OpenSSH calls it a success when the source has become shorter, and less was copied.
    length = min(length, _size(channel, source) - source_offset)
    done = 0

    def finish(requests: tuple[Request, Request], size: int) -> int | Exception:
        nonlocal done
        copying, asking = requests
        try:
            channel.expect(copying, PacketType.STATUS)
        except StatusError as error:
            if error.code != StatusCode.EOF:
                return os_error(errno.EXDEV)
        found = channel.parse(protocol.unpack_attributes, channel.expect(asking, PacketType.ATTRS))
        copied = max(0, min(size, (found.size or 0) - source_offset - done))
        done += copied
        return copied

    return copy_in_pieces(length, _REQUEST_BYTES, submit, finish)


def copy_within(origin: ServerHandle, source_offset: int, target: ServerHandle, offset: int, length: int) -> int:
    """As copy(), between ranges of one file that do not overlap, by way of here. StatusError."""
    buffer = memoryview(bytearray(max(0, min(length, _PIECE_BYTES))))
    done = 0
    while done < min(length, _WITHIN_BYTES):
        part = buffer[: length - done]
        filled = transfer.read_into(origin.channel, origin.raw, source_offset + done, part)
        transfer.write(target.channel, target.raw, offset + done, part[:filled])
        done += filled
        if filled < len(part):
            break
    return done


def _size(channel: SftpChannel, handle: bytes) -> int:
    return channel.fstat(handle).size or 0
