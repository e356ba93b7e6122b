"""List directories: several requests for the entries of each are always in flight.

Where handles are foreseen the first of them go out with the opening, so that most directories take one round trip.
"""

from __future__ import annotations

import errno
import stat as stat_bits
from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from netoverlay.backend_api import DirEntry, LayerPath, UnavailableError, os_error
from netoverlay.backend_api.listing_limits import ListingLimits, ListingProgress
from netoverlay.backend_api.together import Conversation, converse
from netoverlay_sftp import diagnosis, protocol
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.foreseen_handles import OnOpened
from netoverlay_sftp.multiplexer import Question, Request
from netoverlay_sftp.paths import PathMap, decode
from netoverlay_sftp.protocol import ListedName, PacketType, StatusCode, pack_string

_DEPTH = 8
_DEPTH_OF_MANY = 2
"""In flight for each of many directories, most of which have few entries."""
_MOST_DEPTH = 64
"""In flight for one that turns out to be long."""

_Listing: TypeAlias = Conversation[Question, Request, list[DirEntry]]


def list_directory(channel: SftpChannel, paths: PathMap, limits: ListingLimits, path: LayerPath) -> list[DirEntry]:
    """All usable entries of the directory at `path`. ENOTDIR for anything else, a symbolic link too.

    EndlessListingError.
    """
    multiplexer = channel.multiplexer
    listing = _listing(channel, paths, limits, path, _DEPTH)
    (found,) = converse([listing], multiplexer.submit_many, multiplexer.forget)
    if isinstance(found, OSError):
        raise found
    return found


def list_directories(
    channel: SftpChannel, paths: PathMap, limits: ListingLimits, wanted: Sequence[LayerPath]
) -> list[list[DirEntry] | OSError]:
    """As list_directory(), of many, in as many round trips as of one; an error is that of its directory alone."""

    multiplexer = channel.multiplexer

    def ask(questions: Sequence[Question]) -> list[Request]:
        requests = multiplexer.submit_many(questions)
        try:
            if requests:  # the last one first: whoever waits for one after the other hands the receiving over as often
                multiplexer.wait(requests[-1])
        except BaseException:
            for request in requests:
                multiplexer.forget(request)
            raise
        return requests

    listings = [_listing(channel, paths, limits, path, _DEPTH_OF_MANY) for path in wanted]
    return converse(listings, ask, multiplexer.forget)


def _listing(channel: SftpChannel, paths: PathMap, limits: ListingLimits, directory: LayerPath, depth: int) -> _Listing:
    foresees = channel.multiplexer.foresees
    entries = yield from _listing_once(channel, paths, limits, directory, depth)
    if foresees and not channel.multiplexer.foresees:  # it may not be all
        entries = yield from _listing_once(channel, paths, limits, directory, depth)
    return entries


def _listing_once(
    channel: SftpChannel, paths: PathMap, limits: ListingLimits, directory: LayerPath, depth: int
) -> _Listing:
    path = paths.on_server(directory)
    questions: list[Question] = [(PacketType.LSTAT, pack_string(path)), (PacketType.OPENDIR, pack_string(path))]
    if channel.multiplexer.foresees:
        questions += [(PacketType.READDIR, OnOpened())] * depth
    look, opening, *reading = yield questions
    try:
        is_directory = _is_directory(channel, look)
    except UnavailableError:
        channel.multiplexer.forget(opening)
        raise
    try:
        handle = channel.parse(protocol.unpack_handle, channel.expect(opening, PacketType.HANDLE))
    except StatusError as error:
        if is_directory is False:
            raise os_error(errno.ENOTDIR, decode(path)) from error
        raise diagnosis.of_path(channel, error, path, "list_dir") from error
    try:
        if is_directory is False:  # a link, which the server has followed
            raise os_error(errno.ENOTDIR, decode(path))
        if not reading or reading[0].asked_of != handle:
            reading = list((yield [(PacketType.READDIR, handle)] * depth))
        elif _is_refused(channel, reading[0]):
            channel.multiplexer.foresee_no_more()  # it came before its directory was open; the next one may not have
            return []
        return _read_all(channel, paths, path, handle, deque(reading), limits.begin(directory))
    except StatusError as error:
        raise diagnosis.of_path(channel, error, path, "list_dir") from error
    finally:
        channel.forget_handle(handle)


def _is_refused(channel: SftpChannel, reading: Request) -> bool:
    """Whether the beginning of a directory is refused."""
    try:
        channel.expect(reading, PacketType.NAME)
    except StatusError as error:
        return error.code != StatusCode.EOF
    return False


def _is_directory(channel: SftpChannel, look: Request) -> bool | None:
    """None if nothing is there."""
    try:
        found = channel.parse(protocol.unpack_attributes, channel.expect(look, PacketType.ATTRS))
    except StatusError:
        return None
    return stat_bits.S_ISDIR(found.permissions or 0)


def _read_all(
    channel: SftpChannel,
    paths: PathMap,
    path: bytes,
    handle: bytes,
    in_flight: deque[Request],
    progress: ListingProgress,
) -> list[DirEntry]:
    entries: list[DirEntry] = []
    replies = 0
    while in_flight:
        try:
            body = channel.expect(in_flight.popleft(), PacketType.NAME)
        except StatusError as error:
            if error.code != StatusCode.EOF:
                raise
            break  # what is still in flight will tell the same
        replies += 1
        if replies > 1:  # else there may well be no more than that
            more = 2 if replies > _DEPTH and len(in_flight) < _MOST_DEPTH else 1
            in_flight += channel.multiplexer.submit_many([(PacketType.READDIR, handle)] * more)
        listed = channel.parse(protocol.unpack_names, body)
        progress.told([each.name for each in listed], len(body))
        entries += _entries(channel, paths, path, listed)
    return entries


def _entries(channel: SftpChannel, paths: PathMap, path: bytes, listed: list[ListedName]) -> list[DirEntry]:
    entries = []
    counts_links = channel.speaks_openssh
    for name, long_name, found in listed:
        if not paths.is_usable(name, path):
            continue
        stat = channel.file_stat(found)
        if counts_links:
            stat = stat._replace(nlink=protocol.link_count(long_name))
        entries.append(DirEntry(decode(name), stat))
    return entries
