"""Messages of an SMB server, into the engine and the backend on it, with calls in flight.

The head is three bytes: how the connection is (_Setup, with a Protection in its lowest bits), and two calls to make.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Final

from netoverlay.backend_api import (
    Access,
    AttributeChange,
    LayerUrl,
    LockKind,
    UnavailableError,
    XattrMode,
)
from netoverlay_smb import facts, locking, opening, session
from netoverlay_smb.attributes import Appearance
from netoverlay_smb.backend import SmbBackend
from netoverlay_smb.engine import Engine
from netoverlay_smb.facts import ShareFacts
from netoverlay_smb.listing import Lister
from netoverlay_smb.options import SmbOptions
from netoverlay_smb.protocol import HEADER, HEADER_BYTES, MAGIC
from netoverlay_smb.session import Session
from netoverlay_smb.status import Status
from tests.fuzz import calls, smb_seeds
from tests.fuzz.calls import make_calls
from tests.fuzz.checks import Replaced, no_defects
from tests.fuzz.corpus import kept_inputs
from tests.fuzz.smb_server import STATUSES, How, Protection, ScriptedSocket
from tests.fuzz.target import Target, joined, split

_DEADLINE: Final = 5.0


class _QuietEngine(Engine):
    """Receives only while somebody waits: so the same comes of the same input."""

    def _watch(self) -> None:
        pass


_QUICK: Final = (
    Replaced(session, "Engine", _QuietEngine),
    # Whoever waits for another client would wait long here.
    Replaced(opening._AGAIN, "sleep", lambda seconds: None),
    Replaced(locking, "_RELOCK_PAUSE_SECONDS", 0.0),
    Replaced(locking, "_TURN_PAUSE_SECONDS", 0.0),
)


class _Setup(enum.IntFlag):
    """The first byte of the head, behind the two bits of a Protection."""

    FINDS_OUT = 4
    """What the share can do is an input, too."""
    LISTS_MODES = 8
    BY_PROFILE = 16
    """Modes are the profile's."""
    NO_FILE_IDS = 32
    FEW_CREDITS = 64
    ONE_CREDIT_EACH = 128


class _Backend(SmbBackend):
    """Logs in without a server, once, and on the thread that calls."""

    def __init__(self, socket: ScriptedSocket, setup: _Setup) -> None:
        options = SmbOptions(permissions="profile" if setup & _Setup.BY_PROFILE else "server")
        super().__init__(LayerUrl("smb", "/share/root", host="test"), options, _DEADLINE)
        link = socket.link(
            few_credits=bool(setup & _Setup.FEW_CREDITS), multi_credit=not setup & _Setup.ONE_CREDIT_EACH
        )
        connected = Session(link, "root", _DEADLINE)
        known = ShareFacts(
            is_directory=True,
            has_file_ids=not setup & _Setup.NO_FILE_IDS,
            lists_modes=bool(setup & _Setup.LISTS_MODES),
            has_attributes=True,
            has_holes=True,
            copies=True,
            case_sensitive=False,
        )
        self._connector._session = connected
        self._facts = self._find_out(connected) if setup & _Setup.FINDS_OUT else known
        self._appearance = Appearance.of(
            options, lists_modes=self._facts.lists_modes, has_file_ids=self._facts.has_file_ids
        )
        self._lister = Lister(self._paths, self._appearance, self._limits, with_modes=self._facts.lists_modes)

    def _new_session(self) -> Session:
        raise UnavailableError("the server is gone")


def _seek(backend: _Backend) -> None:
    with backend.open("d/a", Access.READ_WRITE) as file:
        file.seek_data(0)
        file.seek_hole(0)


def _lock(backend: _Backend) -> None:
    with backend.open("d/a", Access.READ_WRITE) as file:
        file.lock(LockKind.EXCLUSIVE, 0, 10)
        file.lock(LockKind.UNLOCK, 0, 0)


_CALLS: Final[tuple[Callable[[_Backend], object], ...]] = (
    calls.stat,
    calls.list_directory,
    calls.read,
    lambda backend: backend.readlink("link"),
    calls.read_files,
    lambda backend: backend.list_xattrs("d/a"),
    calls.write,
    calls.create,
    calls.copy,
    _seek,
    _lock,
    SmbBackend.space_usage,
    lambda backend: backend.mkdir("new", 0o755),
    lambda backend: backend.unlink("d/a"),
    lambda backend: backend.rmdir("d"),
    lambda backend: backend.rename("d/a", "d/b"),
    lambda backend: backend.set_attributes("d/a", AttributeChange(mtime_ns=10**18)),
    lambda backend: backend.symlink("new", "target"),
    lambda backend: backend.link("d/a", "new"),
    lambda backend: backend.set_xattr("d/a", "user.a", b"value", XattrMode.CREATE),
    lambda backend: facts.names_in(backend._connector.session(), "root"),
)


def run(data: bytes) -> int:
    """Answer the calls of one input."""
    with no_defects(*_QUICK):
        return _run(data)


def _run(data: bytes) -> int:
    head = data[:3].ljust(3, b"\0")
    socket = ScriptedSocket(split(data[3:]), Protection(head[0] & 3))
    try:
        backend = _Backend(socket, _Setup(head[0] & ~3))
    except OSError:
        return socket.taken
    make_calls(backend, _CALLS, head[1:], socket)
    with suppress(OSError):
        backend.close()
    return socket.taken


_SUCCESS: Final = STATUSES.index(Status.SUCCESS)
_BREAK = smb_seeds.reply(struct.pack("<HBBI16s", 24, 1, 0, 0, b"h" * 16), how=How.NOTIFICATION)
_LEASE_BREAK = smb_seeds.reply(struct.pack("<HHI16sIIIII", 44, 1, 1, b"k" * 16, 7, 1, 0, 0, 0), how=How.NOTIFICATION)
_INTERIM = smb_seeds.reply(struct.pack("<QHHI", 1 << 33, 9, 0, 0), how=How.INTERIM)
_RAW = bytes([How.RAW]) + HEADER.pack(
    MAGIC, HEADER_BYTES, 1, 0, 5, 1, 1, 0, 5, 0, 0x99, 0x1122_3344_5566_7788, bytes(16)
)
_ERRORS: Final = (
    *(Status.OBJECT_NAME_NOT_FOUND, Status.BUFFER_OVERFLOW, Status.NO_MORE_FILES, Status.STOPPED_ON_SYMLINK),
    *(Status.ACCESS_DENIED, Status.END_OF_FILE, Status.OBJECT_NAME_COLLISION, Status.SHARING_VIOLATION),
    *(Status.NOT_SUPPORTED, Status.PATH_NOT_COVERED, Status.USER_SESSION_DELETED, Status.FILE_LOCK_CONFLICT),
    *(Status.INVALID_PARAMETER, Status.DELETE_PENDING, Status.DIRECTORY_NOT_EMPTY, Status.BUFFER_TOO_SMALL),
)


def _dialogues() -> list[bytes]:
    return [bytes([setup, call, 0]) + joined(answers) for setup, call, answers in smb_seeds.DIALOGUES]


def _templates() -> Sequence[bytes]:
    known = {record for data in (*kept_inputs("smb"), *_dialogues()) for record in split(data[3:])}
    return [_BREAK, _LEASE_BREAK, _INTERIM, _RAW, *map(smb_seeds.refusal, _ERRORS), *sorted(known)]


def _seeds() -> Sequence[bytes]:
    broken = [b"\0\0\0" + joined([each]) for each in (_BREAK, _LEASE_BREAK, _INTERIM)]
    refused = [bytes([0, call, 0]) + joined([smb_seeds.refusal(_ERRORS[0])] * 6) for call in range(len(_CALLS))]
    protected = [
        bytes([data[0] | protection]) + data[1:]
        for data in (*kept_inputs("smb"), *_dialogues())
        for protection in (Protection.GMAC, Protection.SEALED)
    ]
    return [*_dialogues(), *broken, *refused, *protected]


def _repair(record: bytearray, random: Random) -> None:
    """Most records answer a request with success."""
    if len(record) < 2:
        record.extend(bytes(2 - len(record)))
    if random.random() < 0.6:
        record[0] &= How.TOGETHER
    if random.random() < 0.6:
        record[1] = _SUCCESS
    elif record[1] >= len(STATUSES):
        record[1] = random.randrange(len(STATUSES))


TARGET: Final = Target("smb", 3, 16384, run, _seeds, _templates, _repair)
