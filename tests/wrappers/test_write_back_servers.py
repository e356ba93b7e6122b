"""Write-back over real servers, and over all that is around an upper on a server, passes the conformance suite."""

from __future__ import annotations

import itertools
import os
import time

import pytest

from netoverlay.backend_api import Access, Creation, UnavailableError
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.backend_suite import BackendFailureSuite, BackendSuite
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.retry import RetryingBackend
from netoverlay.wrappers.write_back import WriteBackBackend
from tests.backends.proxied_server import ProxiedServer
from tests.backends.sftp_layer import sftp_backend
from tests.backends.smb_layer import smb_backend
from tests.servers.proxy import Proxy

FAILURE_DEADLINE = 1.5
_numbers = itertools.count(1)


def upper(backend, deadline=20.0):
    meter = MeteredBackend(RetryingBackend(LimitedBackend(backend, deadline), deadline))
    return WriteBackBackend(MetadataCache(meter, ttl=None))


def empty_root(factory):
    return factory.mktemp(f"root-{next(_numbers)}-")


class TestOverSftp(BackendSuite):
    big_directory = 1000
    resolves_beneath = False

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, sshd, tmp_path_factory):
        root = empty_root(tmp_path_factory)
        return lambda: upper(sftp_backend(sshd, root))


@pytest.mark.long  # of write-back itself TestOverSftp says as much
class TestOverSmb(BackendSuite):
    big_directory = 500

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, smbd, tmp_path_factory):
        root = empty_root(tmp_path_factory)
        return lambda: upper(smb_backend(smbd, root))


class TestFailuresOverSftp(BackendFailureSuite):
    test_every_call_says_unavailable = None  # not a write that is gathered, and a read of that

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, sshd):
        with Proxy(sshd.port) as proxy:
            yield ProxiedServer(proxy)

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, sshd, server, tmp_path_factory):
        root, port = empty_root(tmp_path_factory), server.proxy.port
        return lambda: WriteBackBackend(sftp_backend(sshd, root, deadline=FAILURE_DEADLINE, port=port))


@pytest.mark.parametrize("kind", ["sftp", "smb"])
def test_a_server_that_is_lost_and_comes_back(sshd, smbd, tmp_path, kind):
    """Who flushes and syncs meanwhile is told; nothing is lost, and the next sync says once what it cannot know."""
    with Proxy((sshd if kind == "sftp" else smbd).port) as proxy:
        make = {
            "sftp": lambda: sftp_backend(sshd, tmp_path, deadline=FAILURE_DEADLINE, port=proxy.port),
            "smb": lambda: smb_backend(smbd, tmp_path, deadline=FAILURE_DEADLINE, port=proxy.port),
        }[kind]
        with upper(make(), FAILURE_DEADLINE) as backend:
            backend.connect()
            with backend.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
                first, second = os.urandom(300_000), os.urandom(300_000)
                file.write_at(0, first)
                file.flush()
                proxy.refuse()
                file.write_at(len(first), second)
                for call in (file.flush, file.sync, file.stat):
                    with pytest.raises(UnavailableError):
                        call()
                proxy.restore()
                _persist(file.flush)
                assert (tmp_path / "file").read_bytes() == first + second
                with pytest.raises(OSError, match="the connection was lost"):
                    file.sync()
                file.sync()


def _persist(call):
    give_up_at = time.monotonic() + 30
    while True:
        try:
            return call()
        except UnavailableError:
            if time.monotonic() > give_up_at:
                raise


def test_what_a_server_refuses_is_told(sshd, tmp_path):
    with upper(sftp_backend(sshd, tmp_path)) as backend:
        backend.connect()
        with backend.open("file", Access.READ_WRITE, create=Creation.EXCLUSIVE) as file:
            file.write_at((1 << 62) + 1, b"beyond what the server's file system can hold")
            for call in (file.flush, file.sync):
                with pytest.raises(OSError):  # noqa: PT011 - SFTP has one code for all that
                    call()
            file.flush()
            file.sync()
            file.write_at(0, b"data")
        assert (tmp_path / "file").read_bytes() == b"data"
