"""Signatures and encryption against smbprotocol's, which is written by others, and against those who tamper."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers import aead
from hypothesis import given, settings
from hypothesis import strategies as st
from smbprotocol import Dialects
from smbprotocol.connection import Ciphers, Connection, SigningAlgorithms, SMB2TransformHeader

from netoverlay_smb.protection import (
    TAG_BYTES,
    TRANSFORM_BYTES,
    CmacSigner,
    GmacSigner,
    HmacSigner,
    Sealer,
    Signer,
    length_prefix,
)
from netoverlay_smb.protocol import HEADER_BYTES, NO_SIGNATURE, SIGNATURE_AT, TRANSFORM_MAGIC, ProtocolError

KEY = bytes(range(16))
SESSION = 0x1122_3344_5566_7788
READ, CANCEL = 8, 12
SIGNERS: dict[type[Signer], tuple[int, int | None]] = {
    GmacSigner: (Dialects.SMB_3_1_1, SigningAlgorithms.AES_GMAC),
    CmacSigner: (Dialects.SMB_3_0_0, None),
    HmacSigner: (Dialects.SMB_2_1_0, None),
}
# Around the size where GmacSigner goes over to another way, and above it.
SIZES = (64, 65, 4096, 16384, 16385, (1 << 20) + 7)


def connection(dialect: int, signing: int | None = None, cipher: int | None = None) -> Connection:
    """smbprotocol's, as it is after a negotiation."""
    made = Connection(uuid.uuid4(), "server", 445)
    made.dialect, made.signing_algorithm_id, made.cipher_id = dialect, signing, cipher
    return made


def expected(kind: type[Signer], message: bytes, message_id: int, *, is_reply: bool, command: int) -> bytes:
    signature: bytes = connection(*SIGNERS[kind])._generate_signature(message, KEY, message_id, is_reply, command)
    return signature


def unsigned(size: int) -> bytes:
    message = os.urandom(size)
    return message[:SIGNATURE_AT] + NO_SIGNATURE + message[HEADER_BYTES:]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("is_reply", "command"), [(False, READ), (True, READ), (False, CANCEL)])
@pytest.mark.parametrize("kind", SIGNERS)
def test_a_signature_is_as_smbprotocol_makes_it(kind, is_reply, command, size):
    message, message_id = unsigned(size), 0xFEDC_BA98_7654
    wanted = expected(kind, message, message_id, is_reply=is_reply, command=command)
    made = kind(KEY).signature([message], message_id, is_reply=is_reply, is_cancel=command == CANCEL)
    assert made == wanted
    assert len(made) == 16


@pytest.mark.parametrize("kind", SIGNERS)
@settings(deadline=None, max_examples=40)
@given(size=st.sampled_from(SIZES[:-1]), cuts=st.lists(st.integers(0, 16385), max_size=5), data=st.data())
def test_how_a_message_is_cut_into_parts_does_not_matter(kind, size, cuts, data):
    message = unsigned(size)
    ends = sorted({min(cut, size) for cut in cuts} | {0, size})
    parts = []
    for start, end in itertools.pairwise(ends):
        shape = data.draw(st.sampled_from([bytes, bytearray, memoryview]))
        parts.append(shape(message[start:end]))
    made = kind(KEY).signature(parts, 7, is_reply=True, is_cancel=False)
    assert made == expected(kind, message, 7, is_reply=True, command=READ)


@pytest.mark.parametrize("kind", SIGNERS)
def test_many_threads_sign_with_one_signer(kind):
    signer = kind(KEY)
    messages = [unsigned(size) for size in (80, 70_000)]

    def sign(turn: int) -> bool:
        message = messages[turn % 2]
        made = signer.signature([message[:100], message[100:]], turn, is_reply=False, is_cancel=False)
        return made == expected(kind, message, turn, is_reply=False, command=READ)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sign, range(400)))


@pytest.mark.parametrize("kind", SIGNERS)
def test_a_reply_with_another_signature_is_refused(kind):
    signer, message = kind(KEY), unsigned(100)
    signature = expected(kind, message, 5, is_reply=True, command=READ)
    signer.check([message], 5, signature)
    for at in range(16):
        forged = bytearray(signature)
        forged[at] ^= 1
        with pytest.raises(ProtocolError):
            signer.check([message], 5, bytes(forged))
    for at in (*range(SIGNATURE_AT), 99):
        changed = bytearray(message)
        changed[at] ^= 0x80
        with pytest.raises(ProtocolError):
            signer.check([bytes(changed)], 5, signature)


def test_only_gmac_tells_a_request_from_a_reply():
    """So whoever receives has to look at the flag that says which it is, too: see test_smb_engine.py."""
    message = unsigned(100)
    for kind in SIGNERS:
        request = kind(KEY).signature([message], 5, is_reply=False, is_cancel=False)
        reply = kind(KEY).signature([message], 5, is_reply=True, is_cancel=False)
        assert (request == reply) == (kind is not GmacSigner)


def test_a_gmac_signature_is_for_one_message_id():
    signer, message = GmacSigner(KEY), unsigned(100)
    with pytest.raises(ProtocolError):
        signer.check([message], 6, expected(GmacSigner, message, 5, is_reply=True, command=READ))


# Encryption. What the client sends with, the server receives with.

CIPHERS = {
    "AES-128-CCM": (Ciphers.AES_128_CCM, 16, aead.AESCCM, 11),
    "AES-128-GCM": (Ciphers.AES_128_GCM, 16, aead.AESGCM, 12),
    "AES-256-CCM": (Ciphers.AES_256_CCM, 32, aead.AESCCM, 11),
    "AES-256-GCM": (Ciphers.AES_256_GCM, 32, aead.AESGCM, 12),
}


class Peer:
    """Both ends of an encrypted session: ours, and smbprotocol in the place of the server."""

    def __init__(self, name: str) -> None:
        cipher, key_bytes, self.kind, self.nonce_bytes = CIPHERS[name]
        self.to_server, self.to_client = os.urandom(key_bytes), os.urandom(key_bytes)
        self.sealer = Sealer(name, self.to_server, self.to_client, SESSION)
        self.server = connection(Dialects.SMB_3_1_1, cipher=cipher)
        self.session = SimpleNamespace(
            session_id=SESSION, encryption_key=self.to_client, decryption_key=self.to_server, encrypt_data=True
        )
        self.server.session_table[SESSION] = self.session

    def sealed(self, message: bytes) -> bytes:
        """As a server sends it."""
        return bytes(self.server._encrypt(message, self.session).pack())

    def unsealed(self, frame: bytes) -> bytes:
        """What our end makes of a message of the server."""
        target = memoryview(bytearray(b"\xee" * (len(frame) + 8)))
        length = self.sealer.unseal(memoryview(bytearray(frame + bytes(TAG_BYTES))), target)
        assert bytes(target[length:]) == b"\xee" * (len(target) - length)
        return bytes(target[:length])


@pytest.fixture(params=CIPHERS)
def peer(request) -> Peer:
    return Peer(request.param)


@pytest.mark.parametrize("parts", [(b"x" * 64,), (os.urandom(64), b"", memoryview(os.urandom(100_003)), b"\0" * 5)])
def test_smbprotocol_opens_what_is_sealed(peer, parts: Sequence[bytes]):
    frame = b"".join(peer.sealer.seal(parts))
    header = SMB2TransformHeader()
    header.unpack(frame)
    assert header["session_id"].get_value() == SESSION
    assert header["original_message_size"].get_value() == sum(map(len, parts))
    assert peer.server._decrypt(header) == b"".join(parts)


def test_a_sealed_message_is_as_the_standard_has_it(peer):
    frame = b"".join(peer.sealer.seal([b"what is ", b"sent"]))
    assert frame[:4] == TRANSFORM_MAGIC
    signature, nonce = frame[4:20], frame[20:36]
    assert frame[36:40] == (12).to_bytes(4, "little")  # OriginalMessageSize
    assert frame[40:44] == b"\0\0\1\0"  # Reserved, Flags: Encrypted
    assert frame[44:52] == SESSION.to_bytes(8, "little")
    assert nonce[peer.nonce_bytes :] == bytes(16 - peer.nonce_bytes)
    cipher = peer.kind(peer.to_server)
    plain = cipher.decrypt(nonce[: peer.nonce_bytes], frame[TRANSFORM_BYTES:] + signature, frame[20:52])
    assert plain == b"what is sent"


@pytest.mark.parametrize("size", [0, 1, 64, 100_003])
def test_what_a_server_seals_is_opened(peer, size):
    message = os.urandom(size)
    assert peer.unsealed(peer.sealed(message)) == message


def test_a_message_that_was_tampered_with_anywhere_is_refused(peer):
    frame = peer.sealed(os.urandom(80))
    for at in range(4, len(frame)):  # the magic is looked at before
        changed = bytearray(frame)
        changed[at] ^= 0x10
        with pytest.raises(ProtocolError):
            peer.unsealed(bytes(changed))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame[:TRANSFORM_BYTES],
        lambda frame: frame[: TRANSFORM_BYTES - 1],
        lambda frame: frame[:4],
        lambda frame: b"",
        lambda frame: frame[:-1],
        lambda frame: frame + b"\0",
    ],
)
def test_a_message_of_another_length_is_refused(peer, spoil: Callable[[bytes], bytes]):
    with pytest.raises(ProtocolError):
        peer.unsealed(spoil(peer.sealed(os.urandom(80))))


def test_our_own_message_sent_back_is_refused(peer):
    with pytest.raises(ProtocolError):
        peer.unsealed(b"".join(peer.sealer.seal([os.urandom(80)])))


def test_a_message_of_another_session_is_refused(peer):
    peer.session.session_id = SESSION + 1
    with pytest.raises(ProtocolError, match="not of this session"):
        peer.unsealed(peer.sealed(os.urandom(80)))


def test_no_nonce_comes_twice(peer):
    def seal(_: int) -> list[bytes]:
        return [b"".join(peer.sealer.seal([b"same"]))[20:36] for _ in range(500)]

    with ThreadPoolExecutor(8) as pool:
        nonces = [nonce for some in pool.map(seal, range(8)) for nonce in some]
    assert len(set(nonces)) == len(nonces) == 4000


def test_the_length_before_a_message_is_big_endian():
    assert length_prefix([b"x" * 0x1_0203, memoryview(b"yy")]) == b"\0\1\2\5"
