"""How the tests of the SMB backend reach a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from netoverlay.backend_api import parse_url
from netoverlay_smb import PLUGIN, SmbBackend, SmbOptions
from tests.servers.smbd import SmbServer

DEADLINE = 20.0


def smb_backend(
    server: SmbServer, root: Path, *, deadline: float = DEADLINE, port: int | None = None, **options: Any
) -> SmbBackend:
    """Not connected. `root` lies in a share of the server; `port` is that of a proxy."""
    settings = SmbOptions(password_file=server.password_file, **options)
    return PLUGIN.create(parse_url(server.url_of(root, port=port)), settings, deadline)


@contextmanager
def connected(server: SmbServer, root: Path, **arguments: Any) -> Iterator[SmbBackend]:
    with smb_backend(server, root, **arguments) as backend:
        backend.connect()
        yield backend
