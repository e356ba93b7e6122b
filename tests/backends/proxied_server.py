"""A server that can be made to fail, for the failure suite: a real one behind a proxy."""

from __future__ import annotations

from netoverlay.testing.backend_suite import FailingServer
from tests.servers.proxy import Proxy


class ProxiedServer(FailingServer):
    """What is behind `proxy` fails when that does."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def kill(self) -> None:
        self.proxy.refuse()

    def silence(self) -> None:
        self.proxy.silence()

    def restore(self) -> None:
        self.proxy.restore()
