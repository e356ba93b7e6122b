"""The kernel's side of the device, which sends what it is given and looks at every reply."""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from netoverlay.fuse import abi
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.channel import Channel
from netoverlay.fuse.undelivered import listed
from tests.fuzz.checks import WrongError, require_name

_HEADER_BYTES: Final = abi.IN_HEADER.size
_UNIQUE_AT, _OPCODE_AT = 8, 4
_REPLY_BYTES: Final = 1 << 20
_NEVER_ANSWERED: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
_MOST_ASKED: Final = 1 << 16

_UINT32, _UINT64 = struct.Struct("=I"), struct.Struct("=Q")
_LIMITED: Final[dict[int, tuple[tuple[int, struct.Struct], ...]]] = {
    Opcode.READ: ((16, _UINT32),),
    Opcode.READDIR: ((16, _UINT32),),
    Opcode.READDIRPLUS: ((16, _UINT32),),
    Opcode.FALLOCATE: ((8, _UINT64), (16, _UINT64)),
}
"""Where in a body stands what a kernel holds to a limit of its own, or what would fill the memory of the layer."""

_ENTRY = abi.ENTRY_OUT.size
_CREATED = _ENTRY + abi.OPEN_OUT.size
_REPLY_SIZES: Final[dict[int, frozenset[int]]] = {
    opcode: frozenset(sizes)
    for sizes, opcodes in (
        ((_ENTRY,), (Opcode.LOOKUP, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.LINK)),
        ((_CREATED,), (Opcode.CREATE, Opcode.TMPFILE)),
        ((abi.ATTR_OUT.size,), (Opcode.GETATTR, Opcode.SETATTR)),
        ((abi.OPEN_OUT.size,), (Opcode.OPEN, Opcode.OPENDIR)),
        ((abi.WRITE_OUT.size,), (Opcode.WRITE, Opcode.COPY_FILE_RANGE)),
        ((abi.COPY_FILE_RANGE_OUT.size,), (Opcode.COPY_FILE_RANGE_64,)),
        ((abi.STATFS_OUT.size,), (Opcode.STATFS,)),
        ((abi.LSEEK_OUT.size,), (Opcode.LSEEK,)),
        ((abi.LK_OUT.size,), (Opcode.GETLK,)),
        (
            (0,),
            (
                *(Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME, Opcode.RENAME2, Opcode.RELEASE, Opcode.RELEASEDIR),
                *(Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.SYNCFS, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.FLUSH),
                *(Opcode.SETLK, Opcode.SETLKW, Opcode.FALLOCATE, Opcode.DESTROY),
            ),
        ),
    )
    for opcode in opcodes
}
"""Bytes of the payload of a success, where it has a fixed size."""


class Device(Channel):
    """Gives out messages one after the other, then the end of the connection."""

    def __init__(self) -> None:
        self._kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._kernel.setblocking(False)
        device.setblocking(False)
        super().__init__(device.detach())
        self._messages: deque[bytes] = deque()
        self._unanswered: dict[int, bytes] = {}
        self._numbers = iter(range(2, 1 << 62, 2))
        self.taken = 0

    def close(self) -> None:
        super().close()
        self._kernel.close()

    def give(self, messages: Sequence[bytes]) -> None:
        """What is to be received next, each with a number of its own."""
        self._messages.extend(messages)

    def receive(self, buffers: Sequence[bytearray]) -> int:
        self.look_at_replies()
        if not self._messages:
            return 0
        self.taken += 1
        message = self._numbered(bytearray(self._messages.popleft()[: len(buffers[0])]))
        buffers[0][: len(message)] = message
        return len(message)

    def look_at_replies(self) -> None:
        """Check what has been answered so far."""
        with suppress(BlockingIOError):
            while True:
                self._look_at(self._kernel.recv(_REPLY_BYTES))

    def unanswered(self) -> set[int]:
        """The numbers of what should have a reply, and has none."""
        return {unique for unique, message in self._unanswered.items() if not _needs_none(message)}

    def abandon(self) -> None:
        """Wait for no reply any more: where the handshake fails, the daemon ends."""
        self.look_at_replies()
        self._unanswered.clear()

    def _numbered(self, message: bytearray) -> bytes:
        """As no kernel would send: with lengths and numbers as they are. Of those that nothing here limits, fewer."""
        if len(message) < _HEADER_BYTES:
            return bytes(message) or b"\0"
        unique = next(self._numbers)
        _UINT64.pack_into(message, _UNIQUE_AT, unique)
        (opcode,) = _UINT32.unpack_from(message, _OPCODE_AT)
        for offset, layout in _LIMITED.get(opcode, ()):
            if len(message) >= _HEADER_BYTES + offset + layout.size:
                (value,) = layout.unpack_from(message, _HEADER_BYTES + offset)
                layout.pack_into(message, _HEADER_BYTES + offset, value % (_MOST_ASKED + 1))
        self._unanswered[unique] = bytes(message)
        return self._unanswered[unique]

    def _look_at(self, reply: bytes) -> None:
        length, code, unique = abi.OUT_HEADER.unpack_from(reply)
        payload = reply[abi.OUT_HEADER.size :]
        message = self._unanswered.pop(unique, None)
        if message is None:
            raise WrongError(f"request {unique} was answered twice, or never made")
        if length != len(reply) or not -511 <= code <= 0 or (code and payload):
            raise WrongError(f"a reply that the kernel would refuse: {reply[:16].hex()}, {len(reply)} bytes")
        if not code:
            _check_payload(_UINT32.unpack_from(message, _OPCODE_AT)[0], message, payload)


def _needs_none(message: bytes) -> bool:
    length, opcode = struct.unpack_from("=II", message)
    return length == len(message) and opcode in _NEVER_ANSWERED


def _check_payload(opcode: int, message: bytes, payload: bytes) -> None:
    sizes = _REPLY_SIZES.get(opcode)
    if sizes is not None and len(payload) not in sizes:
        raise WrongError(f"{Opcode(opcode).name} was answered with {len(payload)} bytes")
    check = _CHECKS.get(opcode)
    if check is not None:
        check(message, payload)


def _check_read(message: bytes, payload: bytes) -> None:
    asked = abi.READ_IN.unpack_from(message, _HEADER_BYTES)[2]
    if len(payload) > asked:
        raise WrongError(f"{len(payload)} bytes were read where {asked} were asked for")


def _check_listing(message: bytes, payload: bytes) -> None:
    _check_read(message, payload)
    _check_names(_plain_names(payload))


def _check_listing_plus(message: bytes, payload: bytes) -> None:
    _check_read(message, payload)
    _check_names(name for _, name in listed(payload))


def _plain_names(payload: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(payload):
        length = abi.DIRENT.unpack_from(payload, start)[2]
        begin = start + abi.DIRENT.size
        yield payload[begin : begin + length]
        start = begin + length + -(begin + length) % 8


def _check_names(names: Iterator[bytes]) -> None:
    for name in names:
        if name not in (b".", b".."):
            require_name(name.decode("utf-8", "surrogateescape"))


_CHECKS: Final[dict[int, Callable[[bytes, bytes], None]]] = {
    Opcode.READ: _check_read,
    Opcode.READDIR: _check_listing,
    Opcode.READDIRPLUS: _check_listing_plus,
}
