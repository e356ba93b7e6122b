"""Take messages from the wire: decrypted, checked and taken apart, so that what is left are single replies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from netoverlay.backend_api import Readable
from netoverlay_smb.frames import FrameReader
from netoverlay_smb.outgoing import Link
from netoverlay_smb.protection import TRANSFORM_BYTES
from netoverlay_smb.protocol import (
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NO_SIGNATURE,
    SIGNATURE_AT,
    TRANSFORM_MAGIC,
    HeaderFlags,
    ProtocolError,
)

HeaderFields: TypeAlias = tuple[bytes, int, int, int, int, int, int, int, int, int, int, int, bytes]
"""Those of HEADER."""
READ_HEAD_BYTES = HEADER_BYTES + 16
"""What stands before the data of a READ reply."""
_SIGNED = int(HeaderFlags.SIGNED)


class Incoming:
    """The receiving side of `link`; for one thread at a time. What is not as the link demands is a ProtocolError."""

    def __init__(self, link: Link) -> None:
        self.frames = FrameReader(link.socket)
        """For messages that are not encrypted, and data that goes straight to where it is wanted."""
        self._signer = link.signer if link.sealer is None else None
        self._sealer = link.sealer
        self._plain = memoryview(bytearray(1 << 17))
        """What was decrypted last."""

    @property
    def heard_at(self) -> float:
        """When anything came last, on the clock of time.monotonic()."""
        return self.frames.heard_at

    def head(self, expires_at: float) -> tuple[memoryview, int] | None:
        """The beginning of the next message, and its whole length; None if it is encrypted. It is not taken yet.

        TimeoutError, after which everything is as it was; EOFError.
        """
        frames = self.frames
        length = frames.length(expires_at)
        if length < HEADER_BYTES:
            raise ProtocolError(f"the server sent a message of {length} bytes, which is too short for SMB2")
        head = frames.peek(min(length, READ_HEAD_BYTES), expires_at)
        magic = bytes(head[:4])
        if magic == TRANSFORM_MAGIC:
            return None
        if magic != MAGIC:
            raise ProtocolError(f"the server sent {bytes(head[:8])!r}, which is no SMB2")
        if self._sealer is not None:
            raise ProtocolError("the server sent in the clear what has to be encrypted")
        return head, length

    def unsealed(self, expires_at: float) -> memoryview:
        """The whole next message, decrypted, after head() has told that it is encrypted; valid until the next call."""
        length = self.frames.length(expires_at)
        if self._sealer is None or length < TRANSFORM_BYTES:
            raise ProtocolError("the server sent an encrypted message where none was due")
        sealed = self.frames.take_with_room(length, expires_at)
        if len(self._plain) < length:
            self._plain = memoryview(bytearray(length + HEADER_BYTES))
        return self._plain[: self._sealer.unseal(sealed, self._plain)]

    def check_signature(self, fields: HeaderFields, head: bytes, *data: Readable) -> None:
        """Of a reply: its header, taken apart, `head`, which it is at the beginning of, and what follows that.

        Unless nothing is signed.
        """
        if self._signer is None:
            return
        if not fields[6] & _SIGNED:
            raise ProtocolError("the server sent a reply that is not signed")
        self._signer.check((head[:SIGNATURE_AT] + NO_SIGNATURE + head[HEADER_BYTES:], *data), fields[8], fields[12])


def replies_in(message: memoryview) -> Iterator[tuple[HeaderFields, memoryview]]:
    """Everything that is in a message, with its header taken apart: one reply, or several (MS-SMB2 3.2.5.1.9)."""
    at = 0
    while True:
        if len(message) - at < HEADER_BYTES:
            raise ProtocolError("the server sent a compound that ends in the middle of a header")
        fields: HeaderFields = HEADER.unpack_from(message, at)
        magic, size, following = fields[0], fields[1], fields[7]
        if magic != MAGIC or size != HEADER_BYTES:
            raise ProtocolError(f"the server sent {bytes(message[at : at + 8])!r}, which is no SMB2")
        if following and not HEADER_BYTES <= following <= len(message) - at:
            raise ProtocolError("the server sent a compound whose parts lie outside of it")
        yield fields, message[at : at + following] if following else message[at:]
        if not following:
            return
        at += following
