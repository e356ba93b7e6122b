"""A server's sftp subsystem with a directory whose listing never ends: for SshServer(sftp=COMMAND).

"endless" tells the same names for ever, "good" is as it should be; every other name is a file.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO

from netoverlay_sftp.protocol import (
    UINT32,
    Attributes,
    PacketType,
    StatusCode,
    pack_attributes,
    pack_string,
    pack_strings,
)

COMMAND = f"{sys.executable} {__file__}"
_DIRECTORY = pack_attributes(Attributes(0, 0, 0, 0o040755, 1, 1))
_FILE = pack_attributes(Attributes(0, 0, 0, 0o100644, 1, 1))
_LISTED = {
    "served": [["endless", "good"]],
    "endless": itertools.repeat(["one", "two"]),
    "good": [["file"]],
}


def _attributes_of(path: bytes) -> bytes:
    return _DIRECTORY if path.decode().rpartition("/")[2] in _LISTED else _FILE


def _names(names: list[str]) -> bytes:
    told = [pack_strings(name.encode(), b"") + _attributes_of(name.encode()) for name in names]
    return UINT32.pack(len(names)) + b"".join(told)


def _status(code: StatusCode) -> tuple[PacketType, bytes]:
    return PacketType.STATUS, struct.pack(">III", code, 0, 0)


class _Server:
    def __init__(self) -> None:
        self._open: dict[bytes, Iterator[list[str]]] = {}
        self._numbers = itertools.count()

    def answer(self, packet: int, first: bytes) -> tuple[PacketType, bytes]:
        """`first`: the string that the request begins with: a path or a handle."""
        if packet in (PacketType.LSTAT, PacketType.STAT):
            return PacketType.ATTRS, _attributes_of(first)
        if packet == PacketType.OPENDIR:
            handle = b"%d" % next(self._numbers)
            self._open[handle] = iter(_LISTED[first.decode().rpartition("/")[2]])
            return PacketType.HANDLE, pack_string(handle)
        if packet == PacketType.READDIR:
            names = next(self._open[first], None)
            return _status(StatusCode.EOF) if names is None else (PacketType.NAME, _names(names))
        if packet == PacketType.REALPATH:
            return PacketType.NAME, _names(["/"])
        return _status(StatusCode.OK if packet == PacketType.CLOSE else StatusCode.OP_UNSUPPORTED)


def _send(output: BinaryIO, packet: PacketType, body: bytes) -> None:
    output.write(struct.pack(">IB", 1 + len(body), packet) + body)
    output.flush()


def main(requests: BinaryIO, replies: BinaryIO) -> None:
    server = _Server()
    while len(head := requests.read(5)) == 5:
        length, packet = struct.unpack(">IB", head)
        body = requests.read(length - 1)
        if packet == PacketType.INIT:
            _send(replies, PacketType.VERSION, UINT32.pack(3))
            continue
        (size,) = UINT32.unpack_from(body, 4)
        kind, answer = server.answer(packet, body[8 : 8 + size])
        _send(replies, kind, body[:4] + answer)


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
