"""Fixtures that several parts of the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.smbd import SmbServer
from tests.servers.sshd import SshServer


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """An sshd for all tests of the run; a test that stops, cuts or configures a server starts one of its own."""
    with SshServer(tmp_path_factory.mktemp("server") / "sshd") as server:
        yield server


@pytest.fixture(scope="session")
def smbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmbServer]:
    """An smbd for all tests of the run, with everything below their temporary directories: smbd.url_of(tmp_path)."""
    shares = {"tests": tmp_path_factory.getbasetemp()}
    with SmbServer(tmp_path_factory.mktemp("server") / "smbd", shares) as server:
        yield server
