"""The server's side of SMB, in the place of a socket: it answers each request with the next record of an input.

A record is a byte of how (How), the number of a status in STATUSES, and the body behind the header.
"""

from __future__ import annotations

import enum
import errno
import os
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from netoverlay.backend_api import Readable
from netoverlay_smb.outgoing import Link
from netoverlay_smb.protection import TAG_BYTES, CmacSigner, GmacSigner, Sealer, Signer, length_prefix
from netoverlay_smb.protocol import (
    HEADER,
    HEADER_BYTES,
    LENGTH_BYTES,
    MAGIC,
    NO_SIGNATURE,
    NOTIFICATION_ID,
    SIGNATURE_AT,
    Command,
    HeaderFlags,
)
from netoverlay_smb.status import Status

_KEY, _TO_SERVER, _TO_CLIENT = bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 48))
_CIPHER: Final = "AES-128-GCM"
_SESSION, _TREE, _FIRST_ID = 0x1122_3344_5566_7788, 0x99, 5
_CREDITS: Final = 512
_FEW_CREDITS: Final = 7
_MEBIBYTE: Final = 1 << 20
_SIGNED, _IS_REPLY, _ASYNC = int(HeaderFlags.SIGNED), int(HeaderFlags.SERVER_TO_CLIENT), int(HeaderFlags.ASYNC)
STATUSES: Final = tuple(Status)


class How(enum.IntFlag):
    """What a record does beside answering the oldest request."""

    NEWEST = 1
    """It answers the newest one instead."""
    RAW = 2
    """It is a message as it is, header and all."""
    STREAM = 4
    """It is bytes of the stream as they are."""
    TOGETHER = 8
    """The next record is in the same message."""
    INTERIM = 16
    """The request is answered later; the body begins with its name until then."""
    NOTIFICATION = 32
    UNPROTECTED = 64
    OTHER_ID = 128


class Protection(enum.IntEnum):
    """Of a connection."""

    NONE = 0
    GMAC = 1
    CMAC = 2
    SEALED = 3


_SIGNERS: Final[dict[Protection, type[Signer]]] = {Protection.GMAC: GmacSigner, Protection.CMAC: CmacSigner}


class _Asked(NamedTuple):
    command: int
    message_id: int
    charge: int


class ScriptedSocket:
    """What the engine uses of a socket. After the last record the connection is at its end."""

    def __init__(self, records: Sequence[bytes], protection: Protection) -> None:
        self.records = deque(records)
        self.taken = 0
        signer = _SIGNERS.get(protection)
        self._signer = None if signer is None else signer(_KEY)
        sealed = protection is Protection.SEALED
        self._sealer = Sealer(_CIPHER, _TO_CLIENT, _TO_SERVER, _SESSION) if sealed else None
        self._their_sealer = Sealer(_CIPHER, _TO_SERVER, _TO_CLIENT, _SESSION) if sealed else None
        self._pending: deque[_Asked] = deque()
        self._unread = memoryview(b"")
        self._ended = False

    def link(self, *, few_credits: bool, multi_credit: bool) -> Link:
        """The login that has just been made on it."""
        return Link(
            self,  # type: ignore[arg-type]  # stands in for a socket
            "test",
            _SESSION,
            _TREE,
            _FIRST_ID,
            _FEW_CREDITS if few_credits else _CREDITS,
            multi_credit,
            self._signer,
            self._their_sealer,
            _MEBIBYTE,
            _MEBIBYTE,
            _MEBIBYTE,
            0x311,
        )

    # What the engine uses.

    def fileno(self) -> int:
        """Of something that is always ready to be read."""
        return _NULL

    def sendmsg(self, parts: Sequence[Readable]) -> int:
        return self.send(b"".join(parts))

    def send(self, data: Readable, flags: int = 0) -> int:
        if self._ended:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            at += LENGTH_BYTES
            self._hear(bytes(data[at : at + length]))
            at += length
        return len(data)

    def recv_into(self, target: memoryview) -> int:
        while not self._unread and self.records and not self._ended:
            self._unread = memoryview(self._next())
        count = min(len(target), len(self._unread))
        target[:count] = self._unread[:count]
        self._unread = self._unread[count:]
        return count

    def shutdown(self, how: int) -> None:
        self._ended = True

    def close(self) -> None:
        self._ended = True

    # The server.

    def _hear(self, message: bytes) -> None:
        if self._sealer is not None:
            plain = memoryview(bytearray(len(message)))
            length = self._sealer.unseal(memoryview(bytearray(message + bytes(TAG_BYTES))), plain)
            message = bytes(plain[:length])
        at = 0
        while True:
            _, _, charge, _, command, _, _, following, message_id, *_ = HEADER.unpack_from(message, at)
            if command != Command.CANCEL:
                self._pending.append(_Asked(command, message_id, max(1, charge)))
            if not following:
                return
            at += following

    def _next(self) -> bytes:
        parts: list[bytes] = []
        protected = True
        while self.records:
            record = self.records.popleft()
            self.taken += 1
            how = How(record[0]) if record else How(0)
            if How.STREAM in how:
                return b"".join(parts) + record[1:]
            if How.RAW in how:
                parts.append(record[1:])
                return self._framed(parts, protected=How.UNPROTECTED not in how)
            protected = How.UNPROTECTED not in how
            is_last = How.TOGETHER not in how or not self.records
            parts.append(self._reply(how, record, protected=protected, is_last=is_last))
            if is_last:
                break
        return self._framed(parts, protected=protected)

    def _framed(self, parts: list[bytes], *, protected: bool) -> bytes:
        sent: Sequence[Readable] = self._sealer.seal(parts) if self._sealer is not None and protected else parts
        return b"".join([length_prefix(sent), *sent])

    def _reply(self, how: How, record: bytes, *, protected: bool, is_last: bool) -> bytes:
        body = record[2:]
        status = int(STATUSES[record[1] % len(STATUSES)]) if len(record) > 1 else 0
        asked = self._asked(how)
        flags, low, high = _IS_REPLY, 0, _TREE
        if How.INTERIM in how:
            status, flags = int(Status.PENDING), flags | _ASYNC
            low, high = int.from_bytes(body[:4], "little"), int.from_bytes(body[4:8], "little")
        body += bytes(0 if is_last else -len(body) % 8)
        following = 0 if is_last else HEADER_BYTES + len(body)
        signs = self._signer is not None and protected and How.INTERIM not in how and How.NOTIFICATION not in how
        header = HEADER.pack(
            MAGIC,
            HEADER_BYTES,
            asked.charge,
            status,
            asked.command,
            asked.charge,
            flags | (_SIGNED if signs else 0),
            following,
            asked.message_id,
            low,
            high,
            _SESSION,
            NO_SIGNATURE,
        )
        return self._signed(header + body, asked.message_id) if signs else header + body

    def _asked(self, how: How) -> _Asked:
        if How.NOTIFICATION in how:
            return _Asked(Command.OPLOCK_BREAK, NOTIFICATION_ID, 0)
        if not self._pending or How.OTHER_ID in how:
            return _Asked(Command.READ, 7777, 1)
        asked = self._pending[-1 if How.NEWEST in how else 0]
        if How.INTERIM not in how:
            self._pending.remove(asked)
        return asked

    def _signed(self, part: bytes, message_id: int) -> bytes:
        if self._signer is None:
            return part
        signature = self._signer.signature([part], message_id, is_reply=True, is_cancel=False)
        return part[:SIGNATURE_AT] + signature + part[HEADER_BYTES:]


_NULL: Final = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
