"""Signing and encryption of messages (MS-SMB2 3.1.4.1, 3.1.4.3), by the keys that the login has made."""

from __future__ import annotations

import abc
import hmac
import itertools
import os
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, aead, algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from netoverlay.backend_api import Readable
from netoverlay_smb.protocol import LENGTH_BYTES, TRANSFORM_MAGIC, ProtocolError

_TRANSFORM = struct.Struct("<4s16s16sIHHQ")
"""MS-SMB2 2.2.41: magic, signature, nonce, size of what is encrypted, reserved, flags, session id."""
TRANSFORM_BYTES = _TRANSFORM.size
_NONCE = struct.Struct("<QI")
"""Of GMAC (MS-SMB2 3.1.4.1): message id, and what kind of message it is."""
_SIGNATURE_AT = 4
_NONCE_AT = 20
_ENCRYPTED = 1
TAG_BYTES = 16
_ONE_SHOT_BYTES = 16384
"""Above this it is cheaper not to join the parts of a message."""


class Signer(abc.ABC):
    """Makes and checks signatures."""

    name: str

    @abc.abstractmethod
    def __init__(self, key: bytes) -> None:
        """`key` is the signing key of the session."""

    @abc.abstractmethod
    def signature(self, parts: Sequence[Readable], message_id: int, *, is_reply: bool, is_cancel: bool) -> bytes:
        """The 16 bytes for a message whose signature field is zero."""

    def check(self, parts: Sequence[Readable], message_id: int, signature: bytes) -> None:
        """ProtocolError if a reply was not signed so by the server."""
        expected = self.signature(parts, message_id, is_reply=True, is_cancel=False)
        if not hmac.compare_digest(expected, signature):
            raise ProtocolError("a reply of the server has a wrong signature")


class GmacSigner(Signer):
    """AES-128-GMAC, of SMB 3.1.1."""

    name = "AES-128-GMAC"

    def __init__(self, key: bytes) -> None:
        self._key = algorithms.AES(key)
        self._gcm = aead.AESGCM(key)

    def signature(self, parts: Sequence[Readable], message_id: int, *, is_reply: bool, is_cancel: bool) -> bytes:
        nonce = _NONCE.pack(message_id, is_reply | is_cancel << 1)
        if len(parts) == 1 or sum(map(len, parts)) <= _ONE_SHOT_BYTES:
            return self._gcm.encrypt(nonce, b"", parts[0] if len(parts) == 1 else b"".join(parts))
        encryptor = Cipher(self._key, modes.GCM(nonce)).encryptor()
        for part in parts:
            encryptor.authenticate_additional_data(part)
        encryptor.finalize()
        return encryptor.tag


class CmacSigner(Signer):
    """AES-128-CMAC, of SMB 3.0 and later."""

    name = "AES-128-CMAC"

    def __init__(self, key: bytes) -> None:
        self._fresh = CMAC(algorithms.AES(key))

    def signature(self, parts: Sequence[Readable], message_id: int, *, is_reply: bool, is_cancel: bool) -> bytes:  # noqa: ARG002
        digest = self._fresh.copy()
        for part in parts:
            digest.update(part)  # type: ignore[arg-type]  # takes any buffer, whatever its stub says
        return digest.finalize()


class HmacSigner(Signer):
    """HMAC-SHA256, of SMB 2."""

    name = "HMAC-SHA256"

    def __init__(self, key: bytes) -> None:
        self._fresh = hmac.new(key, digestmod="sha256")

    def signature(self, parts: Sequence[Readable], message_id: int, *, is_reply: bool, is_cancel: bool) -> bytes:  # noqa: ARG002
        digest = self._fresh.copy()
        for part in parts:
            digest.update(part)
        return digest.digest()[:16]


class Sealer:
    """Encrypts what is sent and decrypts what is received, with the two keys of a session."""

    def __init__(self, name: str, sending: bytes, receiving: bytes, session_id: int) -> None:
        """`name` as MS-SMB2 2.2.3.1.2 has it: AES-128-GCM, AES-128-CCM, AES-256-GCM or AES-256-CCM."""
        self.name = name
        kind = aead.AESGCM if name.endswith("GCM") else aead.AESCCM
        self._nonce_bytes = 12 if kind is aead.AESGCM else 11
        self._sending = kind(sending)
        self._receiving = kind(receiving)
        self._session_id = session_id
        # A nonce must never come twice under one key; what makes it so is the counter, not chance.
        self._nonces = itertools.count(int.from_bytes(os.urandom(4), "little"))

    def seal(self, parts: Sequence[Readable]) -> list[Readable]:
        """A message in its TRANSFORM_HEADER."""
        plain = b"".join(parts)
        nonce = next(self._nonces).to_bytes(self._nonce_bytes, "little")
        padded = nonce + bytes(16 - self._nonce_bytes)
        header = _TRANSFORM.pack(TRANSFORM_MAGIC, bytes(16), padded, len(plain), 0, _ENCRYPTED, self._session_id)
        sealed = memoryview(self._sending.encrypt(nonce, plain, header[_NONCE_AT:]))
        return [header[:_SIGNATURE_AT], sealed[-TAG_BYTES:], header[_NONCE_AT:], sealed[:-TAG_BYTES]]

    def unseal(self, frame: memoryview, target: memoryview) -> int:
        """Decrypt `frame`, a whole message, into `target`, which is as long at least; the length of what was in it.

        `frame` must be followed by TAG_BYTES of memory that may be overwritten. ProtocolError if it was not made by the
        server, for this session.
        """
        length = len(frame) - TAG_BYTES - TRANSFORM_BYTES
        if length < 0:
            raise ProtocolError("the server sent an encrypted message that is too short")
        _, signature, nonce, told, _, flags, session_id = _TRANSFORM.unpack_from(frame)
        if told != length or flags != _ENCRYPTED or session_id != self._session_id:
            raise ProtocolError("the server sent an encrypted message that is not of this session")
        associated = bytes(frame[_NONCE_AT:TRANSFORM_BYTES])
        frame[-TAG_BYTES:] = signature
        sealed = frame[TRANSFORM_BYTES:]
        try:
            self._receiving.decrypt_into(nonce[: self._nonce_bytes], sealed, associated, target[:length])
        except InvalidTag:
            raise ProtocolError("the server sent an encrypted message that was tampered with") from None
        return length


def length_prefix(parts: Sequence[Readable]) -> bytes:
    """What stands before a message on TCP (MS-SMB2 2.1)."""
    return sum(map(len, parts)).to_bytes(LENGTH_BYTES, "big")
