"""The wrapper that makes an upper of a plain backend passes the suite: in memory, over a real sshd and a real smbd.

The suite connects several times at once to one root, so each of them has a journal of its own here.
"""

from __future__ import annotations

import itertools

import pytest

from netoverlay.backend_api import Capabilities
from netoverlay.cache.metadata import MetadataCache
from netoverlay.testing.backend_suite import BackendFailureSuite, BackendSuite
from netoverlay.testing.memory_backend import ALL_CAPABILITIES, MemoryBackend
from netoverlay.testing.memory_tree import MemoryTree
from netoverlay.wrappers.letter_case import LetterCaseBackend
from netoverlay.wrappers.limits import LimitedBackend
from netoverlay.wrappers.metrics import MeteredBackend
from netoverlay.wrappers.retry import RetryingBackend
from netoverlay.wrappers.sidecar import SidecarBackend
from tests.backends.proxied_server import ProxiedServer
from tests.backends.sftp_layer import sftp_backend
from tests.backends.smb_layer import smb_backend
from tests.servers.proxy import Proxy
from tests.servers.smbd import FRUIT_SETTINGS, SmbServer

LIKE_SFTP = Capabilities(
    writable=True, modes=True, owners=True, symlinks=True, hard_links=True, atomic_replace=True, server_copy=True
)
NOTHING = Capabilities(writable=True, atomic_replace=True)
_numbers = itertools.count()


class MemorySuite(BackendSuite):
    big_directory = 2000
    capabilities = ALL_CAPABILITIES

    @staticmethod
    def wrap(memory):
        return SidecarBackend(memory, f"journal-{next(_numbers)}")

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls):
        tree = MemoryTree(cls.capabilities.time_granularity_ns)
        return lambda: cls.wrap(MemoryBackend(cls.capabilities, tree))


class TestSidecarOfARichTransport(MemorySuite):
    pass


class TestSidecarOfATransportLikeSftp(MemorySuite):
    capabilities = LIKE_SFTP


class TestSidecarOfATransportWithNothing(MemorySuite):
    capabilities = NOTHING


class TestSidecarOfACache(MemorySuite):
    capabilities = LIKE_SFTP

    @staticmethod
    def wrap(memory):
        return stacked(memory)


def stacked(backend):
    """As an upper on a server is to be made."""
    meter = MeteredBackend(RetryingBackend(LimitedBackend(backend, 30.0), 30.0))
    cache = MetadataCache(meter, ttl=None, one_spelling=True)
    return SidecarBackend(LetterCaseBackend(cache), f"journal-{next(_numbers)}", journal_through=meter)


class TestSidecarOverSftp(BackendSuite):
    big_directory = 500
    resolves_beneath = False

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, sshd, tmp_path_factory):
        root = tmp_path_factory.mktemp(f"sidecar-{next(_numbers)}-")
        return lambda: stacked(sftp_backend(sshd, root))


class TestSidecarFailuresOverSftp(BackendFailureSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, sshd):
        with Proxy(sshd.port) as proxy:
            yield ProxiedServer(proxy)

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, sshd, server, tmp_path_factory):
        root, port = tmp_path_factory.mktemp(f"sidecar-{next(_numbers)}-"), server.proxy.port
        return lambda: SidecarBackend(sftp_backend(sshd, root, deadline=1.5, port=port), f"journal-{next(_numbers)}")


class SmbSuite(BackendSuite):
    big_directory = 300
    open_files = 100
    share_settings = ()

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, tmp_path_factory):
        root = tmp_path_factory.mktemp(f"sidecar-{next(_numbers)}-")
        shares = {"tests": tmp_path_factory.getbasetemp()}
        directory = tmp_path_factory.mktemp("server") / "smbd"
        with SmbServer(directory, shares, share_settings=cls.share_settings) as server:
            yield lambda: stacked(smb_backend(server, root))


class TestSidecarOverSmb(SmbSuite):
    """As everything is by default: to the server case does not count."""


@pytest.mark.long
class TestSidecarOverSmbWithExactNames(SmbSuite):
    share_settings = ("case sensitive = yes", "mangled names = no")


class TestSidecarOverSmbForMacs(SmbSuite):
    """No hard links, no file ids."""

    share_settings = (*FRUIT_SETTINGS, "fruit:metadata = stream", "fruit:resource = stream")
