"""The conformance suite against a real sshd, with each way to log in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from netoverlay.backend_api import Backend
from netoverlay.testing.backend_suite import BackendFailureSuite, BackendSuite
from tests.backends.proxied_server import ProxiedServer
from tests.backends.sftp_layer import sftp_backend
from tests.servers.proxy import Proxy
from tests.servers.sshd import SshServer

SERVER_DESCRIPTORS = 100
"""Of each process of the server, so that it grants fewer handles than there are open files."""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def limited_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with SshServer(tmp_path_factory.mktemp("limited") / "sshd", open_files=SERVER_DESCRIPTORS, umask=0o077) as server:
        yield server


def empty_root(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp(f"root-{next(_numbers)}-")


class SftpSuite(BackendSuite):
    transport: ClassVar[str]
    open_files = 3 * SERVER_DESCRIPTORS
    big_directory = 1_000
    resolves_beneath = False

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, limited_sshd: SshServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Backend]:
        root = empty_root(tmp_path_factory)
        return lambda: sftp_backend(limited_sshd, root, transport=cls.transport)


class TestSftpByParamiko(SftpSuite):
    transport = "paramiko"


class TestSftpBySsh(SftpSuite):
    transport = "ssh"


class SftpFailureSuite(BackendFailureSuite):
    transport: ClassVar[str]
    deadline: ClassVar[float]
    """For a login, too."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, limited_sshd: SshServer) -> Iterator[ProxiedServer]:
        with Proxy(limited_sshd.port) as proxy:
            yield ProxiedServer(proxy)

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(
        cls,
        limited_sshd: SshServer,
        server: ProxiedServer,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Callable[[], Backend]:
        root, port = empty_root(tmp_path_factory), server.proxy.port
        return lambda: sftp_backend(limited_sshd, root, transport=cls.transport, deadline=cls.deadline, port=port)


class TestSftpFailuresByParamiko(SftpFailureSuite):
    transport = "paramiko"
    deadline = 1.5


class TestSftpFailuresBySsh(SftpFailureSuite):
    """A process of ssh's own takes half a second to log in, on a machine with nothing else to do."""

    transport = "ssh"
    deadline = 3.0
