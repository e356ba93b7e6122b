"""Fixtures that several parts of the tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.sshd import SshServer


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """An sshd for all tests of the run; a test that stops, cuts or configures a server starts one of its own."""
    with SshServer(tmp_path_factory.mktemp("server") / "sshd") as server:
        yield server
