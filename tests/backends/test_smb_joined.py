"""Several files in one message: how many messages that takes, and servers that fail what follows a failure in one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netoverlay.backend_api import FileContent, UnavailableError, WantedFile
from netoverlay_smb import joined, session
from netoverlay_smb.names import decode_utf16
from netoverlay_smb.protocol import HEADER, HEADER_BYTES, Command, FileAttributes, HeaderFlags, InfoClass, InfoType
from netoverlay_smb.status import Status
from tests.backends.smb_layer import connected
from tests.fuzz import smb_seeds
from tests.fuzz.smb_server import How, Protection, ScriptedSocket
from tests.fuzz.smb_target import _Backend, _QuietEngine, _Setup
from tests.servers.proxy import Proxy

NAMES = [f"file{number:02}" for number in range(20)]
BAD = "file02"
TELLS_LINKS = smb_seeds._found(struct.pack("<QQIBBH", 4096, 10, 2, 0, 0, 0))


class StubbornSocket(ScriptedSocket):
    """A server that fails a `command` for BAD, and whatever follows it in the same message."""

    def __init__(self, command: Command) -> None:
        super().__init__([b"one, for there is always one more"], Protection.NONE)
        self.opened = self.closed = 0
        self._command = command
        self._bodies: dict[int, tuple[bool, bytes]] = {}
        self._name = ""
        self._is_failing = self._is_listed = False

    def _hear(self, message: bytes) -> None:
        super()._hear(message)
        following = -1
        while following:
            fields = HEADER.unpack_from(message)
            following = fields[7]
            self._bodies[fields[8]] = bool(fields[6] & HeaderFlags.RELATED), message[HEADER_BYTES:]
            message = message[following:]

    def _next(self) -> bytes:
        return self._framed([self._reply(How(0), self._answer(), protected=True, is_last=True)], protected=True)

    def _answer(self) -> bytes:
        command = self._pending[0].command
        related, body = self._bodies.pop(self._pending[0].message_id)
        if command == Command.CREATE:
            at, length = struct.unpack_from("<HH", body, 44)
            self._name = decode_utf16(body[at - HEADER_BYTES :][:length]).rpartition("\\")[2]
        fails = self._name == BAD and command == self._command
        self._is_failing = fails or (self._is_failing and related)
        if self._is_failing:
            return smb_seeds.refusal(Status.ACCESS_DENIED)
        self.opened += command == Command.CREATE
        self.closed += command == Command.CLOSE
        return self._granted(Command(command), body)

    def _granted(self, command: Command, body: bytes) -> bytes:
        match command:
            case Command.CREATE:
                return smb_seeds._created(FileAttributes.DIRECTORY if self._name == "d" else FileAttributes.NORMAL)
            case Command.QUERY_DIRECTORY if self._is_listed:
                return smb_seeds.refusal(Status.NO_MORE_FILES)
            case Command.QUERY_DIRECTORY:
                self._is_listed = True
                return smb_seeds._listing(*((name, 10, FileAttributes.NORMAL) for name in NAMES))
            case Command.QUERY_INFO if body[2] == InfoType.SECURITY:
                return smb_seeds._SECURITY
            case Command.QUERY_INFO:
                return smb_seeds._all() if body[3] == InfoClass.ALL else TELLS_LINKS
            case Command.READ:
                return smb_seeds._data(self._name.ljust(10).encode())
            case _:
                return smb_seeds._CLOSED


@contextmanager
def stubborn(command: Command) -> Iterator[tuple[StubbornSocket, _Backend]]:
    socket = StubbornSocket(command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Engine", _QuietEngine)
        backend = _Backend(socket, _Setup(0))
    with backend:
        yield socket, backend


@pytest.mark.parametrize("command", [Command.CREATE, Command.QUERY_INFO])
def test_what_fails_in_company_is_listed_as_it_is_by_itself(command):
    with stubborn(command) as (socket, backend):
        links = {entry.name: entry.stat.nlink for entry in backend.list_dir("d")}
        backend.stat("d")
        assert socket.opened == socket.closed > len(NAMES)
    assert links == {name: None if name == BAD else 2 for name in NAMES}


@pytest.mark.parametrize("command", [Command.CREATE, Command.READ])
def test_what_fails_in_company_is_read_as_it_is_by_itself(command):
    with stubborn(command) as (socket, backend):
        found = backend.read_files([WantedFile(f"d/{name}", 10) for name in NAMES], unchanging=True)
        backend.stat("d")
        assert socket.opened == socket.closed > len(NAMES) - 1
    contents = {name: one.data for name, one in zip(NAMES, found, strict=True) if isinstance(one, FileContent)}
    assert contents == {name: name.ljust(10).encode() for name in NAMES if name != BAD}
    assert isinstance(found[NAMES.index(BAD)], PermissionError)


class HangsUp(Proxy):
    """Before a server that ends the connection when a message opens more than one file."""

    def _receive(self, source, chunks, is_server):
        if is_server:
            super()._receive(source, chunks, is_server)
            return
        super()._receive(Listened(source, self.cut), chunks, is_server)


class Listened:
    """The client's end of a connection."""

    def __init__(self, inner, cut):
        self._inner = inner
        self._cut = cut

    def recv(self, count):
        data = self._inner.recv(count)
        position = 0
        while position + 4 < len(data):
            length = int.from_bytes(data[position + 1 : position + 4], "big")
            frame, position = data[position + 4 : position + 4 + length], position + 4 + length
            if frame.count(b"\xfeSMB\x40\x00") > 1 and commands_of(frame).count(Command.CREATE) > 1:
                self._cut()
        return data


def commands_of(message):
    found, following = [], -1
    while following:
        fields = HEADER.unpack_from(message)
        found.append(fields[4])
        following = fields[7]
        message = message[following:]
    return found


def test_a_server_that_hangs_up_on_several_files_is_asked_for_each_by_itself(smbd, tmp_path):
    for number in range(30):
        (tmp_path / f"file{number}").touch()
    with HangsUp(smbd.port) as proxy, connected(smbd, tmp_path, port=proxy.port) as backend:
        with pytest.raises(UnavailableError):
            backend.list_dir("")
        for session in range(3):
            for _ in range(2):
                assert len(backend.list_dir("")) == 30
            assert proxy.accepted == 2 + session
            proxy.cut()
            with pytest.raises(UnavailableError):
                backend.stat("file0")


def test_after_a_cut_for_another_reason_several_files_go_together(smbd, tmp_path):
    with Proxy(smbd.port) as proxy, connected(smbd, tmp_path, port=proxy.port) as backend:
        for number in range(30):
            (tmp_path / f"file{number}").touch()
        assert len(backend.list_dir("")) == 30
        for _ in range(2):
            engine = backend._connector.session().engine
            submit_all = engine.submit_all
            engine.submit_all = lambda compounds, send=submit_all: (
                (proxy.cut() if len(compounds) > 1 else 0) or send(compounds)
            )
            with pytest.raises(UnavailableError):
                backend.list_dir("")
            assert len(backend.list_dir("")) == 30
            assert backend._connector.session().joins


def test_as_much_goes_into_a_message_as_is_good_for_it(smbd, tmp_path):
    for number in range(100):
        (tmp_path / f"file{number}").write_bytes(b"x" * 20_000)
    (tmp_path / "small").mkdir()
    for number in range(100):
        (tmp_path / "small" / f"file{number}").touch()
    with connected(smbd, tmp_path) as backend:
        engine = backend._connector.session().engine
        submit_all = engine.submit_all
        opening: list[int] = []

        def counting(compounds):
            opening.extend(sum(body.command is Command.CREATE for body in bodies) for bodies in compounds)
            return submit_all(compounds)

        engine.submit_all = counting
        backend.list_dir("small")
        assert opening == [1, 0, *[joined.FILES_TOGETHER] * 12, 4], "the listing, its end, and the looks"
        opening.clear()
        backend.read_files([WantedFile(f"file{number}", 20_000) for number in range(100)], unchanging=True)
        assert opening == [3] * 33 + [1]
