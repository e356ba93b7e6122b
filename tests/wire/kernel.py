"""The kernel's side of the device, for tests: messages made without the code under test."""

from __future__ import annotations

import socket
from typing import Self

HEADER_SIZE = 40


def unhex(text: str) -> bytes:
    """Bytes written as hex, in any grouping, with a comment after each field."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little", signed=value < 0)


def message(opcode: int, body: bytes = b"", *, unique: int = 2, nodeid: int = 1, pid: int = 4242) -> bytes:
    """A request as struct fuse_in_header and its body, from uid 1000 and gid 100."""
    head = little(HEADER_SIZE + len(body), 4) + little(opcode, 4) + little(unique, 8) + little(nodeid, 8)
    return head + little(1000, 4) + little(100, 4) + little(pid, 4) + little(0, 2) + little(0, 2) + body


class Kernel:
    """One end of a socket that keeps message boundaries, as /dev/fuse does."""

    def __init__(self) -> None:
        self._socket, self._device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unmount()

    def device(self) -> int:
        """The descriptor for the server, which is then the server's to close."""
        return self._device.detach()

    def unmount(self) -> None:
        self._socket.close()

    def send(self, opcode: int, body: bytes = b"", *, unique: int = 2, nodeid: int = 1) -> None:
        self.send_raw(message(opcode, body, unique=unique, nodeid=nodeid))

    def send_raw(self, data: bytes) -> None:
        self._socket.send(data)

    def receive(self) -> tuple[int, int, bytes]:
        """(unique, errno, payload) of the next reply."""
        data = self._socket.recv(1 << 20)
        length = int.from_bytes(data[:4], "little")
        assert length == len(data), "a reply that the kernel would refuse"
        code = int.from_bytes(data[4:8], "little", signed=True)
        assert code == 0 or length == 16, "an error with a payload"
        return int.from_bytes(data[8:16], "little"), -code, data[16:]

    def ask(self, opcode: int, body: bytes = b"", *, unique: int = 2, nodeid: int = 1) -> tuple[int, bytes]:
        """Send a request and wait for its reply: (errno, payload)."""
        self.send(opcode, body, unique=unique, nodeid=nodeid)
        answered, code, payload = self.receive()
        assert answered == unique
        return code, payload
