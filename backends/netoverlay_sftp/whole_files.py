"""Small files, read whole: all requests of many of them in flight at once, from one thread.

Three round trips, however many files there are: what stands there, handles, then data and a last look. Of a layer that
nobody changes the first and the last look are left out. What comes out otherwise than expected is done again as for one
file alone, which knows all the cases.
"""

from __future__ import annotations

import stat as stat_bits
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from netoverlay.backend_api import FileContent, UnavailableError, WantedFile
from netoverlay_sftp import protocol
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.multiplexer import Request
from netoverlay_sftp.protocol import OpenFlags, PacketType, pack_open, pack_range, pack_string

_T = TypeVar("_T")


class Asked(NamedTuple):
    """A file to be read, and where it is on the server."""

    wanted: WantedFile
    path: bytes


class _Opened(NamedTuple):
    number: int
    """Of the file among those that are asked for."""
    handle: bytes


class _Reading(NamedTuple):
    """What is asked of an open file."""

    number: int
    pieces: list[Request]
    look: Request | None


def read(channel: SftpChannel, files: Sequence[Asked], *, unchanging: bool) -> list[FileContent | None]:
    """What is in `files`, for which the server must have as many handles left; None for what has to be done singly."""
    found: list[FileContent | None] = [None] * len(files)
    numbers = range(len(files)) if unchanging else _regular(channel, files)
    opened: list[_Opened] = []
    try:
        _open(channel, files, numbers, opened)
        for reading in reversed(_ask(channel, files, opened, unchanging=unchanging)):
            found[reading.number] = _content(channel, reading, files[reading.number].wanted)
    finally:
        if opened:
            with suppress(UnavailableError):  # they end with the connection, too
                channel.multiplexer.submit_many([(PacketType.CLOSE, each.handle) for each in opened])
    return found


def _regular(channel: SftpChannel, files: Sequence[Asked]) -> list[int]:
    """Those that may be opened: of a FIFO that would wait for its other end, of a link for what it points at."""
    looks = channel.multiplexer.submit_many([(PacketType.LSTAT, pack_string(each.path)) for each in files])
    seen = _replies(channel, looks, PacketType.ATTRS, protocol.unpack_attributes)
    return [
        number
        for number, attributes in enumerate(seen)
        if attributes is not None and stat_bits.S_ISREG(attributes.permissions or 0)
    ]


def _open(channel: SftpChannel, files: Sequence[Asked], numbers: Sequence[int], opened: list[_Opened]) -> None:
    """Adds to `opened` what is open, also if this fails."""
    bodies = [(PacketType.OPEN, pack_open(files[number].path, OpenFlags.READ)) for number in numbers]
    requests = channel.multiplexer.submit_many(bodies)
    failure: UnavailableError | None = None
    # The last one first: whoever waits for one after the other hands the receiving over as often.
    for number, request in reversed(list(zip(numbers, requests, strict=True))):
        try:
            handle = _replies(channel, [request], PacketType.HANDLE, protocol.unpack_handle)[0]
        except UnavailableError as error:
            failure = error  # that one is late; the others have to be closed
        else:
            if handle is not None:
                opened.append(_Opened(number, handle))
    if failure is not None:
        raise failure


def _ask(
    channel: SftpChannel, files: Sequence[Asked], opened: Sequence[_Opened], *, unchanging: bool
) -> list[_Reading]:
    piece = channel.limits.read_bytes
    bodies: list[tuple[PacketType, bytes]] = []
    counts = []
    for number, handle in opened:
        size = files[number].wanted.size
        starts = range(0, size, piece)
        bodies += ((PacketType.READ, pack_range(handle, start, min(piece, size - start))) for start in starts)
        if not unchanging:
            bodies.append((PacketType.FSTAT, handle))
        counts.append(len(starts))
    requests = iter(channel.multiplexer.submit_many(bodies))
    return [
        _Reading(each.number, [next(requests) for _ in range(count)], None if unchanging else next(requests))
        for each, count in zip(opened, counts, strict=True)
    ]


def _content(channel: SftpChannel, reading: _Reading, wanted: WantedFile) -> FileContent | None:
    """None if not all of it came, which need not mean that there is no more."""
    pieces = _replies(channel, reading.pieces, PacketType.DATA, protocol.unpack_data)
    data = b"".join(piece for piece in pieces if piece is not None)
    if len(data) != wanted.size:
        return None
    if reading.look is None:
        return FileContent(data, None)
    attributes = _replies(channel, [reading.look], PacketType.ATTRS, protocol.unpack_attributes)[0]
    return None if attributes is None else FileContent(data, channel.file_stat(attributes).version)


def _replies(
    channel: SftpChannel, requests: Sequence[Request], wanted: PacketType, parse: Callable[[bytes], _T]
) -> list[_T | None]:
    """None where the server says no."""
    if requests:
        channel.multiplexer.wait(requests[-1])
    found: list[_T | None] = []
    for request in requests:
        try:
            found.append(channel.parse(parse, channel.expect(request, wanted)))
        except StatusError:
            found.append(None)
    return found
