"""The smbd that other tests use: it serves, loses its connections, and ends with all its processes."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.smbd import FRUIT_SETTINGS, SmbServer

CHECKOUT = Path(__file__).parents[2]
NOBODY = 65534
AS_NOBODY = """
import os, sys
from pathlib import Path
from tests.servers.smbd import SmbServer
"".encode("idna")  # the interpreter may lie where that user may not look
os.setgroups([])
os.setresgid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
os.setresuid(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[1]))
place = Path(sys.argv[2])
(place / "share").mkdir()
with SmbServer(place / "smbd", {"share": place / "share"}) as server:
    server.smbclient("share", "mkdir made")
    print(server.user, (place / "share/made").stat().st_uid)
"""


@pytest.fixture
def share(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    (tmp_path / "share/file").write_text("content\n")
    return tmp_path / "share"


@pytest.fixture
def server(tmp_path: Path, share: Path) -> Iterator[SmbServer]:
    with SmbServer(tmp_path / "smbd", {"share": share, "other": tmp_path}) as running:
        yield running


def processes_of(server: SmbServer) -> list[int]:
    """Those that were started with the server's configuration, whoever is their parent."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(server.config) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def test_it_serves_its_shares(server: SmbServer, share: Path) -> None:
    assert server.share_list() == ["share", "other"]
    assert server.smbclient("share", "get file -").startswith("content\n")
    server.smbclient("share", f"put {share}/file copy")
    assert (share / "copy").read_text() == "content\n"
    assert server.url("share") == f"smb://{server.user}@127.0.0.1:{server.port}/share"
    assert server.url_of(share / "dir") == server.url("share", "dir")


def test_its_secrets_are_its_owners(server: SmbServer) -> None:
    assert server.password_file.read_text() == f"{server.password}\n"
    for path in [server.password_file, *server.directory.glob("login_*")]:
        assert path.stat().st_mode & 0o7777 == 0o600
    server.password_file.with_name(f"login_{server.user}").write_text(f"username = {server.user}\npassword = wrong\n")
    with pytest.raises(OSError, match="NT_STATUS_LOGON_FAILURE"):
        server.smbclient("share", "ls")


def test_it_serves_on_after_its_connections_were_ended(server: SmbServer, share: Path) -> None:
    login = f"--authentication-file={server.directory}/login_{server.user}"
    words = ["smbclient", f"--configfile={server.config}", f"--port={server.port}", login, "//127.0.0.1/share"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"get file -\n")
        client.stdin.flush()
        assert client.stdout.readline() == b"content\n"
        server.end_sessions()
        client.stdin.write(b"get file -\n")
        client.stdin.close()
        assert b"content" not in client.stdout.read()
    assert "file" in server.smbclient("share", "ls")


def test_stopping_ends_every_process_and_starting_serves_as_before(server: SmbServer) -> None:
    assert server.share_list()  # which makes it start helpers
    assert len(processes_of(server)) > 1
    server.stop()
    assert processes_of(server) == []
    with pytest.raises(OSError, match="NT_STATUS_CONNECTION_REFUSED"):
        server.smbclient("share", "ls")
    server.start()
    assert "file" in server.smbclient("share", "ls")


def test_further_users_and_settings_that_win(tmp_path: Path, share: Path) -> None:
    passwords = {"nobody": "several words, and more: %'\""}
    settings = ["read only = yes", *FRUIT_SETTINGS]
    with SmbServer(tmp_path / "smbd", {"share": share}, share_settings=settings, passwords=passwords) as server:
        assert "file" in server.smbclient("share", "ls")
        with pytest.raises(OSError, match="NT_STATUS_ACCESS_DENIED"):
            server.smbclient("share", "mkdir made")
        with pytest.raises(OSError, match="NT_STATUS_ACCESS_DENIED"):  # logged in, and may not enter the directory
            server.smbclient("share", "ls", user="nobody")


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test is it then")
def test_an_ordinary_user_runs_it() -> None:
    place = Path(tempfile.mkdtemp())
    try:
        os.chown(place, NOBODY, NOBODY)
        name = pwd.getpwuid(NOBODY).pw_name
        said = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(NOBODY), str(place)],
            cwd=CHECKOUT,
            env={**os.environ, "LOGNAME": name, "USER": name},
            capture_output=True,
            check=False,
        )
        assert said.stdout.decode().split() == [name, str(NOBODY)], said.stderr.decode()
    finally:
        shutil.rmtree(place)
