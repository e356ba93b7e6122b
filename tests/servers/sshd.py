"""A real sshd on loopback, on a free port, self-contained in a directory of its own.

    with SshServer(tmp_path / "sshd") as server:
        server.url("/srv/base"), server.identity_file, server.known_hosts, server.port, server.host_key_line()

Runs as root or as an ordinary user (who can then only log in as himself). Nothing outside the directory is written,
but for /run/sshd, which root's sshd insists on.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

START_SECONDS = 20.0
REMEDY = "it is needed by the tests: apt-get install openssh-server openssh-client"


def required_program(name: str, remedy: str = REMEDY) -> str:
    """The full path of a program that the tests cannot do without; a missing one fails the run."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{name} is not installed; {remedy}")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path, *, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A key pair at `path` and `path`.pub."""
    subprocess.run(
        [required_program("ssh-keygen"), "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def descendants(pid: int) -> list[int]:
    """The process ids below `pid`, children before grandchildren."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


class SshServer:
    """One sshd. Its key `identity_file` logs in as any of `users`; `known_hosts` knows its host key."""

    def __init__(
        self,
        directory: Path,
        *,
        users: Sequence[str] | None = None,
        sftp: str = "internal-sftp",
        max_sessions: int = 64,
        umask: int | None = None,
        denied_requests: Sequence[str] = (),
        user_certificates: bool = False,
        settings: Sequence[str] = (),
        open_files: int | None = None,
    ) -> None:
        """`sftp` is the subsystem's command ("" for a server without one); `settings` are further lines of
        sshd_config, which win over the others; `denied_requests` are SFTP requests that the server does not know;
        `open_files` limits the descriptors, and so the SFTP handles, of each of its processes."""
        self.directory = directory
        self.users = list(users or [getpass.getuser()])
        self.user = self.users[0]
        self.port = free_port()
        self.identity_file = directory / "id"
        self.known_hosts = directory / "known_hosts"
        self.host_key = directory / "host_key"
        self.authority_key = directory / "user_authority"
        self.log = directory / "log"
        self._open_files = open_files
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, mode=0o700)
        make_key(self.host_key)
        make_key(self.identity_file)
        keys = directory / "authorized_keys"
        keys.mkdir()
        for user in self.users:
            shutil.copy(f"{self.identity_file}.pub", keys / user)
        if user_certificates:
            make_key(self.authority_key)
            settings = [*settings, f"TrustedUserCAKeys {self.authority_key}.pub"]
        subsystem = [sftp] + ([f"-u {umask:04o}"] if umask is not None else [])
        subsystem += [f"-P {','.join(denied_requests)}"] if denied_requests else []
        self._write_config([*settings, *([f"Subsystem sftp {' '.join(subsystem)}"] if sftp else [])], max_sessions)
        self.known_hosts.write_text(self.host_key_line() + "\n")
        self.start()

    def _write_config(self, settings: Sequence[str], max_sessions: int) -> None:
        lines = [
            *(line for line in settings if not line.startswith("Match ")),
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.host_key}",
            "PidFile none",
            f"AuthorizedKeysFile {self.directory}/authorized_keys/%u",
            "StrictModes no",  # a temporary directory may be writable for a group
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "UsePAM no",
            "UseDNS no",
            f"MaxSessions {max_sessions}",
            "MaxStartups 100",
            "LogLevel VERBOSE",
            *(line for line in settings if line.startswith("Match ")),
        ]
        (self.directory / "sshd_config").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start it, on the port it had before, and wait until it answers."""
        if self._process is not None:
            raise RuntimeError("sshd is running already")
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        limit = ["prlimit", f"--nofile={self._open_files}"] if self._open_files else []
        command = [*limit, required_program("sshd"), "-D", "-e", "-f", str(self.directory / "sshd_config")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        give_up_at = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.stop()
                raise RuntimeError(f"sshd did not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    def end_sessions(self) -> None:
        """Kill what serves the connections, as a crash of the server would; new connections are accepted."""
        if self._process is not None:
            for pid in descendants(self._process.pid):
                _kill(pid)

    def stop(self) -> None:
        """Stop it, its connections with it."""
        if self._process is None:
            return
        running = [self._process.pid, *descendants(self._process.pid)]
        for pid in running:
            _kill(pid)
        self._process.wait()
        self._process = None

    def host_key_line(self, host: str | None = None) -> str:
        """The line of known_hosts for this server, as `host` (default: its address and port)."""
        kind, key = Path(f"{self.host_key}.pub").read_text().split()[:2]
        return f"{host or f'[127.0.0.1]:{self.port}'} {kind} {key}"

    def url(self, path: str | Path, *, port: int | None = None, user: str | None = None) -> str:
        """The url of a directory of this machine by way of this server (`port`: through a proxy)."""
        return f"sftp://{user or self.user}@127.0.0.1:{port or self.port}{path}"

    def sign_user_key(self, key: Path, *, principals: Sequence[str] | None = None) -> Path:
        """Make `key`-cert.pub, which this server (made with user_certificates) accepts."""
        names = ",".join(principals or self.users)
        signing = [required_program("ssh-keygen"), "-q", "-s", str(self.authority_key), "-I", key.name]
        subprocess.run([*signing, "-n", names, f"{key}.pub"], check=True)
        return key.with_name(f"{key.name}-cert.pub")

    def ssh_arguments(self) -> list[str]:
        """Options with which OpenSSH's own clients reach this server, independent of the user's configuration."""
        options = {
            "Port": self.port,
            "IdentityFile": self.identity_file,
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.known_hosts,
            "BatchMode": "yes",
        }
        return ["-F", "none", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
