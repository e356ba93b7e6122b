"""Bytes of an SSH server after the login, into what shares its packets among those who wait.

The head is one byte: how much a receive gives at most (0: whatever there is). A record begins with a byte that says how
it is sealed; the cipher is one that leaves everything readable, and refuses what has the wrong tag.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntFlag
from random import Random
from typing import Final, NoReturn, cast

import paramiko
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_DISCONNECT,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
)

from netoverlay_sftp.inbox import Inbox
from netoverlay_sftp.shared_packets import SharedPacketizer
from netoverlay_sftp.streams import Liveness
from netoverlay_sftp.watched_socket import WatchedSocket
from tests.fuzz.checks import WrongError, no_defects
from tests.fuzz.target import Target, joined, split

_DEADLINE: Final = 5.0
_TAG: Final = b"t" * 16
_NONCE: Final = bytes(12)
_LONGEST_ROUND: Final = 10_000
"""More readings than that of one input are an endless loop."""


class _How(IntFlag):
    """A record that is no packet as it should be."""

    RAW = 1
    """It is what is on the wire, with a length of its own or none."""
    OTHER_TAG = 2
    LITTLE_PADDING = 4
    LATE = 8
    """Nothing comes for a while in the middle of it."""


class _Readable:
    """In the place of AES-GCM."""

    def decrypt(self, nonce: bytes, data: memoryview, associated: memoryview) -> bytes:
        if len(nonce) != len(_NONCE) or len(associated) != 4:
            raise WrongError("a nonce or a length of another size")
        if data[-len(_TAG) :] != _TAG:
            raise InvalidTag
        return bytes(data[: -len(_TAG)])


class _Wire:
    """A socket on which the records come."""

    def __init__(self, records: Sequence[bytes], most: int) -> None:
        self._coming = [piece for record in records for piece in _pieces(record)]
        self._most = most
        self.rounds = 0

    def recv(self, size: int) -> bytes:
        self.rounds += 1
        if self.rounds > _LONGEST_ROUND:
            raise WrongError("it goes on receiving")
        if not self._coming:
            return b""
        piece = self._coming.pop(0)
        if piece is None:
            raise TimeoutError
        taken = min(size, self._most or size)
        if rest := piece[taken:]:
            self._coming.insert(0, rest)
        return piece[:taken]

    def send(self, data: bytes) -> NoReturn:
        raise WrongError(f"it answers {data!r}")

    def close(self) -> None:
        self._coming.clear()

    def settimeout(self, timeout: float | None) -> None:
        if timeout is not None and timeout < 0:
            raise WrongError("a timeout that is none")


def _pieces(record: bytes) -> list[bytes | None]:
    how, payload = _How(record[0] & 15 if record else 0), record[1:]
    sealed = payload if _How.RAW in how else _sealed(payload, how)
    if _How.LATE not in how:
        return [sealed] if sealed else []
    middle = len(sealed) // 2
    return [piece for piece in (sealed[:middle], None, sealed[middle:]) if piece is None or piece]


def _sealed(payload: bytes, how: _How) -> bytes:
    padding = 2 if _How.LITTLE_PADDING in how else 4 + -(5 + len(payload)) % 16
    plain = bytes([padding]) + payload + bytes(padding)
    return struct.pack(">I", len(plain)) + plain + (bytes(16) if _How.OTHER_TAG in how else _TAG)


def run(data: bytes) -> int:
    """Read the packets of one input, in the place of two channels and of the transport's thread."""
    with no_defects():
        return _run(data)


def _run(data: bytes) -> int:
    wire = _Wire(split(data[1:]), data[0] if data else 0)
    packets = SharedPacketizer(WatchedSocket(wire, _DEADLINE, Liveness()))
    packets.set_inbound_cipher(cast(AESGCM, _Readable()), 16, None, 16, b"", aead=True, iv_in=_NONCE)
    packets.lend()
    packets._turn.release()
    inboxes = [Inbox(), Inbox()]
    for number, inbox in enumerate(inboxes):
        packets.register(paramiko.Channel(number), inbox)
    taken = 0
    while True:
        inbox = inboxes[taken % len(inboxes)]
        inbox.expect(len(inbox) + 1)
        if not packets._turn.acquire(blocking=False):
            raise WrongError("nobody has the turn")
        packets._read_for(inbox, 0.0)
        taken += 1
        _take(inbox)
        if not packets._calls.empty() and _is_ended(packets):
            return taken


def _take(inbox: Inbox) -> None:
    """What has arrived is as long as the inbox says."""
    expected, count = len(inbox), 0
    while len(inbox):
        count += len(inbox.read(1))
    if count != expected:
        raise WrongError(f"{count} bytes, where {expected} have arrived")


def _is_ended(packets: SharedPacketizer) -> bool:
    """Do what the transport's thread is called for; whether the connection has ended."""
    call = packets._calls.get()
    if call.error is not None:
        if not isinstance(call.error, EOFError | OSError | paramiko.SSHException):
            raise call.error
        return True
    if call.message is not None:
        kind, content = call.message
        if not 0 <= kind < 256 or content.seqno < 0:
            raise WrongError("a packet that is none")
        packets._noted(call.message)
    packets._turn.release()
    return packets.need_rekey()


def _packet(kind: int, *numbers: int, data: bytes = b"", how: int = 0) -> bytes:
    return bytes([how, kind]) + b"".join(struct.pack(">I", number) for number in numbers) + data


def _data(channel: int, data: bytes, how: int = 0) -> bytes:
    return _packet(MSG_CHANNEL_DATA, channel, len(data), data=data, how=how)


_NAME: Final = struct.pack(">I", 21) + b"keepalive@openssh.com" + b"\1"
_PACKETS: Final = (
    _data(0, b"0123456789"),
    _data(1, b"a" * 300),
    _data(0, b""),
    _data(7, b"of no channel of ours"),
    _packet(MSG_CHANNEL_DATA, 0, 1 << 31, data=b"less than it says"),
    _packet(MSG_CHANNEL_DATA, 1, 1, data=b"more than it says"),
    _packet(MSG_CHANNEL_DATA, 0),
    _packet(MSG_CHANNEL_WINDOW_ADJUST, 0, 1 << 21),
    _packet(MSG_CHANNEL_WINDOW_ADJUST, 1, 0xFFFF_FFFF),
    _packet(MSG_CHANNEL_WINDOW_ADJUST, 0),
    _packet(MSG_CHANNEL_EOF, 0),
    _packet(MSG_CHANNEL_CLOSE, 1),
    _packet(MSG_CHANNEL_SUCCESS, 0),
    _packet(MSG_GLOBAL_REQUEST, data=_NAME),
    _packet(MSG_IGNORE, 4, data=b"none"),
    _packet(MSG_DISCONNECT, 2, 0, 0),
    _packet(MSG_KEXINIT, data=bytes(16) + 10 * bytes(4) + bytes(5)),
)


def _templates() -> Sequence[bytes]:
    changed = [bytes([how]) + _PACKETS[0][1:] for how in _How]
    raw = [bytes([_How.RAW]) + struct.pack(">I", length) + bytes(40) for length in (0, 1, 16, 1 << 18, 0xFFFF_FFFF)]
    return [*_PACKETS, *changed, *raw]


def _seeds() -> Sequence[bytes]:
    whole = bytes(1) + joined(_PACKETS)
    in_bits = bytes([3]) + joined([_data(0, b"0123456789"), _data(1, b"b" * 40, _How.LATE), *_PACKETS[7:9]])
    return [whole, in_bits, *(bytes(1) + joined([_PACKETS[0], each, _PACKETS[1]]) for each in _templates())]


def _repair(record: bytearray, random: Random) -> None:
    """Most records are sealed as they should be; of data the length is mostly right."""
    if len(record) < 2:
        record.extend(random.choice(_PACKETS)[len(record) :])
    if random.random() < 0.8:
        record[0] = 0
    if record[1] == MSG_CHANNEL_DATA and len(record) >= 10 and random.random() < 0.7:
        struct.pack_into(">II", record, 2, random.randrange(3), len(record) - 10)


TARGET: Final = Target("ssh", 1, 8192, run, _seeds, _templates, _repair)
