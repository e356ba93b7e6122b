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
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.servers.processes import START_SECONDS, LoopbackServer, descendants, free_port, required_program

__all__ = ["SshServer", "descendants", "free_port", "make_key", "required_program"]

REMEDY = "it is needed by the tests: apt-get install openssh-server openssh-client"


def make_key(path: Path, *, passphrase: str = "", kind: str = "ed25519") -> Path:
    """A key pair at `path` and `path`.pub."""
    subprocess.run(
        [required_program("ssh-keygen", REMEDY), "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


class SshServer(LoopbackServer):
    """One sshd. Its key `identity_file` logs in as any of `users`; `known_hosts` knows its host key."""

    program = "sshd"
    remedy = REMEDY

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
        super().__init__(directory, users or [getpass.getuser()])
        self.identity_file = directory / "id"
        self.known_hosts = directory / "known_hosts"
        self.host_key = directory / "host_key"
        self.authority_key = directory / "user_authority"
        self._open_files = open_files
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
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        super().start()

    def _arguments(self) -> list[str]:
        return ["-D", "-e", "-f", str(self.directory / "sshd_config")]

    def _limits(self) -> list[str]:
        return [f"--nofile={self._open_files}"] if self._open_files else []

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

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
        signing = [required_program("ssh-keygen", REMEDY), "-q", "-s", str(self.authority_key), "-I", key.name]
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
