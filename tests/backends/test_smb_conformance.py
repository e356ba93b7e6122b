"""The conformance suite against a real smbd: signed, encrypted, in the clear, and set up as other servers are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from netoverlay.backend_api import Backend
from netoverlay.testing.backend_suite import BackendFailureSuite, BackendSuite
from tests.backends.proxied_server import ProxiedServer
from tests.backends.smb_layer import smb_backend
from tests.servers.proxy import Proxy
from tests.servers.smbd import FRUIT_SETTINGS, SmbServer

FAILURE_DEADLINE = 1.5
_numbers = itertools.count(1)


def empty_root(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp(f"root-{next(_numbers)}-")


class SmbSuite(BackendSuite):
    options: ClassVar[dict[str, Any]] = {}
    settings: ClassVar[Sequence[str]] = ()
    share_settings: ClassVar[Sequence[str]] = ()
    big_directory = 1_000

    @pytest.fixture(scope="class")
    @classmethod
    def smb_server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmbServer]:
        shares = {"tests": tmp_path_factory.getbasetemp()}
        directory = tmp_path_factory.mktemp("conformance") / "smbd"
        with SmbServer(directory, shares, settings=cls.settings, share_settings=cls.share_settings) as server:
            yield server

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(cls, smb_server: SmbServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Backend]:
        root = empty_root(tmp_path_factory)
        return lambda: smb_backend(smb_server, root, **cls.options)


class TestSmbSigned(SmbSuite):
    """As everything is by default; such a server looks through a whole directory for each name that is not there."""


class TestSmbEncrypted(SmbSuite):
    options: ClassVar[dict[str, Any]] = {"encrypt": True}
    share_settings = ("case sensitive = yes", "mangled names = no")
    big_directory = 1_500


class TestSmbInTheClear(SmbSuite):
    """With few credits, and the server's word on nothing."""

    options: ClassVar[dict[str, Any]] = {"sign": False, "permissions": "profile"}
    settings = ("smb2 max credits = 64",)


class TestSmbForMacs(SmbSuite):
    """A share with Apple's extensions, as most NAS have them: modes in listings, and no file ids."""

    share_settings = (*FRUIT_SETTINGS, "fruit:metadata = stream", "fruit:resource = stream")
    big_directory = 500


@pytest.mark.long
class TestSmb21(SmbSuite):
    """The oldest dialect, signed with HMAC; no extended attributes."""

    settings = ("server max protocol = SMB2_10",)
    share_settings = ("ea support = no",)
    big_directory = 500


class SmbFailureSuite(BackendFailureSuite):
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, smbd: SmbServer) -> Iterator[ProxiedServer]:
        with Proxy(smbd.port) as proxy:
            yield ProxiedServer(proxy)

    @pytest.fixture(scope="class")
    @classmethod
    def new_backend(
        cls, smbd: SmbServer, server: ProxiedServer, tmp_path_factory: pytest.TempPathFactory
    ) -> Callable[[], Backend]:
        root, port = empty_root(tmp_path_factory), server.proxy.port
        return lambda: smb_backend(smbd, root, deadline=FAILURE_DEADLINE, port=port, **cls.options)


class TestSmbFailuresSigned(SmbFailureSuite):
    pass


class TestSmbFailuresEncrypted(SmbFailureSuite):
    options: ClassVar[dict[str, Any]] = {"encrypt": True}
