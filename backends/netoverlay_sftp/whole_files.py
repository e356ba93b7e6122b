"""Small files, read whole: all requests of many of them in flight at once, from one thread.

Two round trips, however many files there are: what stands there, then handles, data and a last look; a third one for
data and look where handles are not foreseen. Of a layer that nobody changes the first and the last look are left out.
What comes out otherwise than expected is done again as for one file alone, which knows all the cases.
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
from netoverlay_sftp.foreseen_handles import OnOpened
from netoverlay_sftp.multiplexer import Question, Request
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
    asked: list[Request]
    """What was asked of it together with its opening; nothing if that was another file's handle."""


def read(channel: SftpChannel, files: Sequence[Asked], *, unchanging: bool) -> list[FileContent | None]:
    """What is in `files`, for which the server must have as many handles left; None for what has to be done singly."""
    found: list[FileContent | None] = [None] * len(files)
    numbers = range(len(files)) if unchanging else _regular(channel, files)
    opened: list[_Opened] = []
    try:
        _open(channel, files, numbers, opened, unchanging=unchanging)
        for each in _ask_the_others(channel, files, opened, unchanging=unchanging):
            found[each.number] = _content(channel, each.asked, files[each.number].wanted, unchanging=unchanging)
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


def _open(
    channel: SftpChannel, files: Sequence[Asked], numbers: Sequence[int], opened: list[_Opened], *, unchanging: bool
) -> None:
    """Adds to `opened` what is open, also if this fails."""
    foresees = channel.multiplexer.foresees
    asking: list[list[Question]] = []
    for number in numbers:
        asking.append([(PacketType.OPEN, pack_open(files[number].path, OpenFlags.READ))])
        if foresees:
            questions = _questions(channel, b"", files[number].wanted, unchanging=unchanging)
            asking[-1] += [(packet, OnOpened(rest)) for packet, rest in questions]
    requests = iter(channel.multiplexer.submit_many([question for questions in asking for question in questions]))
    asked = [[next(requests) for _ in questions] for questions in asking]
    failure: UnavailableError | None = None
    # The last one first: whoever waits for one after the other hands the receiving over as often.
    for number, (opening, *reading) in reversed(list(zip(numbers, asked, strict=True))):
        try:
            handle = _replies(channel, [opening], PacketType.HANDLE, protocol.unpack_handle)[0]
        except UnavailableError as error:
            failure = error  # that one is late; the others have to be closed
        else:
            if handle is not None:
                opened.append(_Opened(number, handle, [each for each in reading if each.asked_of == handle]))
    if failure is not None:
        raise failure


def _ask_the_others(
    channel: SftpChannel, files: Sequence[Asked], opened: Sequence[_Opened], *, unchanging: bool
) -> list[_Opened]:
    """`opened`, of each of which something is asked now."""
    asking = [
        [] if each.asked else _questions(channel, each.handle, files[each.number].wanted, unchanging=unchanging)
        for each in opened
    ]
    requests = iter(channel.multiplexer.submit_many([question for questions in asking for question in questions]))
    return [
        each._replace(asked=each.asked or [next(requests) for _ in questions])
        for each, questions in zip(opened, asking, strict=True)
    ]


def _questions(
    channel: SftpChannel, handle: bytes, wanted: WantedFile, *, unchanging: bool
) -> list[tuple[PacketType, bytes]]:
    """What is asked of an open file: its data, and a last look."""
    piece, size = channel.limits.read_bytes, wanted.size
    reads = [(PacketType.READ, pack_range(handle, start, min(piece, size - start))) for start in range(0, size, piece)]
    return reads if unchanging else [*reads, (PacketType.FSTAT, handle)]


def _content(
    channel: SftpChannel, asked: Sequence[Request], wanted: WantedFile, *, unchanging: bool
) -> FileContent | None:
    """What the answers to _questions() tell. None if not all of it came, which need not mean that there is no more."""
    pieces, looks = (asked, []) if unchanging else (asked[:-1], asked[-1:])
    data = b"".join(each or b"" for each in _replies(channel, pieces, PacketType.DATA, protocol.unpack_data))
    if len(data) != wanted.size:
        return None
    for attributes in _replies(channel, looks, PacketType.ATTRS, protocol.unpack_attributes):
        return None if attributes is None else FileContent(data, channel.file_stat(attributes).version)
    return FileContent(data, None)


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
