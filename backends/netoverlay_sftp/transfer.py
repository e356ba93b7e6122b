"""Move the bytes of a file: in pieces as large as the server takes, many of them in flight."""

from __future__ import annotations

from netoverlay.backend_api.pieces import read_in_pieces, write_in_pieces
from netoverlay_sftp import protocol
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.multiplexer import Request
from netoverlay_sftp.protocol import Extension, PacketType, StatusCode


def _ends_at_short_read(channel: SftpChannel) -> bool:
    """OpenSSH reads a piece with one pread(2), which for a regular file is short at its end only."""
    return Extension.LIMITS in channel.extensions


def read_into(channel: SftpChannel, handle: bytes, offset: int, buffer: memoryview) -> int:
    """Fill `buffer` from `offset`; the count is less only at the end of the file. StatusError."""
    piece = channel.limits.read_bytes
    if len(buffer) <= piece:
        return _read_rest(channel, handle, offset, buffer, 0)
    return read_in_pieces(
        buffer,
        piece,
        channel.reading,
        lambda start, part: _submit_read(channel, handle, offset + start, part),
        lambda request, start, part: _read_rest(channel, handle, offset + start, part, _filled(channel, request)),
        channel.multiplexer.wait,
    )


def _submit_read(channel: SftpChannel, handle: bytes, offset: int, part: memoryview) -> Request:
    body = protocol.pack_range(handle, offset, len(part))
    return channel.multiplexer.submit(PacketType.READ, body, buffer=part)


def _filled(channel: SftpChannel, request: Request) -> int:
    try:
        channel.expect(request, PacketType.DATA)
    except StatusError as error:
        if error.code == StatusCode.EOF:
            return 0
        raise
    return request.filled


def _read_rest(channel: SftpChannel, handle: bytes, offset: int, part: memoryview, filled: int) -> int:
    """Read until `part`, of which `filled` bytes are there, is full or the file ends."""
    if filled and _ends_at_short_read(channel):
        return filled
    while filled < len(part):
        rest = part[filled:]
        count = _filled(channel, _submit_read(channel, handle, offset + filled, rest))
        filled += count
        if not count or (count < len(rest) and _ends_at_short_read(channel)):
            break
    return filled


def write(channel: SftpChannel, handle: bytes, offset: int, data: memoryview) -> None:
    """Write all of `data`. StatusError; then some of it may be written."""
    piece = channel.limits.write_bytes
    write_in_pieces(
        data,
        piece,
        channel.writing,
        lambda start, part: channel.multiplexer.submit(
            PacketType.WRITE, protocol.pack_range(handle, offset + start, len(part)), tail=part
        ),
        lambda request, _size: _written(channel, request),
    )


def _written(channel: SftpChannel, request: Request) -> StatusError | None:
    try:
        channel.expect(request, PacketType.STATUS)
    except StatusError as error:
        return error
    return None
