"""A real smbd on loopback, on a free port, self-contained in a directory of its own.

    with SmbServer(tmp_path / "smbd", {"base": tmp_path / "base"}) as server:
        server.url("base", "src"), server.password_file, server.port, server.smbclient("base", "ls")

Runs as root or as an ordinary user (whose files are then the only ones that it serves). Nothing outside the directory
is written. Its shares are those of an ordinary Samba; one of a NAS that Macs use is made with
`share_settings=FRUIT_SETTINGS`.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.processes import START_SECONDS, LoopbackServer, descendants, required_program

__all__ = ["FRUIT_SETTINGS", "SmbServer"]

REMEDY = "it is needed by the tests: apt-get install samba samba-common-bin smbclient samba-vfs-modules"
CLIENT_SECONDS = 60.0
REFUSAL = re.compile(r"^NT_STATUS_(?!OK)", re.MULTILINE)
"""What smbclient says of some commands that failed, and ends as if they had not."""
FRUIT_SETTINGS = ("vfs objects = catia fruit streams_xattr",)
"""What makes a share speak Apple's extensions (Debian: the package samba-vfs-modules)."""


class SmbServer(LoopbackServer):
    """One smbd. Who runs it can log in with `password`, which is in `password_file`, too; so can further users."""

    program = "smbd"
    remedy = REMEDY

    def __init__(
        self,
        directory: Path,
        shares: Mapping[str, Path],
        *,
        settings: Sequence[str] = (),
        share_settings: Sequence[str] = (),
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        """`shares` are directories by their names; `settings` are further lines of [global] and `share_settings` of
        every share, which win over the others; `passwords` has those of further users, who must be users of this
        machine, or another one than the random one of who runs the server."""
        user = getpass.getuser()
        self.passwords = {user: secrets.token_urlsafe(16), **(passwords or {})}
        super().__init__(directory, list(self.passwords))
        self.shares = {name: Path(path).absolute() for name, path in shares.items()}
        self.password = self.passwords[user]
        self.password_file = directory / "password"
        self.config = directory / "smb.conf"
        for name in ("private", "lock", "state", "cache", "pid", "ncalrpc", "logs"):
            (directory / name).mkdir(mode=0o755)
        _write_secret(self.password_file, f"{self.password}\n")
        self._write_config(settings, share_settings)
        for name, password in self.passwords.items():
            _write_secret(self._login(name), f"username = {name}\npassword = {password}\n")
            self._add_user(name, password)
        self.start()

    def _write_config(self, settings: Sequence[str], share_settings: Sequence[str]) -> None:
        lines = [
            "[global]",
            "server role = standalone server",
            "netbios name = OVERLAY",
            "interfaces = 127.0.0.1",
            "bind interfaces only = yes",
            f"smb ports = {self.port}",
            "disable netbios = yes",
            "load printers = no",
            "printing = bsd",
            "printcap name = /dev/null",
            "disable spoolss = yes",
            "usershare max shares = 0",  # those of the machine's own Samba are none of ours
            f"passdb backend = tdbsam:{self.directory}/private/passdb.tdb",
            f"private dir = {self.directory}/private",
            f"lock directory = {self.directory}/lock",
            f"state directory = {self.directory}/state",
            f"cache directory = {self.directory}/cache",
            f"pid directory = {self.directory}/pid",
            f"ncalrpc dir = {self.directory}/ncalrpc",
            f"log file = {self.directory}/logs/%m",  # of its helpers; its own goes to `log`
            *settings,
        ]
        for name, path in self.shares.items():
            lines += [f"[{name}]", f"path = {path}", "read only = no", "create mask = 0777", "ea support = yes"]
            lines += share_settings
        self.config.write_text("\n".join(lines) + "\n")

    def _add_user(self, name: str, password: str) -> None:
        """By pdbedit, for smbpasswd makes no users for an ordinary user."""
        command = [required_program("pdbedit", REMEDY), f"--configfile={self.config}", "--create", "--user", name]
        said = subprocess.run(
            [*command, "--password-from-stdin"],
            input=f"{password}\n{password}\n".encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if said.returncode:
            raise RuntimeError(f"pdbedit made no user {name}:\n{said.stdout.decode(errors='replace')}")

    def _login(self, user: str) -> Path:
        """The authentication file with which smbclient logs in."""
        return self.directory / f"login_{user}"

    def _arguments(self) -> list[str]:
        return ["--foreground", "--no-process-group", "--debug-stdout", f"--configfile={self.config}"]

    def _trees(self) -> list[Path]:
        return list(self.shares.values())

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS).close()
        except OSError:
            return False
        return True

    def _session_processes(self) -> list[int]:
        """Those that are no service of the whole server: these have a name of their own."""
        return [pid for pid in super()._session_processes() if _name(pid) == "smbd" or _name(pid).startswith("smbd[")]

    def _detached_processes(self) -> list[int]:
        """Who lists the shares asks for a daemon that leaves its parent; a file has its process id."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            pid = int((self.directory / "pid/samba-dcerpcd.pid").read_text())
            if os.fsencode(self.config) in Path(f"/proc/{pid}/cmdline").read_bytes():  # not another's by now
                return [pid, *descendants(pid)]
        return []

    def url(self, share: str, path: str | Path = "", *, port: int | None = None, user: str | None = None) -> str:
        """The url of a directory of a share (`port`: through a proxy)."""
        return f"smb://{user or self.user}@127.0.0.1:{port or self.port}/{share}/{path}".rstrip("/")

    def url_of(self, path: Path, *, port: int | None = None, user: str | None = None) -> str:
        """The url of a directory of this machine that lies in one of the shares."""
        for share, root in self.shares.items():
            if path.is_relative_to(root):
                return self.url(share, "" if path == root else path.relative_to(root), port=port, user=user)
        raise ValueError(f"{path} lies in none of the shares {', '.join(map(str, self.shares.values()))}")

    def smbclient(self, share: str, command: str, *, user: str | None = None) -> str:
        """What Samba's own client says to `command`, such as `ls` or `get NAME -`; a refusal is an OSError."""
        return self._client(f"//127.0.0.1/{share}", "--command", command, user=user)

    def share_list(self, *, user: str | None = None) -> list[str]:
        """The names of the shares, as the server lists them."""
        rows = [line.split("|") for line in self._client("--list", "127.0.0.1", "--grepable", user=user).splitlines()]
        return [row[1] for row in rows if row[0] == "Disk"]

    def _client(self, *words: str, user: str | None) -> str:
        command = [required_program("smbclient", REMEDY), f"--configfile={self.config}", f"--port={self.port}"]
        said = subprocess.run(
            [*command, f"--authentication-file={self._login(user or self.user)}", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=CLIENT_SECONDS,
        )
        output = (said.stdout + said.stderr).decode(errors="surrogateescape")
        if said.returncode or REFUSAL.search(output):
            raise OSError(f"smbclient {' '.join(words)}: {output}")
        return said.stdout.decode(errors="surrogateescape")


def _write_secret(path: Path, content: str) -> None:
    with open(path, "w", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600)) as file:
        file.write(content)


def _name(pid: int) -> str:
    """Empty for a process that is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
