"""List a directory: several requests for its entries are always in flight."""

from __future__ import annotations

import errno
import stat as stat_bits
from collections import deque

from netoverlay.backend_api import DirEntry, os_error
from netoverlay_sftp import diagnosis, protocol
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.errors import StatusError
from netoverlay_sftp.multiplexer import Request
from netoverlay_sftp.paths import PathMap, decode
from netoverlay_sftp.protocol import ListedName, PacketType, StatusCode, pack_string

_DEPTH = 8


def list_directory(channel: SftpChannel, paths: PathMap, path: bytes) -> list[DirEntry]:
    """All usable entries of the directory at `path`. ENOTDIR for anything else, a symbolic link too."""
    look, opening = channel.multiplexer.submit_many(
        [(PacketType.LSTAT, pack_string(path)), (PacketType.OPENDIR, pack_string(path))]
    )
    is_directory = _is_directory(channel, look)
    try:
        handle = channel.parse(protocol.unpack_handle, channel.expect(opening, PacketType.HANDLE))
    except StatusError as error:
        if is_directory is False:
            raise os_error(errno.ENOTDIR, decode(path)) from error
        raise diagnosis.of_path(channel, error, path, "list_dir") from error
    try:
        if is_directory is False:  # a link, which the server has followed
            raise os_error(errno.ENOTDIR, decode(path))
        listed = _read_all(channel, handle)
    except StatusError as error:
        raise diagnosis.of_path(channel, error, path, "list_dir") from error
    finally:
        channel.forget_handle(handle)
    return _entries(channel, paths, path, listed)


def _is_directory(channel: SftpChannel, look: Request) -> bool | None:
    """None if nothing is there."""
    try:
        found = channel.parse(protocol.unpack_attributes, channel.expect(look, PacketType.ATTRS))
    except StatusError:
        return None
    return stat_bits.S_ISDIR(found.permissions or 0)


def _read_all(channel: SftpChannel, handle: bytes) -> list[ListedName]:
    in_flight = deque(channel.multiplexer.submit_many([(PacketType.READDIR, handle)] * _DEPTH))
    listed: list[ListedName] = []
    ended = False
    while in_flight:
        try:
            body = channel.expect(in_flight.popleft(), PacketType.NAME)
        except StatusError as error:
            if error.code != StatusCode.EOF:
                raise
            ended = True
            continue
        if not ended:
            in_flight.append(channel.submit(PacketType.READDIR, handle))
        listed += channel.parse(protocol.unpack_names, body)
    return listed


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
