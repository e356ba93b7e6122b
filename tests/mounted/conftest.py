"""What the mounted tests share: bases on this machine, on a real sshd and on a real smbd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.mounted.mounting import OverlayMount, layer_table, sftp_login, smb_login
from tests.servers.proxy import Proxy
from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer


@pytest.fixture
def channel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What all mounts of the test speak to the kernel through; our own unless channels.over_both says otherwise."""
    chosen = str(getattr(request, "param", "own"))
    monkeypatch.setattr(OverlayMount, "channel", chosen)
    return chosen


@pytest.fixture(params=["local", "sftp", "smb"])
def transport(request: pytest.FixtureRequest, channel: str) -> str:
    return str(request.param)


@pytest.fixture(params=["sftp", "smb"])
def server(request: pytest.FixtureRequest) -> SshServer | SmbServer:
    found: SshServer | SmbServer = request.getfixturevalue("sshd" if request.param == "sftp" else "smbd")
    return found


@pytest.fixture
def proxy(server: SshServer | SmbServer) -> Iterator[Proxy]:
    """Before `server`, and transparent until it is told otherwise."""
    with Proxy(server.port) as running:
        yield running


@pytest.fixture
def lower(transport: str, sshd: SshServer, smbd: SmbServer):
    """Makes the profile's table for a base directory, reached by each transport in turn."""

    def table(base: Path, *, immutable: bool = True, keys: Sequence[str] = ()) -> str:
        if transport == "local":
            return layer_table(str(base), keys, immutable=immutable)
        if transport == "smb":
            return layer_table(smbd.url_of(base), [*smb_login(smbd), *keys], immutable=immutable)
        return layer_table(sshd.url(base), [*sftp_login(sshd), *keys], immutable=immutable)

    return table


@pytest.fixture(params=["sftp", "smb"])
def kind(request: pytest.FixtureRequest) -> str:
    """Of the server that has the upper."""
    return str(request.param)


@pytest.fixture
def upper_keys(kind: str, sshd: SshServer, smbd: SmbServer) -> Callable[[Path], list[str]]:
    """The keys of an `[upper]` that is a directory of this machine, reached through a server."""
    if kind == "sftp":
        return lambda path: [f'url = "{sshd.url(path)}"', *sftp_login(sshd)]
    return lambda path: [f'url = "{smbd.url_of(path)}"', *smb_login(smbd)]
