"""How the tests of the SFTP backend reach a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netoverlay.backend_api import Capabilities, parse_url
from netoverlay_sftp import PLUGIN, SftpBackend, SftpOptions
from tests.servers.sshd import SshServer

DEADLINE = 20.0
TRANSPORTS = ("paramiko", "ssh")


def sftp_backend(
    server: SshServer, root: Path, *, transport: str = "paramiko", deadline: float = DEADLINE, port: int | None = None
) -> SftpBackend:
    """Not connected. `port` is that of a proxy, which is known as the server is."""
    known_hosts = server.known_hosts
    if port is not None:
        known_hosts = server.directory / f"known_hosts_{port}"
        known_hosts.write_text(server.host_key_line(f"[127.0.0.1]:{port}") + "\n")
    options = SftpOptions(server.identity_file, known_hosts, transport=transport)  # type: ignore[arg-type]  # a Literal
    return PLUGIN.create(parse_url(server.url(root, port=port)), options, deadline)


@contextmanager
def connected(server: SshServer, root: Path, **arguments: object) -> Iterator[SftpBackend]:
    with sftp_backend(server, root, **arguments) as backend:  # type: ignore[arg-type]  # passed on
        backend.connect()
        yield backend


def capabilities_of(backend: SftpBackend) -> Capabilities:
    return backend.connect()
