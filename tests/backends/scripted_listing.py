"""One directory of an SFTP server that says what the test says."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from netoverlay.backend_api import DirEntry
from netoverlay.backend_api.listing_limits import ListingLimits
from netoverlay_sftp import listing
from netoverlay_sftp.channel import SftpChannel
from netoverlay_sftp.paths import PathMap
from netoverlay_sftp.protocol import Attributes, PacketType, pack_attributes, pack_string, pack_strings
from tests.backends.test_sftp_multiplexer import ScriptedServer, started, status

ATTRIBUTES = pack_attributes(Attributes(1, 2, 3, 0o100644, 4, 5))
DIRECTORY = pack_attributes(Attributes(1, 2, 3, 0o040755, 4, 5))
LONG = 60.0


def list_scripted(pieces: Iterator[Sequence[bytes]], limits: ListingLimits, directory: str) -> list[DirEntry]:
    """What the client makes of a directory whose names are told in these pieces, each of a regular file."""
    server = ScriptedServer()
    channel = SftpChannel(server.stream, LONG)
    channel.multiplexer = started(server)

    def serve() -> None:
        with suppress(EOFError, OSError):
            while True:
                kind, number, _ = server.request()
                if kind == PacketType.LSTAT:
                    server.reply(PacketType.ATTRS, number, DIRECTORY)
                elif kind == PacketType.OPENDIR:
                    server.reply(PacketType.HANDLE, number, pack_string(b"h"))
                elif kind == PacketType.READDIR and (names := next(pieces, None)) is not None:
                    entries = [pack_strings(name, b"?") + ATTRIBUTES for name in names]
                    server.reply(PacketType.NAME, number, struct.pack(">I", len(names)) + b"".join(entries))
                else:
                    server.reply(PacketType.STATUS, number, status(1 if kind == PacketType.READDIR else 0))

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        return listing.list_directory(channel, PathMap("/root"), limits, directory)
    finally:
        channel.multiplexer.fail("the test is over")
        server.socket.shutdown(socket.SHUT_RDWR)
        serving.join()
        server.close()
