"""A path that is longer than the server's disk can have is said to be so, and not to be missing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from netoverlay.backend_api import Access, Backend, Creation, join_path
from netoverlay.testing.suite.layer import refused
from tests.backends import sftp_layer, smb_layer
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer

NAME = "n" * 250
TOO_LONG = "the server has no room for such a path"


@pytest.mark.parametrize("kind", ["sftp", "smb"])
def test_what_is_too_deep_is_not_made(kind: str, sshd: SshServer, smbd: SmbServer, tmp_path: Path) -> None:
    if kind == "sftp":
        with sftp_layer.connected(sshd, tmp_path) as backend:
            descend(backend)
    else:
        with smb_layer.connected(smbd, tmp_path) as backend:
            descend(backend)


def descend(backend: Backend) -> None:
    backend.open("file", Access.WRITE, create=Creation.EXCLUSIVE).close()
    path = NAME
    with refused(errno.ENAMETOOLONG, advice=TOO_LONG):
        while len(path) < 5000:
            backend.mkdir(path, 0o755)
            path = join_path(path, NAME)
    for make in (
        lambda: backend.open(path, Access.WRITE, create=Creation.EXCLUSIVE),
        lambda: backend.symlink(path, "target"),
        lambda: backend.link("file", path),
        lambda: backend.rename("file", path),
    ):
        with refused(errno.ENAMETOOLONG, advice=TOO_LONG):
            make()
    with refused(errno.ENOENT, advice="its directory is missing"):
        backend.mkdir(join_path("missing", NAME), 0o755)
