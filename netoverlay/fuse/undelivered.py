"""What a reply gave to the kernel, so that it can be taken back when the kernel did not take the reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from netoverlay.fuse import abi
from netoverlay.fuse.abi import Opcode
from netoverlay.fuse.replies import Payload, Reply

_ENTRY_REPLIES = frozenset(
    {Opcode.LOOKUP, Opcode.MKNOD, Opcode.MKDIR, Opcode.SYMLINK, Opcode.LINK, Opcode.CREATE, Opcode.TMPFILE}
)
_HANDLE_OFFSETS: dict[int, int] = {
    Opcode.OPEN: 0,
    Opcode.OPENDIR: 0,
    Opcode.CREATE: abi.ENTRY_OUT.size,
    Opcode.TMPFILE: abi.ENTRY_OUT.size,
}
"""Where in the reply struct fuse_open_out stands."""


class Granted(NamedTuple):
    """Lookups that a reply counts, and the handle that it opens."""

    forgets: list[tuple[int, int]]
    """(nodeid, count)."""
    handle: int | None
    is_directory: bool


def granted(opcode: int, reply: Reply) -> Granted:
    """What `reply`, the success of a request `opcode`, gives to the kernel."""
    payload = joined(reply)
    nodeids: list[int] = []
    if opcode in _ENTRY_REPLIES:
        nodeids = [abi.ENTRY_OUT.unpack_from(payload)[0]]
    elif opcode == Opcode.READDIRPLUS:
        nodeids = [fields[0] for fields, _ in listed(payload)]
    offset = _HANDLE_OFFSETS.get(opcode)
    handle = None if offset is None else abi.OPEN_OUT.unpack_from(payload, offset)[0]
    return Granted([(nodeid, 1) for nodeid in nodeids if nodeid], handle, opcode == Opcode.OPENDIR)


def joined(reply: Reply) -> Payload:
    """A reply as one piece; nothing for the bare "done"."""
    if reply is None:
        return b""
    return b"".join(reply) if isinstance(reply, tuple) else reply


def listed(payload: Payload) -> Iterator[tuple[tuple[int, ...], bytes]]:
    """The entries of a reply to READDIRPLUS: the fields of struct fuse_direntplus, and the name."""
    start = 0
    while start < len(payload):
        fields = abi.DIRENTPLUS.unpack_from(payload, start)
        begin = start + abi.DIRENTPLUS.size
        end = begin + fields[-2]
        yield fields, bytes(payload[begin:end])
        start = end + -end % 8
