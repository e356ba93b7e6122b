"""The server's side of SFTP, in the place of SSH: it answers each request with the next record of an input.

A record is a byte of how (_How), the type of the packet, and its body behind the request number.
"""

from __future__ import annotations

import enum
import errno
import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from netoverlay.backend_api import LayerSetupError, Readable, UnavailableError
from netoverlay_sftp.connection_errors import connection_error
from netoverlay_sftp.protocol import FRAME_HEADER, UINT32, Extension, PacketType, pack_string
from netoverlay_sftp.streams import ByteStream, Liveness, SshConnection

_SMALL_PIECE: Final = 3
_WITHOUT_NUMBER: Final = frozenset({PacketType.INIT, PacketType.VERSION})
LIMITS: Final = bytes(6) + b"\4\0" + bytes(6) + b"\4\0" + bytes(6) + b"\4\0" + bytes(7) + b"\x40"


class How(enum.IntFlag):
    """What a record does beside answering the oldest request."""

    NEWEST = 1
    """It answers the newest one instead."""
    RAW = 2
    """It is bytes of the stream as they are."""
    WRONG_LENGTH = 4
    """The frame is said to be a byte longer."""
    IN_PIECES = 8
    AGAIN = 16
    """The request can be answered once more."""
    OTHER_NUMBER = 32


class Script:
    """The records of an input, for all streams of a connection."""

    def __init__(self, records: Sequence[bytes], *, greets: bool) -> None:
        """`greets`: versions and limits are exchanged as with OpenSSH, without a record."""
        self.greets = greets
        self.records = deque(records)
        self.taken = 0

    def next_frame(self, pending: deque[int]) -> tuple[bytes, bool] | None:
        """What is sent next, and whether in pieces; None if there is no more."""
        if not self.records:
            return None
        self.taken += 1
        record = self.records.popleft()
        how = How(record[0] & 63) if record else How(0)
        body = record[2:]
        in_pieces = How.IN_PIECES in how
        if How.RAW in how or len(record) < 2:
            return record[1:], in_pieces
        if record[1] in _WITHOUT_NUMBER:
            numbered = bytes([record[1]]) + body
        else:
            numbered = bytes([record[1]]) + UINT32.pack(self._number(pending, how)) + body
        return UINT32.pack(len(numbered) + (How.WRONG_LENGTH in how)) + numbered, in_pieces

    @staticmethod
    def _number(pending: deque[int], how: How) -> int:
        if not pending or How.OTHER_NUMBER in how:
            return 77
        number = pending[-1] if How.NEWEST in how else pending[0]
        if How.AGAIN not in how:
            pending.remove(number)
        return number


class ScriptedStream(ByteStream):
    """A channel to the server. After the last record it is at its end."""

    def __init__(self, script: Script) -> None:
        super().__init__(Liveness(), "test")
        self._script = script
        self._pending: deque[int] = deque()
        self._unread = b""
        self._in_pieces = False
        self._ended = False

    def receive(self, timeout: float) -> memoryview:
        self._fill()
        count = _SMALL_PIECE if self._in_pieces else len(self._unread)
        piece, self._unread = self._unread[:count], self._unread[count:]
        return memoryview(piece)

    def receive_into(self, target: memoryview, timeout: float) -> int:
        self._fill()
        count = min(len(target), _SMALL_PIECE if self._in_pieces else len(self._unread))
        piece, self._unread = self._unread[:count], self._unread[count:]
        target[: len(piece)] = piece
        return len(piece)

    def send(self, parts: Sequence[Readable]) -> None:
        if self._ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        data = b"".join(parts)
        at = 0
        while at < len(data):
            length, packet, number = FRAME_HEADER.unpack_from(data.ljust(at + 9, b"\0"), at)
            body = data[at + 9 : at + 4 + length]
            at += 4 + length
            if not (self._script.greets and self._greeted(packet, number, body)) and packet != PacketType.INIT:
                self._pending.append(number)

    def probe(self) -> None:
        pass

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._ended = True

    def _greeted(self, packet: int, number: int, body: bytes) -> bool:
        if packet == PacketType.INIT:
            told = b"".join(pack_string(name) + pack_string(data) for name, data in (each.value for each in Extension))
            self._unread += UINT32.pack(5 + len(told)) + bytes([PacketType.VERSION]) + UINT32.pack(3) + told
        elif packet == PacketType.EXTENDED and body.startswith(pack_string(Extension.LIMITS.wire_name)):
            self._unread += FRAME_HEADER.pack(5 + len(LIMITS), PacketType.EXTENDED_REPLY, number) + LIMITS
        else:
            return False
        return True

    def _fill(self) -> None:
        while not self._unread and not self._ended:
            found = self._script.next_frame(self._pending)
            if found is None:
                self._ended = True
            else:
                self._unread, self._in_pieces = found


class ScriptedConnection(SshConnection):
    """A login, after which the script is spoken."""

    def __init__(self, script: Script) -> None:
        self.server = "test"
        self._script = script
        self._lost = False

    @property
    def lost(self) -> bool:
        return self._lost

    def open_stream(self) -> ByteStream:
        if self._lost:
            raise LayerSetupError("the server refuses another channel")
        return _LosingStream(self._script, self)

    def refusal(self, error: Exception) -> OSError:
        return connection_error(error, self.server)

    def abort(self) -> None:
        self._lost = True

    def close(self) -> None:
        self._lost = True


class _LosingStream(ScriptedStream):
    def __init__(self, script: Script, connection: ScriptedConnection) -> None:
        super().__init__(script)
        self._connection = connection

    def abort(self) -> None:
        super().abort()
        self._connection.abort()


def refuse_login() -> SshConnection:
    """What a second login meets."""
    raise UnavailableError("the server is gone")
