"""Move the bytes of a file: in pieces as large as the server takes, many of them in flight."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from netoverlay.backend_api import UnavailableError
from netoverlay_sftp import protocol
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.multiplexer import Request
from netoverlay_sftp.protocol import Extension, PacketType, StatusCode

NEAR_DEPTH = 32
"""Pieces in flight; at 255 KiB each, 8 MiB."""
FAR_DEPTH = 64
FAR_SECONDS = 0.005
"""The round trip from which more must be in flight to fill the line."""
COPY_BYTES = 64 << 20
"""What the server copies in one request: little enough to be done long before the deadline."""


def _depth(channel: SftpChannel) -> int:
    return FAR_DEPTH if channel.round_trip >= FAR_SECONDS else NEAR_DEPTH


def _ends_at_short_read(channel: SftpChannel) -> bool:
    """OpenSSH reads a piece with one pread(2), which for a regular file is short at its end only."""
    return Extension.LIMITS in channel.extensions


def read_into(channel: SftpChannel, handle: bytes, offset: int, buffer: memoryview) -> int:
    """Fill `buffer` from `offset`; the count is less only at the end of the file. StatusError."""
    piece = channel.limits.read_bytes
    if len(buffer) <= piece:
        return _read_rest(channel, handle, offset, buffer, 0)
    in_flight: deque[tuple[int, memoryview, Request]] = deque()
    depth = _depth(channel)
    start = 0
    total = 0
    try:
        while start < len(buffer) or in_flight:
            while start < len(buffer) and len(in_flight) < depth:
                part = buffer[start : start + piece]
                in_flight.append((start, part, _submit_read(channel, handle, offset + start, part)))
                start += len(part)
            at, part, request = in_flight.popleft()
            filled = _filled(channel, request)
            if filled < len(part):
                filled = _read_rest(channel, handle, offset + at, part, filled)
            total = at + filled
            if filled < len(part):
                return total
        return total
    finally:
        for _, _, request in in_flight:  # their replies go to the caller's memory: nothing may come in later
            with suppress(UnavailableError):
                channel.multiplexer.wait(request)


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
    in_flight: deque[Request] = deque()
    depth = _depth(channel)
    failure: StatusError | None = None
    for start in range(0, len(data), piece):
        part = data[start : start + piece]
        body = protocol.pack_range(handle, offset + start, len(part))
        in_flight.append(channel.multiplexer.submit(PacketType.WRITE, body, tail=part))
        if len(in_flight) >= depth:
            failure = failure or _written(channel, in_flight.popleft())
        if failure is not None:
            break
    while in_flight:
        failure = _written(channel, in_flight.popleft()) or failure
    if failure is not None:
        raise failure


def _written(channel: SftpChannel, request: Request) -> StatusError | None:
    try:
        channel.expect(request, PacketType.STATUS)
    except StatusError as error:
        return error
    return None


def copy(channel: SftpChannel, source: bytes, source_offset: int, target: bytes, offset: int, length: int) -> None:
    """The server copies `length` bytes, which the source must have. StatusError."""
    while length > 0:
        part = min(length, COPY_BYTES)
        parts = protocol.pack_copy(source, source_offset, part, target, offset)
        channel.extended_status(Extension.COPY_DATA, parts)
        source_offset, offset, length = source_offset + part, offset + part, length - part
