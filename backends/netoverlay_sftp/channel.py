"""SFTP requests, one method a kind of reply: on top of the multiplexer, below files and directories."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from netoverlay.backend_api import FileStat, UnavailableError
from netoverlay.backend_api.pieces import Window
from netoverlay_sftp import protocol
from netoverlay_sftp.errors import StatusError, describe
from netoverlay_sftp.multiplexer import Multiplexer, Request
from netoverlay_sftp.protocol import Attributes, Extension, Limits, ListedName, PacketType, ProtocolError, StatusCode
from netoverlay_sftp.streams import ByteStream

_Parsed = TypeVar("_Parsed")
_Raw = TypeVar("_Raw")

DEFAULT_READ_BYTES = 32 * 1024
"""What every server must be able to send and take in one packet (draft 02, section 3)."""
MAX_TRANSFER_BYTES = 256 * 1024
FRAME_OVERHEAD_BYTES = 1024
DEFAULT_OPEN_HANDLES = 64
"""For servers that do not tell their limit."""


class SftpChannel:
    """One SFTP session on a server. The methods raise StatusError for what the server refuses."""

    def __init__(self, stream: ByteStream, deadline: float) -> None:
        self.multiplexer = Multiplexer(stream, deadline)
        self.extensions: frozenset[Extension] = frozenset()
        self.speaks_openssh = False
        """Whether the server is OpenSSH, or follows it where it strays from the draft."""
        self.limits = Limits(0, DEFAULT_READ_BYTES, DEFAULT_READ_BYTES, DEFAULT_OPEN_HANDLES)
        self.reading, self.writing = Window(), Window()
        self.round_trip = 0.0
        """Seconds, measured at the start."""

    def start(self) -> None:
        """Exchange versions and learn what the server can do."""
        self.multiplexer.start()
        offered = self.multiplexer.extensions
        self.extensions = frozenset(item for item in Extension if offered.get(item.value[0]) == item.value[1])
        self.speaks_openssh = any(name.endswith(protocol.OPENSSH_SUFFIX) for name in offered)
        if self.speaks_openssh:
            self.multiplexer.foresee_handles()
        started_at = time.monotonic()
        with suppress(StatusError):  # a refusal takes as long as an answer, and leaves the limits at what all can do
            self._ask_something()
        self.round_trip = time.monotonic() - started_at
        self.reading, self.writing = Window(self.round_trip), Window(self.round_trip)

    def _ask_something(self) -> None:
        """The limits, if the server tells any."""
        if Extension.LIMITS not in self.extensions:
            self.real_path(b".")
            return
        told = self.parse(protocol.unpack_limits, self.extended_reply(Extension.LIMITS))
        self.limits = Limits(
            told.packet_bytes,
            min(told.read_bytes or DEFAULT_READ_BYTES, MAX_TRANSFER_BYTES),
            min(told.write_bytes or DEFAULT_READ_BYTES, MAX_TRANSFER_BYTES),
            told.open_handles or DEFAULT_OPEN_HANDLES,
        )

    def submit(self, packet: PacketType, body: bytes) -> Request:
        """Send a request whose reply is fetched later, by one of the methods below."""
        return self.multiplexer.submit(packet, body)

    def expect(self, request: Request, wanted: PacketType) -> bytes:
        """The body of the reply, which must be `wanted`. StatusError if it is a STATUS that says no."""
        self.multiplexer.wait(request)
        reply_type = request.reply_type
        if reply_type == PacketType.STATUS:
            code, message = self.parse(protocol.unpack_status, request.body)
            if code == StatusCode.OK and wanted is PacketType.STATUS:
                return b""
            if code != StatusCode.OK:
                raise StatusError(code, message)
        elif reply_type == wanted:
            return request.body
        reason = f"the server sent a packet of type {reply_type} where {wanted.name} was due"
        self.multiplexer.fail(reason)
        raise UnavailableError(reason)

    def parse(self, parse: Callable[[bytes], _Parsed], body: bytes) -> _Parsed:
        """parse(body); a body that makes no sense breaks the connection."""
        return self._checked(parse, body)

    def _checked(self, parse: Callable[[_Raw], _Parsed], raw: _Raw) -> _Parsed:
        try:
            return parse(raw)
        except ProtocolError as error:
            self.multiplexer.fail(describe(error))
            raise UnavailableError(describe(error)) from error

    def status(self, packet: PacketType, body: bytes) -> None:
        """A request that is answered by yes or no."""
        self.expect(self.multiplexer.submit(packet, body), PacketType.STATUS)

    def attributes(self, packet: PacketType, body: bytes) -> Attributes:
        """LSTAT or FSTAT."""
        request = self.multiplexer.submit(packet, body)
        return self.parse(protocol.unpack_attributes, self.expect(request, PacketType.ATTRS))

    def lstat(self, path: bytes) -> Attributes:
        """The attributes of `path` itself."""
        return self.attributes(PacketType.LSTAT, protocol.pack_string(path))

    def fstat(self, handle: bytes) -> Attributes:
        """The attributes of an open file."""
        return self.attributes(PacketType.FSTAT, handle)

    def file_stat(self, found: Attributes) -> FileStat:
        """As the seam wants it; a server that does not tell the essential breaks the connection."""
        return self._checked(protocol.file_stat, found)

    def handle(self, packet: PacketType, body: bytes) -> bytes:
        """OPEN or OPENDIR."""
        request = self.multiplexer.submit(packet, body)
        return self.parse(protocol.unpack_handle, self.expect(request, PacketType.HANDLE))

    def names(self, packet: PacketType, body: bytes) -> list[ListedName]:
        """READLINK or REALPATH."""
        request = self.multiplexer.submit(packet, body)
        return self.parse(protocol.unpack_names, self.expect(request, PacketType.NAME))

    def real_path(self, path: bytes) -> bytes:
        """The absolute path of `path` on the server."""
        return self._checked(protocol.only_name, self.names(PacketType.REALPATH, protocol.pack_string(path)))

    def extended_status(self, extension: Extension, *parts: bytes) -> None:
        """An extension that is answered by yes or no."""
        self.status(PacketType.EXTENDED, protocol.pack_extended(extension, *parts))

    def extended_reply(self, extension: Extension, *parts: bytes) -> bytes:
        """An extension with an answer of its own."""
        request = self.multiplexer.submit(PacketType.EXTENDED, protocol.pack_extended(extension, *parts))
        return self.expect(request, PacketType.EXTENDED_REPLY)

    def forget_handle(self, handle: bytes) -> None:
        """Close a handle of which nothing but its end matters, without waiting: it ends with the connection, too."""
        with suppress(UnavailableError):
            self.multiplexer.submit(PacketType.CLOSE, handle)
