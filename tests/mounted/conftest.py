"""What the mounted tests share: bases on this machine and on a real sshd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mounted.mounting import layer_table
from tests.servers.sshd import SshServer


@pytest.fixture(params=["local", "sftp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lower(transport: str, sshd: SshServer):
    """Makes the profile's table for a base directory, reached by each transport in turn."""

    def table(base: Path, *, immutable: bool = True, keys: Sequence[str] = ()) -> str:
        if transport == "local":
            return layer_table(str(base), keys, immutable=immutable)
        login = [f'identity_file = "{sshd.identity_file}"', f'known_hosts = "{sshd.known_hosts}"']
        return layer_table(sshd.url(base), [*login, *keys], immutable=immutable)

    return table
