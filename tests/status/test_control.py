"""A control server and its clients, over real sockets."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netoverlay.status import control_client, control_server
from netoverlay.status.control_client import DaemonError, ask, ask_all, daemon_pid
from netoverlay.status.control_server import ControlServer
from netoverlay.status.snapshot import StatusSnapshot
from netoverlay.status.sockets import open_directory, socket_name
from tests.status.examples import make_snapshot

MOUNTPOINT = "/mnt/dev"
UID = os.geteuid()
NOBODY = 65534
REQUESTS = 'the requests are {"command": "status"} and {"command": "settle"}'


@pytest.fixture
def server(socket_directory: Path) -> Iterator[ControlServer]:
    server = ControlServer(MOUNTPOINT, make_snapshot)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def path(socket_directory: Path) -> Path:
    return socket_directory / socket_name(MOUNTPOINT)


def exchange(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(data)
        with client.makefile("rb") as reader:
            return reader.read()


def test_the_state_arrives_as_it_was_told(server: ControlServer) -> None:
    answer = ask(MOUNTPOINT, UID)
    assert answer == (os.getpid(), make_snapshot())
    assert list(ask_all(UID)) == [answer]
    assert daemon_pid(MOUNTPOINT, UID) == os.getpid()


def test_a_command_is_heard_before_the_state_is_told(socket_directory: Path) -> None:
    heard: list[str] = []
    server = ControlServer(MOUNTPOINT, lambda: make_snapshot(url=f"/{len(heard)}"), lambda: heard.append("settle"))
    server.start()
    try:
        assert ask(MOUNTPOINT, UID).snapshot == make_snapshot(url="/0")
        assert ask(MOUNTPOINT, UID, "settle").snapshot == make_snapshot(url="/1")
    finally:
        server.stop()


def test_a_path_that_is_not_utf8(socket_directory: Path) -> None:
    mountpoint = os.fsdecode(b"/mnt/caf\xe9")
    server = ControlServer(mountpoint, lambda: make_snapshot(mountpoint))
    server.start()
    try:
        assert ask(mountpoint, UID).snapshot.mount.mountpoint == mountpoint
    finally:
        server.stop()


def test_a_directory_with_a_long_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    for module in ("sockets", "control_client"):
        monkeypatch.setattr(f"netoverlay.status.{module}.directories_of", lambda user_id: [f"{directory}/netoverlay"])
    server = ControlServer(MOUNTPOINT, make_snapshot)
    server.start()
    try:
        assert ask(MOUNTPOINT, UID).snapshot == make_snapshot()
    finally:
        server.stop()


def test_the_directory_is_private(server: ControlServer, socket_directory: Path) -> None:
    assert socket_directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_open_to_others_is_refused(socket_directory: Path) -> None:
    socket_directory.mkdir()
    socket_directory.chmod(0o755)
    with pytest.raises(PermissionError, match="must belong to user"):
        ControlServer(MOUNTPOINT, make_snapshot).start()


def test_a_link_in_the_place_of_the_directory_is_refused(socket_directory: Path, tmp_path: Path) -> None:
    socket_directory.symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"[Nn]ot a directory|symbolic links"):
        ControlServer(MOUNTPOINT, make_snapshot).start()


def test_stop_removes_the_socket(server: ControlServer, path: Path) -> None:
    assert path.is_socket()
    server.stop()
    assert not path.exists()
    server.stop()
    with pytest.raises(DaemonError, match="its daemon is gone"):
        ask(MOUNTPOINT, UID)
    assert daemon_pid(MOUNTPOINT, UID) is None


def test_stop_after_somebody_has_tidied_up(server: ControlServer, path: Path) -> None:
    path.unlink()
    server.stop()


def test_a_second_server_of_a_mountpoint_is_refused(server: ControlServer) -> None:
    with pytest.raises(OSError, match="another daemon of netoverlay still serves it"):
        ControlServer(MOUNTPOINT, make_snapshot).start()
    assert ask(MOUNTPOINT, UID).snapshot == make_snapshot()


def leave_stale_socket(directory: Path, path: Path) -> None:
    with open_directory(str(directory), UID, create=True), socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def test_the_socket_of_a_dead_daemon_is_replaced(socket_directory: Path, path: Path) -> None:
    leave_stale_socket(socket_directory, path)
    server = ControlServer(MOUNTPOINT, make_snapshot)
    server.start()
    try:
        assert ask(MOUNTPOINT, UID).snapshot == make_snapshot()
    finally:
        server.stop()


@pytest.mark.parametrize("question", [lambda: list(ask_all(UID)), lambda: [daemon_pid(MOUNTPOINT, UID)] * 0])
def test_a_client_removes_the_socket_of_a_dead_daemon(
    question: Callable[[], list[object]], socket_directory: Path, path: Path
) -> None:
    leave_stale_socket(socket_directory, path)
    assert question() == []
    assert not path.exists()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"garbage\n", "not a line of JSON"),
        (b"\xff\xfe\n", "not a line of JSON"),
        (b'{"command": "format"}\n', REQUESTS),
        (b"[" * 4096, "not a line of JSON"),
        (b"1\n", REQUESTS),
        (b'{"command": "settle", "all": true}\n', REQUESTS),
    ],
)
def test_garbage_is_answered_with_an_error(data: bytes, error: str, server: ControlServer, path: Path) -> None:
    assert json.loads(exchange(path, data)) == {"error": error}
    assert ask(MOUNTPOINT, UID).snapshot == make_snapshot()


def test_a_silent_client_does_not_hold_up_others(server: ControlServer, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        assert ask(MOUNTPOINT, UID).snapshot == make_snapshot()


def test_a_silent_client_is_dropped(server: ControlServer, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_server, "CLIENT_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(30)
        silent.connect(str(path))
        assert silent.recv(1) == b""


def test_a_crowd_of_silent_clients_is_bounded(server: ControlServer, path: Path) -> None:
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(control_server.MAX_CLIENTS + 1)]
    try:
        for client in crowd:
            client.settimeout(30)
            client.connect(str(path))
        assert crowd[-1].recv(1) == b""
        served = [thread for thread in threading.enumerate() if thread.name == "control-client"]
        assert len(served) <= control_server.MAX_CLIENTS
    finally:
        for client in crowd:
            client.close()


def test_a_state_that_cannot_be_told(socket_directory: Path, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> StatusSnapshot:
        raise ZeroDivisionError("a defect")

    server = ControlServer(MOUNTPOINT, broken)
    server.start()
    try:
        with caplog.at_level(logging.ERROR), pytest.raises(DaemonError, match="does not answer"):
            ask(MOUNTPOINT, UID)
        assert "a defect" in caplog.text
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_answered(server: ControlServer, path: Path) -> None:
    path.parent.chmod(0o711)
    path.chmod(0o666)
    script = (
        "import os, socket, sys; client = socket.socket(socket.AF_UNIX); os.setgroups([]);"
        f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY}); client.settimeout(30); client.connect(sys.argv[1]);"
        "print(client.recv(1))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=60)
    path.parent.chmod(0o700)
    assert done.stdout == "b''\n"


def serve_once(path: Path, reply: bytes) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "reply", [b"", b"garbage\n", b"[" * 100_000, b"[]\n", b"{}\n", b'{"error": "no"}\n', b'{"status": {"mount": 1}}\n']
)
def test_a_daemon_that_answers_nonsense(reply: bytes, socket_directory: Path, path: Path) -> None:
    socket_directory.mkdir(mode=0o700)
    thread = serve_once(path, reply)
    with pytest.raises(DaemonError, match=f"process {os.getpid()}, which serves the mount, does not answer"):
        ask(MOUNTPOINT, UID)
    thread.join()


def test_a_daemon_that_answers_without_end(socket_directory: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "MAX_REPLY_BYTES", 1000)
    socket_directory.mkdir(mode=0o700)
    thread = serve_once(path, b"x" * 5000)
    with pytest.raises(DaemonError, match="the answer is too long"):
        ask(MOUNTPOINT, UID)
    thread.join()


def test_a_socket_of_another_user_is_not_trusted(server: ControlServer) -> None:
    with pytest.raises((DaemonError, FileNotFoundError)):
        ask(MOUNTPOINT, UID + 1)
