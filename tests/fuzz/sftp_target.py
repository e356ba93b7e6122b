"""Bytes of an SFTP server, into the backend, with calls in flight.

The head is three bytes: how it begins (bit 0: the greeting is an input, too), and two calls to make.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from netoverlay.backend_api import AttributeChange, LayerUrl
from netoverlay_sftp.backend import SftpBackend
from netoverlay_sftp.connection import connect
from netoverlay_sftp.options import SftpOptions
from netoverlay_sftp.protocol import (
    Attributes,
    Extension,
    PacketType,
    StatusCode,
    pack_attributes,
    pack_string,
    pack_strings,
)
from netoverlay_sftp.streams import SshConnection
from tests.fuzz import calls
from tests.fuzz.calls import make_calls
from tests.fuzz.checks import no_defects
from tests.fuzz.sftp_server import LIMITS, How, Script, ScriptedConnection, refuse_login
from tests.fuzz.target import Target, joined, split

_DEADLINE: Final = 5.0
_MODE_FILE, _MODE_DIRECTORY, _MODE_LINK = 0o100644, 0o040755, 0o120777


class _Backend(SftpBackend):
    """Logs in without SSH, once, and on the thread that calls."""

    def __init__(self, script: Script) -> None:
        super().__init__(LayerUrl("sftp", "/root", host="test"), SftpOptions(), _DEADLINE)
        self._connector._session = connect(lambda: ScriptedConnection(script), _DEADLINE)

    def _log_in(self) -> SshConnection:
        return refuse_login()


_CALLS: Final[tuple[Callable[[_Backend], object], ...]] = (
    calls.stat,
    calls.list_directory,
    calls.read,
    lambda backend: backend.readlink("link"),
    calls.read_files,
    calls.write,
    calls.create,
    calls.copy,
    SftpBackend.space_usage,
    lambda backend: backend.mkdir("new", 0o755),
    lambda backend: backend.unlink("d/a"),
    lambda backend: backend.rmdir("d"),
    lambda backend: backend.rename("d/a", "d/b"),
    lambda backend: backend.set_attributes("d/a", AttributeChange(uid=1, mtime_ns=10**18)),
    lambda backend: backend.symlink("new", "target"),
    lambda backend: backend.link("d/a", "new"),
    SftpBackend.connect,
)


def run(data: bytes) -> int:
    """Answer the calls of one input."""
    with no_defects():
        return _run(data)


def _run(data: bytes) -> int:
    head = data[:3].ljust(3, b"\0")
    script = Script(split(data[3:]), greets=not head[0] & 1)
    try:
        backend = _Backend(script)
    except OSError:
        return script.taken
    make_calls(backend, _CALLS, head[1:], script)
    backend.close()
    return script.taken


def _reply(packet: PacketType, body: bytes = b"", how: int = 0) -> bytes:
    return bytes([how, packet]) + body


def _attributes(mode: int, size: int = 10) -> bytes:
    return pack_attributes(Attributes(size, 1000, 100, mode, 1_600_000_000, 1_600_000_000))


def _listed(*names: bytes) -> bytes:
    long_name = b"-rw-r--r--    1 user     group          10 Jan  1 00:00 name"
    entries = [pack_strings(name, long_name) + _attributes(_MODE_FILE) for name in names]
    return struct.pack(">I", len(names)) + b"".join(entries)


def _status(code: StatusCode) -> bytes:
    return struct.pack(">I", code) + pack_strings(b"as it is", b"en")


_OK = _reply(PacketType.STATUS, _status(StatusCode.OK))
_END = _reply(PacketType.STATUS, _status(StatusCode.EOF))
_MISSING = _reply(PacketType.STATUS, _status(StatusCode.NO_SUCH_FILE))
_FILE = _reply(PacketType.ATTRS, _attributes(_MODE_FILE))
_DIRECTORY = _reply(PacketType.ATTRS, _attributes(_MODE_DIRECTORY))
_HANDLE = _reply(PacketType.HANDLE, pack_string(b"\0\0\0\1"))
_DATA = _reply(PacketType.DATA, pack_string(b"0123456789"))
_NAMES = _reply(PacketType.NAME, _listed(b".", b"..", b"a", b"b.c", b"\xff", b"link"))
_TARGET = _reply(PacketType.NAME, _listed(b"../target"))
_VOLUME = _reply(PacketType.EXTENDED_REPLY, struct.pack(">11Q", 4096, 4096, 100, 50, 50, 10, 5, 5, 1, 0, 255))
_LIMITS = _reply(PacketType.EXTENDED_REPLY, LIMITS)
_VERSION = _reply(
    PacketType.VERSION,
    struct.pack(">I", 3) + b"".join(pack_strings(*each.value) for each in Extension),
)
_PLAIN_VERSION = _reply(PacketType.VERSION, struct.pack(">I", 3))
_EXTENDED_ATTRIBUTES = _reply(
    PacketType.ATTRS,
    struct.pack(">I", 0x8000_0005)
    + _attributes(_MODE_FILE)[4:12]
    + struct.pack(">II", _MODE_LINK, 1)
    + pack_strings(b"name", b"value"),
)

_DIALOGUES: Final[tuple[tuple[int, tuple[bytes, ...]], ...]] = (
    (0, (_FILE,)),
    (0, (_MISSING, _DIRECTORY)),
    (1, (_DIRECTORY, _HANDLE, _NAMES, *(_END,) * 8)),
    (1, (_FILE, _reply(PacketType.STATUS, _status(StatusCode.FAILURE)), _DIRECTORY)),
    (2, (_FILE, _HANDLE, _DATA, _END, _FILE, _FILE, _OK)),
    (2, (_reply(PacketType.ATTRS, _attributes(_MODE_LINK)),)),
    (3, (_TARGET,)),
    (3, (_reply(PacketType.STATUS, _status(StatusCode.BAD_MESSAGE)), _FILE)),
    (4, (_FILE, _HANDLE, _FILE, _HANDLE, _FILE, _FILE, _DATA, _DATA, _OK, _OK)),
    (5, (_FILE, _HANDLE, *(_OK,) * 8, _FILE, _FILE)),
    (6, (_HANDLE, _OK, _OK)),
    (7, (_FILE, _HANDLE, _FILE, _HANDLE, _FILE, _OK, _FILE, _OK, _OK)),
    (8, (_VOLUME,)),
    (9, (_OK, _OK)),
    (10, (_OK,)),
    (10, (_MISSING, _FILE, _DIRECTORY)),
    (11, (_reply(PacketType.STATUS, _status(StatusCode.FAILURE)), _DIRECTORY, _HANDLE, _NAMES, _END)),
    (12, (_OK,)),
    (12, (_reply(PacketType.STATUS, _status(StatusCode.FAILURE)), _FILE, _DIRECTORY, _MISSING)),
    (13, (_FILE, _OK, _OK)),
    (14, (_OK,)),
    (15, (_OK,)),
    (16, (_DIRECTORY,)),
)
"""Calls, and what a server would answer."""


def _templates() -> Sequence[bytes]:
    replies = {reply for _, dialogue in _DIALOGUES for reply in dialogue}
    changed = [bytes([how]) + _NAMES[1:] for how in How]
    return [*sorted(replies), *changed, _LIMITS, _VERSION, _PLAIN_VERSION, _EXTENDED_ATTRIBUTES]


def _seeds() -> Sequence[bytes]:
    plain = [bytes([0, call, 0]) + joined(dialogue) for call, dialogue in _DIALOGUES]
    greeting = (_VERSION, _LIMITS, _VERSION, _LIMITS)
    greeted = [bytes([1, call, 0]) + joined([*greeting, *dialogue]) for call, dialogue in _DIALOGUES[:6]]
    old = bytes([1, 1, 3]) + joined([_PLAIN_VERSION, _TARGET, _PLAIN_VERSION, _TARGET, *_DIALOGUES[2][1]])
    return [*plain, *greeted, old]


def _repair(record: bytearray, random: Random) -> None:
    """Most records answer a request, with a packet of a type that servers send."""
    if len(record) < 2:
        record.extend(random.choice(_REPAIRS))
    if random.random() < 0.7:
        record[0] = 0
    if record[1] not in _FROM_SERVER:
        record[1] = random.choice(_FROM_SERVER)


_REPAIRS: Final = (_FILE, _NAMES, _HANDLE, _DATA, _OK, _END)
_FROM_SERVER: Final = (
    PacketType.STATUS,
    PacketType.HANDLE,
    PacketType.DATA,
    PacketType.NAME,
    PacketType.ATTRS,
    PacketType.EXTENDED_REPLY,
    PacketType.VERSION,
)

TARGET: Final = Target("sftp", 3, 8192, run, _seeds, _templates, _repair)
